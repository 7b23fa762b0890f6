//! A worker process, as the front sees it: started or found, given orders, listened to, and gone at some point.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::process::{Child, Command as Program};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::process::Process;
use super::records::WorkerRecord;
use super::roots;
use crate::compile::Reexec;
use crate::confine::{self, Purpose};
use crate::engine::Profile;
use crate::wire::{self, Answer, Channel, Command, Ended, Hello, Message, Order, Report, Sent, Setup, Welcome};

/// A worker answers orders at once; one that does not is stuck.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Ends that a worker may report without taking their acknowledgement, and bytes in the name of each: more than it has
/// containers, and than their names have.
const RECORDED_MAX: usize = 100_000;
const ID_BYTES_MAX: usize = 256;

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
    pub(super) code: &'a Path,
    pub(super) empty: &'a Path,
    /// Where its socket is made, by the worker's id.
    pub(super) doors: &'a Path,
    pub(super) profile: Profile,
    pub(super) threads: usize,
}

type Reply = Result<(Answer, Sent), String>;

/// An order that was not answered yet.
#[derive(Debug)]
struct Waiting {
    /// None when nobody waits any more; the answer may still come, once.
    done: Option<oneshot::Sender<Reply>>,
    /// A descriptor may come with the answer.
    borrows: bool,
}

/// Who waits for an answer, until it is here or they wait no more.
struct Asked<'a> {
    link: &'a Link,
    number: u64,
    is_sent: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut all = self.link.waiting.lock();
        if !self.is_sent {
            // What the worker was never told it will not answer.
            all.remove(&self.number);
        } else if let Some(waiting) = all.get_mut(&self.number) {
            waiting.done = None;
        }
    }
}

#[derive(Debug)]
pub(super) struct Link {
    channel: Channel,
    process: Process,
    pub(super) record: WorkerRecord,
    /// Tells the containers of this worker from those of others.
    pub(super) generation: u64,
    /// It takes no containers any more.
    retired: AtomicBool,
    /// How many of its containers have ended, and how many had when there was no room for another: until one more has,
    /// there still is none.
    ends: AtomicU64,
    full_at: AtomicU64,
    since: Instant,
    next: AtomicU64,
    gone: AtomicBool,
    waiting: Mutex<HashMap<u64, Waiting>>,
    /// Ends that are on record and that the worker may forget.
    recorded: Mutex<Vec<String>>,
    recorded_more: Notify,
}

/// A process that was started and does not do anything before it is set up.
pub(super) struct Newborn {
    child: Child,
    control: OwnedFd,
    pub(super) pid: u32,
}

impl Newborn {
    /// `place` is for those who look at the list of processes: where this worker belongs.
    pub(super) fn start(reexec: &Reexec, place: &Path) -> io::Result<Newborn> {
        let (control, theirs) = Channel::pair()?;
        let child = Program::new(&reexec.program)
            .args(&reexec.args)
            .arg(place)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .env_clear()
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("cannot start {}: {error}", reexec.program.display()))
            })?;
        let pid = child.id().unwrap_or_default();
        Ok(Newborn { child, control, pid })
    }

    /// Sets it up. It must be on record by now: from here on it outlives this process.
    pub(super) async fn set_up(
        mut self,
        start: Start<'_>,
        process: Process,
        record: WorkerRecord,
        generation: u64,
    ) -> io::Result<(Link, Child)> {
        match Newborn::link(self.control, start, process, record, generation).await {
            Ok(link) => Ok((link, self.child)),
            Err(error) => {
                self.child.start_kill()?;
                let status = in_words(self.child.wait().await?);
                Err(io::Error::new(error.kind(), format!("it ended during setup ({status}): {error}")))
            }
        }
    }

    async fn link(
        control: OwnedFd,
        start: Start<'_>,
        process: Process,
        record: WorkerRecord,
        generation: u64,
    ) -> io::Result<Link> {
        fs::create_dir_all(start.empty)?;
        let channel = Channel::new(control)?;
        let code = confine::detached(start.code, Purpose::Code)?;
        let empty = confine::detached(start.empty, Purpose::Read)?;
        let door = wire::bind(start.doors, &record.socket())?;
        let setup = Setup { profile: start.profile, threads: start.threads, build: record.build.clone() };
        let bundle = roots::bundle();
        let mut fds = vec![code.as_fd(), empty.as_fd(), door.listener.as_fd(), door.file.as_fd()];
        fds.extend(bundle.as_ref().map(|bundle| bundle.as_fd()));
        channel.send(&setup, &fds).await?;
        greet(&channel, &record.build).await?;
        tracing::info!(pid = record.process.pid, worker = record.id, domain = ?record.domain, "worker started");
        Ok(Link::new(channel, process, record, generation))
    }
}

