//! What a container's instances may use together. wasmtime limits each memory by itself and sums nothing up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime::ResourceLimiter;

use crate::wire::AtMemoryLimit;

/// Host memory for one table element.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// One container's allowance, shared by all its instances.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    limit: AtomicUsize,
    whose: Whose,
    /// What the containers of the pod may use together.
    pod: Option<Arc<Budget>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Container,
    Pod,
}

impl Budget {
    pub(super) fn new(limit_bytes: Option<u64>, pod: Option<Arc<Budget>>) -> Arc<Budget> {
        Budget::of(Whose::Container, limit_bytes, pod)
    }

    pub(super) fn of_pod(limit_bytes: Option<u64>) -> Arc<Budget> {
        Budget::of(Whose::Pod, limit_bytes, None)
    }

    fn of(whose: Whose, limit_bytes: Option<u64>, pod: Option<Arc<Budget>>) -> Arc<Budget> {
        let budget = Budget { used: AtomicUsize::new(0), limit: AtomicUsize::new(0), whose, pod };
        budget.set_limit(limit_bytes);
        Arc::new(budget)
    }

    /// What is in use above a lowered limit stays in use; it cannot grow.
    pub(super) fn set_limit(&self, limit_bytes: Option<u64>) {
        let limit = limit_bytes.map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self, bytes: usize) -> Result<(), OutOfMemory> {
        let limit = self.limit.load(Ordering::Relaxed);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|total| *total <= limit)
        });
        taken.map_err(|used| OutOfMemory { used, wanted: bytes, limit, whose: self.whose })?;
        if let Some(pod) = &self.pod {
            pod.take(bytes).inspect_err(|_| {
                self.used.fetch_sub(bytes, Ordering::Relaxed);
            })?;
        }
        Ok(())
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(pod) = &self.pod {
            pod.give_back(bytes);
        }
    }
}

/// The limit was reached. Ends the guest, as the kernel's killer would.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("out of memory: {used} bytes in use{}, {wanted} more wanted, the limit is {limit}", match whose {
    Whose::Container => "",
    Whose::Pod => " by the pod",
})]
pub(super) struct OutOfMemory {
    used: usize,
    wanted: usize,
    limit: usize,
    whose: Whose,
}

/// One instance's share of its container's budget; given back when the instance is gone.
#[derive(Debug)]
pub(super) struct Limiter {
    budget: Arc<Budget>,
    at_limit: AtMemoryLimit,
    held: usize,
    /// Of the memory that was asked for last: granted but perhaps not to be had from the system.
    latest: usize,
}

impl Limiter {
    pub(super) fn new(budget: Arc<Budget>, at_limit: AtMemoryLimit) -> Limiter {
        Limiter { budget, at_limit, held: 0, latest: 0 }
    }

