//! Machine code for images: made once, in a process that may be killed, and kept by the digest of the WebAssembly file
//! and the settings it was made under.
//!
//! ```text
//! code/<settings>/<digest>.cwasm   machine code; mapped by workers
//! code/<settings>/<digest>.json    what kind of guest it is; written last, so its being there means both are whole
//! ```
//!
//! Loading machine code is running it, so only the compiler process and the front write here. This module knows images
//! by digest only, and nothing of containers.

mod cache;
mod child;
mod interfaces;
mod kind;
#[cfg(test)]
mod tests;
mod travelled;

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::task::TaskTracker;

pub use cache::is_compiled;
pub use child::run;
pub use interfaces::{Interfaces, interfaces};
use kind::Facts;
pub(crate) use kind::GuestKind;
pub use travelled::{portable_engine, precompile};

use crate::engine::Profile;
use crate::images::{ConfigFile, Digest, Image, ImageStore};

/// How to start this file again as another kind of process.
#[derive(Debug, Clone)]
pub struct Reexec {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

/// Machine code that is ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiled {
    pub(crate) kind: GuestKind,
    pub(crate) uses_keyvalue: bool,
    /// Relative to the code directory.
    pub(crate) path: PathBuf,
}

impl Compiled {
    fn new(facts: Facts, path: PathBuf) -> Compiled {
        Compiled { kind: facts.kind, uses_keyvalue: facts.uses_keyvalue, path }
    }
}

/// Why there is no machine code.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CompileError {
    /// The file is at fault; trying again changes nothing.
    #[error("cannot run image {image:?}: {why}")]
    Refused { image: String, why: String },
    /// It took more than it may.
    #[error("cannot compile image {image:?}: {why}")]
    Limit { image: String, why: String },
    /// The compiler process could not do its work.
    #[error("the compiler failed: {0}")]
    Failed(String),
}

impl CompileError {
    fn io(doing: &str, error: &io::Error) -> CompileError {
        CompileError::Failed(format!("{doing}: {error}"))
    }

    /// The same file is at fault in each image that has it, and who asks knows only its own.
    fn about(self, image: &str) -> CompileError {
        let image = image.to_owned();
        match self {
            CompileError::Refused { image: _, why } => CompileError::Refused { image, why },
            CompileError::Limit { image: _, why } => CompileError::Limit { image, why },
            CompileError::Failed(why) => CompileError::Failed(why),
        }
    }

    /// Would the same file end the same way again?
    fn is_final(&self) -> bool {
        match self {
            CompileError::Refused { .. } | CompileError::Limit { .. } => true,
            CompileError::Failed(_) => false,
        }
    }
}

/// What the compiler process is told, as its last argument.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    profile: Profile,
    /// For other processors of the same kind, too.
    #[serde(default)]
    portable: bool,
    /// Without it, only the settings' hash is asked for.
    limits: Option<TaskLimits>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct TaskLimits {
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_seconds: u64,
}

impl Default for TaskLimits {
    fn default() -> TaskLimits {
        TaskLimits { memory_bytes: 4 << 30, cpu_seconds: 240 }
    }
}

/// What it answers, as its last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Settings(String),
    Compiled(Facts),
    Refused(String),
}

impl Answer {
    /// A reason may quote the file, and so be as long as somebody likes.
    fn short(mut self) -> Answer {
        if let Answer::Refused(why) = &mut self {
            why.truncate(why.floor_char_boundary(WHY_BYTES));
        }
        self
    }
}

/// More than a person reads of a refusal.
const WHY_BYTES: usize = 4096;

/// What a compiler may say: its answer, and what a panic prints.
const SAID_BYTES_MAX: u64 = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Record {
    facts: Facts,
    bytes: u64,
    /// Of code that came with an image, the engine that it was signed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    travelled_for: Option<String>,
}

type Outcome = Result<Compiled, CompileError>;

/// What a compiler may take beyond what its processor time can come to.
const IDLE_MOST: Duration = Duration::from_secs(60);

/// How files begin that are not whole yet.
const NEW: &str = ".new-";

/// What need not be tried again, the oldest first. Whether an image is here does not count: one that is refused when it is
/// pulled does not stay, and is pulled again.
#[derive(Debug, Default)]
struct Refusals(VecDeque<(Digest, CompileError)>);

