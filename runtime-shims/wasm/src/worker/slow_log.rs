//! A guest's output as guests of WASI 0.3 write it: they wait for room within the write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::p2::{OutputStream, Pollable};

use super::log::LogStream;

type Waiting = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

pub(super) struct SlowLog {
    stream: LogStream,
    waiting: Option<Waiting>,
}

impl SlowLog {
    pub(super) fn new(stream: LogStream) -> SlowLog {
        SlowLog { stream, waiting: None }
    }

    fn wait(stream: &LogStream) -> Waiting {
        let mut stream = stream.clone();
        Box::pin(tokio_util::sync::ReusableBoxFuture::new(async move { stream.ready().await }))
    }
}

impl AsyncWrite for SlowLog {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            if let Some(waiting) = &mut this.waiting {
                ready!(waiting.as_mut().poll(cx));
                this.waiting = None;
            }
            let room = this.stream.check_write().map_err(|_| io::ErrorKind::BrokenPipe)?;
            if room > 0 {
                let count = room.min(bytes.len());
                this.stream.write(Bytes::copy_from_slice(&bytes[..count])).map_err(|_| io::ErrorKind::BrokenPipe)?;
                return Poll::Ready(Ok(count));
            }
            this.waiting = Some(SlowLog::wait(&this.stream));
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
