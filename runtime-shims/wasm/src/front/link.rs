//! A worker process, as the front sees it: started, given orders, listened to, and gone at some point.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::process::{Child, Command as Process};
use tokio::sync::oneshot;

use crate::compile::Reexec;
use crate::confine::{self, Purpose};
use crate::engine::Profile;
use crate::wire::{Answer, Channel, Command, Exit, Order, Report, Setup};

/// A worker answers orders at once; one that does not is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why an order was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum OrderError {
    /// The worker says no.
    #[error("{0}")]
    Refused(String),
    #[error("the Wasm worker process ended")]
    Gone,
    #[error("the Wasm worker process does not answer")]
    Stuck,
}

/// What a worker is started with.
pub(super) struct Start<'a> {
    pub(super) reexec: &'a Reexec,
    pub(super) code: &'a Path,
    pub(super) empty: &'a Path,
    /// Held by every worker until it is gone.
    pub(super) lock: &'a File,
    pub(super) profile: Profile,
    pub(super) threads: usize,
}

#[derive(Debug)]
pub(super) struct Link {
    channel: Channel,
    /// Tells the containers of this worker from those of an earlier one.
    pub(super) generation: u64,
    pid: u32,
    next: AtomicU64,
    gone: AtomicBool,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Result<Answer, String>>>>,
}

/// What a worker says by itself.
#[derive(Debug)]
pub(super) enum News {
    Exited {
        id: String,
        exit: Exit,
    },
    /// It ended; with it all its guests. In words.
    Gone(String),
}

impl Link {
    /// Starts a worker and waits until it is set up. The process dies with the thread that called this.
    pub(super) async fn start(start: Start<'_>, generation: u64) -> io::Result<(Link, Child)> {
        fs::create_dir_all(start.empty)?;
        let (ours, theirs) = Channel::pair()?;
        let mut child = Process::new(&start.reexec.program)
            .args(&start.reexec.args)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .env_clear()
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("cannot start {}: {error}", start.reexec.program.display()))
            })?;
        let channel = Channel::new(ours)?;
        let code = confine::detached(start.code, Purpose::Code)?;
        let empty = confine::detached(start.empty, Purpose::Read)?;
        let setup = Setup { profile: start.profile, threads: start.threads };
        channel.send(&setup, &[code.as_fd(), empty.as_fd(), start.lock.as_fd()]).await?;
        match tokio::time::timeout(PATIENCE, channel.receive()).await? {
            Ok(Some(message)) if matches!(message.parse()?, Report::Ready) => {}
            Ok(_) => {
                let status = child.wait().await?;
                return Err(io::Error::other(format!("the Wasm worker ended during setup ({})", in_words(status))));
            }
            Err(error) => return Err(error),
        }
        let pid = child.id().unwrap_or_default();
        tracing::info!(pid, generation, "worker started");
        let (next, gone) = (AtomicU64::new(1), AtomicBool::new(false));
        let link = Link { channel, generation, pid, next, gone, waiting: Mutex::default() };
        Ok((link, child))
    }

    pub(super) async fn order(&self, what: Command, fds: &[BorrowedFd<'_>]) -> Result<Answer, OrderError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        self.waiting.lock().insert(number, done);
        let sent = async {
            self.channel.send(&Order { number, what }, fds).await.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => OrderError::Refused(error.to_string()),
                _ => OrderError::Gone,
            })?;
            match answer.await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(why)) => Err(OrderError::Refused(why)),
                Err(_gone) => Err(OrderError::Gone),
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, sent).await.unwrap_or(Err(OrderError::Stuck));
        self.waiting.lock().remove(&number);
        outcome
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Ends the process without asking it; the listener hears of it.
    pub(super) fn kill(&self) {
        self.gone.store(true, Ordering::Relaxed);
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // Gone already is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// Listens until the worker is gone, then says how it ended. Orders that wait are told.
    pub(super) async fn listen(&self, mut child: Child, mut news: impl FnMut(News)) {
        loop {
            let report = match self.channel.receive().await {
                Ok(Some(message)) => message.parse::<Report>(),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            match report {
                Ok(Report::Done { number, outcome }) => {
                    if let Some(waiting) = self.waiting.lock().remove(&number) {
                        let _ = waiting.send(outcome);
                    }
                }
                Ok(Report::Exited { id, exit }) => news(News::Exited { id, exit }),
                Ok(Report::Ready) => {}
                Err(error) => {
                    // It does not speak as a worker does: what runs in it cannot be trusted to be one.
                    tracing::error!(pid = self.pid, %error, "the worker is killed for what it said");
                    self.kill();
                    break;
                }
            }
        }
        // From here on nobody gives it a new container.
        self.gone.store(true, Ordering::Relaxed);
        let ended = match child.wait().await {
            Ok(status) => in_words(status),
            Err(error) => error.to_string(),
        };
        self.waiting.lock().clear();
        news(News::Gone(ended));
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (_, Some(libc::SIGKILL)) => {
            "killed by signal 9 (SIGKILL): by somebody, or for lack of memory on the node".to_owned()
        }
        (_, Some(libc::SIGSEGV)) => "killed by signal 11 (SIGSEGV)".to_owned(),
        (_, Some(libc::SIGABRT)) => "killed by signal 6 (SIGABRT)".to_owned(),
        (_, Some(signal)) => format!("killed by signal {signal}"),
        (Some(code), None) => format!("exit code {code}"),
        (None, None) => "status unknown".to_owned(),
    }
}
