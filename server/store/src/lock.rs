//! One process at a time: an advisory lock on a file beside the store that names its holder. The kernel drops the lock
//! with the process, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::OpenError;

pub(crate) struct Lock {
    _file: File,
}

pub(crate) fn take(store: &Path) -> Result<Lock, OpenError> {
    let mut path = store.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| io_error(store, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let pid = file.read_to_string(&mut holder).ok().and_then(|_| holder.trim().parse().ok());
            return Err(OpenError::InUse { path: store.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(io_error(store, error)),
    }
    let named = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    // The lock holds without the name, which only makes the other process's message better (a full disk has no room).
    if let Err(error) = named {
        tracing::debug!(path = %path.display(), %error, "cannot name the holder of the store's lock");
    }
    Ok(Lock { _file: file })
}

pub(crate) fn io_error(store: &Path, error: std::io::Error) -> OpenError {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match error.kind() {
        PermissionDenied | ReadOnlyFilesystem => OpenError::Permission { path: store.to_owned(), source: error },
        _ => OpenError::Io { path: store.to_owned(), what: error.to_string() },
    }
}
