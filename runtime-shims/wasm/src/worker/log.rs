//! Guests' output as CRI log lines: `2026-03-01T12:00:00.000000000Z stdout F text`.
//!
//! Guests write into a buffer per container; one thread writes buffers to files. A guest whose buffer is full waits, as
//! it would at a pipe. What comes faster than the container's log may grow, and what cannot be written (a full disk), is
//! dropped and counted, and the count is logged once there is room: logging must not end a service.
//!
//! ```text
//! writer: asleep ──▶ a line: writes at once ──▶ lets lines gather for a moment ──▶ writes what there is
//!            ▲                                         └──▶ nothing came ──┐  (no moment if somebody is in a hurry:
//!            └─────────────────────────────────────────────────────────────┘   a buffer half full, a container's end)
//! ```

mod line;
mod stamp;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

pub(super) use line::LogStream;
use stamp::Stamp;

use super::bucket::Rate;
use super::tap::Taps;
use crate::clock::{Clock, UnixNanos};
use crate::wire::LogLimits;

/// What a container may have written that is not in its file yet.
const BUFFER_BYTES: usize = 128 << 10;
/// With so much of it the writer does not wait for more, so that the guest need not wait for the writer.
const HURRY_BYTES: usize = BUFFER_BYTES / 2;
/// With so much, the disk does not keep up, and more is dropped: a guest waits for room, but several may have seen the same.
const OVERFLOW_BYTES: usize = 16 * BUFFER_BYTES;
/// What the runtime may say of a container in a second in any case.
const NOTICE_BYTES: u64 = 16 << 10;
/// How long lines gather after others were written. What comes thick costs few system calls that way, and who follows
/// the log does not notice.
const GATHER: Duration = Duration::from_millis(20);

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
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each at most once.
    logs: Vec<Arc<Log>>,
    /// Somebody waits for what is in one of them.
    hurry: bool,
    /// The writer waits for a first line, however long that takes.
    asleep: bool,
}

impl LogWriter {
    pub(super) fn start() -> io::Result<LogWriter> {
        LogWriter::gathering(GATHER)
    }

    fn gathering(gather: Duration) -> io::Result<LogWriter> {
        let queue = Arc::new(Queue::default());
        let shared = queue.clone();
        let thread = thread::Builder::new().name("log-writer".to_owned()).stack_size(128 << 10);
        thread.spawn(move || shared.write_for_ever(gather))?;
        Ok(LogWriter(queue))
    }

    /// A log that writes to `file`; without one, what is written is let go.
    pub(super) fn log(&self, file: Option<File>, clock: Clock, limits: LogLimits) -> Arc<Log> {
        let now = clock.now();
        let buffer = Buffer {
            bytes: Vec::new(),
            stamp: Stamp::default(),
            told: Told::Nothing,
            rate: Rate::new(limits.bytes_per_second, limits.burst_bytes, now),
            notices: Rate::new(NOTICE_BYTES, NOTICE_BYTES, now),
            dropped: Dropped::default(),
        };
        Arc::new(Log {
            writer: self.clone(),
            clock,
            line_bytes: limits.line_bytes,
            buffer: Mutex::new(buffer),
            file: Mutex::new(Output { file, lost: None }),
            progress: Notify::new(),
            taps: Taps::default(),
        })
    }

    fn push(&self, log: Arc<Log>, hurry: bool) {
        let mut waiting = self.0.waiting.lock();
        waiting.logs.push(log);
        // While lines gather nobody is woken: the writer comes by itself.
        let wake = std::mem::take(&mut waiting.asleep) || (hurry && !waiting.hurry);
        waiting.hurry |= hurry;
        drop(waiting);
        if wake {
            self.0.wake.notify_one();
        }
    }

    /// What was pushed must not wait.
    fn hurry(&self) {
        if !std::mem::replace(&mut self.0.waiting.lock().hurry, true) {
            self.0.wake.notify_one();
        }
    }
}

impl Queue {
    fn write_for_ever(&self, gather: Duration) {
        let mut logs = Vec::new();
        loop {
            {
                let mut waiting = self.waiting.lock();
                if waiting.logs.is_empty() {
                    waiting.asleep = true;
                    self.wake.wait_while(&mut waiting, |waiting| waiting.logs.is_empty());
                    waiting.asleep = false;
                }
                waiting.hurry = false;
                std::mem::swap(&mut logs, &mut waiting.logs);
            }
            for log in logs.drain(..) {
                log.write_out();
            }
            self.wake.wait_while_for(&mut self.waiting.lock(), |waiting| !waiting.hurry, gather);
        }
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
    stamp: Stamp,
    told: Told,
    rate: Rate,
    /// For lines of the runtime itself, where the guest has left them nothing.
    notices: Rate,
    dropped: Dropped,
}

/// What the writer knows of a buffer. Ordered: it is told more, never less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    /// There is nothing in it.
    Nothing,
    /// The log is in the writer's queue, or in its hands.
    Queued,
    /// The same, and it should not wait for more.
    Hurried,
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
    /// Lines of the runtime itself, for whoever reads the container's log. A guest that floods its log does not drown them,
    /// nor may it flood by what it makes the runtime say.
    pub(super) fn say(self: &Arc<Log>, text: &str) {
        self.fill(|buffer| {
            for line in text.lines() {
                buffer.notice(self.clock.now(), line);
            }
        });
    }

