//! A guest's writes cut into lines, and those into parts that are not too long.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::super::slow_log::SlowLog;
use super::{Buffer, Kept, Log, Stream};

/// A guest's standard output or error. All handles of one instance share what is left of an unfinished line; other
/// instances have their own, so that lines of concurrent requests are not mixed.
#[derive(Debug, Clone)]
pub(in crate::worker) struct LogStream(Arc<Line>);

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
    pub(in crate::worker) fn new(log: Arc<Log>, stream: Stream) -> LogStream {
        LogStream(Arc::new(Line { log, stream, unfinished: Mutex::default() }))
    }

    pub(super) fn put(&self, bytes: &[u8]) {
        let line = &*self.0;
        line.log.taps.offer(line.stream, bytes);
        let mut unfinished = line.unfinished.lock();
        line.log.fill(|buffer| unfinished.put(line, buffer, bytes));
    }
}

impl Unfinished {
    fn put(&mut self, line: &Line, buffer: &mut Buffer, bytes: &[u8]) {
        let most = line.log.line_bytes;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ended = piece.strip_suffix(b"\n");
            let mut text = ended.unwrap_or(piece);
            while self.text.len() + text.len() > most {
                let (head, tail) = text.split_at(most - self.text.len());
                self.part(line, buffer, head, false);
                text = tail;
            }
            match ended {
                Some(_) => self.part(line, buffer, text, true),
                None => self.text.extend_from_slice(text),
            }
        }
    }

    /// Logs what there is of the line and `text`: its end, or as much as fits in one.
    fn part(&mut self, line: &Line, buffer: &mut Buffer, text: &[u8], ends: bool) {
        // Most lines come whole, and need not be copied first.
        let mut before = std::mem::take(&mut self.text);
        let text = if before.is_empty() {
            text
        } else {
            before.extend_from_slice(text);
            &before
        };
        let clock = &line.log.clock;
        if self.dropping {
            buffer.dropped.bytes += text.len() as u64;
        } else if buffer.line(clock.now(), line.stream, ends, text) == Kept::Yes {
            self.begun = !ends;
        } else {
            self.dropping = true;
            if std::mem::take(&mut self.begun) {
                // It is ended here, so that no reader takes the next one for it.
                buffer.put(clock.now(), line.stream, true, b"");
            }
        }
        if ends && std::mem::take(&mut self.dropping) {
            buffer.dropped.lines += 1;
        }
        before.clear();
        self.text = before;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut unfinished = std::mem::take(self.unfinished.get_mut());
        if !unfinished.text.is_empty() || unfinished.dropping || unfinished.begun {
            self.log.fill(|buffer| unfinished.part(self, buffer, b"", true));
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

#[async_trait::async_trait]
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

    /// How languages' libraries print: so without the steps that it can be taken apart into.
    async fn blocking_write_and_flush(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        while !bytes.is_empty() {
            let room = self.0.log.some_room().await;
            self.put(&bytes.split_to(room.min(bytes.len())));
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {
        self.0.log.some_room().await;
    }
}
