//! When a node counts as lost, and what its conditions say then. Pure.

use std::time::Duration;

use coracle_client::Pod;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, PodCondition};

use crate::pod;
use crate::time::whole_seconds;

/// A node that was silent for so long is not known to be ready any more. Upstream's default since 1.32.
pub(crate) const GRACE: Duration = Duration::from_secs(50);
/// A node that has never reported anything gets so long.
const STARTUP_GRACE: Duration = Duration::from_secs(60);

/// Conditions that only the node itself can vouch for.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub(crate) const UNKNOWN_REASON: &str = "NodeStatusUnknown";

pub(crate) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// True, False or Unknown; `None` while nobody has said anything.
pub(crate) fn readiness(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|c| c.status.as_str())
}

pub(crate) fn is_ready(node: &Node) -> bool {
    readiness(node) == Some("True")
}

/// How long the node may be silent. Measured on this controller's monotonic clock from its last word: neither the node's
/// clock nor a step of our own makes a node lost.
pub(crate) fn grace(node: &Node) -> Duration {
    if readiness(node).is_none() { STARTUP_GRACE } else { GRACE }
}

/// The conditions of a lost node, where they say something new; only those that change.
pub(crate) fn lost(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let time = Some(whole_seconds(now));
    let unknown = |kind: &&str| match condition(node, kind) {
        None => Some(NodeCondition {
            type_: (*kind).to_owned(),
            status: "Unknown".to_owned(),
            reason: Some("NodeStatusNeverUpdated".to_owned()),
            message: Some("Kubelet never posted node status.".to_owned()),
            last_heartbeat_time: node.metadata.creation_timestamp.clone(),
            last_transition_time: time.clone(),
        }),
        Some(condition) if condition.status == "Unknown" => None,
        Some(condition) => Some(NodeCondition {
            status: "Unknown".to_owned(),
            reason: Some(UNKNOWN_REASON.to_owned()),
            message: Some("Kubelet stopped posting node status.".to_owned()),
            last_transition_time: time.clone(),
            ..condition.clone()
        }),
    };
    REPORTED.iter().filter_map(unknown).collect()
}

/// The condition to put on a pod of a lost node. A pod that became ready later than the node was lost has someone who
/// vouches for it.
pub(crate) fn pod_not_ready(node: &Node, pod: &Pod, now: Timestamp) -> Option<PodCondition> {
    let lost = condition(node, "Ready").filter(|c| c.status == "Unknown")?.last_transition_time.as_ref()?.0;
    let ready = pod::condition(pod, "Ready").filter(|c| c.status == "True")?;
    if ready.last_transition_time.as_ref().is_some_and(|t| t.0 > lost) {
        return None;
    }
    Some(PodCondition { status: "False".to_owned(), last_transition_time: Some(whole_seconds(now)), ..ready.clone() })
}