/// Some MiB of reasons.
const REFUSALS_MAX: usize = 1000;

impl Refusals {
    fn of(&self, wasm: &Digest) -> Option<CompileError> {
        self.0.iter().find(|(refused, _)| refused == wasm).map(|(_, error)| error.clone())
    }

    fn add(&mut self, wasm: Digest, error: CompileError) {
        if self.0.len() == REFUSALS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((wasm, error));
    }
}

/// Compiles images, each once, one at a time.
#[derive(Clone)]
pub(crate) struct Compiler(Arc<Inner>);

/// Whoever asks meanwhile waits for the same.
type Running = Shared<BoxFuture<'static, Outcome>>;

struct Inner {
    code: PathBuf,
    reexec: Reexec,
    profile: Profile,
    limits: TaskLimits,
    /// All machine code together; what was used longest ago goes first.
    max_bytes: u64,
    /// Whose machine code is believed.
    policy: ConfigFile,
    /// The settings under which machine code travels.
    portable: OnceCell<String>,
    /// Names the directory below `code`. Asked of the compiler process, because working it out needs the compiler.
    settings: OnceCell<String>,
    running: Mutex<HashMap<Digest, Running>>,
    refused: Mutex<Refusals>,
    /// One compiler at a time: it is as large as everything else here together.
    turn: Semaphore,
    tasks: TaskTracker,
}

impl Compiler {
    pub(crate) fn new(
        code: PathBuf,
        reexec: Reexec,
        profile: Profile,
        limits: TaskLimits,
        max_bytes: u64,
        policy: ConfigFile,
    ) -> io::Result<Compiler> {
        fs::create_dir_all(&code)?;
        Ok(Compiler(Arc::new(Inner {
            code,
            reexec,
            profile,
            limits,
            max_bytes,
            policy,
            portable: OnceCell::new(),
            settings: OnceCell::new(),
            running: Mutex::default(),
            refused: Mutex::default(),
            turn: Semaphore::new(1),
            tasks: TaskTracker::new(),
        })))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0.code
    }

    /// What machine code made here is made under. It names the directory that such code lies in.
    pub(crate) async fn settings(&self) -> Result<&str, CompileError> {
        self.0.settings().await
    }

    /// The machine code of `image` under settings that may be others than the present ones, if it is there.
    pub(crate) fn kept(&self, settings: &str, store: &ImageStore, image: &Image) -> Option<Compiled> {
        self.0.cached(settings, store, image)
    }

    /// The machine code of `image`, from the cache or made now. Whoever asks for an image that is being compiled waits
    /// for the same outcome; the work goes on if they all leave.
    pub(crate) async fn compiled(&self, store: &ImageStore, image: &Image) -> Outcome {
        let settings = self.0.settings().await?;
        if let Some(compiled) = self.0.cached(settings, store, image) {
            return Ok(compiled);
        }
        let (outcome, is_joined) = self.begin(settings, store, image);
        let outcome = match outcome.await {
            // What was joined may have been of another image, without the machine code that came with this one.
            Err(error) if is_joined && error.is_final() => self.begin(settings, store, image).0.await,
            outcome => outcome,
        };
        outcome.map_err(|error| error.about(&image.name))
    }

    /// The work, and whether somebody else began it.
    fn begin(&self, settings: &str, store: &ImageStore, image: &Image) -> (Running, bool) {
        let mut running = self.0.running.lock();
        match running.get(&image.wasm) {
            Some(outcome) => (outcome.clone(), true),
            None => {
                let task = self.0.clone().work(settings.to_owned(), store.clone(), image.clone());
                let task = self.0.tasks.spawn(task);
                let outcome = task
                    .map(|joined| joined.unwrap_or_else(|error| Err(CompileError::Failed(error.to_string()))))
                    .boxed()
                    .shared();
                running.insert(image.wasm.clone(), outcome.clone());
                (outcome, false)
            }
        }
    }
}

impl Inner {
    async fn settings(&self) -> Result<&str, CompileError> {
        self.settings
            .get_or_try_init(|| async {
                let settings = self.ask_settings(false).await?;
                let dir = self.code.join(&settings);
                fs::create_dir_all(&dir).map_err(|error| CompileError::io("making the code directory", &error))?;
                clear_new(&dir);
                Ok(settings)
            })
            .await
            .map(String::as_str)
    }

