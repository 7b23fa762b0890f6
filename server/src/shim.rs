//! The Wasm runtime's process: found if it runs already, started if not, and started again when it dies.
//!
//! It outlives this program on purpose: a server that restarts, crashes or is upgraded leaves every pod running. Only
//! `up`, which promises that Ctrl-C stops everything, ends it. Its workers outlive it in turn: when it dies they serve on
//! until the next one finds them, and one of another build or with other settings is asked to make way for it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use coracle_client::{OnExit, TaskScope};
use coracle_shim_wasm::front::{self, FrontError};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::cli::ImageSourceArgs;
use crate::paths::Paths;

/// How long a shim that was told to end may take before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How often it is looked whether a shim that is just coming up can be told to end.
const STOP_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Clone)]
pub(crate) struct ShimConfig {
    pub(crate) paths: Paths,
    pub(crate) images: ImageSourceArgs,
    pub(crate) wasm_code_limit: u64,
    pub(crate) debug: bool,
}

/// Keeps a shim running until the scope is cancelled.
pub(crate) fn supervise(config: ShimConfig, scope: &TaskScope) {
    scope.spawn("wasm-shim", OnExit::restart(), move |cancel| {
        let config = config.clone();
        async move {
            let pid = match running(&config).await {
                Some(pid) if is_up_to_date(pid, &config) => {
                    tracing::info!(pid = pid.as_raw_pid(), "found the Wasm runtime running");
                    pid
                }
                Some(pid) => {
                    hand_over(pid).await?;
                    start(&config)?
                }
                None => start(&config)?,
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => Ok(()),
                ended = wait_for_end(pid) => {
                    ended?;
                    anyhow::bail!("the Wasm runtime (process {}) ended", pid.as_raw_pid())
                }
            }
        }
    });
}

/// The process that serves the socket, by the credentials of its listening end.
async fn running(config: &ShimConfig) -> Option<Pid> {
    let stream = UnixStream::connect(config.paths.wasm_socket()).await.ok()?;
    stream.peer_cred().ok()?.pid().and_then(Pid::from_raw)
}

/// Whether a shim is this program with these settings. One that cannot be looked at is left alone.
fn is_up_to_date(pid: Pid, config: &ShimConfig) -> bool {
    let pid = pid.as_raw_pid();
    let file = |process: &str| fs::metadata(format!("/proc/{process}/exe")).map(|file| (file.dev(), file.ino()));
    let same_program = match (file(&pid.to_string()), file("self")) {
        (Ok(its), Ok(ours)) => its == ours,
        (Err(_), _) | (_, Err(_)) => true,
    };
    let same_settings = fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| {
        let wanted = arguments(config);
        let given = line.split(|byte| *byte == 0).skip(1).filter(|word| !word.is_empty());
        given.eq(wanted.iter().map(|word| word.as_encoded_bytes()))
    });
    same_program && same_settings
}

/// Ends a shim, but not the workers and pods it has.
async fn hand_over(pid: Pid) -> anyhow::Result<()> {
    tracing::info!(pid = pid.as_raw_pid(), "the Wasm runtime is of another build or set up otherwise: it is replaced");
    match kill_process(pid, Signal::HUP) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        told => told.context("the Wasm runtime cannot be told to make way")?,
    }
    let ended = tokio::time::timeout(STOP_GRACE, wait_for_end(pid)).await;
    ended.with_context(|| format!("the Wasm runtime (process {}) does not make way", pid.as_raw_pid()))?
}

fn arguments(config: &ShimConfig) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["wasm-shim".into(), "--data-dir".into(), config.paths.root().into()];
    arguments.extend(image_args(&config.images));
    arguments.push(format!("--wasm-code-limit={}", config.wasm_code_limit).into());
    if config.debug {
        arguments.push("--debug".into());
    }
    arguments
}

/// This program's file by its name; where an upgrade has put another one there, the one that runs.
fn program() -> PathBuf {
    let running = PathBuf::from("/proc/self/exe");
    let file = |path: &PathBuf| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    match std::env::current_exe() {
        Ok(named) if file(&named).is_some() && file(&named) == file(&running) => named,
        Ok(_) | Err(_) => running,
    }
}

fn start(config: &ShimConfig) -> anyhow::Result<Pid> {
    let paths = &config.paths;
    let program = program();
    let log_path = paths.run().join("wasm-shim.log");
    let log = open_log(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut command = std::process::Command::new(&program);
    command.args(arguments(config));
    // A group of its own: Ctrl-C in the terminal is not meant for it.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = Command::from(command).spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let pid =
        child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("the Wasm runtime ended at once")?;
    tracing::info!(pid = pid.as_raw_pid(), log = %log_path.display(), "started the Wasm runtime");
    Ok(pid)
}

/// To be appended to: workers that an earlier shim started write to it as well. They keep it short, and read it for that.
fn open_log(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).open(path)
}

fn image_args(images: &ImageSourceArgs) -> Vec<OsString> {
    let ImageSourceArgs {
        insecure_registry,
        private_registry,
        disable_default_registry_endpoint,
        image_policy,
        image_layer_limit,
    } = images;
    let mut args = vec![OsString::from(format!("--image-layer-limit={image_layer_limit}"))];
    if !insecure_registry.is_empty() {
        args.push(format!("--insecure-registry={}", insecure_registry.join(",")).into());
    }
    for (flag, file) in [("--private-registry", private_registry), ("--image-policy", image_policy)] {
        if let Some(file) = file {
            // The shim outlives this program and its working directory.
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            args.extend([flag.into(), file.into_os_string()]);
        }
    }
    if *disable_default_registry_endpoint {
        args.push("--disable-default-registry-endpoint".into());
    }
    args
}

/// Waits until a process ends, whoever its parent is.
async fn wait_for_end(pid: Pid) -> anyhow::Result<()> {
    let fd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error).context("the Wasm runtime's process cannot be watched"),
    };
    // A pidfd becomes readable when its process ends; tokio waits for it as for a pipe.
    Ok(pipe::Receiver::from_owned_fd_unchecked(fd)?.readable().await?)
}

/// Ends the shim and with it every pod it runs, also those of a shim that was killed.
pub(crate) async fn stop(config: &ShimConfig) -> anyhow::Result<()> {
    let stopping = async {
        loop {
            if let Some(pid) = running(config).await {
                stop_process(pid).await?;
            }
            match front::end_left_behind(config.paths.root()).await {
                Ok(0) => return Ok(()),
                Ok(workers) => {
                    tracing::warn!(workers, "ended workers that the Wasm runtime had left behind");
                    return Ok(());
                }
                // It is just coming up and does not listen yet.
                Err(FrontError::InUse { .. }) => tokio::time::sleep(STOP_PAUSE).await,
                Err(error) => return Err(error).context("workers of the Wasm runtime cannot be ended"),
            }
        }
    };
    tokio::time::timeout(STOP_GRACE * 3, stopping).await.context("the Wasm runtime does not end")?
}

async fn stop_process(pid: Pid) -> anyhow::Result<()> {
    let signalled = kill_process(pid, Signal::TERM);
    if signalled == Err(rustix::io::Errno::SRCH) {
        return Ok(());
    }
    signalled.context("the Wasm runtime cannot be told to end")?;
    if tokio::time::timeout(STOP_GRACE, wait_for_end(pid)).await.is_err() {
        tracing::warn!(pid = pid.as_raw_pid(), "the Wasm runtime does not end by itself: it is killed");
        kill_process(pid, Signal::KILL).context("the Wasm runtime cannot be killed")?;
        wait_for_end(pid).await?;
    }
    Ok(())
}
