//! Work for a container beside its guests: connections that are read and written, requests that are sent, with their
//! encryption. It runs on the threads that serve all, so its time is the container's as its guests' is: it counts towards
//! the limit, and is what `kubectl top` shows.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use super::cpu::{Cpu, Used};
use super::stopwatch::Stopwatch;

thread_local! {
    /// What this thread does is on some container's account already.
    static ON_ACCOUNT: Cell<bool> = const { Cell::new(false) };
}

/// What a thread does while this is there is counted by whoever made it, and by nobody within.
pub(super) struct OnAccount(());

impl OnAccount {
    /// None if somebody counts already.
    pub(super) fn begin() -> Option<OnAccount> {
        (!ON_ACCOUNT.replace(true)).then_some(OnAccount(()))
    }
}

impl Drop for OnAccount {
    fn drop(&mut self) {
        ON_ACCOUNT.set(false);
    }
}

/// `work`, whose time is added to what a container has used. It does not wait for a quota: who is over it waits in its
/// guests, from which all work comes.
pub(super) async fn charged<F: Future>(cpu: Arc<Cpu>, used: Arc<Used>, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let Some(_counting) = OnAccount::begin() else { return work.as_mut().poll(cx) };
        let watch = Stopwatch::cheap(cpu.tick());
        let outcome = work.as_mut().poll(cx);
        used.add(watch.ns());
        outcome
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::CpuSpec;

    const WORK_NS: u64 = 5_000_000;

    fn compute() {
        let watch = Stopwatch::exact();
        while watch.ns() < WORK_NS {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn work_is_counted_once_and_waiting_is_not() {
        let cpu = Cpu::start(Vec::new(), 2, || ()).unwrap();
        let spec = CpuSpec { weight: 1024, quota_us: None, period_us: 100_000 };
        let [outer, inner] = [(), ()].map(|()| Used::new(&cpu, spec, None));
        let within = charged(cpu.clone(), inner.clone(), async { compute() });
        let work = async {
            tokio::task::yield_now().await;
            within.await;
            // Somebody else computes while it waits.
            tokio::task::spawn_blocking(compute).await.unwrap();
        };
        charged(cpu.clone(), outer.clone(), work).await;
        assert!(outer.ns() >= WORK_NS, "{}", outer.ns());
        assert_eq!(inner.ns(), 0, "it is on the other's account");
        charged(cpu, inner.clone(), async { compute() }).await;
        assert!(inner.ns() >= WORK_NS, "{}", inner.ns());
    }
}
