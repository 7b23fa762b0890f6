//! The Wasm runtime's process: found if it runs already, started if not, and started again when it dies.
//!
//! It outlives this program on purpose: a server that restarts, crashes or is upgraded leaves every pod running. Only
//! `up`, which promises that Ctrl-C stops everything, ends it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use coracle_client::{OnExit, TaskScope};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::paths::Paths;

/// How long a shim that was told to end may take before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(crate) struct ShimConfig {
    pub(crate) paths: Paths,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) debug: bool,
}

/// Keeps a shim running until the scope is cancelled.
pub(crate) fn supervise(config: ShimConfig, scope: &TaskScope) {
    scope.spawn("wasm-shim", OnExit::restart(), move |cancel| {
        let config = config.clone();
        async move {
            let pid = match running(&config).await {
                Some(pid) => {
                    tracing::info!(pid = pid.as_raw_pid(), "found the Wasm runtime running");
                    pid
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

fn start(config: &ShimConfig) -> anyhow::Result<Pid> {
    let paths = &config.paths;
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let log_path = paths.run().join("wasm-shim.log");
    let log = fs::File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut command = std::process::Command::new(&program);
    command.arg("wasm-shim").arg("--data-dir").arg(paths.root());
    if !config.insecure_registries.is_empty() {
        command.arg("--insecure-registry").arg(config.insecure_registries.join(","));
    }
    if config.debug {
        command.arg("--debug");
    }
    // A group of its own: Ctrl-C in the terminal is not meant for it.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = Command::from(command).spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let pid =
        child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("the Wasm runtime ended at once")?;
    tracing::info!(pid = pid.as_raw_pid(), log = %log_path.display(), "started the Wasm runtime");
    Ok(pid)
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

/// Ends the shim and with it every pod it runs.
pub(crate) async fn stop(config: &ShimConfig) -> anyhow::Result<()> {
    let Some(pid) = running(config).await else { return Ok(()) };
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
