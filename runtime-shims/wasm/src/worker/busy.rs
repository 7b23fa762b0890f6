//! Threads for guests that compute for long, so that those who do not are answered at once.
//!
//! A guest begins on the threads that serve the network. One that is interrupted there, or whose container takes much
//! while others run or comes again and again ([`super::lately`]), is carried over to these, which the kernel lets behind the
//! others. Who runs next here is decided in [`super::fair`].
//!
//! ```text
//!   network's threads ── slice over, or in the way ────────▶ queue ──▶ busy thread ──┐
//!          ▲                                                   ▲────── slice over ───┤
//!          └──────────── waits for something, is over, has used up its quota ────────┘
//! ```

use std::fmt;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::cpu::{Cpu, Lane, Used};
use super::fair::{FairQueue, Member};
use super::scheduling::Role;

/// A thread that has had nothing to do for so long says so.
const IDLE: Duration = Duration::from_secs(1);

/// The queue, and the threads that serve it once somebody came.
#[derive(Default)]
pub(super) struct Busy {
    queue: Mutex<FairQueue<Ticket>>,
    work: Condvar,
    /// How many threads there are.
    threads: OnceLock<usize>,
    numbers: AtomicU64,
}

/// A guest in the queue.
struct Ticket {
    number: u64,
    job: Box<dyn Job>,
}

/// A future that runs guest code.
pub(super) trait Runs: Future<Output: Send + 'static> + Send + Unpin + 'static {}
impl<F: Future<Output: Send + 'static> + Send + Unpin + 'static> Runs for F {}

/// [`Runs`], whatever it gives.
trait Job: Send {
    fn member(&self) -> Member;
    fn is_called_off(&self) -> bool;
    /// Runs for a slice; what is given back wants another.
    fn slice(self: Box<Self>, cpu: &Cpu) -> Option<Box<dyn Job>>;
}

impl fmt::Debug for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Busy").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Busy {
    pub(super) fn join(&self, member: Member, weight: u64) {
        self.queue.lock().join(member, weight);
    }

    pub(super) fn leave(&self, member: Member) {
        self.queue.lock().leave(member);
    }

    pub(super) fn set_weight(&self, member: Member, weight: u64) {
        self.queue.lock().set_weight(member, weight);
    }

    /// Notes what a member has used.
    pub(super) fn charge(&self, member: Member, ns: u64) {
        self.queue.lock().charge(member, ns);
    }

    /// Starts the threads when the first guest comes. Where there can be none, guests stay where they are.
    fn is_served(&self, cpu: &Arc<Cpu>) -> bool {
        let threads = self.threads.get_or_init(|| {
            let home = Handle::current();
            let start = |_| {
                let (cpu, home) = (cpu.clone(), home.clone());
                let thread = thread::Builder::new().name("busy-guests".to_owned()).stack_size(1 << 20);
                thread.spawn(move || {
                    Role::Computes.take();
                    // Timers and sockets of guests are the runtime's, wherever they run.
                    let _within = home.enter();
                    cpu.busy().serve(&cpu);
                })
            };
            let started = (0..cpu.guest_threads()).map(start).filter_map(|started| {
                started.inspect_err(|error| tracing::error!(%error, "no thread for guests that compute")).ok()
            });
            started.count()
        });
        *threads > 0
    }

    fn serve(&self, cpu: &Cpu) -> ! {
        let mut again: Option<Ticket> = None;
        loop {
            let Ticket { number, job } = self.next(again, cpu);
            // Also what a guest owns runs when it is dropped. Its task learns of a panic by hearing nothing any more.
            let slice = panic::catch_unwind(AssertUnwindSafe(|| job.slice(cpu)));
            again = slice.unwrap_or(None).map(|job| Ticket { number, job });
        }
    }

    /// Puts one back, and waits for who is next.
    fn next(&self, again: Option<Ticket>, cpu: &Cpu) -> Ticket {
        let mut queue = self.queue.lock();
        // Under the lock: who calls it off looks for it in the queue afterwards.
        let over = match again {
            Some(ticket) if ticket.job.is_called_off() => Some(ticket),
            Some(ticket) => {
                queue.again(ticket.job.member(), ticket);
                None
            }
            None => None,
        };
        if over.is_some() {
            MutexGuard::unlocked(&mut queue, || panic::catch_unwind(AssertUnwindSafe(|| drop(over))).ok());
        }
        let mut idle = false;
        loop {
            if let Some(ticket) = queue.pop() {
                return ticket;
            }
            if idle {
                self.work.wait(&mut queue);
            } else if self.work.wait_for(&mut queue, IDLE).timed_out() {
                idle = true;
                MutexGuard::unlocked(&mut queue, || cpu.on_idle());
            }
        }
    }
}

/// How a guest comes back to its task.
pub(super) enum Returned<F: Future> {
    Over(F::Output),
    /// It waits; the [`Bell`] tells what for has come.
    Waits(F),
    /// Its quota is used up.
    Throttled(F),
}