    async fn ask_settings(&self, portable: bool) -> Result<String, CompileError> {
        let task = Task { profile: self.profile, portable, limits: None };
        let ended = self.child(&task, Stdio::null(), Stdio::null()).await?;
        match ended.answer {
            Some(Answer::Settings(settings)) => Ok(settings),
            Some(Answer::Compiled(_) | Answer::Refused(_)) | None => Err(ended.unexplained()),
        }
    }

    fn cached(&self, settings: &str, store: &ImageStore, image: &Image) -> Option<Compiled> {
        let hex = image.wasm.hex();
        let path = Path::new(settings).join(format!("{hex}.cwasm"));
        let record = fs::read(self.code.join(settings).join(format!("{hex}.json"))).ok()?;
        let record: Record = serde_json::from_slice(&record).ok()?;
        let bytes = fs::metadata(self.code.join(&path)).ok()?.len();
        // A file cut short by a power loss must not be run.
        if bytes != record.bytes {
            return None;
        }
        // Whoever takes a key out of the policy does not want what it signed to be run again.
        if record.travelled_for.is_some_and(|engine| !self.is_trusted(store, image, &engine)) {
            return None;
        }
        cache::touch(&self.code.join(settings), &image.wasm);
        Some(Compiled::new(record.facts, path))
    }

    async fn work(self: Arc<Inner>, settings: String, store: ImageStore, image: Image) -> Outcome {
        let outcome = match self.travelled(&settings, &store, &image).await {
            Some(compiled) => Ok(compiled),
            None => self.compile_once(&settings, &store, &image).await,
        };
        if outcome.is_ok() {
            let (inner, wasm) = (self.clone(), image.wasm.clone());
            // What could not be removed is said where it was tried.
            let trimming = move || {
                inner.trim(&settings, &store, &wasm);
                Ok(())
            };
            let _ = on_disk(trimming).await;
        }
        self.running.lock().remove(&image.wasm);
        outcome
    }

    /// Compiles what was not refused before. Only for images without machine code of their own that is trusted: that runs,
    /// whatever became of the same file in another image.
    async fn compile_once(self: &Arc<Inner>, settings: &str, store: &ImageStore, image: &Image) -> Outcome {
        let refused = self.refused.lock().of(&image.wasm);
        if let Some(refusal) = refused {
            return Err(refusal);
        }
        let outcome = match self.turn.acquire().await {
            Ok(_turn) => self.compile(settings, store, image).await,
            Err(closed) => Err(CompileError::Failed(closed.to_string())),
        };
        if let Err(error) = &outcome
            && error.is_final()
        {
            self.refused.lock().add(image.wasm.clone(), error.clone());
        }
        outcome
    }

    async fn compile(self: &Arc<Inner>, settings: &str, store: &ImageStore, image: &Image) -> Outcome {
        let wasm = store.open_wasm(image).map_err(|error| CompileError::Failed(error.to_string()))?;
        let dir = self.code.join(settings);
        let failed = |doing: &'static str| move |error: io::Error| CompileError::io(doing, &error);
        let output =
            tempfile::Builder::new().prefix(NEW).tempfile_in(&dir).map_err(failed("making a file for machine code"))?;
        let handle = output.as_file().try_clone().map_err(failed("making a file for machine code"))?;
        let task = Task { profile: self.profile, portable: false, limits: Some(self.limits) };
        let ended = self.child(&task, Stdio::from(wasm), Stdio::from(handle)).await?;
        let facts = match ended.answer {
            Some(Answer::Compiled(facts)) => facts,
            Some(Answer::Refused(why)) => return Err(CompileError::Refused { image: image.name.clone(), why }),
            Some(Answer::Settings(_)) => return Err(ended.unexplained()),
            None => return Err(ended.limit(&image.name, self.limits)),
        };
        let (inner, settings, image) = (self.clone(), settings.to_owned(), image.clone());
        on_disk(move || inner.keep(&settings, &image, facts, None, output)).await
    }

