//! Takes rights away from this process: limits, user, root directory, system calls. Used by processes that handle what
//! strangers wrote, before they look at it. Nothing here can be undone.

mod binds;
mod filter;
mod mounts;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

pub(crate) use binds::{Bind, detached_with};
pub(crate) use filter::Calls;
pub(crate) use mounts::{Purpose, detached};

/// The user `nobody` of every distribution, and of the kernel's overflow id.
const NOBODY: u32 = 65534;

/// Resource limits; `None` leaves a limit as it is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) address_space_bytes: Option<u64>,
    pub(crate) cpu_seconds: Option<u64>,
    pub(crate) file_bytes: Option<u64>,
}

/// At its limit of processor time a process gets SIGXCPU, and if it does not end of that, SIGKILL so much later. At once it
/// could not be told from one that was killed because memory was short.
const CPU_LAST_SECONDS: u64 = 5;

/// Sets limits, allows as many open files as may be, and forbids core dumps: a dump would hold what guests know.
pub(crate) fn limit(limits: Limits) -> io::Result<()> {
    let set = |resource, value: u64| {
        rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
    };
    set(Resource::Core, 0)?;
    // A thread may say how the kernel is to run it, but not before others.
    set(Resource::Rtprio, 0)?;
    set(Resource::Nice, 0)?;
    allow_files()?;
    if let Some(bytes) = limits.address_space_bytes {
        set(Resource::As, bytes)?;
    }
    if let Some(seconds) = limits.cpu_seconds {
        let cpu = Rlimit { current: Some(seconds), maximum: Some(seconds + CPU_LAST_SECONDS) };
        rustix::process::setrlimit(Resource::Cpu, cpu)?;
    }
    if let Some(bytes) = limits.file_bytes {
        set(Resource::Fsize, bytes)?;
    }
    Ok(())
}

/// As many open files as may be: programs that know no better get few.
pub(crate) fn allow_files() -> io::Result<()> {
    let files = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;
    Ok(())
}

/// How far behind the others the kernel puts who computes, guests or the compiler: a thirtieth of their weight, where both
/// have work. What they are owed they get in one piece, a millisecond of some request; at this weight that is one request
/// in hundreds.
pub(crate) const BEHIND: i32 = 15;

/// Puts this process behind others.
pub(crate) fn be_nice() -> io::Result<()> {
    rustix::process::nice(BEHIND)?;
    Ok(())
}

/// Becomes nobody, in an empty root directory, if this process is root; otherwise it stays who it is. Must run while
/// there is one thread: threads made later inherit the outcome.
pub(crate) fn leave_root(empty: Option<BorrowedFd<'_>>) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    match become_nobody(empty) {
        Ok(()) => Ok(()),
        // Root of a container or user namespace that has no nobody, or may not change user: root in name only. What
        // rights it has within, it loses all the same.
        Err(Errno::PERM | Errno::INVAL) => {
            tracing::warn!("this process cannot become nobody; it drops its capabilities instead");
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            Ok(rustix::thread::set_capabilities(None, sets)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn become_nobody(empty: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    // Changing user takes away what this process has; this takes away what any program could ever get back.
    for capability in CapabilitySet::all() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not have.
            Err(Errno::INVAL) => {}
            other => other?,
        }
    }
    if let Some(empty) = empty {
        let back = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        rustix::process::fchdir(empty)?;
        let rooted = rustix::process::chroot(".");
        // The working directory is a descriptor that was handed over, like all others.
        rustix::process::fchdir(back)?;
        rooted?;
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)
}

/// Dies when the thread that started this process does. Changing user clears the setting, so this comes after it.
pub(crate) fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// No program started from here can have more rights than this one; also what makes a filter possible without root.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// From now on this thread has a working directory of its own: where it goes, no other goes along.
#[allow(unsafe_code)]
pub(crate) fn own_working_dir() -> io::Result<()> {
    // SAFETY: descriptors stay shared, and no memory depends on where a thread is.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS)? };
    Ok(())
}

/// From now on other system calls than `calls` fail. For this thread and those it starts.
pub(crate) fn allow_only(calls: Calls) -> io::Result<()> {
    let program = filter::program(calls).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

/// Keys and signals of the terminal are for the front, which stops its workers itself.
#[allow(unsafe_code)]
pub(crate) fn ignore_terminal_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
