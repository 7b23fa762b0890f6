//! Room for the HTTP instances of all pods of this process, so that no pod can take what the others need.
//!
//! ```text
//! request ──▶ room: most of it for whoever comes first, the rest for pods that have few instances
//!                └──▶ a slot of wasmtime's pool, the fast way; all taken: an instance that maps what it needs
//! ```

use tokio::sync::{Semaphore, SemaphorePermit};

/// Instances beyond the pool. Each is some mappings, of which a process may have about 65,000.
const BEYOND: usize = 3072;
/// A pod that has at most so many instances finds room also when the others have taken all they may.
const FEW: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Slots {
    pool: Semaphore,
    common: Semaphore,
    reserve: Semaphore,
}

/// A place for one instance, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    _room: SemaphorePermit<'a>,
    pooled: Option<SemaphorePermit<'a>>,
}

impl Slots {
    /// `pooled` is how many instances wasmtime's pool holds.
    pub(super) fn new(pooled: usize) -> Slots {
        Slots::of(pooled, pooled + BEYOND)
    }

    fn of(pooled: usize, total: usize) -> Slots {
        let reserve = total / 4;
        Slots {
            pool: Semaphore::new(pooled),
            common: Semaphore::new(total - reserve),
            reserve: Semaphore::new(reserve),
        }
    }

    /// Waits for a place. `own` is how many the pod has, this one with them; `fast` whether one of the pool would do.
    /// None when the process ends.
    pub(super) async fn take(&self, own: usize, fast: bool) -> Option<Slot<'_>> {
        let room = match self.common.try_acquire() {
            Ok(room) => room,
            Err(_) if own <= FEW => tokio::select! {
                biased;
                room = self.reserve.acquire() => room.ok()?,
                room = self.common.acquire() => room.ok()?,
            },
            Err(_) => self.common.acquire().await.ok()?,
        };
        let pooled = if fast { self.pool.try_acquire().ok() } else { None };
        Some(Slot { _room: room, pooled })
    }
}

impl Slot<'_> {
    pub(super) fn is_pooled(&self) -> bool {
        self.pooled.is_some()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_pod_with_many_instances_leaves_room_for_those_with_few() {
        let slots = Slots::of(4, 40);
        let take = |own| slots.take(own, true).now_or_never().flatten();
        let greedy: Vec<Slot<'_>> = (1..).map_while(take).collect();
        assert_eq!(greedy.len(), 30, "the common room; it has too many for the reserve");
        assert_eq!(greedy.iter().filter(|slot| slot.is_pooled()).count(), 4);
        let modest: Vec<Slot<'_>> = (0..10).map_while(|_| take(1)).collect();
        assert_eq!(modest.len(), 10);
        assert!(take(1).is_none(), "nothing is left at all");
        drop(greedy);
        assert!(take(100).is_some_and(|slot| slot.is_pooled()));
        assert!(slots.take(1, false).now_or_never().flatten().is_some_and(|slot| !slot.is_pooled()));
    }
}
