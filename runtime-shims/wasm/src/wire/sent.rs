//! Descriptors that came with a message. The other side chose what they are, and closing one may take as long as it
//! likes: a file that was written to is flushed to whoever keeps it, who need not answer. So none is closed by the thread
//! that receives.

use std::os::fd::OwnedFd;

use tokio::runtime::Handle;

/// Closed elsewhere, unless somebody takes them.
#[derive(Debug, Default)]
pub(crate) struct Sent(Vec<OwnedFd>);

impl Sent {
    pub(super) fn new(fds: Vec<OwnedFd>) -> Sent {
        Sent(fds)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn last(&self) -> Option<&OwnedFd> {
        self.0.last()
    }

    pub(crate) fn pop(&mut self) -> Option<OwnedFd> {
        self.0.pop()
    }

    /// For who trusts the sender, or puts them back.
    pub(crate) fn take(mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.0)
    }
}

impl From<OwnedFd> for Sent {
    fn from(fd: OwnedFd) -> Sent {
        Sent(vec![fd])
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if self.0.is_empty() {
            return;
        }
        let fds = std::mem::take(&mut self.0);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(fds))),
            // A process that is being set up, and has nothing else to do.
            Err(_no_runtime) => drop(fds),
        }
    }
}
