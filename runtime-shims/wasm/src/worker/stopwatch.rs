//! How long a thread has computed.

use std::cell::Cell;

use tokio::time::Instant;

/// Until so long what the wall's clock says is taken for it. What takes longer may well have been interrupted, by the
/// kernel or the host, and that time is nobody's.
const SHORT_NS: u64 = 500_000;

thread_local! {
    /// A tick, and the thread's processor time when it was first seen.
    static SEEN: Cell<(u64, u64)> = const { Cell::new((u64::MAX, 0)) };
}

/// Reading the wall's clock costs nothing, reading the processor's a system call.
#[derive(Debug)]
pub(super) struct Stopwatch {
    since: Option<Instant>,
    cpu_ns: u64,
}

impl Stopwatch {
    /// For what is over soon, usually: a longer time may be too long by what this thread has done in the same tick.
    pub(super) fn cheap(tick: u64) -> Stopwatch {
        let (seen, mut cpu_ns) = SEEN.get();
        if seen != tick {
            cpu_ns = thread_ns();
            SEEN.set((tick, cpu_ns));
        }
        Stopwatch { since: Some(Instant::now()), cpu_ns }
    }

    pub(super) fn exact() -> Stopwatch {
        Stopwatch { since: None, cpu_ns: thread_ns() }
    }

    /// Asked on the thread that started it.
    pub(super) fn ns(&self) -> u64 {
        let cpu_ns = || thread_ns().saturating_sub(self.cpu_ns);
        let Some(since) = self.since else { return cpu_ns() };
        let wall_ns = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if wall_ns <= SHORT_NS { wall_ns } else { wall_ns.min(cpu_ns()) }
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

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const COMPUTED_NS: u64 = 20_000_000;

    fn compute() {
        let start = thread_ns();
        while thread_ns() - start < COMPUTED_NS {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn time_in_which_a_thread_runs_is_counted() {
        let watches = [Stopwatch::cheap(1), Stopwatch::exact()];
        compute();
        for watch in watches {
            assert!(watch.ns() >= COMPUTED_NS, "{watch:?}: {}", watch.ns());
        }
    }

    #[test]
    fn time_in_which_others_run_is_not_its() {
        let watches = [Stopwatch::cheap(1), Stopwatch::exact()];
        thread::spawn(compute).join().unwrap();
        for watch in watches {
            assert!(watch.ns() < COMPUTED_NS, "{watch:?}: {}", watch.ns());
        }
    }
}
