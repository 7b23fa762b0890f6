//! What can go wrong, one variant for each thing a caller treats differently. Messages name the file and the cure.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_api::meta::Revision;

use crate::entry::Entry;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the state store {} is in use by {}: stop that process, or choose another data directory", path.display(), Holder(*pid))]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error("no permission to open the state store {}: run as the user who owns it, or choose another data directory", path.display())]
    Permission {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the state store {} is damaged ({what}): restore it from a backup, or move it and the files beside it away to start empty",
        path.display()
    )]
    Damaged { path: PathBuf, what: String },
    #[error("the state store {} was written by a newer Coracle (its schema is {found}, this one knows {known}): run that version or a later one", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("cannot open the state store {} ({what}): check that its disk is mounted, works and has free space", path.display())]
    Io { path: PathBuf, what: String },
}

struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    #[error("{} exists at revision {}", .0.key, .0.revision)]
    Exists(Arc<Entry>),
    /// The object is not at the expected revision; `None` means that it does not exist.
    #[error("the object {}", At(current.as_deref()))]
    Conflict { current: Option<Arc<Entry>> },
    /// Nothing was written. The store goes on and takes writes again when there is space.
    #[error("no space is left on the disk of the state store: free some, nothing was lost")]
    Full,
    /// Fatal: the store takes no more writes, see [`crate::Store::failed`]. Whether this commit reached the disk is
    /// known only after the store has been opened again.
    #[error("the state store failed: {0}")]
    Failed(Arc<str>),
}

struct At<'a>(Option<&'a Entry>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(entry) => write!(f, "{} is at revision {}", entry.key, entry.revision),
            None => f.write_str("does not exist"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("the state at revision {asked} is no longer kept, the oldest is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future, the current one is {current}")]
    Future { asked: Revision, current: Revision },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    #[error("the events after revision {asked} are no longer kept, the oldest start is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future, the current one is {current}")]
    Future { asked: Revision, current: Revision },
}

/// The watcher was so slow that events it had not taken were dropped. The watch is over: list and watch again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watch fell behind the events that are kept")]
pub struct Lagged;
