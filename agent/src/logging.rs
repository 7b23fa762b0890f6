//! How the programs log: to standard error, in colour on a terminal, what `RUST_LOG` chooses.

use std::io::{self, IsTerminal, Write, stderr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, fstat, ftruncate};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

/// A file that nobody rotates begins anew when it is longer than this, with its newer half.
const FILE_BYTES: u64 = 4 << 20;

/// To be called once. `default` is what is logged without `RUST_LOG`, such as `warn,coracle=info`.
pub fn start(default: &str) {
    start_with(default, stderr);
}

/// As [`start`], for processes whose standard error is a file of their own, opened to be read and appended to.
pub fn start_in_file(default: &str) {
    start_with(default, || Bounded { to: stderr(), bytes: FILE_BYTES });
}

#[expect(
    clippy::disallowed_methods,
    reason = "each program's main calls this first: what is logged is main's own choice"
)]
fn start_with(default: &str, writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static) {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| default.to_owned());
    let (filter, wrong) = match wanted.parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(LevelFilter::INFO), Some(error)),
    };
    let lines = fmt::layer().with_writer(writer).with_ansi(stderr().is_terminal());
    registry().with(lines.with_filter(filter)).init();
    if let Some(error) = wrong {
        tracing::warn!(RUST_LOG = wanted, %error, "not understood; it is a list such as info,coracle_agent=debug");
    }
}

/// Appends to a file that several processes may append to, and keeps it short. What is no file is left alone.
struct Bounded<W> {
    to: W,
    bytes: u64,
}

impl<W: Write + AsFd> Write for Bounded<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = self.to.write(line)?;
        shorten(self.to.as_fd(), self.bytes)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Two that shorten at the same time may lose lines, but not more than the file could have.
fn shorten(file: BorrowedFd<'_>, most: u64) -> io::Result<()> {
    let stat = fstat(file)?;
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || length <= most {
        return Ok(());
    }
    let half = most / 2;
    let mut newer = vec![0; usize::try_from(half).unwrap_or(0)];
    // One that cannot be read begins anew with nothing.
    let read = rustix::io::pread(file, &mut newer, length - half).unwrap_or(0);
    let newer = &newer[..read];
    let first = newer.iter().position(|byte| *byte == b'\n').map_or(read, |end| end + 1);
    ftruncate(file, 0)?;
    let mut rest = &newer[first..];
    while !rest.is_empty() {
        let written = rustix::io::write(file, rest)?;
        rest = &rest[written..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_file_keeps_its_newer_half() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let open = || OpenOptions::new().create(true).read(true).append(true).open(&path).unwrap();
        // Two processes write to it; each has opened it, or has it from the other.
        let (mut one, mut other) = (Bounded { to: open(), bytes: 1000 }, Bounded { to: open(), bytes: 1000 });
        for number in 0..1000 {
            let writer = if number % 3 == 0 { &mut one } else { &mut other };
            writeln!(writer, "line {number}").unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= 1000);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let first: usize = lines[0].strip_prefix("line ").unwrap().parse().unwrap();
        let expected: Vec<String> = (first..1000).map(|number| format!("line {number}")).collect();
        assert_eq!(lines, expected);
        assert!(text.len() > 400, "{}", text.len());
    }
}
