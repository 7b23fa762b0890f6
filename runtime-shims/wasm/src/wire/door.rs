//! Where a front that comes later finds its workers: listening sockets in the file system, one for each worker.
//!
//! The front makes them, so a worker needs no right to; whoever may write the directory may knock, and nobody else.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use super::Channel;

/// Fronts that knock at once: one, and one whose successor is quicker than the worker.
const BACKLOG: i32 = 4;
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A door as it is handed to a worker.
#[derive(Debug)]
pub(crate) struct NewDoor {
    pub(crate) listener: OwnedFd,
    /// The socket's file, good for nothing but to see whether it is still there.
    pub(crate) file: OwnedFd,
}

/// Makes the socket `name` in `dir`; what an earlier worker left there is replaced.
pub(crate) fn bind(dir: &Path, name: &str) -> io::Result<NewDoor> {
    let dir = open_dir(dir)?;
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let listener = socket(SocketFlags::empty())?;
    // Before there is a file: on Linux it gets the mode of the socket.
    rustix::fs::fchmod(&listener, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&listener, &address(&dir, name)?)?;
    rustix::net::listen(&listener, BACKLOG)?;
    let file = rustix::fs::openat(&dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    Ok(NewDoor { listener, file })
}

/// Knocks. Only at sockets of this process's own user, made by it: another's would be a trap.
pub(crate) fn connect(dir: &Path, name: &str) -> io::Result<OwnedFd> {
    let dir = open_dir(dir)?;
    let myself = rustix::process::geteuid();
    let stranger = || io::Error::new(io::ErrorKind::PermissionDenied, "the socket is another user's");
    let owner = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_uid;
    if owner != myself.as_raw() {
        return Err(stranger());
    }
    // A worker that does not take its fronts in any more is refused, not waited for.
    let socket = socket(SocketFlags::NONBLOCK)?;
    rustix::net::connect(&socket, &address(&dir, name)?)?;
    if rustix::net::sockopt::socket_peercred(&socket)?.uid != myself {
        return Err(stranger());
    }
    Ok(socket)
}

fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// By way of the directory's descriptor: a socket's path may have 108 bytes, a data directory's any number.
fn address(dir: &OwnedFd, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?)
}

/// A door as a worker has it.
#[derive(Debug)]
pub(crate) struct Door {
    listener: AsyncFd<OwnedFd>,
    file: OwnedFd,
    /// The user that may come in, by number.
    owner: u32,
}

impl Door {
    /// Must be called within a tokio runtime.
    #[allow(unsafe_code)]
    pub(crate) fn new(listener: OwnedFd, file: OwnedFd, owner: u32) -> io::Result<Door> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        // SAFETY: an owned descriptor always answers with the same number and stays open until it is dropped, which the
        // registration outlives by nothing: it owns it.
        let listener = unsafe { AsyncFd::register(listener)? };
        Ok(Door { listener, file, owner })
    }

    /// The next front. Being out of descriptors for a while is no reason to shut the door for ever.
    pub(crate) async fn accept(&self) -> Channel {
        loop {
            match self.accept_one().await {
                Ok(Some(front)) => return front,
                Ok(None) => tracing::warn!("a process of another user knocked and was turned away"),
                Err(error) => {
                    tracing::warn!(%error, "a front cannot be let in");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn accept_one(&self) -> io::Result<Option<Channel>> {
        loop {
            let mut ready = self.listener.readable().await?;
            let accepted = ready.try_io(|listener| {
                Ok(rustix::net::accept_with(listener.get_ref(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
            });
            if let Ok(peer) = accepted {
                let peer = peer?;
                let may_enter = rustix::net::sockopt::socket_peercred(&peer)?.uid.as_raw() == self.owner;
                return may_enter.then(|| Channel::new(peer)).transpose();
            }
        }
    }

    /// Nobody can come any more: the socket's file was removed.
    pub(crate) fn is_removed(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0)
    }
}

/// A descriptor of one's own for what another one names.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 0)?)
}
