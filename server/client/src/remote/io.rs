//! A stream that remembers when it was last read from, and the TLS fault that ended it.
//!
//! Under TLS 1.3 a server refuses a client's certificate after the client has finished its handshake: the alert comes
//! with the first read, deep under hyper, whose error does not carry it.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::tls::rustls_error;

pub(super) struct Observer {
    last_read: Mutex<Instant>,
    fault: OnceLock<rustls::Error>,
}

impl Observer {
    pub(super) fn new() -> Self {
        Self { last_read: Mutex::new(Instant::now()), fault: OnceLock::new() }
    }

    pub(super) fn silent_for(&self) -> Duration {
        self.last_read.lock().elapsed()
    }

    pub(super) fn fault(&self) -> Option<rustls::Error> {
        self.fault.get().cloned()
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && let Some(fault) = rustls_error(error)
        {
            // The first fault is the cause of those that follow.
            let _ = self.fault.set(fault);
        }
        result
    }
}

pub(super) struct Observed<S> {
    stream: S,
    observer: Arc<Observer>,
}

impl<S> Observed<S> {
    pub(super) fn new(stream: S, observer: Arc<Observer>) -> Self {
        Self { stream, observer }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        *self.observer.last_read.lock() = Instant::now();
        Poll::Ready(self.observer.note(result))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(self.observer.note(result))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(self.observer.note(result))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