/// The first words of a front to a worker.
async fn greet(channel: &Channel, build: &str) -> io::Result<Welcome> {
    let words = async {
        channel.send(&Hello { version: wire::VERSION, build: build.to_owned() }, &[]).await?;
        let message = channel.receive().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match message.parse()? {
            Report::Welcome(welcome) => Ok(welcome),
            Report::Done { .. } | Report::Exited(_) => Err(io::Error::other("it does not greet")),
        }
    };
    let welcome = tokio::time::timeout(PATIENCE, words).await??;
    if !(wire::OLDEST..=wire::VERSION).contains(&welcome.version) {
        let why = format!("it speaks version {} of the protocol, this front {}", welcome.version, wire::VERSION);
        return Err(io::Error::other(why));
    }
    Ok(welcome)
}

impl Link {
    fn new(channel: Channel, process: Process, record: WorkerRecord, generation: u64) -> Link {
        Link {
            channel,
            process,
            record,
            generation,
            retired: AtomicBool::new(false),
            ends: AtomicU64::new(0),
            full_at: AtomicU64::new(u64::MAX),
            since: Instant::now(),
            next: AtomicU64::new(1),
            gone: AtomicBool::new(false),
            waiting: Mutex::default(),
            recorded: Mutex::default(),
            recorded_more: Notify::new(),
        }
    }

    /// Finds a worker that an earlier front started. An error means that it is of no use any more.
    pub(super) async fn find(
        record: WorkerRecord,
        process: Process,
        doors: &Path,
        build: &str,
        generation: u64,
    ) -> Result<(Link, Welcome), (Process, io::Error)> {
        let greeted = async {
            let channel = Channel::new(wire::connect(doors, &record.socket())?)?;
            let welcome = greet(&channel, build).await?;
            Ok((channel, welcome))
        };
        match greeted.await {
            Ok((channel, welcome)) => {
                let link = Link::new(channel, process, record, generation);
                link.retired.store(welcome.retiring, Ordering::Relaxed);
                Ok((link, welcome))
            }
            Err(error) => Err((process, error)),
        }
    }

