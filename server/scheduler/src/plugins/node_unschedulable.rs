//! A cordoned node takes only pods that tolerate its being cordoned.

use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::tolerates;
use crate::framework::{Happened, Plugin, Rejection};
use crate::info::{NodeInfo, PodInfo};

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        match node.is_unschedulable() && !tolerates(pod, &cordon()) {
            true => Err(Rejection::unresolvable("node(s) were unschedulable")),
            false => Ok(()),
        }
    }

    fn may_help(&self, _pod: &PodInfo, happened: Happened<'_>) -> bool {
        match happened {
            Happened::Node { old, new } => {
                let was = |node: &k8s_openapi::api::core::v1::Node| {
                    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
                };
                !new.is_unschedulable() && old.is_none_or(was)
            }
            Happened::PodLeft(_) => false,
        }
    }
}

fn cordon() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        time_added: None,
        value: None,
    }
}
