//! Channels on the messages of a WebSocket: the first byte names the channel. In the protocols with `base64` messages are
//! text, their first character is the channel's digit, and the rest is base64.

use std::collections::HashMap;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::spdy::LINGER;
use super::{Outgoing, PIECE_BYTES, next};

/// Some clients send all of a file as one message.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// In v5 a message to this channel says that the channel it names has ended.
const CLOSE: u8 = 255;

/// How messages are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) base64: bool,
    pub(super) closes: bool,
}

pub(super) async fn accept<I: AsyncRead + AsyncWrite + Unpin>(io: I) -> WebSocketStream<I> {
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = 16 << 10;
    config.write_buffer_size = 0;
    config.max_message_size = Some(MESSAGE_BYTES_MAX);
    config.max_frame_size = Some(MESSAGE_BYTES_MAX);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Carries channels until either side has ended it.
pub(super) async fn run<I: AsyncRead + AsyncWrite + Unpin>(
    io: I,
    framing: Framing,
    mut inputs: HashMap<u8, mpsc::Sender<Bytes>>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    let (mut sink, mut stream) = accept(io).await.split();
    let writing = async {
        while let Some(next) = next(&mut outgoing).await {
            match next {
                Outgoing::Data { channel, bytes } => {
                    sink.send(message(framing, channel, &bytes)?).await.map_err(failed)?
                }
                // A server has no way to say it.
                Outgoing::End { .. } | Outgoing::Control(_) => {}
                Outgoing::Ping => sink.send(Message::Ping(Bytes::new())).await.map_err(failed)?,
                Outgoing::Finish => return sink.send(goodbye()).await.map_err(failed),
            }
        }
        Ok(())
    };
    let reading = async {
        while let Some(message) = stream.next().await {
            let message = match message.map_err(failed)? {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            let Some((channel, mut bytes)) = parse(framing, message)? else { continue };
            if framing.closes && channel == CLOSE {
                inputs.remove(bytes.first().unwrap_or(&CLOSE));
                continue;
            }
            let Some(input) = inputs.get(&channel) else { continue };
            while !bytes.is_empty() {
                // Nobody reads it any more: it is let go.
                let _ = input.send(bytes.split_to(bytes.len().min(PIECE_BYTES))).await;
            }
        }
        io::Result::Ok(())
    };
    tokio::select! {
        biased;
        written = writing => written?,
        read = reading => return read,
    }
    // Closing at once could take the last word away from the client.
    let _ = tokio::time::timeout(LINGER, async { while let Some(Ok(_)) = stream.next().await {} }).await;
    Ok(())
}

/// Carries a stream of bytes in binary messages, as SPDY is tunnelled. Pings are SPDY's own.
pub(super) async fn tunnel<I: AsyncRead + AsyncWrite + Unpin>(io: I, inner: DuplexStream) -> io::Result<()> {
    let (mut sink, mut stream) = accept(io).await.split();
    let (mut inner_read, mut inner_write) = tokio::io::split(inner);
    let outward = async {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let got = inner_read.read(&mut piece).await?;
            if got == 0 {
                return sink.send(goodbye()).await.map_err(failed);
            }
            sink.send(Message::Binary(Bytes::copy_from_slice(&piece[..got]))).await.map_err(failed)?;
        }
    };
    let inward = async {
        while let Some(message) = stream.next().await {
            match message.map_err(failed)? {
                Message::Binary(bytes) => inner_write.write_all(&bytes).await?,
                Message::Close(_) => break,
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        io::Result::Ok(())
    };
    tokio::select! {
        biased;
        sent = outward => sent,
        got = inward => got,
    }
}

/// With its code: kubectl takes an end without one for a broken connection.
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Default::default() }))
}

fn message(framing: Framing, channel: u32, bytes: &[u8]) -> io::Result<Message> {
    let channel = u8::try_from(channel).map_err(io::Error::other)?;
    if framing.base64 {
        let text = format!("{}{}", char::from(b'0' + channel), STANDARD.encode(bytes));
        return Ok(Message::Text(text.into()));
    }
    let mut whole = Vec::with_capacity(1 + bytes.len());
    whole.push(channel);
    whole.extend_from_slice(bytes);
    Ok(Message::Binary(whole.into()))
}

fn parse(framing: Framing, mut message: Bytes) -> io::Result<Option<(u8, Bytes)>> {
    if message.is_empty() {
        return Ok(None);
    }
    let channel = message.split_to(1)[0];
    if !framing.base64 {
        return Ok(Some((channel, message)));
    }
    let wrong = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let bytes = STANDARD.decode(&message).map_err(|_| wrong("a message that is not base64"))?;
    let channel = channel.checked_sub(b'0').ok_or_else(|| wrong("a message without a channel"))?;
    Ok(Some((channel, bytes.into())))
}

fn failed(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