    fn grow(&mut self, current: usize, bytes: usize) -> wasmtime::Result<bool> {
        match (self.budget.take(bytes), self.at_limit) {
            (Ok(()), _) => {}
            (Err(_), AtMemoryLimit::Refuse) if current > 0 => return Ok(false),
            // What an instance needs to begin with it cannot do without, so there is nobody to be told no.
            (Err(full), AtMemoryLimit::Refuse | AtMemoryLimit::Kill) => return Err(wasmtime::Error::new(full)),
        }
        self.held += bytes;
        Ok(true)
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.budget.give_back(self.held);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.latest = 0;
        // Beyond the memory's own maximum the guest is told no, as WebAssembly has it.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let bytes = desired.saturating_sub(current);
        let granted = self.grow(current, bytes)?;
        self.latest = if granted { bytes } else { 0 };
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        let latest = std::mem::take(&mut self.latest);
        self.budget.give_back(latest);
        self.held -= latest;
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(current, desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT_BYTES))
    }

    /// Only of a size that cannot be counted, without having asked: nothing was granted, so nothing is taken back.
    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Ok(())
    }

    fn instances(&self) -> usize {
        128
    }

    fn tables(&self) -> usize {
        128
    }

    fn memories(&self) -> usize {
        32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 64 << 10;

    #[test]
    fn instances_share_one_limit_and_give_back_what_they_had() {
        let budget = Budget::new(Some(3 * PAGE as u64), None);
        let mut one = Limiter::new(budget.clone(), AtMemoryLimit::Kill);
        let mut two = Limiter::new(budget.clone(), AtMemoryLimit::Kill);
        assert!(one.memory_growing(0, 2 * PAGE, None).is_ok());
        assert!(two.memory_growing(0, PAGE, None).is_ok());
        let refused = two.memory_growing(PAGE, 2 * PAGE, None);
        assert!(refused.is_err_and(|error| error.is::<OutOfMemory>()));
        drop(one);
        assert_eq!(budget.used_bytes(), PAGE);
        assert!(two.memory_growing(PAGE, 3 * PAGE, None).is_ok());
    }

    #[test]
    fn a_memory_beyond_its_own_maximum_is_told_no_and_nothing_is_taken() {
        let budget = Budget::new(Some(PAGE as u64), None);
        let mut limiter = Limiter::new(budget.clone(), AtMemoryLimit::Kill);
        assert!(limiter.memory_growing(0, 4 * PAGE, Some(2 * PAGE)).is_ok_and(|grown| !grown));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn what_the_system_refuses_is_not_counted() {
        let budget = Budget::new(None, None);
        let mut limiter = Limiter::new(budget.clone(), AtMemoryLimit::Kill);
        assert!(limiter.memory_growing(0, PAGE, None).is_ok());
        assert!(limiter.memory_grow_failed(wasmtime::Error::msg("no memory")).is_ok());
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn nothing_is_given_back_for_a_failure_that_was_not_asked_for() {
        let budget = Budget::new(Some(4 * PAGE as u64), None);
        let mut limiter = Limiter::new(budget.clone(), AtMemoryLimit::Kill);
        let failed = || wasmtime::Error::msg("overflow calculating new table size");
        assert!(limiter.memory_growing(0, 2 * PAGE, None).is_ok_and(|grown| grown));
        assert!(limiter.table_grow_failed(failed()).is_ok());
        assert_eq!(budget.used_bytes(), 2 * PAGE);
        assert!(limiter.memory_growing(2 * PAGE, 9 * PAGE, Some(3 * PAGE)).is_ok_and(|grown| !grown));
        assert!(limiter.memory_grow_failed(failed()).is_ok());
        assert_eq!(budget.used_bytes(), 2 * PAGE, "it was the growth before that which was granted");
    }

    #[test]
    fn tables_count_too() {
        let budget = Budget::new(Some(800), None);
        let mut limiter = Limiter::new(budget.clone(), AtMemoryLimit::Kill);
        assert!(limiter.table_growing(0, 100, None).is_ok());
        assert!(limiter.table_growing(100, 101, None).is_err());
    }

    #[test]
    fn growth_is_refused_where_that_is_asked_for_but_not_what_an_instance_begins_with() {
        let budget = Budget::new(Some(2 * PAGE as u64), None);
        let mut limiter = Limiter::new(budget.clone(), AtMemoryLimit::Refuse);
        assert!(limiter.memory_growing(0, PAGE, None).is_ok_and(|grown| grown));
        assert!(limiter.memory_growing(PAGE, 3 * PAGE, None).is_ok_and(|grown| !grown));
        // wasmtime tells of what did not come about; nothing was taken for it.
        assert!(limiter.memory_grow_failed(wasmtime::Error::msg("refused")).is_ok());
        assert_eq!(budget.used_bytes(), PAGE);
        assert!(limiter.memory_growing(PAGE, 2 * PAGE, None).is_ok_and(|grown| grown));
        let mut second = Limiter::new(budget, AtMemoryLimit::Refuse);
        assert!(second.memory_growing(0, PAGE, None).is_err_and(|error| error.is::<OutOfMemory>()));
    }

    #[test]
    fn containers_of_a_pod_share_the_pods_limit() {
        let pod = Budget::of_pod(Some(3 * PAGE as u64));
        let one = Budget::new(Some(2 * PAGE as u64), Some(pod.clone()));
        let two = Budget::new(Some(2 * PAGE as u64), Some(pod.clone()));
        let mut first = Limiter::new(one.clone(), AtMemoryLimit::Kill);
        let mut second = Limiter::new(two.clone(), AtMemoryLimit::Kill);
        assert!(first.memory_growing(0, 2 * PAGE, None).is_ok());
        let refused = second.memory_growing(0, 2 * PAGE, None).map(drop).map_err(|error| error.to_string());
        let expected = "out of memory: 131072 bytes in use by the pod, 131072 more wanted, the limit is 196608";
        assert_eq!(refused, Err(expected.to_owned()));
        assert_eq!((two.used_bytes(), pod.used_bytes()), (0, 2 * PAGE));
        drop(first);
        assert!(second.memory_growing(0, 2 * PAGE, None).is_ok());
        assert_eq!((one.used_bytes(), pod.used_bytes()), (0, 2 * PAGE));
    }
}
