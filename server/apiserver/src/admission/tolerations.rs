//! Pods stay five minutes on a node that has gone silent; nodes begin as not ready.

use coracle_api::object::Object;
use coracle_api::status::Status;
use serde_json::json;

use super::{Plugin, creates_pod, elements, push};
use crate::http::request_info::Verb;
use crate::registry::Registry;
use crate::registry::context::Context;

pub(super) struct DefaultTolerationSeconds;
pub(super) struct TaintNewNodes;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const SECONDS: i64 = 300;

impl Plugin for DefaultTolerationSeconds {
    fn mutate(
        &self,
        _look: &Registry,
        context: &Context,
        pod: &mut Object,
        _old: Option<&Object>,
    ) -> Result<(), Status> {
        let main_update = matches!(context.verb, Verb::Update | Verb::Patch)
            && context.subresource.is_empty()
            && context.is("", "pods");
        if !creates_pod(context) && !main_update {
            return Ok(());
        }
        let path = ["spec", "tolerations"];
        let tolerations = elements(pod, &path);
        for key in [NOT_READY, UNREACHABLE] {
            let tolerated = tolerations.iter().any(|toleration| {
                let own = toleration.field(&["key"]).unwrap_or_default();
                let effect = toleration.field(&["effect"]).unwrap_or_default();
                (own == key || own.is_empty()) && matches!(effect, "" | "NoExecute")
            });
            if !tolerated {
                let toleration =
                    json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS});
                push(pod, &path, toleration);
            }
        }
        Ok(())
    }
}

impl Plugin for TaintNewNodes {
    fn mutate(
        &self,
        _look: &Registry,
        context: &Context,
        node: &mut Object,
        _old: Option<&Object>,
    ) -> Result<(), Status> {
        if context.verb != Verb::Create || !context.subresource.is_empty() || !context.is("", "nodes") {
            return Ok(());
        }
        let path = ["spec", "taints"];
        let tainted = elements(node, &path)
            .iter()
            .any(|taint| taint.field(&["key"]) == Some(NOT_READY) && taint.field(&["effect"]) == Some("NoSchedule"));
        if !tainted {
            push(node, &path, json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}
