use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use expect_test::expect;
use futures::{FutureExt, future};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::super::cpu::slice_over;
use super::*;
use crate::wire::CpuSpec;

fn cpu() -> Arc<Cpu> {
    Cpu::start(Vec::new(), 2, || ()).unwrap()
}

fn guest<F: Runs>(inner: F) -> Guest<F> {
    guest_on(cpu(), inner)
}

fn guest_on<F: Runs>(cpu: Arc<Cpu>, inner: F) -> Guest<F> {
    let used = Used::new(&cpu, CpuSpec { weight: 1024, quota_us: None, period_us: 100_000 }, None);
    Guest::new(inner, cpu, used)
}

/// Interrupted for ever; what it holds shows whether it is still there.
fn endless<T: Send + 'static>(held: T) -> Guest<impl Runs> {
    guest(Box::pin(async move {
        let _held = held;
        loop {
            slice_over().await;
        }
    }))
}

#[tokio::test]
async fn who_is_interrupted_goes_on_elsewhere_and_comes_back_when_it_waits() {
    let seen: Arc<Mutex<Vec<bool>>> = Arc::default();
    let note = {
        let seen = seen.clone();
        move || seen.lock().push(thread::current().name() == Some("busy-guests"))
    };
    let (go_on, wait) = oneshot::channel();
    let cpu = cpu();
    let own = cpu.clone();
    let computes = move || {
        while !own.is_slice_over() {
            std::hint::spin_loop();
        }
    };
    let own = cpu.clone();
    let mut running = guest_on(
        cpu,
        async move {
            for _ in 0..2 {
                note();
                computes();
                slice_over().await;
            }
            note();
            computes();
            let answer: u32 = wait.await.unwrap();
            note();
            assert!(!own.is_slice_over(), "it has only waited");
            answer
        }
        .boxed(),
    );
    // Only a task's waker is sure to know itself again, which is how one tells that the guest need not be polled.
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        future::poll_fn(|cx| {
            assert!(running.poll_unpin(cx).is_pending());
            if matches!(running.place, Place::Waits(..)) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        Some(running)
    });
    let running = tasks.join_next().await.unwrap().unwrap().unwrap();
    let (answer, sent) = futures::join!(running, async { go_on.send(7) });
    sent.unwrap();
    assert_eq!(answer, 7);
    expect!["[false, true, true, false]"].assert_eq(&format!("{:?}", seen.lock()));
}

#[tokio::test(start_paused = true)]
async fn who_takes_much_or_comes_again_runs_elsewhere_while_others_are_served() {
    let cpu = cpu();
    let spec = CpuSpec { weight: 1024, quota_us: None, period_us: 100_000 };
    let [greedy, modest] = [(), ()].map(|()| Used::new(&cpu, spec, None));
    let is_elsewhere = |used: &Arc<Used>| {
        let here = async { thread::current().name() == Some("busy-guests") };
        Guest::new(here.boxed(), cpu.clone(), used.clone())
    };
    greedy.add(1_000_000_000);
    assert!(!is_elsewhere(&greedy).await, "it is alone");
    assert!(!is_elsewhere(&modest).await);
    assert!(is_elsewhere(&greedy).await);
    modest.comes_again();
    assert!(is_elsewhere(&modest).await);
    assert!(!is_elsewhere(&modest).await, "it has given a thread back");
}

#[tokio::test]
async fn who_computes_does_so_behind_others() {
    let nice = || rustix::process::getpriority_process(None).unwrap();
    let cpu = cpu();
    let used = Used::new(&cpu, CpuSpec { weight: 1024, quota_us: None, period_us: 100_000 }, None);
    let own = nice();
    let there = Guest::program(async move { nice() }.boxed(), cpu, used).await;
    assert_eq!(there, (own + 15).min(19));
}

#[tokio::test]
async fn guests_that_end_in_their_slice_pay_for_it() {
    let cpu = Cpu::start(Vec::new(), 1, || ()).unwrap();
    let spec = CpuSpec { weight: 1024, quota_us: None, period_us: 100_000 };
    let [short, endless] = [(), ()].map(|()| Used::new(&cpu, spec, None));
    let slices = Arc::new(AtomicU64::new(0));
    let spin = |cpu: &Cpu| {
        while !cpu.is_slice_over() {
            std::hint::spin_loop();
        }
    };
    let (count, own) = (slices.clone(), cpu.clone());
    let endless = Guest::program(
        Box::pin(async move {
            loop {
                spin(&own);
                count.fetch_add(1, Ordering::Relaxed);
                slice_over().await;
            }
        }),
        cpu.clone(),
        endless,
    );
    let shorts = async {
        for _ in 0..5 {
            let at_once = (0..20).map(|_| {
                let own = cpu.clone();
                Guest::program(Box::pin(async move { spin(&own) }), cpu.clone(), short.clone())
            });
            future::join_all(at_once).await;
        }
    };
    future::select(endless, std::pin::pin!(shorts)).await;
    let slices = slices.load(Ordering::Relaxed);
    assert!(slices > 25, "{slices} slices beside 100 of others");
}

#[tokio::test]
async fn a_guest_that_is_ended_is_gone_with_all_it_held() {
    let held = Arc::new(());
    let mut running = endless(held.clone());
    for _ in 0..3 {
        assert!((&mut running).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    assert_eq!(Arc::strong_count(&held), 2);
    running.end().await;
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn a_guest_that_nobody_wants_any_more_ends() {
    let (held, gone) = oneshot::channel::<()>();
    let mut running = endless(held);
    assert!((&mut running).now_or_never().is_none());
    drop(running);
    assert!(gone.await.is_err(), "its end of the channel is dropped with it");
}

#[tokio::test]
async fn a_panic_elsewhere_is_the_tasks() {
    let running = guest(Box::pin(async {
        slice_over().await;
        panic!("of the guest");
    }));
    let panic = AssertUnwindSafe(running).catch_unwind().await.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"of the guest"));
}
