//! SPDY/3.1, as much of it as clients of Kubernetes speak: streams, data, resets and pings. Window updates and settings
//! are read and let go, as the other implementations do; a stream that is not read holds the connection up.

mod headers;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

pub use headers::{Headers, value};

use super::{Gone, Outgoing, Output, PIECE_BYTES, PIECES_AHEAD, next, queue};

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

const FIN: u8 = 1;
const REFUSED_STREAM: u32 = 3;

/// Control frames are small; data is read piece by piece, whatever its length.
const CONTROL_BYTES_MAX: usize = 64 << 10;
/// After the last word the other side gets so long to read it: closing at once would take it away from it.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

impl Side {
    /// Of its streams, and of its pings.
    fn first_number(self) -> u32 {
        match self {
            Side::Client => 1,
            Side::Server => 2,
        }
    }
}

/// Frames that carry no data.
#[derive(Debug)]
pub(super) enum Control {
    Open { stream: u32, headers: Headers },
    Reply { stream: u32 },
    Refuse { stream: u32 },
    Ping { number: u32 },
}

/// One stream.
#[derive(Debug)]
pub struct SpdyStream {
    pub headers: Headers,
    /// Ends with None.
    pub input: mpsc::Receiver<Bytes>,
    pub output: Output,
}

/// Half-closed streams are kept until both sides have ended them.
#[derive(Debug)]
struct Entry {
    input: Option<mpsc::Sender<Bytes>>,
    output_ended: bool,
}

type Streams = Arc<Mutex<HashMap<u32, Entry>>>;

/// The wire; to be run until it ends.
pub struct Connection<I> {
    io: I,
    side: Side,
    streams: Streams,
    streams_max: usize,
    queue: mpsc::Sender<Outgoing>,
    outgoing: mpsc::Receiver<Outgoing>,
    accepted: mpsc::Sender<SpdyStream>,
}

/// Opens streams, and ends the connection.
#[derive(Clone, Debug)]
pub struct Link {
    streams: Streams,
    queue: mpsc::Sender<Outgoing>,
    next: Arc<AtomicU32>,
}

/// A connection over `io`, what to use it by, and the streams that the other side opens; more than `streams_max` at a
/// time are refused.
pub fn connection<I>(io: I, side: Side, streams_max: usize) -> (Connection<I>, Link, mpsc::Receiver<SpdyStream>) {
    let streams = Streams::default();
    let (queue, outgoing) = queue();
    let (accepted, streams_in) = mpsc::channel(streams_max.max(1));
    let next = Arc::new(AtomicU32::new(side.first_number()));
    let link = Link { streams: streams.clone(), queue: queue.clone(), next };
    (Connection { io, side, streams, streams_max, queue, outgoing, accepted }, link, streams_in)
}

impl Link {
    pub async fn open(&self, headers: Headers) -> Result<SpdyStream, Gone> {
        let stream = self.next.fetch_add(2, Ordering::Relaxed);
        let input = enter(&self.streams, stream);
        let control = Control::Open { stream, headers: headers.clone() };
        self.queue.send(Outgoing::Control(control)).await.map_err(|_| Gone)?;
        Ok(SpdyStream { headers, input, output: Output { channel: stream, queue: self.queue.clone() } })
    }

    /// Ends the connection once all that was sent before is on its way.
    pub async fn finish(&self) {
        // A connection that is over is as good.
        let _ = self.queue.send(Outgoing::Finish).await;
    }
}

fn enter(streams: &Streams, stream: u32) -> mpsc::Receiver<Bytes> {
    let (input, receiver) = mpsc::channel(PIECES_AHEAD);
    streams.lock().insert(stream, Entry { input: Some(input), output_ended: false });
    receiver
}

impl<I: AsyncRead + AsyncWrite> Connection<I> {
    /// Returns when either side has ended it. An error is a broken connection, or one that does not speak SPDY.
    pub async fn run(self) -> io::Result<()> {
        let streams = self.streams.clone();
        let outcome = self.carry().await;
        // Whoever still waits for input is told that there will be none.
        streams.lock().clear();
        outcome
    }

