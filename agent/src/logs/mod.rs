//! Reads container logs in CRI's format: `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, one line each; a line marked P
//! goes on in the next one. The runtime writes them and rotates them away under the reader.
//!
//! Owns the options of `kubectl logs` and what of a file they select. Knows no pod and no HTTP.

mod follow;
mod line;
mod tail;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

pub use follow::{Stop, follow};
use line::Entry;

/// A longer line is passed on in pieces of this size, as the runtimes write them.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Text is handed on in pieces of about this size.
const CHUNK_BYTES: usize = 16 * 1024;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only lines at or after this time.
    pub since: Option<Timestamp>,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Ends after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Goes on until the container ends.
    pub follow: bool,
    /// Only `stdout` or only `stderr`.
    pub stream: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("failed to open log file {path:?}: {source}")]
    Open {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to read log file {path:?}: {source}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// The reader's place in a file, and what has been given out so far.
pub(crate) struct Reader<'a> {
    path: String,
    file: BufReader<File>,
    options: &'a LogOptions,
    given: u64,
    /// The last entry was a part: the next one goes on with it and gets no time of its own.
    in_line: bool,
    raw: Vec<u8>,
    /// Bytes of an entry that the runtime has not finished writing.
    pending: Vec<u8>,
}

impl<'a> Reader<'a> {
    /// Opens the file at the first line that the options select.
    pub(crate) fn open(path: &Path, options: &'a LogOptions) -> Result<Reader<'a>, LogError> {
        let shown = path.display().to_string();
        let mut file = File::open(path).map_err(|source| LogError::Open { path: shown.clone(), source })?;
        let start = match options.tail {
            Some(lines) => tail::start_of_last(&mut file, lines),
            None => Ok(0),
        };
        start
            .and_then(|start| file.seek(SeekFrom::Start(start)))
            .map_err(|source| LogError::Read { path: shown.clone(), source })?;
        Ok(Reader {
            path: shown,
            file: BufReader::with_capacity(CHUNK_BYTES, file),
            options,
            given: 0,
            in_line: false,
            raw: Vec::new(),
            pending: Vec::new(),
        })
    }

    /// The next piece of selected text; `None` where the file ends for now, or for good once the limit is reached.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, LogError> {
        let mut out = Vec::new();
        while out.len() < CHUNK_BYTES && !self.exhausted() {
            self.raw.clear();
            let limited = std::io::Read::take(&mut self.file, MAX_LINE_BYTES).read_until(b'\n', &mut self.raw);
            let read = limited.map_err(|source| LogError::Read { path: self.path.clone(), source })?;
            if read == 0 {
                break;
            }
            if self.raw.last() != Some(&b'\n') && (read as u64) < MAX_LINE_BYTES {
                // The runtime is in the middle of writing it.
                self.pending.extend_from_slice(&self.raw);
                break;
            }
            if self.pending.is_empty() {
                let raw = std::mem::take(&mut self.raw);
                self.select(&raw, &mut out);
                self.raw = raw;
            } else {
                let mut raw = std::mem::take(&mut self.pending);
                raw.extend_from_slice(&self.raw);
                self.select(&raw, &mut out);
            }
        }
        Ok((!out.is_empty()).then(|| Bytes::from(out)))
    }

    /// Whether `limit_bytes` have been given.
    pub(crate) fn exhausted(&self) -> bool {
        self.options.limit_bytes.is_some_and(|limit| self.given >= limit)
    }

    fn select(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let entry = Entry::parse(raw);
        let continues = std::mem::replace(&mut self.in_line, entry.partial);
        if self.options.stream.as_deref().is_some_and(|wanted| !wanted.eq_ignore_ascii_case(entry.stream)) {
            return;
        }
        if let (Some(since), Some(at)) = (self.options.since, entry.timestamp())
            && at < since
        {
            return;
        }
        let before = out.len();
        if self.options.timestamps && !continues && !entry.time.is_empty() {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if !entry.partial {
            out.push(b'\n');
        }
        if let Some(limit) = self.options.limit_bytes {
            let room = usize::try_from(limit - self.given).unwrap_or(usize::MAX);
            out.truncate(before + room.min(out.len() - before));
        }
        self.given += (out.len() - before) as u64;
    }
}

/// Gives the selected part of the file as it stands; ends early when nobody listens any more.
pub async fn read(path: &Path, options: &LogOptions, out: &mpsc::Sender<Bytes>) -> Result<(), LogError> {
    let mut reader = Reader::open(path, options)?;
    while let Some(chunk) = reader.next()? {
        if out.send(chunk).await.is_err() {
            break;
        }
    }
    Ok(())
}
