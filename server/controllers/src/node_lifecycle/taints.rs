//! Taints that follow from a node's conditions. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};

use super::health::{condition, readiness};
use crate::time::whole_seconds;

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
pub(crate) const NO_EXECUTE: &str = "NoExecute";
const NO_SCHEDULE: &str = "NoSchedule";

/// Condition that taints when it is True, and the taint.
const BY_CONDITION: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];

fn by_readiness(node: &Node) -> Option<&'static str> {
    match readiness(node) {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        Some(_) | None => None,
    }
}

/// Whether this controller decides about such a taint.
fn is_ours(taint: &Taint) -> bool {
    let readiness = [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
    match taint.effect.as_str() {
        NO_EXECUTE => readiness,
        NO_SCHEDULE => readiness || taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, key)| *key == taint.key),
        _ => false,
    }
}

pub(crate) fn has(node: &Node, key: &str, effect: &str) -> bool {
    list(node).iter().any(|t| t.key == key && t.effect == effect)
}

pub(crate) fn list(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[])
}

/// Whether the node's pods are subject to eviction, as its readiness goes.
pub(crate) fn wants_eviction(node: &Node) -> bool {
    by_readiness(node).is_some()
}

pub(crate) fn is_marked_for_eviction(node: &Node) -> bool {
    by_readiness(node).is_some_and(|key| has(node, key, NO_EXECUTE))
}

/// The taints that the node should have; `None` if it has them. `evict`: whether its pods may be evicted now.
pub(crate) fn plan(node: &Node, evict: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    if let Some(key) = by_readiness(node) {
        wanted.push((key, NO_SCHEDULE));
        if evict {
            wanted.push((key, NO_EXECUTE));
        }
    }
    for (kind, key) in BY_CONDITION {
        if condition(node, kind).is_some_and(|c| c.status == "True") {
            wanted.push((key, NO_SCHEDULE));
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    let current = list(node);
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut next: Vec<Taint> = current.iter().filter(|t| !is_ours(t) || is_wanted(t)).cloned().collect();
    for (key, effect) in wanted {
        if !has(node, key, effect) {
            next.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(whole_seconds(now)),
                value: None,
            });
        }
    }
    (next != current).then_some(next)
}
