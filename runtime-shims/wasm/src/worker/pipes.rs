//! A guest's standard output into a descriptor that somebody else reads. Whoever writes more than is read waits, as at
//! any pipe; when the other end is closed, so is the stream.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::cli::{AsyncStdinStream, IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// What a guest may write at once.
const WRITE_BYTES: usize = 64 << 10;

/// The writing side. Copies are the same stream.
#[derive(Debug, Clone)]
pub(super) struct PipeOut(Arc<Out>);

#[derive(Debug)]
struct Out {
    fd: AsyncFd<OwnedFd>,
    /// Taken from the guest and not yet by the pipe.
    pending: Mutex<Pending>,
    terminal: bool,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: BytesMut,
    closed: bool,
}

impl PipeOut {
    /// Must be called within a tokio runtime.
    pub(super) fn new(fd: OwnedFd, terminal: bool) -> io::Result<PipeOut> {
        Ok(PipeOut(Arc::new(Out { fd: register(fd)?, pending: Mutex::default(), terminal })))
    }

    /// Returns when everything is written, or nobody will read it.
    pub(super) async fn drained(&self) {
        std::future::poll_fn(|cx| self.poll_drained(cx)).await;
    }

    fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.flush_now() {
                return Poll::Ready(());
            }
            match ready!(self.0.fd.poll_write_ready(cx)) {
                Ok(mut guard) => {
                    if self.flush_now() {
                        return Poll::Ready(());
                    }
                    guard.clear_ready();
                }
                Err(_shut_down) => {
                    self.0.pending.lock().closed = true;
                    return Poll::Ready(());
                }
            }
        }
    }

    /// True when nothing is left to write.
    fn flush_now(&self) -> bool {
        let mut pending = self.0.pending.lock();
        while !pending.closed && !pending.bytes.is_empty() {
            match rustix::io::write(&self.0.fd, &pending.bytes) {
                Ok(written) => pending.bytes.advance(written),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_broken) => pending.closed = true,
            }
        }
        true
    }

    /// A line of the runtime itself.
    pub(super) fn say(&self, text: &str) {
        self.put(format!("{text}\n").as_bytes());
    }

    fn put(&self, bytes: &[u8]) -> bool {
        self.0.pending.lock().bytes.extend_from_slice(bytes);
        self.flush_now();
        !self.0.pending.lock().closed
    }
}

impl IsTerminal for PipeOut {
    fn is_terminal(&self) -> bool {
        self.0.terminal
    }
}

impl StdoutStream for PipeOut {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for PipeOut {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.put(&bytes) { Ok(()) } else { Err(StreamError::Closed) }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let flushed = self.flush_now();
        match (self.0.pending.lock().closed, flushed) {
            (true, _) => Err(StreamError::Closed),
            (false, true) => Ok(WRITE_BYTES),
            (false, false) => Ok(0),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for PipeOut {
    async fn ready(&mut self) {
        self.drained().await;
    }
}

impl AsyncWrite for PipeOut {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drained(cx));
        let piece = &bytes[..bytes.len().min(WRITE_BYTES)];
        Poll::Ready(if self.put(piece) { Ok(piece.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drained(cx).map(Ok)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// The reading side: a pipe or a terminal.
pub(super) struct PipeIn {
    stream: AsyncStdinStream,
    terminal: bool,
}

impl PipeIn {
    /// Must be called within a tokio runtime.
    pub(super) fn new(fd: OwnedFd, terminal: bool) -> io::Result<PipeIn> {
        Ok(PipeIn { stream: AsyncStdinStream::new(Source(register(fd)?)), terminal })
    }
}

impl IsTerminal for PipeIn {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdinStream for PipeIn {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        self.stream.async_stream()
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        self.stream.p2_stream()
    }
}

struct Source(AsyncFd<OwnedFd>);

impl AsyncRead for Source {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let mut piece = [0; 4096];
            let room = into.remaining().min(piece.len());
            match rustix::io::read(&self.0, &mut piece[..room]) {
                Ok(got) => {
                    into.put_slice(&piece[..got]);
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => guard.clear_ready(),
                // A terminal whose other side is closed.
                Err(Errno::IO) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

#[allow(unsafe_code)]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    // SAFETY: an owned descriptor always answers with the same number and stays open until it is dropped, which the
    // registration outlives by nothing: it owns it.
    Ok(unsafe { AsyncFd::register(fd)? })
}
