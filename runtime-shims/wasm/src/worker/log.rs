//! Guests' output as CRI log lines: `2026-03-01T12:00:00.000000000Z stdout F text`.
//!
//! Guests write into a buffer per container; one thread writes buffers to files. A guest whose buffer is full waits, as
//! it would at a pipe. What comes faster than the container's log may grow, and what cannot be written (a full disk), is
//! dropped and counted, and the count is logged once there is room: logging must not end a service.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::bucket::Rate;
use super::slow_log::SlowLog;
use super::tap::Taps;
use crate::clock::{Clock, UnixNanos};
use crate::wire::LogLimits;

/// What a container may have written that is not in its file yet.
const BUFFER_BYTES: usize = 128 << 10;

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
    pub(super) fn log(&self, file: Option<File>, clock: Clock, limits: LogLimits) -> Arc<Log> {
        let rate = Rate::new(limits.bytes_per_second, limits.burst_bytes, clock.now());
        let dropped = Dropped::default();
        Arc::new(Log {
            writer: self.clone(),
            clock,
            line_bytes: limits.line_bytes,
            buffer: Mutex::new(Buffer { bytes: Vec::new(), queued: false, rate, dropped }),
            file: Mutex::new(Output { file, lost: None }),
            progress: Notify::new(),
            taps: Taps::default(),
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
    line_bytes: usize,
    buffer: Mutex<Buffer>,
    file: Mutex<Output>,
    progress: Notify,
    /// Those who listen beside.
    pub(super) taps: Taps,
}

#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    /// In the writer's queue, or in its hands.
    queued: bool,
    rate: Rate,
    dropped: Dropped,
}

/// What came faster than the log may grow, and nobody was told of yet.
#[derive(Debug, Default)]
struct Dropped {
    lines: u64,
    bytes: u64,
}

/// What became of a piece of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Yes,
    No,
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
            self.buffer.lock().put(self.clock.now(), Stream::Stderr, true, line.as_bytes());
        }
        self.queue();
    }

    pub(super) fn reopen(&self, file: File) {
        self.file.lock().file = Some(file);
    }

    /// Waits until all that was written is in the file, or was dropped.
    pub(super) async fn flushed(self: &Arc<Log>) {
        self.buffer.lock().tell_dropped(self.clock.now());
        self.queue();
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

    /// Logs a line, or a part of one, unless there has been too much lately.
    fn line(self: &Arc<Log>, stream: Stream, whole: bool, text: &[u8]) -> Kept {
        {
            let now = self.clock.now();
            let mut buffer = self.buffer.lock();
            if !buffer.rate.take(text.len() + STAMP_BYTES, now) {
                buffer.dropped.bytes += text.len() as u64;
                return Kept::No;
            }
            buffer.tell_dropped(now);
            buffer.put(now, stream, whole, text);
        }
        self.queue();
        Kept::Yes
    }

    /// Ends a line whose rest is dropped, so that no reader takes the next one for it.
    fn cut(self: &Arc<Log>, stream: Stream) {
        self.buffer.lock().put(self.clock.now(), stream, true, b"");
        self.queue();
    }

    /// Tells the writer, unless it knows already or there is nothing.
    fn queue(self: &Arc<Log>) {
        let mut buffer = self.buffer.lock();
        if !buffer.queued && !buffer.bytes.is_empty() {
            buffer.queued = true;
            drop(buffer);
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

/// What stands before a line's text.
const STAMP_BYTES: usize = 41;

impl Buffer {
    fn put(&mut self, now: UnixNanos, stream: Stream, whole: bool, text: &[u8]) {
        let stamp = timestamp(now);
        let stream = match stream {
            Stream::Stdout => " stdout ",
            Stream::Stderr => " stderr ",
        };
        self.bytes.reserve(stamp.len() + stream.len() + text.len() + 3);
        self.bytes.extend_from_slice(stamp.as_bytes());
        self.bytes.extend_from_slice(stream.as_bytes());
        self.bytes.extend_from_slice(if whole { b"F " } else { b"P " });
        self.bytes.extend_from_slice(text);
        self.bytes.push(b'\n');
    }

    fn tell_dropped(&mut self, now: UnixNanos) {
        let Dropped { lines, bytes } = std::mem::take(&mut self.dropped);
        if bytes > 0 || lines > 0 {
            let notice = format!(
                "coracle: dropped {lines} lines ({bytes} bytes): this log may grow by {} bytes a second \
                 (annotation coracle.dev/log-bytes-per-second)",
                self.rate.per_second()
            );
            self.put(now, Stream::Stderr, true, notice.as_bytes());
        }
    }
}

impl Output {
    fn write(&mut self, bytes: &[u8], clock: &Clock) {
        let Some(file) = &mut self.file else { return };
        if let Some((lost, why)) = &self.lost {
            let notice = format!("{} stderr F coracle: {lost} bytes of log were lost: {why}\n", timestamp(clock.now()));
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
fn timestamp(now: UnixNanos) -> String {
    let mut text = String::with_capacity(30);
    match jiff::Timestamp::from_nanosecond(i128::from(now)) {
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
    unfinished: Mutex<Unfinished>,
}

/// A line whose end has not come yet.
#[derive(Debug, Default)]
struct Unfinished {
    text: Vec<u8>,
    /// Parts of it are in the log already.
    begun: bool,
    /// Its rest is dropped, whatever comes.
    dropping: bool,
}

impl LogStream {
    pub(super) fn new(log: Arc<Log>, stream: Stream) -> LogStream {
        LogStream(Arc::new(Line { log, stream, unfinished: Mutex::default() }))
    }

    fn put(&self, bytes: &[u8]) {
        let line = &*self.0;
        line.log.taps.offer(line.stream, bytes);
        let mut unfinished = line.unfinished.lock();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut text = piece;
            let ends = text.last() == Some(&b'\n');
            if ends {
                text = &text[..text.len() - 1];
            }
            while unfinished.text.len() + text.len() > line.log.line_bytes {
                let (head, tail) = text.split_at(line.log.line_bytes - unfinished.text.len());
                unfinished.text.extend_from_slice(head);
                unfinished.part(line, false);
                text = tail;
            }
            unfinished.text.extend_from_slice(text);
            if ends {
                unfinished.part(line, true);
            }
        }
    }
}

impl Unfinished {
    /// Logs what there is of the line: its end, or as much as fits in one.
    fn part(&mut self, line: &Line, ends: bool) {
        if self.dropping {
            line.log.buffer.lock().dropped.bytes += self.text.len() as u64;
        } else if line.log.line(line.stream, ends, &self.text) == Kept::Yes {
            self.begun = !ends;
        } else {
            self.dropping = true;
            if std::mem::take(&mut self.begun) {
                line.log.cut(line.stream);
            }
        }
        if ends && std::mem::take(&mut self.dropping) {
            line.log.buffer.lock().dropped.lines += 1;
        }
        self.text.clear();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut unfinished = std::mem::take(self.unfinished.get_mut());
        if !unfinished.text.is_empty() || unfinished.dropping || unfinished.begun {
            unfinished.part(self, true);
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
        Box::new(SlowLog::new(self.clone()))
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use expect_test::{Expect, expect};

    use super::*;

    async fn check_log(limits: LogLimits, writes: &[(Stream, &[u8])], expected: Expect) {
        let writer = LogWriter::start().expect("a thread can be started");
        let mut file = tempfile::tempfile().expect("a file can be made");
        let log = writer.log(
            Some(file.try_clone().expect("it can be shared")),
            // It is read once here and once for each line.
            Clock::stepping(1_767_225_599_999_000_000),
            limits,
        );
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
            LogLimits::default(),
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
            LogLimits::default(),
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
    async fn what_comes_too_fast_is_dropped_and_counted() {
        // The clock moves a millisecond with each line: 100 bytes more may come.
        let limits = LogLimits { bytes_per_second: 100_000, burst_bytes: 1_000, ..LogLimits::default() };
        let line = [vec![b'x'; 459], b"\n".to_vec()].concat();
        let mut writes: Vec<(Stream, &[u8])> = vec![(Stream::Stdout, &line); 9];
        writes.push((Stream::Stderr, b"short\n"));
        check_log(
            limits,
            &writes,
            expect![[r#"
                2026-01-01T00:00:00.000000000Z stdout F xxxxxxxxxxxxxxxxxxxx… 499 bytes
                2026-01-01T00:00:00.001000000Z stdout F xxxxxxxxxxxxxxxxxxxx… 499 bytes
                2026-01-01T00:00:00.005000000Z stderr F coracle: dropped 3 lines (1377 bytes): this log may grow by 100000 bytes a second (annotation coracle.dev/log-bytes-per-second)
                2026-01-01T00:00:00.005000000Z stdout F xxxxxxxxxxxxxxxxxxxx… 499 bytes
                2026-01-01T00:00:00.009000000Z stderr F coracle: dropped 3 lines (1377 bytes): this log may grow by 100000 bytes a second (annotation coracle.dev/log-bytes-per-second)
                2026-01-01T00:00:00.009000000Z stderr F short
            "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn a_line_that_is_dropped_in_the_middle_is_ended_and_the_next_is_whole() {
        let limits = LogLimits { bytes_per_second: 10_000, burst_bytes: 200, line_bytes: 100 };
        let long = vec![b'x'; 1000];
        check_log(
            limits,
            &[(Stream::Stdout, &long), (Stream::Stdout, b"end\n"), (Stream::Stdout, b"next\n")],
            expect![[r#"
                2026-01-01T00:00:00.000000000Z stdout P xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
                2026-01-01T00:00:00.002000000Z stdout F 
                2026-01-01T00:00:00.003000000Z stderr F coracle: dropped 1 lines (903 bytes): this log may grow by 10000 bytes a second (annotation coracle.dev/log-bytes-per-second)
                2026-01-01T00:00:00.003000000Z stdout F next
            "#]],
        )
        .await;
    }

    #[tokio::test]
    async fn a_guest_waits_while_the_buffer_is_full_and_loses_nothing() {
        let writer = LogWriter::start().expect("a thread can be started");
        let mut file = tempfile::tempfile().expect("a file can be made");
        let limits = LogLimits::default();
        let log = writer.log(Some(file.try_clone().expect("it can be shared")), Clock::stepping(0), limits);
        let mut stream = LogStream::new(log.clone(), Stream::Stdout);
        let line = Bytes::from(vec![b'y'; 1023]).iter().copied().chain(*b"\n").collect::<Bytes>();
        for _ in 0..2000 {
            stream.ready().await;
            assert!(stream.check_write().is_ok_and(|room| room > 0));
            assert!(stream.write(line.clone()).is_ok());
            assert!(log.buffer.lock().bytes.len() < BUFFER_BYTES + 2 * limits.line_bytes, "the buffer is bounded");
        }
        drop(stream);
        log.flushed().await;
        file.rewind().expect("it can be read again");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("it is text");
        assert_eq!(text.lines().count(), 2000);
    }
}