    pub(super) async fn order(&self, what: Command, fds: &[BorrowedFd<'_>]) -> Result<Answer, OrderError> {
        self.ask(what, fds).await.map(|(answer, _)| answer)
    }

    /// The listening socket of a container that runs there.
    pub(super) async fn borrow_listener(&self, id: &str) -> Result<OwnedFd, OrderError> {
        let (_, mut fds) = self.ask(Command::Lend { id: id.to_owned() }, &[]).await?;
        let listener = fds.pop();
        let refused = |why: &str| OrderError::Refused(why.to_owned());
        let listener = listener.ok_or_else(|| refused("the worker sent no socket"))?;
        if rustix::net::sockopt::socket_acceptconn(&listener).is_ok_and(|listens| listens) {
            return Ok(listener);
        }
        drop(Sent::from(listener));
        Err(refused("the worker sent something else than a socket that is listened on"))
    }

    async fn ask(&self, what: Command, fds: &[BorrowedFd<'_>]) -> Result<(Answer, Sent), OrderError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        let waiting = Waiting { done: Some(done), borrows: matches!(what, Command::Lend { .. }) };
        self.waiting.lock().insert(number, waiting);
        let mut asked = Asked { link: self, number, is_sent: false };
        let sent = async {
            self.channel.send(&Order { number, what }, fds).await.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => OrderError::Refused(error.to_string()),
                _ => OrderError::Gone,
            })?;
            asked.is_sent = true;
            match answer.await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(why)) => Err(OrderError::Refused(why)),
                Err(_gone) => Err(OrderError::Gone),
            }
        };
        tokio::time::timeout(PATIENCE, sent).await.unwrap_or(Err(OrderError::Stuck))
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.full_at.load(Ordering::Relaxed) == self.ends()
    }

    pub(super) fn ends(&self) -> u64 {
        self.ends.load(Ordering::Relaxed)
    }

    /// There was no room when so many had ended; an end since then has made some.
    pub(super) fn was_full(&self, ends: u64) {
        self.full_at.store(ends, Ordering::Relaxed);
    }

    pub(super) fn count_end(&self) {
        self.ends.fetch_add(1, Ordering::Relaxed);
    }

    /// Nobody is to put a container into it any more.
    pub(super) fn set_retired(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    pub(super) fn lived(&self) -> Duration {
        self.since.elapsed()
    }

    /// From now on it gets no containers; when it has none, it ends.
    pub(super) async fn retire(&self) {
        self.set_retired();
        match self.order(Command::Retire, &[]).await {
            // An empty one ends before it answers.
            Ok(_) | Err(OrderError::Gone) => {}
            Err(error @ (OrderError::Refused(_) | OrderError::Stuck)) => {
                tracing::warn!(worker = self.record.id, %error, "a worker does not retire and is killed");
                self.kill();
            }
        }
    }

    /// Ends a container that runs elsewhere now, or nowhere. A worker that does not say so would serve it on, and is killed.
    pub(super) async fn forget(&self, id: &str, grace_ms: u64) {
        match self.order(Command::Forget { id: id.to_owned(), grace_ms }, &[]).await {
            // Gone or soon to be, as it was meant to.
            Ok(_) | Err(OrderError::Gone | OrderError::Refused(_)) => {}
            Err(stuck @ OrderError::Stuck) => {
                let worker = &self.record.id;
                tracing::error!(worker, container = id, error = %stuck, "a worker does not let go and is killed");
                self.kill();
            }
        }
    }

    /// Waits for the end of a worker that has nothing any more and was told to end. One that does not is killed.
    pub(super) async fn must_end(&self) {
        if !matches!(tokio::time::timeout(PATIENCE, self.process.ended()).await, Ok(Ok(()))) {
            tracing::error!(worker = self.record.id, "an empty worker does not end and is killed");
            self.kill();
        }
    }

    /// Ends the process without asking it; the listener hears of it.
    pub(super) fn kill(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.process.kill();
    }

    /// The end of this container is on record, or nobody asks for it: the worker need not keep it.
    pub(super) fn acknowledge(&self, id: String) {
        self.recorded.lock().push(id);
        self.recorded_more.notify_one();
    }

    /// Listens until the worker is gone, then says how it ended. Orders that wait are told. `ended` says of each end
    /// whether it may be forgotten.
    pub(super) async fn listen(&self, child: Option<Child>, mut ended: impl FnMut(Ended) -> bool) -> String {
        let acknowledging = async {
            loop {
                self.recorded_more.notified().await;
                let ids = std::mem::take(&mut *self.recorded.lock());
                if !ids.is_empty() {
                    // If it does not arrive, the next front is told again.
                    let _ = self.order(Command::Acknowledge { ids }, &[]).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = self.hear(&mut ended) => {}
            never = acknowledging => never,
        }
        // From here on nobody gives it a new container.
        self.gone.store(true, Ordering::Relaxed);
        let end = self.end(child);
        let how = match tokio::time::timeout(PATIENCE, end).await {
            Ok(how) => how,
            Err(_elapsed) => "it hung up and did not end, and was killed".to_owned(),
        };
        self.process.kill();
        self.waiting.lock().clear();
        how
    }

    async fn hear(&self, ended: &mut impl FnMut(Ended) -> bool) {
        loop {
            let message = match self.channel.receive().await {
                Ok(Some(message)) => message,
                Err(error) if wire::is_out_of_files(&error) => {
                    // Whoever waits for it waits in vain. What runs there is well, though.
                    let worker = &self.record.id;
                    tracing::error!(worker, %error, "what a worker said is lost: raise the runtime's limit of open files");
                    continue;
                }
                Ok(None) | Err(_) => return,
            };
            if let Err(why) = self.heard(message, ended) {
                // It does not speak as a worker does: what runs in it cannot be trusted to be one.
                tracing::error!(worker = self.record.id, why, "the worker is killed for what it said");
                return self.kill();
            }
        }
    }

    /// An error is a reason to trust the worker no more.
    fn heard(&self, message: Message, ended: &mut impl FnMut(Ended) -> bool) -> Result<(), String> {
        match message.parse::<Report>().map_err(|error| error.to_string())? {
            Report::Done { number, outcome } => {
                let waiting = self.waiting.lock().remove(&number).ok_or("it answers what it was not asked")?;
                if !waiting.borrows {
                    none(&message.fds)?;
                }
                let outcome = match outcome {
                    Ok(Answer::Full(why)) => Ok((Answer::Full(wire::shown(why)), message.fds)),
                    Ok(answer) => Ok((answer, message.fds)),
                    Err(why) => Err(wire::shown(why)),
                };
                if let Some(done) = waiting.done {
                    // Who asked may have left at this moment.
                    let _ = done.send(outcome);
                }
            }
            Report::Exited(end) => {
                none(&message.fds)?;
                if end.id.len() > ID_BYTES_MAX || message.is_long {
                    return Err("it reports an end at too great a length".to_owned());
                }
                if self.recorded.lock().len() >= RECORDED_MAX {
                    return Err("it reports ends and does not listen".to_owned());
                }
                let id = end.id.clone();
                if ended(end) {
                    self.acknowledge(id);
                }
            }
            Report::Welcome(_) => return Err("it greets again".to_owned()),
        }
        Ok(())
    }

    /// Waits for the process.
    async fn end(&self, child: Option<Child>) -> String {
        match child {
            Some(mut child) => match child.wait().await {
                Ok(status) => in_words(status),
                Err(error) => error.to_string(),
            },
            None => match self.process.ended().await {
                Ok(()) => "how is not known, because an earlier front had started it".to_owned(),
                Err(error) => error.to_string(),
            },
        }
    }

    /// Kills the process and waits until it is gone.
    pub(super) async fn kill_and_wait(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.kill();
        if let Err(error) = self.process.ended().await {
            tracing::warn!(worker = self.record.id, %error, "the end of a worker cannot be seen");
        }
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

fn none(fds: &Sent) -> Result<(), String> {
    if fds.is_empty() { Ok(()) } else { Err("it sends descriptors that nobody asked for".to_owned()) }
}

/// Where a worker's socket lies.
pub(super) fn socket_path(doors: &Path, record: &WorkerRecord) -> PathBuf {
    doors.join(record.socket())
}

#[cfg(test)]
#[path = "link_tests.rs"]
pub(super) mod tests;
