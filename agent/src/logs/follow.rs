//! Follows a log while its container lives: the kernel tells when something was written, nothing is polled.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{LogError, LogOptions, Reader};

/// Cancelled when the container has ended and everything it wrote is in the file.
pub type Stop = CancellationToken;

/// Gives the selected part of the file, then what is written to it, until `ended`, the limit, or nobody listens.
pub async fn follow(
    path: &Path,
    options: &LogOptions,
    ended: &Stop,
    out: &mpsc::Sender<Bytes>,
) -> Result<(), LogError> {
    let read_error = |source| LogError::Read { path: path.display().to_string(), source };
    // Watching begins before the first read: what is written in between is seen.
    let mut changes = Changes::of(path).map_err(read_error)?;
    let mut reader = Reader::open(path, options)?;
    let mut inode = inode(path);
    let rest = LogOptions { tail: None, ..options.clone() };
    loop {
        // Asked before reading: an end seen here has everything in the file already.
        let over = ended.is_cancelled();
        if !drain(&mut reader, out).await? || reader.exhausted() {
            return Ok(());
        }
        let now = self::inode(path);
        if now.is_some() && now != inode {
            // Rotated: the old file was read to its end above, the new one is read from its start.
            inode = now;
            let given = reader.given;
            reader = Reader::open(path, &rest)?;
            reader.given = given;
            continue;
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = out.closed() => return Ok(()),
            () = ended.cancelled() => {}
            changed = changes.next() => changed.map_err(read_error)?,
        }
    }
}

/// False when nobody listens any more.
async fn drain(reader: &mut Reader<'_>, out: &mpsc::Sender<Bytes>) -> Result<bool, LogError> {
    while let Some(chunk) = reader.next()? {
        if out.send(chunk).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|m| m.ino())
}

/// Writes to a file, and a new file taking its name.
struct Changes {
    /// An inotify descriptor reads like a pipe, and tokio waits for it as for one.
    events: pipe::Receiver,
}

impl Changes {
    fn of(path: &Path) -> std::io::Result<Changes> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        // Of the folder: it also tells of the file that replaces this one.
        inotify::add_watch(&fd, folder, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        Ok(Changes { events: pipe::Receiver::from_owned_fd_unchecked(fd)? })
    }

    /// What happened does not matter, only that something did.
    async fn next(&mut self) -> std::io::Result<()> {
        let mut buffer = [0u8; 4096];
        self.events.read(&mut buffer).await.map(drop)
    }
}