    async fn carry(self) -> io::Result<()> {
        let (mut read, write) = tokio::io::split(self.io);
        let mut reader = Reader {
            io: &mut read,
            headers: headers::Reader::new(),
            side: self.side,
            streams: self.streams.clone(),
            streams_max: self.streams_max,
            queue: self.queue,
            accepted: self.accepted,
            last: 0,
        };
        let written = {
            let reading = reader.run();
            let writing = write_out(write, self.side, self.streams, self.outgoing);
            tokio::select! {
                biased;
                written = writing => written,
                read = reading => return read,
            }
        };
        written?;
        let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut read, &mut tokio::io::sink())).await;
        Ok(())
    }
}

struct Reader<'a, R> {
    io: &'a mut R,
    headers: headers::Reader,
    side: Side,
    streams: Streams,
    streams_max: usize,
    queue: mpsc::Sender<Outgoing>,
    accepted: mpsc::Sender<SpdyStream>,
    /// The last stream of the other side.
    last: u32,
}

impl<R: AsyncRead + Unpin> Reader<'_, R> {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            let mut head = [0; 8];
            match self.io.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let flags = head[4];
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            if first >> 31 == 0 {
                self.data(first, flags, length).await?;
                continue;
            }
            let (version, kind) = ((first >> 16) as u16 & 0x7fff, (first & 0xffff) as u16);
            if version != VERSION {
                return Err(broken(format!("SPDY of version {version}")));
            }
            if length > CONTROL_BYTES_MAX {
                return Err(broken(format!("a control frame of {length} bytes")));
            }
            let mut payload = vec![0; length];
            self.io.read_exact(&mut payload).await?;
            self.control(kind, flags, &payload).await?;
        }
    }

    async fn data(&mut self, stream: u32, flags: u8, mut length: usize) -> io::Result<()> {
        let input = self.streams.lock().get(&stream).and_then(|entry| entry.input.clone());
        while length > 0 {
            let mut piece = vec![0; length.min(PIECE_BYTES)];
            self.io.read_exact(&mut piece).await?;
            length -= piece.len();
            if let Some(input) = &input {
                // Nobody reads it any more: it is let go.
                let _ = input.send(Bytes::from(piece)).await;
            }
        }
        if flags & FIN != 0 {
            self.input_ended(stream);
        }
        Ok(())
    }

    async fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> io::Result<()> {
        match kind {
            SYN_STREAM => self.opened(flags, payload).await,
            // Replies say nothing here, but the compression goes through all headers.
            SYN_REPLY | HEADERS => {
                let (_, block) = payload.split_at_checked(4).ok_or_else(short)?;
                self.headers.read(block)?;
                Ok(())
            }
            RST_STREAM => {
                self.streams.lock().remove(&number(payload)?);
                Ok(())
            }
            PING => {
                let number = number(payload)?;
                // Odd ones are the client's; others are answers to ours.
                let theirs = (number % 2 == 1) == (self.side == Side::Server);
                if theirs { self.say(Control::Ping { number }).await } else { Ok(()) }
            }
            _settings_windows_and_unknown_kinds => Ok(()),
        }
    }

    async fn opened(&mut self, flags: u8, payload: &[u8]) -> io::Result<()> {
        let stream = number(payload)?;
        let (_, block) = payload.split_at_checked(10).ok_or_else(short)?;
        let headers = self.headers.read(block)?;
        let theirs = (stream % 2 == 1) == (self.side == Side::Server);
        if !theirs || stream <= self.last {
            return Err(broken(format!("a stream with the number {stream}")));
        }
        self.last = stream;
        if self.streams.lock().len() >= self.streams_max {
            return self.say(Control::Refuse { stream }).await;
        }
        let input = enter(&self.streams, stream);
        let output = Output { channel: stream, queue: self.queue.clone() };
        if self.accepted.try_send(SpdyStream { headers, input, output }).is_err() {
            self.streams.lock().remove(&stream);
            return self.say(Control::Refuse { stream }).await;
        }
        if flags & FIN != 0 {
            self.input_ended(stream);
        }
        self.say(Control::Reply { stream }).await
    }

    fn input_ended(&self, stream: u32) {
        let mut streams = self.streams.lock();
        if let Some(entry) = streams.get_mut(&stream) {
            entry.input = None;
            if entry.output_ended {
                streams.remove(&stream);
            }
        }
    }

    async fn say(&mut self, control: Control) -> io::Result<()> {
        self.queue.send(Outgoing::Control(control)).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Returns after the last word.
async fn write_out(
    mut io: impl AsyncWrite + Unpin,
    side: Side,
    streams: Streams,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    let mut compression = headers::Writer::new();
    let mut ping = side.first_number();
    while let Some(next) = next(&mut outgoing).await {
        let bytes = match next {
            Outgoing::Data { channel, bytes } => match streams.lock().get(&channel) {
                Some(entry) if !entry.output_ended => data(channel, 0, &bytes),
                // Ended, or reset by the other side.
                Some(_) | None => continue,
            },
            Outgoing::End { channel } => {
                let mut streams = streams.lock();
                match streams.get_mut(&channel) {
                    Some(entry) if !entry.output_ended => {
                        entry.output_ended = true;
                        if entry.input.is_none() {
                            streams.remove(&channel);
                        }
                        data(channel, FIN, &[])
                    }
                    Some(_) | None => continue,
                }
            }
            Outgoing::Control(control) => encode(control, &mut compression)?,
            Outgoing::Ping => {
                let control = Control::Ping { number: ping };
                ping += 2;
                encode(control, &mut compression)?
            }
            Outgoing::Finish => {
                io.write_all(&frame(GOAWAY, 0, &[0; 8])).await?;
                return io.shutdown().await;
            }
        };
        io.write_all(&bytes).await?;
        if outgoing.is_empty() {
            io.flush().await?;
        }
    }
    Ok(())
}

fn encode(control: Control, compression: &mut headers::Writer) -> io::Result<Vec<u8>> {
    Ok(match control {
        Control::Open { stream, headers } => {
            // No stream it belongs to, and no priority.
            let fields = [&stream.to_be_bytes()[..], &[0; 6]].concat();
            frame(SYN_STREAM, 0, &[fields, compression.write(&headers)?].concat())
        }
        Control::Reply { stream } => {
            let block = compression.write(&Headers::new())?;
            frame(SYN_REPLY, 0, &[&stream.to_be_bytes()[..], &block].concat())
        }
        Control::Refuse { stream } => {
            frame(RST_STREAM, 0, &[stream.to_be_bytes(), REFUSED_STREAM.to_be_bytes()].concat())
        }
        Control::Ping { number } => frame(PING, 0, &number.to_be_bytes()),
    })
}

fn frame(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let first = 0x8000_0000 | (u32::from(VERSION) << 16) | u32::from(kind);
    with_head(first, flags, payload)
}

fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    with_head(stream, flags, payload)
}

fn with_head(first: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("pieces and blocks of headers are bounded").to_be_bytes();
    let mut bytes = Vec::with_capacity(8 + payload.len());
    bytes.extend_from_slice(&first.to_be_bytes());
    bytes.extend_from_slice(&[flags, length[1], length[2], length[3]]);
    bytes.extend_from_slice(payload);
    bytes
}

/// The first field of a payload: a number without its highest bit.
fn number(payload: &[u8]) -> io::Result<u32> {
    let field = payload.first_chunk::<4>().ok_or_else(short)?;
    Ok(u32::from_be_bytes(*field) & 0x7fff_ffff)
}

fn short() -> io::Error {
    broken("a frame that is too short".to_owned())
}

fn broken(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