    pub(super) fn reopen(&self, file: File) {
        self.file.lock().file = Some(file);
    }

    /// Waits until all that was written is in the file, or was dropped.
    pub(super) async fn flushed(self: &Arc<Log>) {
        self.fill(|buffer| buffer.tell_dropped(self.clock.now()));
        loop {
            let progress = self.progress.notified();
            let mut progress = std::pin::pin!(progress);
            progress.as_mut().enable();
            if self.buffer.lock().told == Told::Nothing {
                return;
            }
            self.writer.hurry();
            progress.await;
        }
    }

    /// Lets `what` put something into the buffer, and tells the writer, unless it knows already.
    fn fill(self: &Arc<Log>, what: impl FnOnce(&mut Buffer)) {
        let (before, told) = {
            let mut buffer = self.buffer.lock();
            what(&mut buffer);
            let before = buffer.told;
            buffer.told = before.max(buffer.worth_telling());
            (before, buffer.told)
        };
        match (before, told) {
            (Told::Nothing, Told::Queued) => self.writer.push(self.clone(), false),
            (Told::Nothing, Told::Hurried) => self.writer.push(self.clone(), true),
            (Told::Queued, Told::Hurried) => self.writer.hurry(),
            (Told::Nothing | Told::Queued, Told::Nothing | Told::Queued) | (Told::Hurried, _) => {}
        }
    }

    fn room(&self) -> usize {
        BUFFER_BYTES.saturating_sub(self.buffer.lock().bytes.len())
    }

    /// [`Self::room`], once there is some.
    async fn some_room(&self) -> usize {
        loop {
            // Most never wait, and should not pay for a place among those who do.
            let room = self.room();
            if room > 0 {
                return room;
            }
            let progress = self.progress.notified();
            let mut progress = std::pin::pin!(progress);
            progress.as_mut().enable();
            if self.room() == 0 {
                progress.await;
            }
        }
    }

    /// Writes what there is, once: a guest that floods its log must not keep the thread from the others'.
    fn write_out(self: &Arc<Log>) {
        let bytes = std::mem::take(&mut self.buffer.lock().bytes);
        if !bytes.is_empty() {
            self.file.lock().write(&bytes, &self.clock);
        }
        let told = {
            let mut buffer = self.buffer.lock();
            buffer.told = buffer.worth_telling();
            buffer.told
        };
        match told {
            Told::Nothing => {}
            Told::Queued => self.writer.push(self.clone(), false),
            Told::Hurried => self.writer.push(self.clone(), true),
        }
        self.progress.notify_waiters();
    }
}

/// What stands before a line's text.
const STAMP_BYTES: usize = 41;

impl Buffer {
    /// Logs a line, or a part of one, unless there has been too much lately.
    fn line(&mut self, now: UnixNanos, stream: Stream, whole: bool, text: &[u8]) -> Kept {
        if self.bytes.len() >= OVERFLOW_BYTES || !self.rate.take(text.len() + STAMP_BYTES, now) {
            self.dropped.bytes += text.len() as u64;
            return Kept::No;
        }
        self.tell_dropped(now);
        self.put(now, stream, whole, text);
        Kept::Yes
    }

    fn notice(&mut self, now: UnixNanos, text: &str) {
        let bytes = text.len() + STAMP_BYTES;
        if self.rate.take(bytes, now) || self.notices.take(bytes, now) {
            self.put(now, Stream::Stderr, true, text.as_bytes());
        } else {
            self.dropped.bytes += text.len() as u64;
            self.dropped.lines += 1;
        }
    }

    fn put(&mut self, now: UnixNanos, stream: Stream, whole: bool, text: &[u8]) {
        let tags: &[u8] = match (stream, whole) {
            (Stream::Stdout, true) => b" stdout F ",
            (Stream::Stdout, false) => b" stdout P ",
            (Stream::Stderr, true) => b" stderr F ",
            (Stream::Stderr, false) => b" stderr P ",
        };
        self.bytes.reserve(STAMP_BYTES + text.len());
        self.bytes.extend_from_slice(self.stamp.at(now));
        self.bytes.extend_from_slice(tags);
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

    fn worth_telling(&self) -> Told {
        match self.bytes.len() {
            0 => Told::Nothing,
            HURRY_BYTES.. => Told::Hurried,
            _ => Told::Queued,
        }
    }
}

impl Output {
    fn write(&mut self, bytes: &[u8], clock: &Clock) {
        let Some(file) = &mut self.file else { return };
        if let Some((lost, why)) = &self.lost {
            let mut notice = Stamp::default().at(clock.now()).to_vec();
            notice.extend_from_slice(format!(" stderr F coracle: {lost} bytes of log were lost: {why}\n").as_bytes());
            if file.write_all(&notice).is_ok() {
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
