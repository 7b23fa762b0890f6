//! Guests' output as CRI log lines: `2026-03-01T12:00:00.000000000Z stdout F text`.
//!
//! Guests write into a buffer per container; one thread writes buffers to files. A guest whose buffer is full waits, as
//! it would at a pipe, so nothing is dropped while the file can be written. When it cannot (a full disk), lines are
//! dropped and counted, and the count is logged once there is room: logging must not end a service.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::clock::Clock;

/// What a container may have written that is not in its file yet.
const BUFFER_BYTES: usize = 128 << 10;
/// A longer line is cut into parts, as containerd cuts it.
const LINE_BYTES: usize = 16 << 10;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// The thread that writes.
#[derive(Debug, Clone)]
pub(super) struct LogWriter(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    dirty: Mutex<VecDeque<Arc<Log>>>,
    wake: Condvar,
}

impl LogWriter {
    pub(super) fn start() -> io::Result<LogWriter> {
        let queue = Arc::new(Queue::default());
        let shared = queue.clone();
        thread::Builder::new().name("log-writer".to_owned()).stack_size(128 << 10).spawn(move || {
            loop {
                let log = {
                    let mut dirty = shared.dirty.lock();
                    while dirty.is_empty() {
                        shared.wake.wait(&mut dirty);
                    }
                    dirty.pop_front()
                };
                if let Some(log) = log {
                    log.write_out();
                }
            }
        })?;
        Ok(LogWriter(queue))
    }

    /// A log that writes to `file`; without one, what is written is let go.
    pub(super) fn log(&self, file: Option<File>, clock: Clock) -> Arc<Log> {
        Arc::new(Log {
            writer: self.clone(),
            clock,
            buffer: Mutex::default(),
            file: Mutex::new(Output { file, lost: None }),
            progress: Notify::new(),
        })
    }

    fn push(&self, log: Arc<Log>) {
        self.0.dirty.lock().push_back(log);
        self.0.wake.notify_one();
    }
}

/// One container's log.
#[derive(Debug)]
pub(super) struct Log {
    writer: LogWriter,
    clock: Clock,
    buffer: Mutex<Buffer>,
    file: Mutex<Output>,
    progress: Notify,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// In the writer's queue, or in its hands.
    queued: bool,
}

#[derive(Debug)]
struct Output {
    file: Option<File>,
    lost: Option<(usize, String)>,
}

impl Log {
    /// Lines of the runtime itself, for whoever reads the container's log.
    pub(super) fn say(self: &Arc<Log>, text: &str) {
        for line in text.lines() {
            self.line(Stream::Stderr, true, line.as_bytes());
        }
    }

    pub(super) fn reopen(&self, file: File) {
        self.file.lock().file = Some(file);
    }

    /// Waits until all that was written is in the file, or was dropped.
    pub(super) async fn flushed(&self) {
        loop {
            let progress = self.progress.notified();
            let mut progress = std::pin::pin!(progress);
            progress.as_mut().enable();
            if !self.buffer.lock().queued {
                return;
            }
            progress.await;
        }
    }

    fn line(self: &Arc<Log>, stream: Stream, whole: bool, text: &[u8]) {
        let stamp = timestamp(&self.clock);
        let stream = match stream {
            Stream::Stdout => " stdout ",
            Stream::Stderr => " stderr ",
        };
        let mut buffer = self.buffer.lock();
        buffer.bytes.reserve(stamp.len() + stream.len() + text.len() + 3);
        buffer.bytes.extend_from_slice(stamp.as_bytes());
        buffer.bytes.extend_from_slice(stream.as_bytes());
        buffer.bytes.extend_from_slice(if whole { b"F " } else { b"P " });
        buffer.bytes.extend_from_slice(text);
        buffer.bytes.push(b'\n');
        let first = !std::mem::replace(&mut buffer.queued, true);
        drop(buffer);
        if first {
            self.writer.push(self.clone());
        }
    }

    fn room(&self) -> usize {
        BUFFER_BYTES.saturating_sub(self.buffer.lock().bytes.len())
    }

    /// Writes what there is, once: a guest that floods its log must not keep the thread from the others'.
    fn write_out(self: &Arc<Log>) {
        let bytes = std::mem::take(&mut self.buffer.lock().bytes);
        if !bytes.is_empty() {
            self.file.lock().write(&bytes, &self.clock);
        }
        let more = {
            let mut buffer = self.buffer.lock();
            buffer.queued = !buffer.bytes.is_empty();
            buffer.queued
        };
        if more {
            self.writer.push(self.clone());
        }
        self.progress.notify_waiters();
    }
}

impl Output {
    fn write(&mut self, bytes: &[u8], clock: &Clock) {
        let Some(file) = &mut self.file else { return };
        if let Some((lost, why)) = &self.lost {
            let notice = format!("{} stderr F coracle: {lost} bytes of log were lost: {why}\n", timestamp(clock));
            if file.write_all(notice.as_bytes()).is_ok() {
                self.lost = None;
            }
        }
        if let Err(error) = file.write_all(bytes) {
            let before = self.lost.take().map_or(0, |(lost, _)| lost);
            if before == 0 {
                tracing::warn!(%error, "a container's log cannot be written");
            }
            self.lost = Some((before + bytes.len(), error.to_string()));
        }
    }
}

/// RFC 3339 with all nine digits, so that lines sort.
fn timestamp(clock: &Clock) -> String {
    let mut text = String::with_capacity(30);
    match jiff::Timestamp::from_nanosecond(i128::from(clock.now())) {
        Ok(now) => {
            let _ = write!(text, "{now:.9}");
        }
        Err(_) => text.push_str("1970-01-01T00:00:00.000000000Z"),
    }
    text
}

