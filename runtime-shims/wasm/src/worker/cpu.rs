//! Keeps guests from holding a thread for long, and counts what they use.
//!
//! A plain thread advances the engines' epoch while guests run, and sleeps while none does: idle means idle. It is not
//! a task, because a guest that never yields could hold the very thread that owns the timer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::Engine;

use crate::engine::EPOCH_MS;

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
        Ok(Arc::new(Cpu { state, ticker: handle.thread().clone() }))
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

/// Processor time of one container.
#[derive(Debug, Default)]
pub(super) struct Used(AtomicU64);

impl Used {
    pub(super) fn ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A future that runs guest code: the epoch moves while it is polled, and its time is counted.
pub(super) struct Guest<F> {
    inner: F,
    cpu: Arc<Cpu>,
    used: Arc<Used>,
}

impl<F: Future + Unpin> Guest<F> {
    pub(super) fn new(inner: F, cpu: Arc<Cpu>, used: Arc<Used>) -> Guest<F> {
        Guest { inner, cpu, used }
    }
}

impl<F: Future + Unpin> Future for Guest<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.cpu.enter();
        let _polled = Polled { cpu: &this.cpu, used: &this.used, since: tokio::time::Instant::now() };
        Pin::new(&mut this.inner).poll(cx)
    }
}

/// One poll; also when it ends in a panic.
struct Polled<'a> {
    cpu: &'a Cpu,
    used: &'a Used,
    since: tokio::time::Instant,
}

impl Drop for Polled<'_> {
    fn drop(&mut self) {
        let spent = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.used.0.fetch_add(spent, Ordering::Relaxed);
        self.cpu.leave();
    }
}
