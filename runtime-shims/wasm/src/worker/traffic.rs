//! Bytes a container receives and sends, on whatever socket: what the network statistics of its pod are made of.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamResult};

/// Payload only: what the kernel adds to it is not known here.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    pub(super) fn receive(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn send(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Received and sent.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }
}

/// A connection of the host on a guest's behalf. `H` is held as long as it is open.
#[derive(Debug)]
pub(super) struct Counted<S, H> {
    stream: S,
    traffic: Arc<Traffic>,
    _held: H,
}

impl<S, H> Counted<S, H> {
    pub(super) fn new(stream: S, traffic: Arc<Traffic>, held: H) -> Counted<S, H> {
        Counted { stream, traffic, _held: held }
    }
}

impl<S: AsyncRead + Unpin, H: Unpin> AsyncRead for Counted<S, H> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.traffic.receive(buf.filled().len() - before);
        polled
    }
}

impl<S: AsyncWrite + Unpin, H: Unpin> Counted<S, H> {
    fn note(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &polled {
            self.traffic.send(*bytes);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin, H: Unpin> AsyncWrite for Counted<S, H> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(polled)
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

/// What a guest reads from a socket of its own.
pub(super) struct CountedInput {
    stream: DynInputStream,
    traffic: Arc<Traffic>,
}

impl CountedInput {
    pub(super) fn around(stream: DynInputStream, traffic: Arc<Traffic>) -> DynInputStream {
        Box::new(CountedInput { stream, traffic })
    }
}

#[async_trait::async_trait]
impl Pollable for CountedInput {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait::async_trait]
impl InputStream for CountedInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let read = self.stream.read(size)?;
        self.traffic.receive(read.len());
        Ok(read)
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

/// What a guest writes to one.
pub(super) struct CountedOutput {
    stream: DynOutputStream,
    traffic: Arc<Traffic>,
}

impl CountedOutput {
    pub(super) fn around(stream: DynOutputStream, traffic: Arc<Traffic>) -> DynOutputStream {
        Box::new(CountedOutput { stream, traffic })
    }
}

#[async_trait::async_trait]
impl Pollable for CountedOutput {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait::async_trait]
impl OutputStream for CountedOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let length = bytes.len();
        self.stream.write(bytes)?;
        self.traffic.send(length);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.stream.check_write()
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

/// A stream that is nothing, for the moment in which another is wrapped.
pub(super) struct Nothing;

#[async_trait::async_trait]
impl Pollable for Nothing {
    async fn ready(&mut self) {}
}

impl InputStream for Nothing {
    fn read(&mut self, _: usize) -> StreamResult<Bytes> {
        Err(wasmtime_wasi::p2::StreamError::Closed)
    }
}

impl OutputStream for Nothing {
    fn write(&mut self, _: Bytes) -> StreamResult<()> {
        Err(wasmtime_wasi::p2::StreamError::Closed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Err(wasmtime_wasi::p2::StreamError::Closed)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Err(wasmtime_wasi::p2::StreamError::Closed)
    }
}
