//! A client beside a running container: it hears what the container writes from now on, and what it types goes to the
//! container's standard input. That it leaves changes nothing for the container. When its input ends, it leaves, except
//! with `stdinOnce` and no terminal: then the container's input has ended too, and the client hears it to its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_cri::streaming::{Output, Streams};
use coracle_cri::v1::AttachRequest;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::exec::{input, output};
use super::link::Link;
use super::pods::Pods;
use super::streaming::{outward, told, with_returns};
use super::terminal::INTERRUPT;
use crate::wire::{AttachSpec, Command, FdIndex};

/// For the last words of a container that has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Pods {
    pub(super) async fn attach(&self, request: &AttachRequest, streams: Streams) -> Result<(), String> {
        let (link, id) = self.link_of(&request.container_id).map_err(told)?;
        let found = self.state.lock().containers.get(&id).map(|container| {
            let config = container.record.config.read();
            (container.ended.clone(), config.stdin && (!config.stdin_once || request.tty))
        });
        let (ended, more_may_attach) = found.ok_or("the container is gone")?;
        let Streams { stdin, stdout, stderr, .. } = streams;
        // With a terminal there is one stream for both.
        let stderr = if request.tty { stdout.clone() } else { stderr };
        let echo = stdout.clone().filter(|_| request.tty);
        let hears = stdout.is_some() || stderr.is_some();
        let hearing = hear(&link, &id, [stdout, stderr], request.tty).await?;
        let typing = type_in(&link, &id, stdin, echo);
        if !hears {
            return tokio::select! {
                biased;
                () = ended.cancelled() => Ok(()),
                typed = typing => typed.map(drop),
            };
        }
        let typing = async {
            match typing.await {
                Ok(Typed::Interrupted) => return,
                // Who has said all leaves others their turn; where nobody else has one, the container may still answer.
                Ok(Typed::All) if more_may_attach => return,
                Ok(Typed::All | Typed::Nothing) => {}
                Err(why) => tracing::debug!(container = id, why, "a client's input goes nowhere"),
            }
            std::future::pending().await
        };
        tokio::pin!(hearing);
        tokio::select! {
            biased;
            () = &mut hearing => {}
            () = ended.cancelled() => drop(tokio::time::timeout(LAST_WORDS, hearing).await),
            () = typing => return Ok(()),
        }
        let runs = self.state.lock().containers.get(&id).is_some_and(|container| container.is_running());
        // The worker closes the pipes a moment before it reports the end.
        if runs && tokio::time::timeout(LAST_WORDS, ended.cancelled()).await.is_err() {
            return Err("detached: the output was not read as quickly as the container writes it".to_owned());
        }
        Ok(())
    }
}

/// Begins to listen, and gives what brings the output to the client until there is no more.
async fn hear(
    link: &Arc<Link>,
    id: &str,
    to: [Option<Output>; 2],
    terminal: bool,
) -> Result<impl Future<Output = ()> + use<>, String> {
    let mut fds: Vec<OwnedFd> = Vec::new();
    let mut listen = |to: Option<Output>| -> io::Result<Option<(pipe::Receiver, FdIndex, Output)>> {
        let Some(to) = to else { return Ok(None) };
        let (ours, theirs) = output()?;
        fds.push(theirs);
        Ok(Some((ours, fds.len() - 1, to)))
    };
    let [stdout, stderr] = to;
    let stdout = listen(stdout).map_err(|error| error.to_string())?;
    let stderr = listen(stderr).map_err(|error| error.to_string())?;
    if !fds.is_empty() {
        let index = |listening: &Option<(_, FdIndex, _)>| listening.as_ref().map(|(_, index, _)| *index);
        let spec = AttachSpec { container: id.to_owned(), stdout: index(&stdout), stderr: index(&stderr) };
        let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        link.order(Command::AttachOutput(spec), &borrowed).await.map_err(|error| error.to_string())?;
    }
    Ok(async move {
        let carry = |listening: Option<(pipe::Receiver, FdIndex, Output)>| async move {
            if let Some((from, _, to)) = listening {
                outward(from, &to, terminal).await;
            }
        };
        tokio::join!(carry(stdout), carry(stderr));
    })
}

enum Typed {
    /// The client cannot type, or the container takes no more.
    Nothing,
    All,
    Interrupted,
}

/// From the client to the container. A client at a terminal sees what it types, and an interrupt detaches it.
async fn type_in(
    link: &Arc<Link>,
    id: &str,
    stdin: Option<mpsc::Receiver<Bytes>>,
    echo: Option<Output>,
) -> Result<Typed, String> {
    let Some(mut stdin) = stdin else { return Ok(Typed::Nothing) };
    let (mut ours, theirs) = input().map_err(|error| error.to_string())?;
    let order = Command::AttachStdin { id: id.to_owned() };
    link.order(order, &[theirs.as_fd()]).await.map_err(|error| error.to_string())?;
    drop(theirs);
    while let Some(mut bytes) = stdin.recv().await {
        if let Some(echo) = &echo {
            if bytes.contains(&INTERRUPT) {
                return Ok(Typed::Interrupted);
            }
            bytes = bytes.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect();
            let _ = echo.send(with_returns(&bytes)).await;
        }
        if ours.write_all(&bytes).await.is_err() {
            return Ok(Typed::Nothing);
        }
    }
    Ok(Typed::All)
}
