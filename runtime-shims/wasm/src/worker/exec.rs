//! Commands beside a container's own program: a fresh instance that shares the container's environment, volumes, network
//! and memory, and has arguments and standard streams of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use wasmtime_wasi::WasiCtxBuilder;

use super::code::Code;
use super::guest::Container;
use super::pipes::{PipeIn, PipeOut};
use super::running::Guest;
use super::{Shared, Stop, command, exit};
use crate::wire::{AttachSpec, ExecSpec, Exit};

/// Commands at once in one container: each may cost as much as the container itself.
pub(super) const COMMANDS_MAX: usize = 16;

impl super::Worker {
    /// Begins the command; how it ends is told over its first descriptor.
    pub(super) fn exec(&self, spec: ExecSpec, fds: Vec<OwnedFd>) -> Result<(), String> {
        let (container, places, stop) = {
            let running = self.running.lock();
            let handle = running.get(&spec.container).ok_or("the container does not run any more")?;
            (handle.container.clone(), handle.commands.clone(), handle.stop.subscribe())
        };
        let place = places
            .try_acquire_owned()
            .map_err(|_| format!("{COMMANDS_MAX} commands run in the container already, and more are not allowed"))?;
        let code = self.shared.loader.program(spec.kind, &spec.code).map_err(|error| exit::text(&error))?;
        let mut fds = fds.into_iter().map(Some).collect::<Vec<_>>();
        let mut take = |index: usize| fds.get_mut(index).and_then(Option::take).ok_or("a descriptor is missing");
        let control = take(0)?;
        let stdin = spec.stdin.map(&mut take).transpose()?;
        let stdout = spec.stdout.map(&mut take).transpose()?;
        let stderr = spec.stderr.map(&mut take).transpose()?;
        let _within = self.guests.enter();
        let failed = |error: io::Error| format!("cannot use a descriptor: {error}");
        let console = Console {
            stdin: stdin.map(|fd| PipeIn::new(fd, spec.terminal)).transpose().map_err(failed)?,
            stdout: stdout.map(|fd| PipeOut::new(fd, spec.terminal)).transpose().map_err(failed)?,
            stderr: stderr.map(|fd| PipeOut::new(fd, spec.terminal)).transpose().map_err(failed)?,
        };
        let control = StdUnixStream::from(control);
        control.set_nonblocking(true).map_err(failed)?;
        let control = UnixStream::from_std(control).map_err(failed)?;
        let shared = self.shared.clone();
        let task = async move {
            let _place = place;
            let running = run(shared, container, code, spec.args, console, stop);
            tell(control, running).await;
        };
        self.tasks.spawn_on(task, &self.guests);
        Ok(())
    }

    pub(super) fn attach(&self, spec: &AttachSpec, fds: Vec<OwnedFd>) -> Result<(), String> {
        let log = {
            let running = self.running.lock();
            running
                .get(&spec.container)
                .map(|handle| handle.log.clone())
                .ok_or("the container does not run any more")?
        };
        let mut fds = fds.into_iter().map(Some).collect::<Vec<_>>();
        let mut take = |index: usize| fds.get_mut(index).and_then(Option::take).ok_or("a descriptor is missing");
        let stdout = spec.stdout.map(&mut take).transpose()?;
        let stderr = spec.stderr.map(&mut take).transpose()?;
        log.taps.add(stdout, stderr)
    }
}

/// The command's own streams.
struct Console {
    stdin: Option<PipeIn>,
    stdout: Option<PipeOut>,
    stderr: Option<PipeOut>,
}

/// Runs the command unless it is called off, and says how it ended.
async fn tell(mut control: UnixStream, running: impl Future<Output = Exit>) {
    let exit = {
        let called_off = async {
            // Nothing is ever sent here: whatever comes is the end.
            let _ = control.read_u8().await;
        };
        tokio::select! {
            biased;
            () = called_off => return,
            exit = running => exit,
        }
    };
    let text = serde_json::to_vec(&exit).expect("an exit is numbers and text");
    // A front that is gone does not want to know.
    let _ = control.write_all(&text).await;
}

async fn run(
    shared: Arc<Shared>,
    container: Arc<Container>,
    code: Arc<Code>,
    args: Vec<String>,
    console: Console,
    mut stop: watch::Receiver<Stop>,
) -> Exit {
    let Console { stdin, stdout, stderr } = console;
    let outputs = [stdout.clone(), stderr.clone()];
    let store = container.store_with(shared.loader.engine_of(&code), &args, |builder: &mut WasiCtxBuilder| {
        if let Some(stdin) = stdin {
            builder.stdin(stdin);
        }
        if let Some(stdout) = stdout {
            builder.stdout(stdout);
        }
        if let Some(stderr) = stderr {
            builder.stderr(stderr);
        }
    });
    let outcome = {
        let calling = async move { command::call(store, &code).await };
        let calling = Box::pin(AssertUnwindSafe(calling).catch_unwind());
        let mut calling = Guest::new(calling, container.cpu.clone(), container.used.clone());
        let outcome = tokio::select! {
            biased;
            // With the container ends what runs beside its program.
            _ = stop.wait_for(|stop| *stop == Stop::Kill) => None,
            outcome = &mut calling => Some(outcome),
        };
        match outcome {
            Some(outcome) => outcome,
            None => {
                calling.end().await;
                return exit::stopped(false);
            }
        }
    };
    let exit = match outcome {
        Ok(Ok(exit)) => exit,
        Ok(Err(error)) => exit::of_error(&error),
        Err(_panic) => exit::panicked("a panic; the node's log has more"),
    };
    if !exit.message.is_empty()
        && let Some(output) = outputs.iter().rev().flatten().next()
    {
        output.say(&exit.message);
    }
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop == Stop::Kill) => {}
        _ = futures::future::join_all(outputs.iter().flatten().map(PipeOut::drained)) => {}
    }
    exit
}
