//! Taints keep pods away unless they tolerate them; `PreferNoSchedule` only makes a node less liked.

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use crate::framework::{Happened, Normalize, Plugin, Rejection};
use crate::info::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";

pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        match is_kept_away(pod, node.taints()) {
            true => Err(Rejection::unresolvable("node(s) had untolerated taint(s)")),
            false => Ok(()),
        }
    }

    fn scores(&self, _pod: &PodInfo) -> Option<Normalize> {
        Some(Normalize::Lowest)
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let disliked = node.taints().iter().filter(|taint| taint.effect == PREFER_NO_SCHEDULE);
        // Upstream counts only tolerations without an effect or with this one; others do not tolerate it anyway.
        let count = disliked.filter(|taint| !tolerates(pod, taint)).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    fn may_help(&self, pod: &PodInfo, happened: Happened<'_>) -> bool {
        match happened {
            Happened::Node { old, new } => {
                !is_kept_away(pod, new.taints()) && old.is_none_or(|old| is_kept_away(pod, taints_of(old)))
            }
            Happened::PodLeft(_) => false,
        }
    }
}

fn taints_of(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn is_kept_away(pod: &PodInfo, taints: &[Taint]) -> bool {
    taints
        .iter()
        .filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute")
        .any(|taint| !tolerates(pod, taint))
}

pub(super) fn tolerates(pod: &PodInfo, taint: &Taint) -> bool {
    let tolerations = pod.spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    tolerations.iter().any(|toleration| covers(toleration, taint))
}

/// An absent effect is any effect; an absent key with `Exists` is any key.
fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    fn text(text: &Option<String>) -> &str {
        text.as_deref().unwrap_or_default()
    }
    let effect = text(&toleration.effect);
    let key = text(&toleration.key);
    let applies = (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key);
    applies
        && match text(&toleration.operator) {
            "" | "Equal" => text(&toleration.value) == text(&taint.value),
            "Exists" => true,
            _ => false,
        }
}
