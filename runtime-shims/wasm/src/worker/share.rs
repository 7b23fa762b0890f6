//! What the containers of one pod may use together: processor time and memory.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::cpu::Throttle;
use super::memory::Budget;
use crate::wire::PodLimits;

/// One pod's.
#[derive(Debug)]
pub(super) struct PodShare {
    pub(super) cpu: Arc<Throttle>,
    pub(super) memory: Arc<Budget>,
}

/// Those of all pods that run here and have containers that a limit would bind. A pod's is gone with the last of them.
#[derive(Debug, Default)]
pub(super) struct PodShares(Mutex<HashMap<String, Weak<PodShare>>>);

impl PodShares {
    /// The pod's, made or brought up to date.
    pub(super) fn of(&self, limits: &PodLimits) -> Arc<PodShare> {
        let mut shares = self.0.lock();
        if let Some(share) = shares.get(&limits.pod).and_then(Weak::upgrade) {
            share.set(limits);
            return share;
        }
        let share = Arc::new(PodShare { cpu: Arc::default(), memory: Budget::of_pod(None) });
        share.set(limits);
        shares.retain(|_, share| share.strong_count() > 0);
        shares.insert(limits.pod.clone(), Arc::downgrade(&share));
        share
    }

    /// Changes a pod's limits, if it runs here.
    pub(super) fn set(&self, limits: &PodLimits) {
        if let Some(share) = self.0.lock().get(&limits.pod).and_then(Weak::upgrade) {
            share.set(limits);
        }
    }
}

impl PodShare {
    fn set(&self, limits: &PodLimits) {
        self.cpu.set(limits.cpu_quota_us, limits.cpu_period_us);
        self.memory.set_limit(limits.memory_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(memory_bytes: Option<u64>) -> PodLimits {
        PodLimits { pod: "p".to_owned(), memory_bytes, cpu_period_us: 100_000, ..PodLimits::default() }
    }

    #[test]
    fn containers_of_a_pod_share_and_its_last_one_takes_the_share_along() {
        let shares = PodShares::default();
        let one = shares.of(&limits(None));
        let two = shares.of(&limits(Some(100)));
        assert!(Arc::ptr_eq(&one, &two));
        let budget = Budget::new(None, Some(one.memory.clone()));
        assert!(budget.take(101).is_err());
        for lifted in [Some(200), None] {
            shares.set(&limits(lifted));
            assert!(budget.take(101).is_ok());
            budget.give_back(101);
            shares.set(&limits(Some(100)));
        }
        drop((one, two, budget));
        assert!(Budget::new(None, Some(shares.of(&limits(None)).memory.clone())).take(1000).is_ok());
    }
}
