//! Which pods go first when there are too many. Upstream's `ActivePodsWithRanks`, as one total order.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::Pod;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use crate::{owner, pod};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Number of active pods of related owners (those of the same Deployment) by node.
pub(crate) type Colocated = BTreeMap<String, usize>;

/// Sorts so that the first is the first to be deleted.
pub(crate) fn sort(pods: &mut [Arc<Pod>], colocated: &Colocated, now: Timestamp) {
    pods.sort_by(|a, b| key(a, colocated, now).cmp(&key(b, colocated, now)));
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    /// Unassigned before assigned.
    assigned: bool,
    /// Pending before unknown before running.
    phase: u8,
    /// Not ready before ready.
    ready: bool,
    /// The user's word: cheap before dear.
    cost: i64,
    /// Crowded nodes before lonely ones: keeps the spread.
    colocated: Reverse<usize>,
    /// Ready for a shorter time before longer, by order of magnitude: within one the choice shall be as good as random.
    ready_age: Age,
    restarts: Reverse<(i32, i32)>,
    age: Age,
    uid: &'a str,
}

fn key<'a>(pod: &'a Pod, colocated: &Colocated, now: Timestamp) -> Key<'a> {
    let ready = pod::is_ready(pod);
    Key {
        assigned: pod::node_name(pod).is_some(),
        phase: match pod::phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        },
        ready,
        cost: cost(pod),
        colocated: Reverse(pod::node_name(pod).and_then(|n| colocated.get(n)).copied().unwrap_or(0)),
        ready_age: if ready { Age::of(pod::ready_since(pod), now) } else { Age(None) },
        restarts: Reverse(restarts(pod)),
        age: Age::of(pod.metadata.creation_timestamp.as_ref().map(|t| t.0), now),
        uid: owner::uid(&pod.metadata),
    }
}

/// Logarithm of an age; unknown sorts first.
#[derive(PartialEq, Eq)]
struct Age(Option<u32>);

impl Age {
    fn of(since: Option<Timestamp>, now: Timestamp) -> Self {
        let nanos = since.map(|t| now.as_nanosecond().saturating_sub(t.as_nanosecond()));
        Self(nanos.map(|n| u128::try_from(n).ok().filter(|n| *n > 0).map_or(0, |n| n.ilog2() + 1)))
    }
}

impl PartialOrd for Age {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Age {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

/// An annotation that does not parse counts as none: it was validated when it was written.
fn cost(pod: &Pod) -> i64 {
    let text = pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST));
    text.and_then(|t| t.parse::<i32>().ok()).map_or(0, i64::from)
}

/// Most restarts of any ordinary container, then of any sidecar.
fn restarts(pod: &Pod) -> (i32, i32) {
    let most =
        |list: Option<&Vec<ContainerStatus>>| list.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0);
    let status = pod.status.as_ref();
    (
        most(status.and_then(|s| s.container_statuses.as_ref())),
        most(status.and_then(|s| s.init_container_statuses.as_ref())),
    )
}
