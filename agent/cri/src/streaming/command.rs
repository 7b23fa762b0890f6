//! Exec and attach: finds the streams that were asked for, runs the command behind them, and says how it ended.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::spdy::{self, Side, SpdyStream};
use super::websocket::{self, Framing};
use super::{Outgoing, Output, PIECES_AHEAD, Resizes, StreamingRuntime, Streams, queue};
use crate::v1::{AttachRequest, ExecRequest};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Five kinds, and some room for a client that tries again.
const STREAMS_MAX: usize = 10;
/// For a client to open the streams it has asked for.
const OPENING: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(super) enum Command {
    Exec(ExecRequest),
    Attach(AttachRequest),
}

/// What was asked for, and how the end is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
    /// As a Status in JSON, from protocol v4 on; as plain text before.
    pub(super) status: bool,
    /// From v3 on.
    pub(super) resizes: bool,
}

impl Command {
    pub(super) fn terms(&self, status: bool, resizes: bool) -> Terms {
        let (stdin, stdout, stderr, tty) = match self {
            Command::Exec(exec) => (exec.stdin, exec.stdout, exec.stderr, exec.tty),
            Command::Attach(attach) => (attach.stdin, attach.stdout, attach.stderr, attach.tty),
        };
        Terms { stdin, stdout, stderr, tty, status, resizes: resizes && tty }
    }

    async fn run(&self, runtime: &dyn StreamingRuntime, streams: Streams, terms: Terms) -> String {
        let failure = match self {
            Command::Exec(exec) => match runtime.exec(exec, streams).await {
                Ok(0) => return terms.success(),
                Ok(code) => return terms.exited(&exec.cmd, code),
                Err(why) => format!("error executing command in container: {why}"),
            },
            Command::Attach(attach) => match runtime.attach(attach, streams).await {
                Ok(()) => return terms.success(),
                Err(why) => format!("error attaching to container: {why}"),
            },
        };
        tracing::debug!(failure, "a streaming session failed");
        terms.failed(&failure)
    }
}

impl Terms {
    fn success(self) -> String {
        if self.status { json!({"metadata": {}, "status": "Success"}).to_string() } else { String::new() }
    }

    fn exited(self, command: &[String], code: i32) -> String {
        let text = format!(
            "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
            command.join(" ")
        );
        let causes = json!([{"reason": "ExitCode", "message": code.to_string()}]);
        self.told(text, "NonZeroExitCode", causes, None)
    }

    fn failed(self, failure: &str) -> String {
        let text = format!("Internal error occurred: {failure}");
        self.told(text, "InternalError", json!([{"message": failure}]), Some(500))
    }

    fn told(self, message: String, reason: &str, causes: Value, code: Option<u16>) -> String {
        if !self.status {
            return message;
        }
        let mut status = json!({
            "metadata": {}, "status": "Failure", "message": message, "reason": reason, "details": {"causes": causes},
        });
        if let Some(code) = code {
            status["code"] = code.into();
        }
        status.to_string()
    }
}

/// Over channels of a WebSocket.
pub(super) async fn over_websocket(
    io: impl AsyncRead + AsyncWrite + Unpin,
    framing: Framing,
    command: &Command,
    terms: Terms,
    runtime: Arc<dyn StreamingRuntime>,
) -> io::Result<()> {
    let (queue, outgoing) = queue();
    let mut inputs = HashMap::new();
    let mut input = |channel: u8| {
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        inputs.insert(channel, sender);
        receiver
    };
    let output = |channel: u8| Output { channel: channel.into(), queue: queue.clone() };
    let streams = Streams {
        stdin: terms.stdin.then(|| input(STDIN)),
        stdout: terms.stdout.then(|| output(STDOUT)),
        stderr: (terms.stderr && !terms.tty).then(|| output(STDERR)),
        resizes: terms.resizes.then(|| Resizes::new(input(RESIZE))),
    };
    let session = async {
        // An empty message on the first channel tells the client that all is set up.
        let first = if terms.stdout { STDOUT } else { ERROR };
        let hello = Outgoing::Data { channel: first.into(), bytes: Bytes::new() };
        let _ = queue.send(hello).await;
        let told = command.run(&*runtime, streams, terms).await;
        let _ = output(ERROR).send(told.into()).await;
        let _ = queue.send(Outgoing::Finish).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        carried = websocket::run(io, framing, inputs, outgoing) => carried,
        () = session => Ok(()),
    }
}

/// Over streams of SPDY, which the client opens and names.
pub(super) async fn over_spdy(
    io: impl AsyncRead + AsyncWrite,
    command: &Command,
    terms: Terms,
    runtime: Arc<dyn StreamingRuntime>,
) -> io::Result<()> {
    let (connection, link, mut opened) = spdy::connection(io, Side::Server, STREAMS_MAX);
    let session = async {
        let Ok(Some(found)) = tokio::time::timeout(OPENING, Found::gather(terms, &mut opened)).await else {
            tracing::debug!("a client did not open the streams it had asked for");
            return link.finish().await;
        };
        let Found { stdin, stdout, stderr, error, resize } = found;
        let outputs = [&stdout, &stderr, &error].map(|stream| stream.as_ref().map(|stream| stream.output.clone()));
        let streams = Streams {
            stdin: stdin.map(|stream| stream.input),
            stdout: stdout.map(|stream| stream.output),
            stderr: stderr.map(|stream| stream.output),
            resizes: resize.map(|stream| Resizes::new(stream.input)),
        };
        let told = command.run(&*runtime, streams, terms).await;
        if let [.., Some(error)] = &outputs {
            let _ = error.send(told.into()).await;
        }
        for output in outputs.into_iter().flatten() {
            let _ = output.end().await;
        }
        link.finish().await;
    };
    let session = async {
        session.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        carried = connection.run() => carried,
        () = session => Ok(()),
    }
}

#[derive(Default)]
struct Found {
    stdin: Option<SpdyStream>,
    stdout: Option<SpdyStream>,
    stderr: Option<SpdyStream>,
    error: Option<SpdyStream>,
    resize: Option<SpdyStream>,
}

impl Found {
    async fn gather(terms: Terms, opened: &mut mpsc::Receiver<SpdyStream>) -> Option<Found> {
        let mut found = Found::default();
        loop {
            let complete = found.error.is_some()
                && found.stdin.is_some() == terms.stdin
                && found.stdout.is_some() == terms.stdout
                && found.stderr.is_some() == (terms.stderr && !terms.tty)
                && found.resize.is_some() == terms.resizes;
            if complete {
                return Some(found);
            }
            let stream = opened.recv().await?;
            let slot = match spdy::value(&stream.headers, "streamtype") {
                Some("stdin") if terms.stdin => &mut found.stdin,
                Some("stdout") if terms.stdout => &mut found.stdout,
                Some("stderr") if terms.stderr && !terms.tty => &mut found.stderr,
                Some("error") => &mut found.error,
                Some("resize") if terms.resizes => &mut found.resize,
                Some(_) | None => continue,
            };
            *slot = Some(stream);
        }
    }
}
