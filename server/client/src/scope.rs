//! Supervised tasks: every task has a name, an owner, a rule for its end, and is joined at shutdown.
//!
//! A scope is a node of a tree. Cancelling a scope cancels its children; shutting it down waits for all tasks below.
//!
//! ```text
//!   spawn ──► Running ──panic, error or return──► Finish:  Finished
//!                ▲                                Fatal:   the root is cancelled, `fatal()` says why
//!                └──── Waiting (backoff) ◄─────── Restart
//! ```
//!
//! This module must not know what its tasks do.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::{self, Display},
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tracing::{Instrument as _, debug, error, error_span, warn};

use crate::watched;

/// How long `shutdown` waits for tasks that were cancelled before it ends them by force.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Exponential waiting time between restarts or attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub initial: Duration,
    pub max: Duration,
    /// A run that lasted this long counts as healthy: the next wait begins at `initial` again.
    pub reset_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(200), max: Duration::from_secs(30), reset_after: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row (0 for the first).
    pub fn wait(&self, failures: u32) -> Duration {
        self.initial.saturating_mul(1 << failures.min(24)).min(self.max)
    }
}

/// What happens when a task's future ends without the scope having been cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// It is called again, after a wait that grows.
    Restart(Backoff),
    /// Nothing; an error or panic is logged.
    Finish,
    /// The whole tree of scopes is cancelled and [`TaskScope::fatal`] tells why.
    Fatal,
}

impl OnExit {
    /// Restart with the usual backoff.
    pub fn restart() -> Self {
        Self::Restart(Backoff::default())
    }
}

/// What a task's future may return: `()` or a `Result<(), E>`.
pub trait TaskOutput {
    fn failure(self) -> Option<String>;
}

impl TaskOutput for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: Display> TaskOutput for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|e| e.to_string())
    }
}

/// Why the tree was ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {task} ended: {reason}")]
pub struct Fatal {
    pub task: Arc<str>,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    Running,
    /// Between a failure and the next start.
    Waiting,
}

impl Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
        })
    }
}

/// One line of `/debug/tasks`.
#[derive(Debug, Clone)]
pub struct TaskInfo {
    /// `scope/child/task`.
    pub name: Arc<str>,
    pub state: TaskState,
    /// How long it has been in this state.
    pub age: Duration,
    pub restarts: u32,
    pub last_failure: Option<String>,
}

/// One run of a task, and why it failed. Behind a pointer, so that what is around it is compiled once instead of for each
/// task, and a task takes the memory of its own future instead of twice as much.
type Run = Pin<Box<dyn Future<Output = Option<String>> + Send>>;
type Start = Box<dyn FnMut(CancellationToken) -> Run + Send>;

/// A node in the tree of supervised tasks; clones are handles to the same node.
#[derive(Clone)]
pub struct TaskScope {
    tree: Arc<Tree>,
    /// "" at the root.
    path: Arc<str>,
    token: CancellationToken,
    tracker: TaskTracker,
    /// Trackers of the scopes above, which wait for this scope's tasks too.
    above: Arc<[TaskTracker]>,
}

struct Tree {
    root: CancellationToken,
    next: AtomicU64,
    tasks: Mutex<BTreeMap<u64, Entry>>,
    fatal: watched::Sender<Option<Fatal>>,
}

struct Entry {
    name: Arc<str>,
    state: TaskState,
    since: Instant,
    restarts: u32,
    last_failure: Option<String>,
    abort: Option<AbortHandle>,
}

