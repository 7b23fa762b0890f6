//! Keeps guests from holding a thread for long, counts what they use, and holds them to what they may use.
//!
//! A plain thread advances the engines' epoch while guests run, and sleeps while none does: idle means idle. It is not
//! a task, because a guest that never yields could hold the very thread that owns the timer.
//!
//! ```text
//! poll ──▶ quota used up? wait for the next period ──▶ guest runs ──▶ it waits for something: over
//!                                                          └──▶ epoch: its slice is over, it waits for a turn (`fair`)
//! ```

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use wasmtime::Engine;

use super::bucket::CpuQuota;
use super::fair::{Member, Turn, Turns};
use crate::engine::EPOCH_MS;
use crate::wire::CpuSpec;

/// Rounds without a guest before the thread goes to sleep: waking it costs a system call, which a busy server should
/// not pay for each request.
const IDLE_ROUNDS: u32 = 40;
/// All guest threads are inside one call each for so long: something that cannot be interrupted holds them.
const STALL: Duration = Duration::from_secs(30);

/// The epoch's thread, as guests see it.
#[derive(Debug)]
pub(super) struct Cpu {
    state: Arc<State>,
    ticker: Thread,
    turns: Arc<Turns>,
    members: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Guests that are being polled at this moment.
    running: AtomicUsize,
    /// Polls so far.
    polls: AtomicU64,
    asleep: AtomicBool,
}

impl Cpu {
    /// Starts the thread. `guest_threads` is how many guests can be polled at once.
    pub(super) fn start(engines: Vec<Engine>, guest_threads: usize) -> std::io::Result<Arc<Cpu>> {
        let state = Arc::new(State::default());
        let shared = state.clone();
        let handle = thread::Builder::new()
            .name("epoch".to_owned())
            .stack_size(128 << 10)
            .spawn(move || tick(&shared, &engines, guest_threads))?;
        let (ticker, turns) = (handle.thread().clone(), Turns::new(guest_threads));
        Ok(Arc::new(Cpu { state, ticker, turns, members: AtomicU64::new(1) }))
    }

    fn enter(&self) {
        self.state.running.fetch_add(1, Ordering::SeqCst);
        self.state.polls.fetch_add(1, Ordering::Relaxed);
        if self.state.asleep.load(Ordering::SeqCst) {
            self.ticker.unpark();
        }
    }

