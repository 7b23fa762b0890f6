//! The first bytes of a connection, which tell HTTP/1.1 from HTTP/2, must come in time. Until they are there, no other
//! timer of the server runs: a client that says nothing could hold its connection for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How HTTP/2 begins. What differs from it is HTTP/1.1, and is known to be as soon as it differs.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) struct Greeting<S> {
    stream: S,
    /// Gone once the client has said enough.
    waiting: Option<Waiting>,
}

struct Waiting {
    heard: usize,
    patience: Pin<Box<Sleep>>,
}

impl<S> Greeting<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Greeting<S> {
        let patience = Box::pin(tokio::time::sleep(patience));
        Greeting { stream, waiting: Some(Waiting { heard: 0, patience }) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeting<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(waiting) = &mut this.waiting {
            let new = &buf.filled()[before..];
            let expected = &PREFACE[waiting.heard..];
            waiting.heard += new.len();
            if waiting.heard >= PREFACE.len() || !expected.starts_with(new) {
                this.waiting = None;
            } else if read.is_pending() && waiting.patience.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeting<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// What a server hears of a client that says `said` and then nothing for an hour.
    async fn heard(said: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut server = Greeting::new(server, PATIENCE);
        client.write_all(said).await.expect("there is room");
        let mut bytes = vec![0; 1024];
        let mut length = 0;
        loop {
            let hour = tokio::time::timeout(Duration::from_secs(3600), server.read(&mut bytes[length..]));
            match hour.await {
                Ok(Ok(more)) => length += more,
                Ok(Err(error)) => return format!("{length} bytes, then {}", error.kind()),
                Err(_elapsed) => return format!("{length} bytes, then patience"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_say_what_he_speaks_is_cut_off() {
        assert_eq!(heard(b"").await, "0 bytes, then timed out");
        assert_eq!(heard(b"P").await, "1 bytes, then timed out");
        assert_eq!(heard(&PREFACE[..20]).await, "20 bytes, then timed out");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_begun_is_left_to_the_servers_own_timers() {
        assert_eq!(heard(b"G").await, "1 bytes, then patience");
        assert_eq!(heard(b"PUT").await, "3 bytes, then patience");
        assert_eq!(heard(PREFACE).await, "24 bytes, then patience");
    }
}
