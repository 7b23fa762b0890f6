//! A guest's standard input: what those attached to it send, one after the other or at once, in one bounded buffer.
//!
//! ```text
//! closed                         the container has no `stdin: true`: the guest reads the end at once
//! open ──▶ closed                by the stop, or with `stdinOnce: true` when the first who was attached has left
//! ```
//!
//! WASI has no signals. That the input ends is the one thing a guest can wait for together with others, so this is how a
//! guest is told to stop. It can only be told if it looks: [`Stdin::tell`] says whether it does.
//!
//! This module knows descriptors; who is at their other end is the front's business.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::unix::pipe;
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};

use crate::wire::StdinMode;

/// What may have been sent and not read. Whoever sends more waits, as at a pipe.
const BUFFER_BYTES: usize = 64 << 10;

/// One container's standard input. Copies are the same input.
#[derive(Debug, Clone)]
pub(super) struct Stdin(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    buffer: VecDeque<u8>,
    /// More may come.
    open: bool,
    once: bool,
    /// The guest has read, or waited for something to read.
    watched: bool,
    readers: Vec<Waker>,
    writers: Vec<Waker>,
}

impl Stdin {
    pub(super) fn new(mode: StdinMode) -> Stdin {
        let (open, once) = match mode {
            StdinMode::Closed => (false, false),
            StdinMode::Open { once } => (true, once),
        };
        let (readers, writers) = (Vec::new(), Vec::new());
        Stdin(Arc::new(Mutex::new(State { buffer: VecDeque::new(), open, once, watched: false, readers, writers })))
    }

    /// Takes what comes out of `pipe` until it ends. To be run as a task of its own, within a tokio runtime.
    pub(super) async fn feed(self, pipe: OwnedFd) -> io::Result<()> {
        let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let mut piece = vec![0; 8 << 10];
        loop {
            let got = tokio::select! {
                biased;
                () = self.closed() => return Ok(()),
                got = pipe.read(&mut piece) => got?,
            };
            if got == 0 {
                break;
            }
            if !self.put(&piece[..got]).await {
                return Ok(());
            }
        }
        if self.0.lock().once {
            self.close();
        }
        Ok(())
    }

    /// No more will come; what is there can still be read.
    pub(super) fn close(&self) {
        let mut state = self.0.lock();
        state.open = false;
        let waiting: Vec<Waker> = state.readers.drain(..).collect();
        let waiting: Vec<Waker> = waiting.into_iter().chain(state.writers.drain(..)).collect();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Tells the guest to stop by ending its input. False if it would not notice: it has never looked, or its input had
    /// ended before.
    pub(super) fn tell(&self) -> bool {
        let noticed = {
            let state = self.0.lock();
            state.open && state.watched
        };
        self.close();
        noticed
    }

    async fn closed(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if !state.open {
                return Poll::Ready(());
            }
            wait(&mut state.writers, cx);
            Poll::Pending
        })
        .await;
    }

    /// False when nobody will read it.
    async fn put(&self, mut bytes: &[u8]) -> bool {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            if !state.open {
                return Poll::Ready(false);
            }
            let room = BUFFER_BYTES.saturating_sub(state.buffer.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            state.buffer.extend(now);
            bytes = later;
            if !bytes.is_empty() {
                wait(&mut state.writers, cx);
            }
            let readers = if room > 0 { std::mem::take(&mut state.readers) } else { Vec::new() };
            drop(state);
            readers.into_iter().for_each(Waker::wake);
            if bytes.is_empty() { Poll::Ready(true) } else { Poll::Pending }
        })
        .await
    }

    /// Up to `size` bytes; none when it is at its end.
    fn next_bytes(&self, size: usize) -> Option<Vec<u8>> {
        let mut state = self.0.lock();
        state.watched = true;
        if state.buffer.is_empty() && !state.open {
            return None;
        }
        let count = size.min(state.buffer.len());
        let taken = state.buffer.drain(..count).collect();
        let writers = if count > 0 { std::mem::take(&mut state.writers) } else { Vec::new() };
        drop(state);
        writers.into_iter().for_each(Waker::wake);
        Some(taken)
    }

    fn poll_something(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        state.watched = true;
        if !state.buffer.is_empty() || !state.open {
            return Poll::Ready(());
        }
        wait(&mut state.readers, cx);
        Poll::Pending
    }
}

