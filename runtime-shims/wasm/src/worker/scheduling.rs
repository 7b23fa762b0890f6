//! What the kernel's scheduler is told of a worker's threads.
//!
//! Woken, a thread takes the processor from one that asked to run for longer at a time, and waits for one that asked for
//! the same, until that has had it for milliseconds. So who serves asks for little, and who computes for much. That says
//! when a thread runs; how much it gets in all is said by its nice value.

use std::io;
use std::time::Duration;

use crate::engine::EPOCH_MS;

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It answers requests.
    Serves,
    /// It advances the epoch: in time, and not in the midst of a request, after which the kernel may go on with a guest
    /// that computes.
    Ticks,
    /// It runs guests that compute for long.
    Computes,
}

/// How far behind the others the kernel puts threads that compute: a tenth of their weight, where both have work.
const BEHIND: i32 = 10;
const NICEST: i32 = 19;

impl Role {
    /// For how long at a time. The kernel takes a tenth of a millisecond to a hundred; before Linux 6.12 it asks nobody.
    fn slice(self) -> Duration {
        match self {
            Role::Serves => Duration::from_micros(100),
            Role::Ticks => Duration::from_millis(EPOCH_MS),
            Role::Computes => Duration::from_millis(100),
        }
    }

    /// Says so of the calling thread. Where the kernel refuses, all its threads are equal.
    pub(super) fn take(self) -> io::Result<()> {
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
        let kernel = rustix::system::uname();
        let mut version = kernel.release().to_str().expect("numbers").split('.').map(|part| part.parse::<u32>());
        let asks = matches!((version.next(), version.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 12));
        let before = of_this_thread().unwrap().sched_nice;
        for (role, nice, slice_ns) in [
            (Role::Serves, before, 100_000),
            (Role::Ticks, before, 1_000_000),
            (Role::Computes, (before + 10).min(19), 100_000_000),
        ] {
            let taken = thread::spawn(move || role.take().and_then(|()| of_this_thread())).join().unwrap().unwrap();
            assert_eq!(taken.sched_nice, nice, "{role:?}");
            if asks {
                assert_eq!(taken.sched_runtime, slice_ns, "{role:?}");
            }
        }
    }
}
