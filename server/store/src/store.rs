//! The handle that the rest of the server holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use coracle_api::meta::Revision;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::disk::{Disk, DiskConfig};
use crate::entry::{Entry, Key, Op, Prefix};
use crate::error::{CommitError, OpenError, SnapshotError, WatchError};
use crate::hub::{Floor, Hub, Limits};
use crate::lock;
use crate::pending::Texts;
use crate::queue::{Held, Queue, Request};
use crate::state::Snapshot;
use crate::watch::Watch;
use crate::writer::{Counters, Upkeep, Writer};

/// Commits that may wait for the writer; the next ones wait for a place.
const QUEUE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A thread of its own writes, for real use.
    Threaded,
    /// `commit` writes before it returns and upkeep happens only there, so that a simulation on paused time is
    /// deterministic.
    Inline,
}

#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The file; SQLite's log and our lock lie beside it. Its directory is created.
    pub path: PathBuf,
    pub mode: Mode,
    /// How long past revisions can be watched from and listed at.
    pub history: Duration,
    /// Bounds on the past that hold whatever `history` says; states that are kept for pages have the same again.
    pub history_events: usize,
    pub history_bytes: usize,
    /// Resources that are kept in memory and written every `volatile_flush`. Do not change for an existing store.
    pub volatile: Vec<Arc<str>>,
    pub volatile_flush: Duration,
    /// The file grows no larger: then commits fail as on a full disk.
    pub max_bytes: Option<u64>,
    /// False never waits for the disk: for simulations that kill tasks and never the machine.
    pub sync: bool,
}

impl StoreConfig {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            mode: Mode::Threaded,
            history: Duration::from_secs(300),
            history_events: 100_000,
            history_bytes: 4 << 20,
            volatile: ["leases.coordination.k8s.io", "events", "events.events.k8s.io"].map(Arc::from).into(),
            volatile_flush: Duration::from_secs(300),
            max_bytes: None,
            sync: true,
        }
    }
}

/// Numbers for metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    pub revision: Revision,
    pub objects: usize,
    pub history_events: usize,
    /// Commits asked for, and the transactions they took.
    pub requests: u64,
    pub transactions: u64,
}

/// The state store. Clones are handles to the same one; when the last is dropped without [`Store::close`], durable
/// objects are safe and the volatile tier is as of its last flush.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    hub: Arc<Hub>,
    counters: Arc<Counters>,
    engine: Engine,
}

enum Engine {
    Threaded { queue: Arc<Queue>, places: Arc<Semaphore>, thread: Mutex<Option<JoinHandle<()>>> },
    Inline(Mutex<Option<Box<Writer>>>),
}

