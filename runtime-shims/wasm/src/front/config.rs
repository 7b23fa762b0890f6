//! How a front is set up.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::clock::{Clock, Ids};
use crate::compile::Reexec;
use crate::engine::Profile;
use crate::images::Registries;

/// Everything a front has to be told.
#[derive(Debug, Clone)]
pub struct FrontConfig {
    /// The unix socket CRI is served on.
    pub socket: PathBuf,
    /// The shim's own directory: images, machine code, the record of what exists.
    pub root: PathBuf,
    /// Archives found here are imported at start, and when an image is missing.
    pub archives: Option<PathBuf>,
    /// How to start this program as a worker, with the control socket as its standard input. One more argument says
    /// which worker it is, for those who look at processes.
    pub worker: Reexec,
    /// Names this program: workers of another build are left as soon as may be.
    pub build: String,
    /// How long the shared worker stays when it has no container.
    pub idle_worker: Duration,
    /// How to start this program as a compiler; the task is appended as one more argument.
    pub compiler: Reexec,
    pub registries: Registries,
    /// Machine code of images may take this much; what was used longest ago goes first.
    pub code_bytes: u64,
    /// Known before anybody calls UpdateRuntimeConfig; what was said last is remembered and wins.
    pub pod_cidr: Option<Ipv4Net>,
    /// For containers without a memory limit. Half of the machine's memory if it is not given: one guest must not be
    /// able to take it all.
    pub default_memory_bytes: Option<u64>,
    /// Guests of WASI 0.3 run in every pod; otherwise in pods that say so.
    pub wasi3: bool,
    /// What the key-value store of one namespace may hold.
    pub keyvalue_bytes: u64,
    /// Threads that run guests in a worker. As many as there are processors, two at least, if it is not given.
    pub guest_threads: Option<usize>,
    /// What compiling one image may take: address space, a fraction of which is used, and processor time.
    pub compile_memory_bytes: Option<u64>,
    pub compile_seconds: Option<u64>,
    /// How guests are run; found out by trying if it is not given.
    pub engine: Option<Profile>,
    pub clock: Clock,
    pub ids: Ids,
}

/// What machine code may take where nobody says otherwise.
pub const DEFAULT_CODE_BYTES: u64 = 2 << 30;

impl FrontConfig {
    /// The usual places below `data_dir`: `wasm/` for the shim, `images/` for archives, `wasm.sock` for CRI.
    pub fn under(data_dir: &Path, worker: Reexec, compiler: Reexec) -> FrontConfig {
        FrontConfig {
            socket: data_dir.join("wasm.sock"),
            root: data_dir.join("wasm"),
            archives: Some(data_dir.join("images")),
            worker,
            build: own_build(),
            idle_worker: Duration::from_secs(300),
            compiler,
            registries: Registries::default(),
            code_bytes: DEFAULT_CODE_BYTES,
            pod_cidr: None,
            default_memory_bytes: None,
            wasi3: false,
            keyvalue_bytes: 64 << 20,
            guest_threads: None,
            compile_memory_bytes: None,
            compile_seconds: None,
            engine: None,
            clock: Clock::system(),
            ids: Ids::random(),
        }
    }

    /// Where machine code lies in a front set up by [`FrontConfig::under`].
    pub fn code_dir(data_dir: &Path) -> PathBuf {
        data_dir.join("wasm").join("code")
    }

    /// Where the image store of a front set up by [`FrontConfig::under`] lies; for commands that work on images.
    pub fn image_dir(data_dir: &Path) -> PathBuf {
        data_dir.join("wasm").join("images")
    }
}

/// The version and which file it is that runs: installing another one, also of the same version, is another build.
fn own_build() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match std::fs::metadata("/proc/self/exe") {
        Ok(file) => format!("{version}-{:x}-{:x}-{:x}-{:x}", file.dev(), file.ino(), file.size(), file.mtime()),
        Err(_) => version.to_owned(),
    }
}
