//! Keeps guests from holding a thread for long, counts what they use, and knows what they may use.
//!
//! A plain thread advances the engines' epoch while guests run, and sleeps while none does: idle means idle. It is not
//! a task, because a guest that never yields could hold the very thread that owns the timer.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use wasmtime::Engine;

use super::bucket::CpuQuota;
use super::busy::{Busy, Runs};
use super::charged::OnAccount;
use super::fair::Member;
use super::lately::{Company, Lately};
use super::scheduling::Role;
use super::stopwatch::Stopwatch;
use crate::engine::EPOCH_MS;
use crate::wire::CpuSpec;

/// Rounds without a guest before the thread goes to sleep: waking it costs a system call, which a busy server should
/// not pay for each request.
const IDLE_ROUNDS: u32 = 40;
const PERIOD_NS: u64 = EPOCH_MS * 1_000_000;
/// All guest threads are inside one call each for so long: something that cannot be interrupted holds them.
const STALL: Duration = Duration::from_secs(30);

/// The epoch's thread, as guests see it.
#[derive(Debug)]
pub(super) struct Cpu {
    state: Arc<State>,
    ticker: Thread,
    busy: Arc<Busy>,
    company: Arc<Company>,
    members: AtomicU64,
    guest_threads: usize,
    on_idle: fn(),
}

/// Which threads poll a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Those that serve the network.
    Network,
    /// Those for guests that compute for long.
    Busy,
}

