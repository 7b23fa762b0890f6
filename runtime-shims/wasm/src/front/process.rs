//! A process by its number and the moment it was started, so that another one that got the number later is not taken
//! for it, and never signalled.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;

/// What can be written down of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: i32,
    /// In ticks of the kernel's, since it booted.
    started: u64,
    /// Which boot that was.
    boot: String,
}

/// A process in hand.
#[derive(Debug)]
pub(super) struct Process {
    fd: OwnedFd,
}

impl Process {
    /// A child that was not waited for yet.
    pub(super) fn of_child(pid: u32) -> io::Result<(Process, Identity)> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        let identity = Identity { pid, started: started(pid)?, boot: boot()? };
        let process = Process::find(&identity)?;
        process.map(|process| (process, identity)).ok_or_else(|| io::Error::from(Errno::SRCH))
    }

    /// None if it is gone, whoever has its number now.
    pub(super) fn find(identity: &Identity) -> io::Result<Option<Process>> {
        let pid = Pid::from_raw(identity.pid).ok_or_else(|| io::Error::from(Errno::INVAL))?;
        if identity.boot != boot()? {
            return Ok(None);
        }
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at after it is in hand: if this is the one that is meant, so is what the descriptor holds.
        match started(identity.pid) {
            Ok(started) if started == identity.started => Ok(Some(Process { fd })),
            Ok(_another) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // It ended while it was looked at.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gone already is as good.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) -> io::Result<()> {
        // A pidfd becomes readable when its process ends; tokio waits for it as for a pipe.
        let fd = rustix::io::fcntl_dupfd_cloexec(self.fd.as_fd(), 0)?;
        pipe::Receiver::from_owned_fd_unchecked(fd)?.readable().await
    }
}

fn started(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    started_of(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat cannot be understood: {stat:?}")))
}

/// The 22nd field of `/proc/PID/stat`; the second one is a name in brackets, with anything in it.
fn started_of(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_hide_the_start() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        assert_eq!(started_of(stat), Some(98_765));
        assert_eq!(started_of("42 (a) S 1"), None);
    }

    #[tokio::test]
    async fn only_the_process_that_is_meant_is_found() {
        let mut child = tokio::process::Command::new("sleep").arg("600").kill_on_drop(true).spawn().expect("it starts");
        let (process, identity) = Process::of_child(child.id().expect("it runs")).expect("it is found");
        assert!(Process::find(&identity).expect("it is looked for").is_some());
        let later = Identity { started: identity.started + 1, ..identity.clone() };
        assert!(Process::find(&later).expect("it is looked for").is_none(), "the number was given to another");
        let before = Identity { boot: "another".to_owned(), ..identity.clone() };
        assert!(Process::find(&before).expect("it is looked for").is_none(), "from before the last boot");
        process.kill();
        process.ended().await.expect("its end is seen");
        child.wait().await.expect("it is collected");
        assert!(Process::find(&identity).expect("it is looked for").is_none());
    }
}