impl Store {
    pub fn open(config: StoreConfig) -> Result<Store, OpenError> {
        if let Some(parent) = config.path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| lock::io_error(&config.path, error))?;
        }
        let mut texts = Texts::default();
        let disk = DiskConfig { path: &config.path, max_bytes: config.max_bytes, sync: config.sync };
        let (disk, loaded) = Disk::open(&disk, &mut texts)?;
        let volatile: Arc<[Arc<str>]> = config.volatile.into();
        let opened = loaded.state.revision;
        let floor = Floor { durable: loaded.compacted, opened, volatile: volatile.clone() };
        let limits = Limits { age: config.history, events: config.history_events, bytes: config.history_bytes };
        tracing::info!(
            path = %config.path.display(), revision = %opened, objects = loaded.state.len(), "opened state store"
        );
        let hub = Arc::new(Hub::new(loaded.state, floor, limits));
        hub.restore(loaded.events, Instant::now());
        let counters = Arc::new(Counters::default());
        let writer = Writer {
            disk,
            hub: hub.clone(),
            texts,
            counters: counters.clone(),
            upkeep: Upkeep::new(volatile, config.volatile_flush, config.history, loaded.garbage, loaded.compacted),
            reserved: loaded.reserved,
            failed: None,
        };
        let engine = match config.mode {
            Mode::Inline => Engine::Inline(Mutex::new(Some(Box::new(writer)))),
            Mode::Threaded => start_thread(writer, hub.clone())
                .map_err(|error| OpenError::Io { path: config.path, what: format!("no thread: {error}") })?,
        };
        Ok(Store { inner: Arc::new(Inner { hub, counters, engine }) })
    }

    /// Carries out all operations, or none. When this returns `Ok`, durable objects are on disk and every later
    /// snapshot has them. Dropping the future does not take back the commit.
    pub async fn commit(&self, ops: Vec<(Key, Op)>) -> Result<Vec<Arc<Entry>>, CommitError> {
        self.commit_holding(ops, None).await
    }

    /// The same, and `held` is let go of only when it is decided: after the commit can be seen, or has failed. Dropping
    /// the future does not let go of it earlier.
    pub async fn commit_holding(
        &self,
        ops: Vec<(Key, Op)>,
        held: Option<Held>,
    ) -> Result<Vec<Arc<Entry>>, CommitError> {
        let (reply, answer) = oneshot::channel();
        match &self.inner.engine {
            Engine::Inline(writer) => {
                let mut writer = writer.lock();
                let Some(writer) = writer.as_mut() else { return Err(self.gone()) };
                let now = Instant::now();
                writer.run(vec![Request { ops, reply, _held: (None, held) }], now);
                writer.tend(now);
            }
            Engine::Threaded { queue, places, thread: _ } => {
                let place = places.clone().acquire_owned().await.map_err(|_| self.gone())?;
                queue.push(Request { ops, reply, _held: (Some(place), held) }).map_err(|_| self.gone())?;
            }
        }
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// The revision of the newest commit.
    pub fn revision(&self) -> Revision {
        self.inner.hub.state().revision
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.inner.hub.state())
    }

    /// The state as it was, for the further pages of a list.
    pub fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, SnapshotError> {
        self.inner.hub.state_at(revision)
    }

    /// Keeps the snapshot for [`Store::snapshot_at`] as long as history is meant to last, even if history moves on faster
    /// than that: for whoever was promised further pages. The oldest give way when they hold too much memory.
    pub fn keep(&self, snapshot: &Snapshot) {
        self.inner.hub.keep(snapshot.0.clone(), Instant::now());
    }

    /// Grows with every change of an object of the resource. O(1).
    pub fn changes(&self, resource: &str) -> u64 {
        self.inner.hub.changes(resource)
    }

    /// The events below `prefix` strictly after `from`, which may lie in the past.
    pub fn watch(&self, prefix: Prefix, from: Revision) -> Result<Watch, WatchError> {
        let cursor = self.inner.hub.cursor(&prefix, from)?;
        Ok(Watch::new(self.inner.hub.clone(), prefix, cursor, from))
    }

    /// A snapshot and exactly what comes after it.
    pub fn snapshot_and_watch(&self, prefix: Prefix) -> (Snapshot, Watch) {
        let (snapshot, cursor) = self.inner.hub.cursor_now(&prefix);
        let from = snapshot.revision();
        (snapshot, Watch::new(self.inner.hub.clone(), prefix, cursor, from))
    }

    /// Waits until the store has failed for good and says why. A failed store must not be served from: end the process
    /// and open it again. Never returns for a store that is closed in order.
    pub async fn failed(&self) -> Arc<str> {
        let mut failure = self.inner.hub.failure();
        loop {
            if let Some(reason) = failure.borrow_and_update().clone() {
                return reason;
            }
            if failure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub fn stats(&self) -> Stats {
        let state = self.inner.hub.state();
        Stats {
            revision: state.revision,
            objects: state.len(),
            history_events: self.inner.hub.history_len(),
            requests: self.inner.counters.requests.load(Ordering::Relaxed),
            transactions: self.inner.counters.transactions.load(Ordering::Relaxed),
        }
    }

    /// Carries out what is waiting, writes the volatile tier, lets go of the file and ends all watches. Commits from
    /// then on fail. A second close does nothing.
    pub async fn close(&self) -> Result<(), CommitError> {
        let result = match &self.inner.engine {
            Engine::Inline(writer) => {
                let writer = writer.lock().take();
                writer.map_or(Ok(()), |writer| writer.close())
            }
            Engine::Threaded { queue, places: _, thread: _ } => {
                let (reply, closed) = oneshot::channel();
                match queue.close(reply) {
                    true => closed.await.unwrap_or_else(|_| Err(self.gone())),
                    false => Ok(()),
                }
            }
        };
        self.inner.hub.close();
        result
    }

    fn gone(&self) -> CommitError {
        let failure = self.inner.hub.failure().borrow().clone();
        CommitError::Failed(failure.unwrap_or_else(|| Arc::from("it is closed")))
    }

    #[cfg(test)]
    pub(crate) fn with_writer<T>(&self, act: impl FnOnce(&mut Writer) -> T) -> T {
        match &self.inner.engine {
            Engine::Inline(writer) => act(writer.lock().as_mut().expect("open")),
            Engine::Threaded { .. } => panic!("only an inline store lends its writer"),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        match &self.engine {
            Engine::Inline(_) => {}
            Engine::Threaded { queue, places: _, thread } => {
                queue.abandon();
                // Waits for at most one transaction, so that the file can be opened again at once.
                if let Some(thread) = thread.lock().take() {
                    // Its panic was already reported as the store's failure.
                    let _ = thread.join();
                }
            }
        }
        self.hub.close();
    }
}

fn start_thread(writer: Writer, hub: Arc<Hub>) -> std::io::Result<Engine> {
    let queue = Arc::new(Queue::default());
    let end = End { hub, queue: queue.clone() };
    let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || {
        let end = end;
        writer.serve(&end.queue);
    })?;
    Ok(Engine::Threaded { queue, places: Arc::new(Semaphore::new(QUEUE)), thread: Mutex::new(Some(thread)) })
}

/// Whatever ends the writer's thread, nobody waits for it for ever.
struct End {
    hub: Arc<Hub>,
    queue: Arc<Queue>,
}

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.hub.fail("its writer panicked");
        }
        self.queue.end();
        self.hub.close();
    }
}