/// A guest that was carried over, as its task sees it. When this is dropped so is the guest, at the latest after its
/// present slice.
pub(super) struct Away<F: Future> {
    cpu: Arc<Cpu>,
    member: Member,
    number: u64,
    back: oneshot::Receiver<thread::Result<Returned<F>>>,
    /// It has come back.
    over: bool,
    bell: Arc<Bell>,
}

/// Wakes the task of a guest that waits, and no task while the guest runs elsewhere.
pub(super) struct Bell {
    rung: AtomicBool,
    /// The guest is in the queue, or runs: who has it there looks at `rung` by himself.
    away: AtomicBool,
    called_off: AtomicBool,
    home: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        if !self.away.load(Ordering::SeqCst) {
            self.home.wake_by_ref();
        }
    }
}

impl Bell {
    /// Whether a guest that was polled with this need not be polled, for a task that is polled with `waker`.
    pub(super) fn is_quiet(&self, waker: &Waker) -> bool {
        !self.rung.load(Ordering::SeqCst) && self.home.will_wake(waker)
    }
}

impl<F: Runs> Away<F> {
    /// Carries a guest over, or gives it back.
    pub(super) fn send(cpu: &Arc<Cpu>, used: &Arc<Used>, guest: F, waker: &Waker) -> Result<Away<F>, F> {
        let busy = cpu.busy();
        if !busy.is_served(cpu) {
            return Err(guest);
        }
        let bell = Arc::new(Bell {
            rung: AtomicBool::new(false),
            away: AtomicBool::new(true),
            called_off: AtomicBool::new(false),
            home: waker.clone(),
        });
        let (sender, back) = oneshot::channel();
        let number = busy.numbers.fetch_add(1, Ordering::Relaxed);
        let job = Box::new(Carried { guest, used: used.clone(), bell: bell.clone(), back: sender });
        busy.queue.lock().push(used.member(), Ticket { number, job });
        busy.work.notify_one();
        Ok(Away { cpu: cpu.clone(), member: used.member(), number, back, over: false, bell })
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Returned<F>> {
        let back = ready!(Pin::new(&mut self.back).poll(cx));
        self.over = true;
        let back = back.expect("a guest that nobody calls off comes back, unless what it owns panics");
        Poll::Ready(back.unwrap_or_else(|panic| panic::resume_unwind(panic)))
    }

    pub(super) fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// Ends the guest, and returns when it and all it held are gone.
    pub(super) async fn end(mut self) {
        if !self.call_off() {
            let _ = (&mut self.back).await;
        }
    }
}

impl<F: Future> Away<F> {
    /// Whether it is gone already.
    fn call_off(&self) -> bool {
        self.bell.called_off.store(true, Ordering::SeqCst);
        let waiting = self.cpu.busy().queue.lock().remove(self.member, |ticket| ticket.number == self.number);
        waiting.is_some()
    }
}

impl<F: Future> Drop for Away<F> {
    fn drop(&mut self) {
        if !self.over {
            self.call_off();
        }
    }
}

/// A guest on its way.
struct Carried<F: Future> {
    // In the order in which they go: the task that waits for the end finds nothing left.
    guest: F,
    used: Arc<Used>,
    bell: Arc<Bell>,
    back: oneshot::Sender<thread::Result<Returned<F>>>,
}

impl<F: Runs> Carried<F> {
    fn go_back(self, how: impl FnOnce(F) -> thread::Result<Returned<F>>) -> Option<Box<dyn Job>> {
        let Carried { guest, back, .. } = self;
        // If the task is gone, so is the guest.
        let _ = back.send(how(guest));
        None
    }
}

impl<F: Runs> Job for Carried<F> {
    fn member(&self) -> Member {
        self.used.member()
    }

    fn is_called_off(&self) -> bool {
        self.bell.called_off.load(Ordering::SeqCst)
    }

    fn slice(mut self: Box<Self>, cpu: &Cpu) -> Option<Box<dyn Job>> {
        if self.is_called_off() {
            return None;
        }
        if self.used.wait().is_some() {
            return self.go_back(|guest| Ok(Returned::Throttled(guest)));
        }
        self.bell.rung.store(false, Ordering::SeqCst);
        let waker = Waker::from(self.bell.clone());
        let polled = panic::catch_unwind(AssertUnwindSafe(|| {
            cpu.run(Lane::Busy, &self.used, &mut self.guest, &mut Context::from_waker(&waker))
        }));
        let polled = match polled {
            Ok(polled) => polled,
            Err(panic) => return self.go_back(|_| Err(panic)),
        };
        if let Poll::Ready(output) = polled.outcome {
            return self.go_back(|_| Ok(Returned::Over(output)));
        }
        if !polled.interrupted {
            self.bell.away.store(false, Ordering::SeqCst);
            if !self.bell.rung.load(Ordering::SeqCst) {
                return self.go_back(|guest| Ok(Returned::Waits(guest)));
            }
            self.bell.away.store(true, Ordering::SeqCst);
        }
        Some(self)
    }
}