    fn leave(&self) {
        self.state.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(state: &State, engines: &[Engine], guest_threads: usize) {
    let mut idle = 0;
    let mut stalled_rounds = 0_u64;
    let mut before = 0;
    loop {
        thread::park_timeout(Duration::from_millis(EPOCH_MS));
        for engine in engines {
            engine.increment_epoch();
        }
        let polls = state.polls.load(Ordering::Relaxed);
        let running = state.running.load(Ordering::SeqCst);
        idle = if running == 0 && polls == before { idle + 1 } else { 0 };
        stalled_rounds = if running >= guest_threads && polls == before { stalled_rounds + 1 } else { 0 };
        before = polls;
        if stalled_rounds * EPOCH_MS >= STALL.as_millis() as u64 {
            tracing::error!(
                seconds = STALL.as_secs(),
                "no guest can run: every thread is held by a call that does not end"
            );
            // The front reports the containers of a dead worker and starts another; nothing gentler is left.
            std::process::abort();
        }
        if idle >= IDLE_ROUNDS {
            state.asleep.store(true, Ordering::SeqCst);
            // Whoever enters from here on sees `asleep` and wakes us; whoever entered before is seen here.
            while state.running.load(Ordering::SeqCst) == 0 && state.polls.load(Ordering::SeqCst) == polls {
                thread::park();
            }
            state.asleep.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}

/// Processor time of one container: what it has used, and what it may.
#[derive(Debug)]
pub(super) struct Used {
    ns: AtomicU64,
    /// Of it, what the queue for turns knows of.
    charged: AtomicU64,
    member: Member,
    turns: Arc<Turns>,
    own: Throttle,
    pod: Option<Arc<Throttle>>,
}

impl Used {
    pub(super) fn new(cpu: &Cpu, spec: CpuSpec, pod: Option<Arc<Throttle>>) -> Arc<Used> {
        let member = cpu.members.fetch_add(1, Ordering::Relaxed);
        cpu.turns.join(member, spec.weight);
        let own = Throttle::default();
        own.set(spec.quota_us, spec.period_us);
        let (ns, charged, turns) = (AtomicU64::new(0), AtomicU64::new(0), cpu.turns.clone());
        Arc::new(Used { ns, charged, member, turns, own, pod })
    }

    pub(super) fn ns(&self) -> u64 {
        self.ns.load(Ordering::Relaxed)
    }

    /// Another limit and weight from now on.
    pub(super) fn set(&self, spec: CpuSpec) {
        self.own.set(spec.quota_us, spec.period_us);
        self.turns.set_weight(self.member, spec.weight);
    }

    fn add(&self, ns: u64) {
        self.ns.fetch_add(ns, Ordering::Relaxed);
        self.own.charge(ns);
        if let Some(pod) = &self.pod {
            pod.charge(ns);
        }
    }

    fn wait(&self) -> Option<Instant> {
        let pod = self.pod.as_ref().and_then(|pod| pod.wait());
        self.own.wait().max(pod)
    }

    /// Tells the queue what was used since it was told last.
    fn settle(&self) {
        let now = self.ns();
        let before = self.charged.swap(now, Ordering::Relaxed);
        self.turns.charge(self.member, now.saturating_sub(before));
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        self.turns.leave(self.member);
    }
}

/// A quota that may be absent, which is the usual case and costs one load.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    limited: AtomicBool,
    quota: Mutex<Option<CpuQuota>>,
}

impl Throttle {
    pub(super) fn set(&self, quota_us: Option<u64>, period_us: u64) {
        let mut slot = self.quota.lock();
        self.limited.store(quota_us.is_some(), Ordering::Relaxed);
        let Some(quota_us) = quota_us else {
            *slot = None;
            return;
        };
        let (quota, period, now) = (Duration::from_micros(quota_us), Duration::from_micros(period_us), Instant::now());
        match slot.as_mut() {
            Some(present) => present.change(quota, period, now),
            None => *slot = Some(CpuQuota::new(quota, period, now)),
        }
    }

    fn charge(&self, ns: u64) {
        if self.limited.load(Ordering::Relaxed)
            && let Some(quota) = self.quota.lock().as_mut()
        {
            quota.charge(ns);
        }
    }

    fn wait(&self) -> Option<Instant> {
        if !self.limited.load(Ordering::Relaxed) {
            return None;
        }
        self.quota.lock().as_mut().and_then(|quota| quota.wait(Instant::now()))
    }
}

thread_local! {
    /// The turn of the guest that this thread is polling, if it needed one.
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

/// A guest's slice is over: it goes behind its neighbours and behind what waits for the network, and on again when it is
/// its container's turn. To be awaited within [`Guest`].
pub(super) async fn slice_over(used: Arc<Used>) {
    // Kept until it is known what the slice has cost: who gives it away first would always be behind who waits.
    let before = TURN.take();
    tokio::task::yield_now().await;
    used.settle();
    let (turn, waited) = used.turns.turn(used.member, before).await;
    if waited {
        // Who is woken by another guest would run at once, before anything the network has brought.
        tokio::task::yield_now().await;
    }
    TURN.set(turn);
}

/// A future that runs guest code: the epoch moves while it is polled, its time is counted, and it waits while there is
/// none left for it.
pub(super) struct Guest<F> {
    inner: F,
    cpu: Arc<Cpu>,
    used: Arc<Used>,
    throttled: Option<Pin<Box<Sleep>>>,
    /// It has computed much within its last few polls, so its time is measured more exactly for as many more.
    heavy: u8,
}

impl<F: Future + Unpin> Guest<F> {
    pub(super) fn new(inner: F, cpu: Arc<Cpu>, used: Arc<Used>) -> Guest<F> {
        Guest { inner, cpu, used, throttled: None, heavy: 0 }
    }
}

impl<F: Future + Unpin> Future for Guest<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        loop {
            if let Some(sleep) = &mut this.throttled {
                ready!(sleep.as_mut().poll(cx));
                this.throttled = None;
            }
            match this.used.wait() {
                Some(until) => this.throttled = Some(Box::pin(tokio::time::sleep_until(until))),
                None => break,
            }
        }
        this.cpu.enter();
        let polled = Polled { cpu: &this.cpu, used: &this.used, watch: Watch::start(this.heavy > 0) };
        let outcome = Pin::new(&mut this.inner).poll(cx);
        this.heavy = if polled.watch.spent() >= HEAVY_NS { HEAVY_POLLS } else { this.heavy.saturating_sub(1) };
        outcome
    }
}

/// A poll that takes longer may well have been interrupted by other processes, whose time is not the guest's.
const HEAVY_NS: u64 = 1_000_000;
const HEAVY_POLLS: u8 = 16;

/// Time of the wall, which costs nothing to read; or of the thread's processor, which costs a system call.
enum Watch {
    Wall(Instant),
    Thread(u64),
}

impl Watch {
    fn start(heavy: bool) -> Watch {
        if heavy { Watch::Thread(thread_ns()) } else { Watch::Wall(Instant::now()) }
    }

    fn spent(&self) -> u64 {
        match self {
            Watch::Wall(since) => u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Watch::Thread(since) => thread_ns().saturating_sub(*since),
        }
    }
}

#[allow(unsafe_code)]
fn thread_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to the value above. Every Linux has this clock, and it cannot fail for one's own thread.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    #[allow(clippy::useless_conversion, reason = "the fields are smaller on 32-bit machines")]
    let ns = part(i64::from(now.tv_sec)) * 1_000_000_000 + part(i64::from(now.tv_nsec));
    ns
}

/// One poll; also when it ends in a panic.
struct Polled<'a> {
    cpu: &'a Cpu,
    used: &'a Used,
    watch: Watch,
}

impl Drop for Polled<'_> {
    fn drop(&mut self) {
        self.used.add(self.watch.spent());
        self.cpu.leave();
        // It waits for something now, or is over.
        drop(TURN.take());
    }
}
