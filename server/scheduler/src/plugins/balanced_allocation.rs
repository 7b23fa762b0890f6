//! Likes nodes whose cpu and memory would be used to similar shares, so that neither is left over alone.

use crate::framework::{Happened, MAX_SCORE, Normalize, Plugin};
use crate::info::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

pub struct BalancedAllocation;

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    /// A pod that asks for nothing unbalances nothing.
    fn scores(&self, pod: &PodInfo) -> Option<Normalize> {
        let wanted = &pod.requests.exact;
        (wanted.milli_cpu > 0 || wanted.memory > 0).then_some(Normalize::No)
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let (wanted, all, used) = (&pod.requests.exact, &node.allocatable, &node.requested);
        let share = |all: i64, used: i64| (all > 0).then(|| (used as f64 / all as f64).min(1.0));
        let cpu = share(all.milli_cpu, used.milli_cpu.saturating_add(wanted.milli_cpu));
        let memory = share(all.memory, used.memory.saturating_add(wanted.memory));
        let deviation = match (cpu, memory) {
            (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
            (Some(_) | None, None) | (None, Some(_)) => 0.0,
        };
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }

    fn may_help(&self, _pod: &PodInfo, _happened: Happened<'_>) -> bool {
        false
    }
}
