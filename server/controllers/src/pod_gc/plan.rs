//! Decides which pods nobody else will remove. Pure.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::Pod;
use jiff::Timestamp;

use crate::{owner, pod};

/// Finished pods that are kept for their owners to read.
pub(crate) const TERMINATED_THRESHOLD: usize = 12_500;
/// A node that has just appeared or vanished may be a matter of two caches: this long nobody concludes anything.
const QUARANTINE: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Finished, and there are too many of its kind.
    Surplus,
    /// Bound to a node that is no more.
    Orphaned,
    /// Being deleted before it was ever bound: no node agent will confirm that.
    Unscheduled,
    /// Being deleted on a node that was declared out of service.
    OutOfService,
}

/// Finished pods beyond the threshold, oldest first.
pub(crate) fn surplus(pods: &[Arc<Pod>], threshold: usize) -> Vec<Arc<Pod>> {
    let mut finished: Vec<_> = pods.iter().filter(|p| pod::is_terminal(p) && !pod::is_deleting(p)).cloned().collect();
    let surplus = finished.len().saturating_sub(threshold);
    finished.sort_by_key(|p| (created(p), owner::key_of(&p.metadata)));
    finished.truncate(surplus);
    finished
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|t| t.0)
}

/// What is known of a pod's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeState {
    Present,
    OutOfService,
    /// Gone for so long, as far as the cache shows.
    GoneFor(Duration),
}

/// What to do with one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    /// Look again after that time.
    Wait(Duration),
    Remove(Cause),
}

pub(crate) fn judge(pod: &Pod, node: impl FnOnce(&str) -> NodeState) -> Verdict {
    let Some(name) = pod::node_name(pod) else {
        return if pod::is_deleting(pod) { Verdict::Remove(Cause::Unscheduled) } else { Verdict::Keep };
    };
    match node(name) {
        NodeState::Present => Verdict::Keep,
        NodeState::OutOfService if pod::is_deleting(pod) => Verdict::Remove(Cause::OutOfService),
        NodeState::OutOfService => Verdict::Keep,
        NodeState::GoneFor(time) => match QUARANTINE.saturating_sub(time) {
            Duration::ZERO => Verdict::Remove(Cause::Orphaned),
            rest => Verdict::Wait(rest),
        },
    }
}

/// The condition that tells the pod's owner why it was taken away; none when nothing was lost by it.
pub(crate) fn disruption(pod: &Pod, cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::Surplus | Cause::Unscheduled => None,
        Cause::Orphaned | Cause::OutOfService if pod::is_terminal(pod) => None,
        Cause::Orphaned => Some("PodGC: node no longer exists"),
        Cause::OutOfService => Some("PodGC: node is out of service"),
    }
}