    /// Gives machine code its name, and then its record. Waits for the disk.
    fn keep(
        &self,
        settings: &str,
        image: &Image,
        facts: Facts,
        travelled_for: Option<String>,
        code: tempfile::NamedTempFile,
    ) -> Outcome {
        let dir = self.code.join(settings);
        let failed = |error: io::Error| CompileError::io("keeping machine code", &error);
        let path = Path::new(settings).join(format!("{}.cwasm", image.wasm.hex()));
        publish(code, &self.code.join(&path)).map_err(failed)?;
        let bytes = fs::metadata(self.code.join(&path)).map_err(failed)?.len();
        let record = serde_json::to_vec(&Record { facts, bytes, travelled_for });
        let record = record.map_err(|error| CompileError::Failed(error.to_string()))?;
        let record_file = tempfile::Builder::new().prefix(NEW).tempfile_in(&dir).map_err(failed)?;
        fs::write(record_file.path(), record).map_err(failed)?;
        publish(record_file, &dir.join(format!("{}.json", image.wasm.hex()))).map_err(failed)?;
        tracing::info!(image = image.name, kind = ?facts.kind, bytes, "compiled");
        Ok(Compiled::new(facts, path))
    }

    async fn child(&self, task: &Task, stdin: Stdio, stdout: Stdio) -> Result<Ended, CompileError> {
        let task = serde_json::to_string(task).map_err(|error| CompileError::Failed(error.to_string()))?;
        let mut child = tokio::process::Command::new(&self.reexec.program)
            .args(&self.reexec.args)
            .arg(task)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .env_clear()
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| CompileError::io(&format!("starting {}", self.reexec.program.display()), &error))?;
        let mut said = Vec::new();
        let mut pipe = child.stderr.take();
        let listening = async {
            if let Some(pipe) = &mut pipe {
                pipe.take(SAID_BYTES_MAX).read_to_end(&mut said).await?;
            }
            // It may be waiting to say more, which nobody reads. When it is let go, it is killed.
            if said.len() as u64 == SAID_BYTES_MAX {
                return Err(io::Error::other("it says more than an answer may have"));
            }
            child.wait().await
        };
        // The processor time is limited by the kernel; this is for a machine that gives it none for long, and for a
        // compiler that waits for something. One that works, next to others who do, must not be mistaken for either.
        let patience = IDLE_MOST + Duration::from_secs(self.limits.cpu_seconds * 4);
        let status = match tokio::time::timeout(patience, listening).await {
            Ok(status) => status.map_err(|error| CompileError::io("waiting for the compiler", &error))?,
            Err(_) => return Err(CompileError::Failed(format!("it did not end within {} s", patience.as_secs()))),
        };
        let said = String::from_utf8_lossy(&said).into_owned();
        let answer = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
        Ok(Ended { status, said, answer })
    }
}

/// How a compiler process ended.
struct Ended {
    status: std::process::ExitStatus,
    said: String,
    answer: Option<Answer>,
}

impl Ended {
    fn unexplained(&self) -> CompileError {
        CompileError::Failed(format!("it ended with {}: {}", self.status, self.said.trim()))
    }

    /// It ended without an answer: killed by one of its limits, or broken.
    fn limit(&self, image: &str, limits: TaskLimits) -> CompileError {
        use std::os::unix::process::ExitStatusExt;
        let why = match self.status.signal() {
            Some(libc::SIGXCPU) => {
                format!("compiling it takes more than {} s of processor time", limits.cpu_seconds)
            }
            Some(libc::SIGKILL) => {
                return CompileError::Failed("it was killed, as happens where memory is short".to_owned());
            }
            Some(libc::SIGABRT) if self.said.contains("memory allocation") => {
                format!("compiling it takes more than {} MiB of memory", limits.memory_bytes >> 20)
            }
            Some(_) | None => return self.unexplained(),
        };
        CompileError::Limit { image: image.to_owned(), why }
    }
}

/// Copying and syncing hundreds of MiB must not hold up the one thread that serves.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CompileError> + Send + 'static,
) -> Result<T, CompileError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(CompileError::Failed(error.to_string())))
}

/// What a killed front left half-written.
fn clear_new(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(NEW.as_bytes())) {
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "cannot remove a half-written file");
        }
    }
}

fn publish(file: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // Workers are another user.
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o444))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
