//! Commands in containers, as CRI's ExecSync and the streaming server ask for them. Part of [`Pods`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coracle_cri::Status;
use coracle_cri::v1::{ExecSyncRequest, ExecSyncResponse};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use super::containers::order_failed;
use super::link::Link;
use super::pods::{Pods, lookup_failed, phase_name};
use super::records::Phase;
use crate::compile::Compiled;
use crate::images::Image;
use crate::wire::{Command, ExecSpec, Exit};

/// Of both outputs of ExecSync together; what is beyond is let go, as containerd and CRI-O do. An answer of CRI has
/// 16 MiB, with its fields.
const OUTPUT_BYTES_MAX: usize = (16 << 20) - 1024;

/// More than a worker has to say of an end.
const EXIT_BYTES_MAX: u64 = 1 << 20;

/// Standard streams for the worker.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) terminal: bool,
}

/// A command that runs. Dropping it ends the command.
#[derive(Debug)]
pub(super) struct Running(UnixStream);

impl Running {
    pub(super) async fn ended(self) -> io::Result<Exit> {
        let mut text = Vec::new();
        self.0.take(EXIT_BYTES_MAX).read_to_end(&mut text).await?;
        if text.is_empty() {
            return Err(io::Error::other("the Wasm worker process ended"));
        }
        serde_json::from_slice(&text).map_err(io::Error::from)
    }
}

impl Pods {
    pub(super) async fn exec_sync(self: &Arc<Pods>, request: ExecSyncRequest) -> Result<ExecSyncResponse, Status> {
        let ExecSyncRequest { container_id, cmd, timeout } = request;
        let failed = |error: io::Error| Status::internal(format!("failed to exec in container: {error}"));
        let (stdout, to_stdout) = output().map_err(failed)?;
        let (stderr, to_stderr) = output().map_err(failed)?;
        let descriptors = Descriptors { stdout: Some(to_stdout), stderr: Some(to_stderr), ..Descriptors::default() };
        let limit = u64::try_from(timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let running = async {
            let room = AtomicUsize::new(OUTPUT_BYTES_MAX);
            let running = self.begin(&container_id, &cmd, descriptors).await?;
            let (stdout, stderr, exit) = tokio::join!(collect(stdout, &room), collect(stderr, &room), running.ended());
            let exit = exit.map_err(failed)?;
            let (stdout, stderr) = (stdout.map_err(failed)?, stderr.map_err(failed)?);
            Ok(ExecSyncResponse { stdout, stderr, exit_code: exit.code })
        };
        match limit {
            None => running.await,
            Some(limit) => tokio::time::timeout(limit, running).await.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded(format!(
                    "failed to exec in container: timeout {}s exceeded: context deadline exceeded",
                    limit.as_secs()
                )))
            }),
        }
    }

    /// Starts a command in a container that runs.
    pub(super) async fn begin(
        self: &Arc<Pods>,
        id: &str,
        cmd: &[String],
        descriptors: Descriptors,
    ) -> Result<Running, Status> {
        let word = cmd.first().ok_or_else(|| Status::invalid_argument("cmd is required: a command to run"))?;
        let (link, id) = self.link_of(id)?;
        let image = self.program(&id, word).await?;
        let compiled = self.code_for(&link, &image, word).await?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| Status::internal(error.to_string()))?;
        let theirs = theirs.into_std().map_err(|error| Status::internal(error.to_string()))?;
        let mut fds: Vec<OwnedFd> = vec![theirs.into()];
        let mut add = |fd: Option<OwnedFd>| {
            fd.map(|fd| {
                fds.push(fd);
                fds.len() - 1
            })
        };
        let spec = ExecSpec {
            container: id,
            kind: compiled.kind,
            code: compiled.path,
            args: cmd.to_vec(),
            stdin: add(descriptors.stdin),
            stdout: add(descriptors.stdout),
            stderr: add(descriptors.stderr),
            terminal: descriptors.terminal,
        };
        let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        link.order(Command::Exec(Box::new(spec)), &borrowed).await.map_err(|error| {
            let status = order_failed(error);
            let text = format!("failed to exec in container: {word:?} of image {:?}: {}", image.name, status.message());
            Status::new(status.code(), text)
        })?;
        Ok(Running(ours))
    }

    /// The worker that a running container is in, and the container's full id.
    pub(super) fn link_of(&self, id: &str) -> Result<(Arc<Link>, String), Status> {
        let (id, generation) = {
            let state = self.state.lock();
            let id = state.container_id(id).map_err(lookup_failed)?;
            let container = &state.containers[&id];
            if !matches!(container.record.phase, Phase::Running { .. }) {
                let phase = phase_name(&container.record.phase);
                return Err(Status::failed_precondition(format!("container is in {phase} state")));
            }
            (id.clone(), container.generation)
        };
        let link = self.workers.get(generation).ok_or_else(|| Status::unavailable("the Wasm worker process ended"))?;
        Ok((link, id))
    }

    /// The machine code of `image` that the worker can load.
    async fn code_for(&self, link: &Link, image: &Image, word: &str) -> Result<Compiled, Status> {
        let present = self.compiler.settings().await.map_err(|error| Status::internal(error.to_string()))?;
        match &link.record.settings {
            Some(settings) if settings != present => {
                self.compiler.kept(settings, &self.images, image).ok_or_else(|| {
                    Status::failed_precondition(format!(
                        "failed to exec in container: it runs in a worker of an earlier version of the Wasm runtime, for which \
                         {word:?} was not compiled; restart the pod to run other programs in it"
                    ))
                })
            }
            Some(_) | None => self.compiled(image).await,
        }
    }
}

/// A pipe: our reading end, and the worker's writing one.
pub(super) fn output() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (sender, receiver) = pipe::pipe()?;
    Ok((receiver, sender.into_nonblocking_fd()?))
}

/// A pipe: our writing end, and the worker's reading one.
pub(super) fn input() -> io::Result<(pipe::Sender, OwnedFd)> {
    let (sender, receiver) = pipe::pipe()?;
    Ok((sender, receiver.into_nonblocking_fd()?))
}

async fn collect(mut from: impl AsyncRead + Unpin, room: &AtomicUsize) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut piece = vec![0; 32 << 10];
    loop {
        let got = from.read(&mut piece).await?;
        if got == 0 {
            return Ok(kept);
        }
        let left = room.load(Ordering::Relaxed);
        let taken = got.min(left);
        // Both outputs are collected by one task, in turn.
        room.store(left - taken, Ordering::Relaxed);
        kept.extend_from_slice(&piece[..taken]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_writes_an_end_without_end_is_not_heard_to_the_end() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair can be made");
        let writing = async { tokio::io::copy(&mut tokio::io::repeat(b' '), &mut theirs).await };
        tokio::select! {
            biased;
            ended = Running(ours).ended() => assert!(ended.is_err(), "{ended:?}"),
            _ = writing => std::future::pending().await,
        }
    }
}
