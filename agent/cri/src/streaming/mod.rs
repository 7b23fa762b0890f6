//! The streaming side of CRI: what `Exec`, `Attach` and `PortForward` hand out URLs for.
//!
//! Owns the tokens, the upgrade of a connection, and the protocols that clients of Kubernetes speak over it: channels on
//! WebSocket, SPDY/3.1, and SPDY inside WebSocket. A runtime sees none of this: it is given [`Streams`] and says how it
//! ended ([`StreamingRuntime`]). Must not know: containers.
//!
//! ```text
//! server      who may connect, once, and with which protocol
//! command     exec and attach: which stream is what, and the last word
//! forward     port-forward: a pair of streams for each connection
//! websocket   channels on messages        spdy   streams on frames
//! ```
//!
//! Everything of one connection runs in one task. Nothing is buffered without bound: a client that does not read holds
//! its command up, and a command that does not read its input holds its client up. Nobody reads the connection then, so
//! that its end shows only in what is sent: a connection on which nothing goes out for a while is sent a ping.

mod command;
mod forward;
mod server;
pub mod spdy;
#[cfg(test)]
mod tests;
mod websocket;

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::v1::{AttachRequest, ExecRequest};

pub use server::StreamingServer;

/// Pieces that wait in one direction of one connection or stream.
const PIECES_AHEAD: usize = 8;
/// The longest piece that is sent at once: another stream's turn comes after it.
const PIECE_BYTES: usize = 32 << 10;
/// Nothing was sent for so long: a ping is.
const QUIET: Duration = Duration::from_secs(10);

/// What runs behind the streams.
#[async_trait::async_trait]
pub trait StreamingRuntime: Send + Sync + 'static {
    /// Runs a command to its end and gives its exit code. An error is why it did not run, in words. The future is
    /// dropped when the client is gone, and the command is to end with it.
    async fn exec(&self, request: &ExecRequest, streams: Streams) -> Result<i32, String>;

    /// Until the container ends or the client is gone.
    async fn attach(&self, request: &AttachRequest, streams: Streams) -> Result<(), String>;

    /// One connection to a port of a sandbox, until both sides have ended it.
    async fn forward(&self, sandbox: &str, port: u16, streams: Forward) -> Result<(), String>;
}

/// Standard streams of a command. Those that were not asked for are not there.
#[derive(Debug)]
pub struct Streams {
    /// Ends with None.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub stdout: Option<Output>,
    /// With a terminal, what would go here goes to `stdout`.
    pub stderr: Option<Output>,
    /// Only with a terminal.
    pub resizes: Option<Resizes>,
}

/// Both directions of a forwarded connection.
#[derive(Debug)]
pub struct Forward {
    pub input: mpsc::Receiver<Bytes>,
    pub output: Output,
}

/// What goes to the client over one stream. It ends with [`Output::end`], or with the session.
#[derive(Clone, Debug)]
pub struct Output {
    channel: u32,
    queue: mpsc::Sender<Outgoing>,
}

/// The client is gone, or does not want any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

impl Output {
    /// Waits while the client does not read.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            self.queue.send(Outgoing::Data { channel: self.channel, bytes: piece }).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Nothing follows.
    pub async fn end(&self) -> Result<(), Gone> {
        self.queue.send(Outgoing::End { channel: self.channel }).await.map_err(|_| Gone)
    }
}

/// What a session hands to its connection. `channel` is WebSocket's channel or SPDY's stream.
#[derive(Debug)]
enum Outgoing {
    Data {
        channel: u32,
        bytes: Bytes,
    },
    End {
        channel: u32,
    },
    /// Says goodbye; the connection ends when it is sent.
    Finish,
    Control(spdy::Control),
    Ping,
}

/// The size of the client's terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// New sizes of the client's terminal, as `{"Width":80,"Height":24}` one after the other.
#[derive(Debug)]
pub struct Resizes {
    input: mpsc::Receiver<Bytes>,
    rest: Vec<u8>,
}

impl Resizes {
    fn new(input: mpsc::Receiver<Bytes>) -> Resizes {
        Resizes { input, rest: Vec::new() }
    }

    /// None: there will be no more, or they cannot be read.
    pub async fn next(&mut self) -> Option<TerminalSize> {
        loop {
            let mut parsed = serde_json::Deserializer::from_slice(&self.rest).into_iter::<serde_json::Value>();
            match parsed.next() {
                Some(Ok(value)) => {
                    let used = parsed.byte_offset();
                    self.rest.drain(..used);
                    let side = |name: &str| value.get(name)?.as_u64().and_then(|side| u16::try_from(side).ok());
                    let (width, height) = (side("Width")?, side("Height")?);
                    return Some(TerminalSize { width, height });
                }
                Some(Err(error)) if !error.is_eof() => return None,
                Some(Err(_)) | None => {}
            }
            let more = self.input.recv().await?;
            if self.rest.len() + more.len() > PIECE_BYTES {
                return None;
            }
            self.rest.extend_from_slice(&more);
        }
    }
}

/// Ends of a stream of input, and of a queue of output.
fn queue() -> (mpsc::Sender<Outgoing>, mpsc::Receiver<Outgoing>) {
    mpsc::channel(PIECES_AHEAD)
}

/// What is to be sent next: a ping if there is nothing else for a while. None: there will be no more.
async fn next(outgoing: &mut mpsc::Receiver<Outgoing>) -> Option<Outgoing> {
    tokio::time::timeout(QUIET, outgoing.recv()).await.unwrap_or(Some(Outgoing::Ping))
}