fn wait(waiting: &mut Vec<Waker>, cx: &Context<'_>) {
    if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
        waiting.push(cx.waker().clone());
    }
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

impl InputStream for Stdin {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.next_bytes(size.min(BUFFER_BYTES)).map(Bytes::from).ok_or(StreamError::Closed)
    }
}

#[async_trait::async_trait]
impl Pollable for Stdin {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_something(cx)).await;
    }
}

impl AsyncRead for Stdin {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.poll_something(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                if let Some(bytes) = self.next_bytes(into.remaining()) {
                    into.put_slice(&bytes);
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    const OPEN: StdinMode = StdinMode::Open { once: false };

    /// Reads to the end, in small pieces.
    async fn all(stdin: &Stdin) -> Vec<u8> {
        let mut stream = stdin.clone();
        let mut got = Vec::new();
        loop {
            stream.ready().await;
            match InputStream::read(&mut stream, 1000) {
                Ok(piece) => got.extend(piece),
                Err(_end) => return got,
            }
        }
    }

    async fn send(bytes: &[u8]) -> (OwnedFd, impl Future<Output = ()> + use<>) {
        let (mut ours, theirs) = pipe::pipe().expect("a pipe can be made");
        let bytes = bytes.to_vec();
        let sending = async move {
            // A guest that is told to stop reads no more.
            let _ = ours.write_all(&bytes).await;
        };
        (theirs.into_blocking_fd().expect("it is a descriptor"), sending)
    }

    #[tokio::test]
    async fn without_stdin_the_end_comes_first_and_the_stop_is_not_noticed() {
        let stdin = Stdin::new(StdinMode::Closed);
        assert_eq!(all(&stdin).await, b"");
        assert!(!stdin.tell());
    }

    #[tokio::test]
    async fn more_than_the_buffer_holds_arrives_whole_and_once_is_once() {
        let stdin = Stdin::new(StdinMode::Open { once: true });
        let text: Vec<u8> = (0..BUFFER_BYTES * 3).map(|number| (number % 251) as u8).collect();
        let (pipe, sending) = send(&text).await;
        let (fed, (), got) = tokio::join!(stdin.clone().feed(pipe), sending, all(&stdin));
        fed.expect("it is a pipe");
        assert_eq!(got, text);
    }

    #[tokio::test]
    async fn those_who_attach_later_are_heard_until_the_stop() {
        let stdin = Stdin::new(OPEN);
        for text in [b"one ", b"two "] {
            let (pipe, sending) = send(text).await;
            let (fed, ()) = tokio::join!(stdin.clone().feed(pipe), sending);
            fed.expect("it is a pipe");
        }
        assert!(stdin.clone().ready().now_or_never().is_some());
        assert!(stdin.tell(), "it has looked");
        assert_eq!(all(&stdin).await, b"one two ");
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_stop() {
        let stdin = Stdin::new(OPEN);
        let mut waiting = stdin.clone();
        let mut waiting = waiting.ready();
        assert!(futures::poll!(&mut waiting).is_pending());
        assert!(stdin.tell());
        waiting.await;
        assert!(!stdin.tell(), "it has been told");
    }

    #[tokio::test]
    async fn a_sender_waits_for_room_and_is_let_go_by_the_stop() {
        let stdin = Stdin::new(OPEN);
        // A pipe holds sixteen pages, which may be of 64 KiB.
        let (pipe, sending) = send(&vec![7; BUFFER_BYTES + (2 << 20)]).await;
        let mut fed = Box::pin(stdin.clone().feed(pipe));
        let mut sending = Box::pin(sending);
        for _ in 0..100 {
            let _ = futures::poll!(&mut sending);
            assert!(futures::poll!(&mut fed).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(stdin.0.lock().buffer.len(), BUFFER_BYTES);
        assert!(!stdin.tell(), "it has never looked");
        fed.await.expect("it is a pipe");
    }
}
