//! How much of a zone is lost, and what follows for eviction. Pure. The more is lost, the likelier it is that the link
//! is at fault and not the nodes; when all are lost it is certainly ours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;

use super::health;

/// One node of a zone is marked for eviction in so many seconds.
const SPACING: Duration = Duration::from_secs(10);
/// The same in a large zone of which most is lost.
const REDUCED_SPACING: Duration = Duration::from_secs(100);
/// A zone with more nodes than this is large: in a smaller one eviction stops when most of it is lost.
const LARGE: usize = 50;
/// In percent.
const UNHEALTHY_THRESHOLD: usize = 55;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disruption {
    Normal,
    Partial { large: bool },
    Full,
}

pub(crate) fn zone_of(node: &Node) -> String {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map_or("", String::as_str);
    let (region, zone) = (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"));
    if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:{zone}") }
}

pub(crate) fn disruptions(nodes: &[Arc<Node>]) -> BTreeMap<String, Disruption> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for node in nodes {
        let (ready, all) = counts.entry(zone_of(node)).or_default();
        *ready += usize::from(health::is_ready(node));
        *all += 1;
    }
    counts.into_iter().map(|(zone, (ready, all))| (zone, disruption(ready, all))).collect()
}

fn disruption(ready: usize, all: usize) -> Disruption {
    let lost = all - ready;
    if ready == 0 {
        Disruption::Full
    } else if lost > 2 && lost * 100 >= all * UNHEALTHY_THRESHOLD {
        Disruption::Partial { large: all > LARGE }
    } else {
        Disruption::Normal
    }
}

pub(crate) fn all_lost(zones: &BTreeMap<String, Disruption>) -> bool {
    zones.values().all(|d| *d == Disruption::Full)
}

/// When one more node of the zone may be marked for eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    Now,
    After(Duration),
    /// Not before some node's state changes.
    No,
}

/// `since_last`: how long ago a node of this zone was last marked. `blind_for`: for so long nodes that were all lost at
/// once are still given time to come back.
pub(crate) fn permission(
    zone: Disruption,
    all_lost: bool,
    since_last: Option<Duration>,
    blind_for: Duration,
) -> Permission {
    let spacing = match zone {
        Disruption::Partial { large: false } => return Permission::No,
        Disruption::Partial { large: true } => REDUCED_SPACING,
        Disruption::Full if all_lost => return Permission::No,
        Disruption::Full | Disruption::Normal => SPACING,
    };
    let rest = since_last.map_or(Duration::ZERO, |since| spacing.saturating_sub(since));
    match rest.max(blind_for) {
        Duration::ZERO => Permission::Now,
        rest => Permission::After(rest),
    }
}