impl Lane {
    /// One tick may come at once: who serves is given a whole period before it counts as computing.
    fn slice_ticks(self) -> u64 {
        match self {
            Lane::Network => 2,
            Lane::Busy => 1,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    network: Polls,
    busy: Polls,
    /// The epoch, as this counts it.
    ticks: AtomicU64,
    asleep: AtomicBool,
}

/// Guests on the threads of one lane.
#[derive(Debug, Default)]
struct Polls {
    /// Those that are being polled at this moment.
    running: AtomicUsize,
    /// Polls so far.
    count: AtomicU64,
}

impl State {
    fn polls(&self, lane: Lane) -> &Polls {
        match lane {
            Lane::Network => &self.network,
            Lane::Busy => &self.busy,
        }
    }

    fn running(&self) -> usize {
        self.network.running.load(Ordering::SeqCst) + self.busy.running.load(Ordering::SeqCst)
    }

    fn count(&self) -> u64 {
        self.network.count.load(Ordering::SeqCst) + self.busy.count.load(Ordering::SeqCst)
    }
}

impl Cpu {
    /// Starts the thread. `guest_threads` is how many guests can be polled at once in each lane; `on_idle` is called by
    /// threads that have nothing to do.
    pub(super) fn start(engines: Vec<Engine>, guest_threads: usize, on_idle: fn()) -> std::io::Result<Arc<Cpu>> {
        let state = Arc::new(State::default());
        let shared = state.clone();
        let handle = thread::Builder::new().name("epoch".to_owned()).stack_size(128 << 10).spawn(move || {
            Role::Ticks.take();
            tick(&shared, &engines, guest_threads)
        })?;
        let (ticker, members) = (handle.thread().clone(), AtomicU64::new(1));
        let (busy, company) = Default::default();
        Ok(Arc::new(Cpu { state, ticker, busy, company, members, guest_threads, on_idle }))
    }

    pub(super) fn busy(&self) -> &Busy {
        &self.busy
    }

    pub(super) fn on_idle(&self) {
        (self.on_idle)();
    }

    /// Moves on while guests run.
    pub(super) fn tick(&self) -> u64 {
        self.state.ticks.load(Ordering::Relaxed)
    }

    pub(super) fn guest_threads(&self) -> usize {
        self.guest_threads
    }

    /// Polls a guest: counts its time, and sees to it that it is interrupted.
    pub(super) fn run<F: Runs>(
        &self,
        lane: Lane,
        used: &Used,
        guest: &mut F,
        cx: &mut Context<'_>,
    ) -> Slice<F::Output> {
        self.enter(lane);
        let _counted_here = OnAccount::begin();
        let tick = self.tick();
        let watch = match lane {
            Lane::Network => Stopwatch::cheap(tick),
            Lane::Busy => {
                // Who is there is company for those who are here: they share by weight.
                self.company.meets(used.member, tick);
                Stopwatch::exact()
            }
        };
        let polled = Polled { cpu: self, lane, used, watch, ns: None };
        SLICE_OVER.set(false);
        SLICE_END.set(tick + lane.slice_ticks());
        let outcome = Pin::new(guest).poll(cx);
        let interrupted = SLICE_OVER.take();
        let ns = polled.done();
        if !interrupted {
            used.lately.gave_back();
        }
        // Time in which the kernel or the host ran somebody else is not held against it.
        if ns >= PERIOD_NS && matches!(lane, Lane::Network) {
            let now = Instant::now();
            if interrupted {
                used.lately.interrupted(now);
            }
            used.lately.held(ns, now);
        }
        Slice { outcome, interrupted }
    }

    /// Whether a container is to make room for others: it has used much lately or is on trial, and they run too.
    pub(super) fn is_in_the_way(&self, used: &Used) -> bool {
        let tick = self.tick();
        let is_much = used.lately.is_much(Instant::now());
        self.company.meets(used.member, tick) && is_much
    }

    /// Asked by a guest that has seen the epoch move, at some time since its store was made or last looked.
    pub(super) fn is_slice_over(&self) -> bool {
        self.tick() >= SLICE_END.get()
    }

    fn enter(&self, lane: Lane) {
        let polls = self.state.polls(lane);
        polls.running.fetch_add(1, Ordering::SeqCst);
        polls.count.fetch_add(1, Ordering::Relaxed);
        if self.state.asleep.load(Ordering::SeqCst) {
            self.ticker.unpark();
        }
    }

    fn leave(&self, lane: Lane) {
        self.state.polls(lane).running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(state: &State, engines: &[Engine], guest_threads: usize) {
    let mut idle = 0;
    let mut stalls = [Stall::new(Lane::Network), Stall::new(Lane::Busy)];
    let mut before = 0;
    loop {
        thread::park_timeout(Duration::from_millis(EPOCH_MS));
        state.ticks.fetch_add(1, Ordering::Relaxed);
        for engine in engines {
            engine.increment_epoch();
        }
        let count = state.count();
        idle = if state.running() == 0 && count == before { idle + 1 } else { 0 };
        before = count;
        for stall in &mut stalls {
            if stall.goes_on(state, guest_threads) {
                tracing::error!(
                    seconds = STALL.as_secs(),
                    lane = ?stall.lane,
                    "no guest can run: every thread is held by a call that does not end"
                );
                // The front reports the containers of a dead worker and starts another; nothing gentler is left.
                std::process::abort();
            }
        }
        if idle >= IDLE_ROUNDS {
            state.asleep.store(true, Ordering::SeqCst);
            // Whoever enters from here on sees `asleep` and wakes us; whoever entered before is seen here.
            while state.running() == 0 && state.count() == count {
                thread::park();
            }
            state.asleep.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}

/// How long the threads of a lane have been held by the same calls.
struct Stall {
    lane: Lane,
    rounds: u64,
    before: u64,
}

impl Stall {
    fn new(lane: Lane) -> Stall {
        Stall { lane, rounds: 0, before: 0 }
    }

    fn goes_on(&mut self, state: &State, threads: usize) -> bool {
        let polls = state.polls(self.lane);
        let count = polls.count.load(Ordering::Relaxed);
        let held = polls.running.load(Ordering::SeqCst) >= threads && count == self.before;
        self.rounds = if held { self.rounds + 1 } else { 0 };
        self.before = count;
        self.rounds * EPOCH_MS >= STALL.as_millis() as u64
    }
}

/// Processor time of one container: what it has used, and what it may.
#[derive(Debug)]
pub(super) struct Used {
    ns: AtomicU64,
    lately: Lately,
    member: Member,
    busy: Arc<Busy>,
    company: Arc<Company>,
    own: Throttle,
    pod: Option<Arc<Throttle>>,
}

impl Used {
    pub(super) fn new(cpu: &Cpu, spec: CpuSpec, pod: Option<Arc<Throttle>>) -> Arc<Used> {
        let member = cpu.members.fetch_add(1, Ordering::Relaxed);
        cpu.busy.join(member, spec.weight);
        let own = Throttle::default();
        own.set(spec.quota_us, spec.period_us);
        let lately = Lately::new(spec.weight);
        let (busy, company) = (cpu.busy.clone(), cpu.company.clone());
        Arc::new(Used { ns: AtomicU64::new(0), lately, member, busy, company, own, pod })
    }

    /// Of a container that follows at once on one that ended by itself.
    pub(super) fn comes_again(&self) {
        self.lately.comes_again();
    }

    pub(super) fn member(&self) -> Member {
        self.member
    }

    pub(super) fn ns(&self) -> u64 {
        self.ns.load(Ordering::Relaxed)
    }

    /// Another limit and weight from now on.
    pub(super) fn set(&self, spec: CpuSpec) {
        self.own.set(spec.quota_us, spec.period_us);
        self.lately.set_weight(spec.weight);
        self.busy.set_weight(self.member, spec.weight);
    }

    pub(super) fn add(&self, ns: u64) {
        self.ns.fetch_add(ns, Ordering::Relaxed);
        self.lately.add(ns);
        self.own.charge(ns);
        if let Some(pod) = &self.pod {
            pod.charge(ns);
        }
    }

    /// Until when its quota is used up, if it is.
    pub(super) fn wait(&self) -> Option<Instant> {
        let pod = self.pod.as_ref().and_then(|pod| pod.wait());
        self.own.wait().max(pod)
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        self.busy.leave(self.member);
        self.company.leaves(self.member);
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
    /// The tick at which the slice of the guest that this thread polls is over.
    static SLICE_END: Cell<u64> = const { Cell::new(0) };
    /// The guest that this thread polls has been interrupted.
    static SLICE_OVER: Cell<bool> = const { Cell::new(false) };
}

/// A guest's slice is over: whoever polls it decides where and when it goes on. To be awaited by what is polled with [`Cpu::run`].
pub(super) async fn slice_over() {
    let mut over = false;
    std::future::poll_fn(|cx| {
        if over {
            return Poll::Ready(());
        }
        over = true;
        SLICE_OVER.set(true);
        // A guest of several tasks has a waker for each, and polls those only that were woken.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What came of one poll.
pub(super) struct Slice<T> {
    pub(super) outcome: Poll<T>,
    /// It did not end by itself.
    pub(super) interrupted: bool,
}

/// One poll; also when it ends in a panic.
struct Polled<'a> {
    cpu: &'a Cpu,
    lane: Lane,
    used: &'a Used,
    watch: Stopwatch,
    ns: Option<u64>,
}

impl Polled<'_> {
    /// How long it took.
    fn done(mut self) -> u64 {
        *self.ns.insert(self.watch.ns())
    }
}

impl Drop for Polled<'_> {
    fn drop(&mut self) {
        let ns = self.ns.unwrap_or_else(|| self.watch.ns());
        self.used.add(ns);
        match self.lane {
            // Nobody had to wait for it.
            Lane::Network => {}
            Lane::Busy => self.used.busy.charge(self.used.member, ns),
        }
        self.cpu.leave(self.lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_computes_for_a_slice_is_in_the_way_of_others_at_once() {
        let cpu = Cpu::start(Vec::new(), 2, || ()).unwrap();
        let used = || Used::new(&cpu, CpuSpec { weight: 1024, quota_us: None, period_us: 100_000 }, None);
        let run = |used: &Used, compute_ns| {
            let mut guest = Box::pin(async move {
                let watch = Stopwatch::exact();
                while watch.ns() < compute_ns {
                    std::hint::spin_loop();
                }
                slice_over().await;
            });
            cpu.run(Lane::Network, used, &mut guest, &mut Context::from_waker(std::task::Waker::noop()))
        };
        let is_in_the_way = |compute_ns| {
            let (modest, interrupted) = (used(), used());
            assert!(!cpu.is_in_the_way(&modest));
            run(&interrupted, compute_ns);
            cpu.is_in_the_way(&interrupted)
        };
        // A slow machine may have forgotten it before it looks, and one that stands still counts that as computing.
        assert!((0..20).any(|_| is_in_the_way(2 * PERIOD_NS)));
        assert!((0..20).any(|_| !is_in_the_way(0)), "somebody else had the time");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_much_is_in_the_way_of_others_only() {
        let cpu = Cpu::start(Vec::new(), 2, || ()).unwrap();
        let spec = CpuSpec { weight: 1024, quota_us: None, period_us: 100_000 };
        let [greedy, modest] = [(), ()].map(|()| Used::new(&cpu, spec, None));
        greedy.add(10_000_000);
        assert!(!cpu.is_in_the_way(&greedy), "it is alone");
        assert!(!cpu.is_in_the_way(&modest), "it takes little");
        assert!(cpu.is_in_the_way(&greedy));
        assert!(!cpu.is_in_the_way(&modest));
        tokio::time::advance(Duration::from_millis(20)).await;
        assert!(!cpu.is_in_the_way(&greedy), "it has taken little since");
    }
}