impl fmt::Debug for TaskScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskScope").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TaskScope {
    pub fn root() -> Self {
        let token = CancellationToken::new();
        let tree = Tree {
            root: token.clone(),
            next: AtomicU64::new(0),
            tasks: Mutex::default(),
            fatal: watched::Sender::new(None),
        };
        Self { tree: Arc::new(tree), path: "".into(), token, tracker: TaskTracker::new(), above: Arc::new([]) }
    }

    /// A scope below this one, cancelled with it.
    pub fn child(&self, name: &str) -> Self {
        let above = self.above.iter().cloned().chain([self.tracker.clone()]).collect();
        Self {
            tree: self.tree.clone(),
            path: self.name_of(name),
            token: self.token.child_token(),
            tracker: TaskTracker::new(),
            above,
        }
    }

    /// Starts a supervised task. `start` is called once for each run; its token is cancelled at shutdown, and a task
    /// should return soon after that. Nothing is started in a scope that has been cancelled.
    pub fn spawn<F, Fut>(&self, name: &str, on_exit: OnExit, mut start: F)
    where
        F: FnMut(CancellationToken) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput,
    {
        self.spawn_boxed(name, on_exit, Box::new(move |token| Box::pin(start(token).map(TaskOutput::failure))));
    }

    fn spawn_boxed(&self, name: &str, on_exit: OnExit, start: Start) {
        if self.token.is_cancelled() {
            return;
        }
        let name = self.name_of(name);
        let id = self.tree.next.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            name: name.clone(),
            state: TaskState::Running,
            since: Instant::now(),
            restarts: 0,
            last_failure: None,
            abort: None,
        };
        self.tree.tasks.lock().insert(id, entry);
        let listed =
            Listed { tree: self.tree.clone(), id, _above: self.above.iter().map(TaskTracker::token).collect() };
        let span = error_span!(parent: None, "task", name = %name);
        let task = supervise(listed, name, on_exit, self.token.clone(), start).instrument(span);
        let handle = self.tracker.spawn(task).abort_handle();
        if let Some(entry) = self.tree.tasks.lock().get_mut(&id) {
            entry.abort = Some(handle);
        }
    }

    /// Resolves when this scope has been told to end.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Tells every task below to end, without waiting.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Resolves when a task that may not end has ended.
    pub async fn fatal(&self) -> Fatal {
        let mut fatal = self.tree.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await.map(|f| f.clone()) {
            Ok(Some(fatal)) => fatal,
            // The sender lives in `self.tree`, so only the first arm is ever taken; waiting is the honest answer else.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Cancels and joins every task below. Tasks that do not end within 10 s are named in the log and aborted.
    pub async fn shutdown(&self) {
        self.token.cancel();
        self.tracker.close();
        if timeout(SHUTDOWN_GRACE, self.tracker.wait()).await.is_err() {
            for info in self.tasks() {
                warn!(task = %info.name, "task did not end in time and is aborted");
            }
            self.abort().await;
        }
    }

    /// Ends every task below at its next await, as a crash would; joins them.
    pub async fn abort(&self) {
        self.token.cancel();
        for entry in self.below(|_, entry| entry.abort.clone()).into_iter().flatten() {
            entry.abort();
        }
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// The tasks of this scope and those below, in the order they were started.
    pub fn tasks(&self) -> Vec<TaskInfo> {
        self.below(|_, entry| TaskInfo {
            name: entry.name.clone(),
            state: entry.state,
            age: entry.since.elapsed(),
            restarts: entry.restarts,
            last_failure: entry.last_failure.clone(),
        })
    }

    fn below<T>(&self, take: impl Fn(u64, &Entry) -> T) -> Vec<T> {
        let inside = |name: &str| {
            self.path.is_empty() || name.strip_prefix(&*self.path).is_some_and(|rest| rest.starts_with('/'))
        };
        let tasks = self.tree.tasks.lock();
        tasks.iter().filter(|(_, entry)| inside(&entry.name)).map(|(id, entry)| take(*id, entry)).collect()
    }

    fn name_of(&self, name: &str) -> Arc<str> {
        if self.path.is_empty() { name.into() } else { format!("{}/{name}", self.path).into() }
    }
}

/// A task's place in the listing and its hold on the trackers above; given back when the task is gone, however it went.
struct Listed {
    tree: Arc<Tree>,
    id: u64,
    _above: Vec<TaskTrackerToken>,
}

impl Listed {
    fn update(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.tree.tasks.lock().get_mut(&self.id) {
            change(entry);
        }
    }

    fn enter(&self, state: TaskState) {
        self.update(|entry| (entry.state, entry.since) = (state, Instant::now()));
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.tree.tasks.lock().remove(&self.id);
    }
}

async fn supervise(listed: Listed, name: Arc<str>, on_exit: OnExit, token: CancellationToken, mut start: Start) {
    let mut failures = 0_u32;
    loop {
        let began = Instant::now();
        let run = async { start(token.clone()).await };
        let failure = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(failure) => failure,
            Err(panic) => Some(format!("panicked: {}", panic_text(&*panic))),
        };
        if token.is_cancelled() {
            if let Some(reason) = failure {
                debug!(reason, "task failed while ending");
            }
            return;
        }
        if let Some(reason) = &failure {
            error!(reason, "task failed");
            listed.update(|entry| entry.last_failure = Some(reason.clone()));
        }
        match on_exit {
            OnExit::Finish => return,
            OnExit::Fatal => {
                let reason = failure.unwrap_or_else(|| "it returned, which it may not".to_owned());
                listed.tree.fatal.send_if_modified(|fatal| {
                    let first = fatal.is_none();
                    if first {
                        *fatal = Some(Fatal { task: name, reason });
                    }
                    first
                });
                listed.tree.root.cancel();
                return;
            }
            OnExit::Restart(backoff) => {
                failures = if began.elapsed() >= backoff.reset_after { 0 } else { failures + 1 };
                listed.enter(TaskState::Waiting);
                tokio::select! {
                    biased;
                    () = token.cancelled() => return,
                    () = sleep(backoff.wait(failures.saturating_sub(1))) => {}
                }
                listed.enter(TaskState::Running);
                listed.update(|entry| entry.restarts += 1);
            }
        }
    }
}

/// The text of a caught panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text")
}

#[cfg(test)]
mod tests;