/// A guest's standard output or error. All handles of one instance share what is left of an unfinished line; other
/// instances have their own, so that lines of concurrent requests are not mixed.
#[derive(Debug, Clone)]
pub(super) struct LogStream(Arc<Line>);

#[derive(Debug)]
struct Line {
    log: Arc<Log>,
    stream: Stream,
    pending: Mutex<Vec<u8>>,
}

impl LogStream {
    pub(super) fn new(log: Arc<Log>, stream: Stream) -> LogStream {
        LogStream(Arc::new(Line { log, stream, pending: Mutex::default() }))
    }

    fn put(&self, bytes: &[u8]) {
        let Line { log, stream, pending } = &*self.0;
        let mut pending = pending.lock();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut text = piece;
            let ends = text.last() == Some(&b'\n');
            if ends {
                text = &text[..text.len() - 1];
            }
            while pending.len() + text.len() > LINE_BYTES {
                let (head, tail) = text.split_at(LINE_BYTES - pending.len());
                pending.extend_from_slice(head);
                log.line(*stream, false, &pending);
                pending.clear();
                text = tail;
            }
            if !ends {
                pending.extend_from_slice(text);
            } else if pending.is_empty() {
                log.line(*stream, true, text);
            } else {
                pending.extend_from_slice(text);
                log.line(*stream, true, &pending);
                pending.clear();
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let pending = self.pending.get_mut();
        if !pending.is_empty() {
            self.log.line(self.stream, true, pending);
        }
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.put(&bytes);
        Ok(())
    }

    /// The buffer is the destination; the writer brings it to disk.
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.0.log.room())
    }
}

#[async_trait::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {
        loop {
            let progress = self.0.log.progress.notified();
            let mut progress = std::pin::pin!(progress);
            progress.as_mut().enable();
            if self.0.log.room() > 0 {
                return;
            }
            progress.await;
        }
    }
}

/// Only 0.3 guests write this way; they are told no by the compiler, so waiting for room is left out.
impl AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.put(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use expect_test::{Expect, expect};

    use super::*;

    async fn check_log(writes: &[(Stream, &[u8])], expected: Expect) {
        let writer = LogWriter::start().expect("a thread can be started");
        let mut file = tempfile::tempfile().expect("a file can be made");
        let log =
            writer.log(Some(file.try_clone().expect("it can be shared")), Clock::stepping(1_767_225_600_000_000_000));
        let out = LogStream::new(log.clone(), Stream::Stdout);
        let err = LogStream::new(log.clone(), Stream::Stderr);
        for (stream, text) in writes {
            match stream {
                Stream::Stdout => out.put(text),
                Stream::Stderr => err.put(text),
            }
        }
        drop((out, err));
        log.flushed().await;
        file.rewind().expect("it can be read again");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("it is text");
        let shown: String = text
            .lines()
            .map(|line| {
                if line.len() > 200 {
                    format!("{}… {} bytes\n", &line[..60], line.len())
                } else {
                    format!("{line}\n")
                }
            })
            .collect();
        expected.assert_eq(&shown);
    }

    #[tokio::test]
    async fn pieces_become_lines_and_a_rest_is_written_at_the_end() {
        use Stream::{Stderr, Stdout};
        check_log(
            &[(Stdout, b"one\ntw"), (Stderr, b"err\n"), (Stdout, b"o\n\nrest")],
            expect![[r#"
                2026-01-01T00:00:00.000000000Z stdout F one
                2026-01-01T00:00:00.001000000Z stderr F err
                2026-01-01T00:00:00.002000000Z stdout F two
                2026-01-01T00:00:00.003000000Z stdout F 
                2026-01-01T00:00:00.004000000Z stdout F rest
            "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn a_long_line_is_cut_into_parts() {
        let long = [vec![b'x'; 40_000], b"\nnext\n".to_vec()].concat();
        check_log(
            &[(Stream::Stdout, &long)],
            expect![[r#"
                2026-01-01T00:00:00.000000000Z stdout P xxxxxxxxxxxxxxxxxxxx… 16424 bytes
                2026-01-01T00:00:00.001000000Z stdout P xxxxxxxxxxxxxxxxxxxx… 16424 bytes
                2026-01-01T00:00:00.002000000Z stdout F xxxxxxxxxxxxxxxxxxxx… 7272 bytes
                2026-01-01T00:00:00.003000000Z stdout F next
            "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn a_guest_waits_while_the_buffer_is_full_and_loses_nothing() {
        let writer = LogWriter::start().expect("a thread can be started");
        let mut file = tempfile::tempfile().expect("a file can be made");
        let log = writer.log(Some(file.try_clone().expect("it can be shared")), Clock::stepping(0));
        let mut stream = LogStream::new(log.clone(), Stream::Stdout);
        let line = Bytes::from(vec![b'y'; 1023]).iter().copied().chain(*b"\n").collect::<Bytes>();
        for _ in 0..2000 {
            stream.ready().await;
            assert!(stream.check_write().is_ok_and(|room| room > 0));
            assert!(stream.write(line.clone()).is_ok());
            assert!(log.buffer.lock().bytes.len() < BUFFER_BYTES + 2 * LINE_BYTES, "the buffer is bounded");
        }
        drop(stream);
        log.flushed().await;
        file.rewind().expect("it can be read again");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("it is text");
        assert_eq!(text.lines().count(), 2000);
    }
}
