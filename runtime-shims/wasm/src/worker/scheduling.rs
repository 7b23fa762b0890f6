//! What the kernel's scheduler is told of a worker's threads.
//!
//! From Linux 6.12 on a thread that is woken takes the processor from one that asked to run for longer at a time, unless it
//! has just had more than its part; for one that asked for the same it waits until that has had it for milliseconds. So
//! who serves asks for little, and who computes for more. That says when a thread runs; how much it gets in all is said by
//! its nice value.

use std::io;
use std::sync::Once;
use std::time::Duration;

use crate::confine::BEHIND;
use crate::engine::EPOCH_MS;

/// What a thread is for. Those without a role (orders, logs) ask for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It answers requests, or waits for files for those who do.
    Serves,
    /// It advances the epoch: in time, and not in the midst of a request, after which the kernel may go on with a guest
    /// that computes.
    Ticks,
    /// It runs guests that compute for long.
    Computes,
}

const NICEST: i32 = 19;

impl Role {
    /// For how long at a time. Before Linux 6.17 the kernel lets a thread that got its turn while others were not due have
    /// all it asked for: so who computes asks for more than the others, and not for much more.
    fn slice(self) -> Duration {
        match self {
            Role::Serves => Duration::from_micros(100),
            Role::Ticks => Duration::from_millis(EPOCH_MS),
            Role::Computes => Duration::from_millis(4),
        }
    }

    /// Says so of the calling thread. Where the kernel refuses, all threads are equal.
    pub(super) fn take(self) {
        static REFUSED: Once = Once::new();
        if let Err(error) = self.tell_kernel() {
            REFUSED.call_once(|| {
                let what = "guests that compute may make requests wait: the kernel refuses sched_setattr (allow it where this host filters system calls)";
                tracing::warn!(%error, "{what}");
            });
        }
    }

    fn tell_kernel(self) -> io::Result<()> {
        let mut attributes = of_this_thread()?;
        attributes.sched_runtime = u64::try_from(self.slice().as_nanos()).unwrap_or(u64::MAX);
        if self == Role::Computes {
            attributes.sched_nice = (attributes.sched_nice + BEHIND).min(NICEST);
        }
        set(&attributes)
    }
}

const THIS_THREAD: libc::pid_t = 0;
const NO_FLAGS: libc::c_uint = 0;

#[allow(unsafe_code)]
fn of_this_thread() -> io::Result<libc::sched_attr> {
    // SAFETY: numbers only, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let bytes = libc::c_uint::try_from(size_of_val(&attributes)).map_err(io::Error::other)?;
    // SAFETY: the pointer is to the value above, and the kernel writes no more than it is told there is.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, &raw mut attributes, bytes, NO_FLAGS) })?;
    Ok(attributes)
}

#[allow(unsafe_code)]
fn set(attributes: &libc::sched_attr) -> io::Result<()> {
    // SAFETY: the pointer is to a value that says its own size, and the kernel only reads it.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const *attributes, NO_FLAGS) })
}

fn check(outcome: libc::c_long) -> io::Result<()> {
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_kernel_knows_what_a_thread_is_for() {
        let before = of_this_thread().unwrap();
        // Kernels that ask for slices tell what they chose for one that said nothing.
        let asks = before.sched_runtime != 0;
        let before = before.sched_nice;
        for (role, nice, slice_ns) in [
            (Role::Serves, before, 100_000),
            (Role::Ticks, before, 1_000_000),
            (Role::Computes, (before + BEHIND).min(NICEST), 4_000_000),
        ] {
            let taken =
                thread::spawn(move || role.tell_kernel().and_then(|()| of_this_thread())).join().unwrap().unwrap();
            assert_eq!(taken.sched_nice, nice, "{role:?}");
            if asks {
                assert_eq!(taken.sched_runtime, slice_ns, "{role:?}");
            }
        }
    }
}
