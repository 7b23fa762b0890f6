//! The front as a process: comes up, serves, goes down.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coracle_cri::ServeError;
use tokio::signal::unix::{SignalKind, signal};

use super::FrontConfig;
use super::pods::{OpenError, Pods};
use super::runtime_service::Front;
use super::workers::kill_left_behind;
use crate::confine;

/// What containers get to end, when the runtime itself ends.
const LAST_GRACE_MS: u64 = 5_000;
/// How often memory that nobody needs any more is looked for.
const IDLE: Duration = Duration::from_secs(10);

/// What work on threads beside gets to end, when all else has.
const LAST_WORK: Duration = Duration::from_secs(2);

/// Why a front does not serve.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    #[error("{} is in use by another process: stop it, or give another directory", path.display())]
    InUse { path: PathBuf },
    #[error("cannot use {}: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("{0}")]
    Open(String),
}

impl From<OpenError> for FrontError {
    fn from(error: OpenError) -> FrontError {
        FrontError::Open(error.to_string())
    }
}

/// Serves until it is told to stop: by SIGTERM or SIGINT, which end everything, or by SIGHUP, which leaves the workers
/// and all that runs in them to the next front. To be called on a thread that lives as long as the process: compilers
/// die with it. Makes a tokio runtime of its own. `on_idle` is called when there is nothing to do; an allocator may want
/// to know.
pub fn run(config: FrontConfig, on_idle: fn()) -> Result<(), FrontError> {
    let root = config.root.clone();
    let io = |source| FrontError::Io { path: root.clone(), source };
    fs::create_dir_all(&root).map_err(io)?;
    let _alone = alone(&root)?;
    if let Err(error) = confine::allow_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().on_thread_park(on_idle).build().map_err(io)?;
    let served = runtime.block_on(async {
        let front = Arc::new(Front(Pods::open(config)?));
        front.0.adopt_workers().await.map_err(io)?;
        let stop = front.0.stop.clone();
        front.0.tasks.spawn(async move { stop.run_until_cancelled_owned(idle_now_and_then(on_idle)).await });
        front.0.open_host_ports();
        front.serve().await
    });
    // A thread that waits for a volume whose server is gone may do so for ever.
    runtime.shutdown_timeout(LAST_WORK);
    served
}

/// When the thread first has nothing to do after a burst, the burst is often not quite over; then nothing happens for long.
async fn idle_now_and_then(on_idle: fn()) {
    loop {
        tokio::time::sleep(IDLE).await;
        on_idle();
    }
}

/// Kills workers that a front of `data_dir` left behind when it was killed, and with them what runs there. For whoever
/// promises that nothing is left. Returns how many there were.
pub async fn end_left_behind(data_dir: &Path) -> Result<usize, FrontError> {
    let root = data_dir.join("wasm");
    if !root.exists() {
        return Ok(0);
    }
    let _alone = alone(&root)?;
    let workers = root.join("workers");
    kill_left_behind(&workers).await.map_err(|source| FrontError::Io { path: workers, source })
}

/// One front for a directory.
fn alone(root: &Path) -> Result<File, FrontError> {
    let path = root.join("front.lock");
    let lock = open_lock(&path)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(FrontError::InUse { path: root.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(FrontError::Io { path, source }),
    }
}

fn open_lock(path: &Path) -> Result<File, FrontError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|source| FrontError::Io { path: path.to_owned(), source })
}

/// What the front is told by a signal.
enum Told {
    Stop,
    /// Workers are for the next front.
    HandOver,
}

impl Front {
    async fn serve(self: Arc<Front>) -> Result<(), FrontError> {
        let socket = self.0.config.socket.clone();
        let failed = |source| FrontError::Io { path: socket.clone(), source };
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let front = self.clone();
        self.0.tasks.spawn(async move {
            if let Err(error) = front.import_archives().await {
                tracing::error!(%error, "archives cannot be imported");
            }
            // Images may have been removed while no front ran.
            if let Err(error) = front.0.forget_unused_code() {
                tracing::error!(%error, "machine code cannot be collected");
            }
            front.0.forget_outdated_code().await;
            front.0.sweep_scratch().await;
        });
        self.0.tasks.spawn(self.0.clone().end_idle_workers());
        self.0.tasks.spawn(self.0.clone().record_ends());
        let pods = self.0.clone();
        self.0.tasks.spawn(async move { pods.leave_old_workers().await });
        self.0.serve_streams().await.map_err(failed)?;
        let stop = self.0.stop.clone();
        let serving = coracle_cri::serve_unix(
            socket.clone(),
            self.clone(),
            || tracing::info!(socket = %socket.display(), "serving CRI"),
            stop.clone().cancelled_owned(),
        );
        let told = async {
            tokio::select! {
                biased;
                _ = terminate.recv() => Told::Stop,
                _ = interrupt.recv() => Told::Stop,
                _ = hangup.recv() => Told::HandOver,
            }
        };
        tokio::pin!(serving);
        let told = tokio::select! {
            biased;
            served = &mut serving => return served.map_err(FrontError::from),
            told = told => told,
        };
        match told {
            Told::Stop => {
                tracing::info!("stopping");
                self.0.closing.store(true, Ordering::Relaxed);
                // A second signal ends this at once, as impatient people expect.
                tokio::select! {
                    biased;
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = self.stop_all() => {}
                }
                self.0.kill_workers().await;
            }
            Told::HandOver => tracing::info!("handing over: workers go on without this front"),
        }
        stop.cancel();
        // Calls that are under way get a moment; a pull or an idle client does not hold this up.
        match tokio::time::timeout(Duration::from_secs(2), serving).await {
            Ok(served) => served.map_err(FrontError::from),
            Err(_elapsed) => {
                let _ = fs::remove_file(&socket);
                Ok(())
            }
        }
    }

    async fn stop_all(&self) {
        let running: Vec<String> = {
            let state = self.0.state.lock();
            let running = state.containers.values().filter(|container| container.is_running());
            running.map(|container| container.record.id.clone()).collect()
        };
        let stopping = running.iter().map(|id| self.0.stop_container(id, LAST_GRACE_MS));
        for error in futures::future::join_all(stopping).await.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "a container did not stop");
        }
    }
}
