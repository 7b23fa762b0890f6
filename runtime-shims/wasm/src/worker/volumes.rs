//! A container's volumes, opened as its guest sees them.
//!
//! The kernel answers for a server that is gone only when it is back. So they are opened by a thread of their own, one
//! for each container, and whoever waits for it may go: the thread stays as long as the server is silent.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::sync::{OwnedMutexGuard, oneshot};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::confine;
use crate::wire::{self, GuestSpec, VolumeSpec};

/// Opens the volumes of a container, whose directories are among `fds`. The thread keeps `turn` for as long as it takes.
pub(super) async fn open(
    spec: &GuestSpec,
    fds: &[OwnedFd],
    turn: OwnedMutexGuard<()>,
) -> wasmtime::Result<WasiFilesystemCtx> {
    if spec.volumes.is_empty() {
        return Ok(WasiCtxBuilder::new().build().filesystem().clone());
    }
    // Of its own, so that it keeps nothing else open: a socket that is listened on is taken.
    let own = |volume: &VolumeSpec| {
        let dir = fds.get(volume.dir).ok_or_else(|| io::Error::other("a volume came without its directory"))?;
        Ok((volume.clone(), wire::duplicate(dir.as_fd())?))
    };
    let volumes = spec.volumes.iter().map(own).collect::<io::Result<Vec<_>>>()?;
    let relative = spec.working_dir.clone();
    let (done, opened) = oneshot::channel();
    thread::Builder::new().name("volumes".to_owned()).spawn(move || {
        let opened = open_here(&volumes, relative.as_deref());
        drop(turn);
        // Who waited may have left.
        let _ = done.send(opened);
    })?;
    opened.await?
}

/// `relative` is where relative paths lead, if that lies in a volume: the C library of WASI 0.1, which knows no working
/// directory, looks for them in a directory called `.`. wasmtime opens directories by path only, and this process has no
/// paths: so each is "here" for a moment, for this thread only.
fn open_here(volumes: &[(VolumeSpec, OwnedFd)], relative: Option<&str>) -> wasmtime::Result<WasiFilesystemCtx> {
    confine::own_working_dir()?;
    // Where there is a root directory, relative paths lead there.
    let relative = relative.filter(|_| volumes.iter().all(|(volume, _)| volume.guest_path != "/"));
    let mut builder = WasiCtxBuilder::new();
    for (volume, dir) in volumes {
        rustix::process::fchdir(dir)?;
        let perms = if volume.readonly { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        builder.preopened_dir(".", &volume.guest_path, perms)?;
        let below = relative.and_then(|path| path.strip_prefix(&volume.guest_path));
        if let Some(below) = below.filter(|below| below.is_empty() || below.starts_with('/')) {
            let below = format!(".{below}");
            // The directory need not be there, and must not be outside; then there is none.
            if is_directory_within(dir, &below) {
                builder.preopened_dir(&below, ".", perms)?;
            }
        }
    }
    Ok(builder.build().filesystem().clone())
}

/// Links on the way do not count as being within.
fn is_directory_within(dir: &OwnedFd, path: &str) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve).is_ok()
}
