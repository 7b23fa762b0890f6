//! A node must have room for what a pod asks for; among those that have, the emptiest is liked best.

use std::borrow::Cow;

use crate::framework::{Happened, MAX_SCORE, Normalize, Plugin, Rejection};
use crate::info::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let mut lacking = Lacking::default();
        let pods = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
        if pods >= node.allowed_pods {
            lacking.reasons.push(Cow::Borrowed("Too many pods"));
        }
        let (wanted, all, used) = (&pod.requests.exact, &node.allocatable, &node.requested);
        lacking.check("Insufficient cpu", wanted.milli_cpu, all.milli_cpu, used.milli_cpu);
        lacking.check("Insufficient memory", wanted.memory, all.memory, used.memory);
        lacking.check(
            "Insufficient ephemeral-storage",
            wanted.ephemeral_storage,
            all.ephemeral_storage,
            used.ephemeral_storage,
        );
        for (name, amount) in &wanted.scalars {
            let reason = || Cow::Owned(format!("Insufficient {name}"));
            lacking.check_with(reason, *amount, all.scalar(name), used.scalar(name));
        }
        match lacking.reasons.is_empty() {
            true => Ok(()),
            false => Err(Rejection { reasons: lacking.reasons, resolvable: !lacking.for_ever }),
        }
    }

    fn scores(&self, _pod: &PodInfo) -> Option<Normalize> {
        Some(Normalize::No)
    }

    /// Upstream's LeastAllocated over cpu and memory with equal weights.
    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let (wanted, all, used) = (&pod.requests.assumed, &node.allocatable, &node.assumed);
        let shares = [
            (all.milli_cpu, used.milli_cpu.saturating_add(wanted.milli_cpu)),
            (all.memory, used.memory.saturating_add(wanted.memory)),
        ];
        let known = shares.iter().filter(|(all, _)| *all > 0);
        let (sum, count) = known.fold((0, 0), |(sum, count), (all, used)| (sum + free_share(*all, *used), count + 1));
        if count == 0 { 0 } else { sum / count }
    }

    fn may_help(&self, pod: &PodInfo, happened: Happened<'_>) -> bool {
        match happened {
            Happened::Node { old, new } => {
                // Whether the node would take it were it empty, and has become larger.
                let empty = NodeInfo::new(new.node.clone());
                self.filter(pod, &empty).is_ok()
                    && old.is_none_or(|old| {
                        let old = NodeInfo::new(std::sync::Arc::new(old.clone()));
                        empty.allowed_pods > old.allowed_pods || empty.allocatable.exceeds(&old.allocatable)
                    })
            }
            Happened::PodLeft(_) => true,
        }
    }
}

fn free_share(all: i64, used: i64) -> i64 {
    if used > all {
        return 0;
    }
    let share = i128::from(all - used) * i128::from(MAX_SCORE) / i128::from(all);
    i64::try_from(share).expect("a share of 100")
}

#[derive(Default)]
struct Lacking {
    reasons: Vec<Cow<'static, str>>,
    /// The node would be too small even if it were empty.
    for_ever: bool,
}

impl Lacking {
    fn check(&mut self, reason: &'static str, wanted: i64, all: i64, used: i64) {
        self.check_with(|| Cow::Borrowed(reason), wanted, all, used);
    }

    fn check_with(&mut self, reason: impl FnOnce() -> Cow<'static, str>, wanted: i64, all: i64, used: i64) {
        if wanted > 0 && wanted > all.saturating_sub(used) {
            self.reasons.push(reason());
            self.for_ever |= wanted > all;
        }
    }
}
