//! What is made for a container beside its image, volumes and log: `DATA_DIR/wasm/run/CONTAINER`, with a directory in it
//! for each that holds single files. Guests make nothing there, so it has two levels; what an earlier build left may be
//! as deep and as full as its guest liked.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::pods::Pods;

/// What a directory takes of its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

/// Makes a directory of the front's own, in which there is what others on this host may not see. Workers, who are another
/// user, come by descriptor.
pub(super) fn make_private(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

impl Pods {
    pub(super) fn make_scratch(&self) -> io::Result<()> {
        make_private(&self.all_scratch())
    }

    fn all_scratch(&self) -> PathBuf {
        self.config.root.join("run")
    }

    /// Where files made for a container lie.
    pub(super) fn scratch(&self, container: &str) -> PathBuf {
        self.all_scratch().join(container)
    }

    /// What cannot be removed now, the next front tries again.
    pub(super) async fn remove_scratch(&self, container: &str) {
        let dir = self.scratch(container);
        let removed = tokio::task::spawn_blocking(move || remove(&dir)).await;
        if let Err(error) = removed.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::warn!(container, %error, "cannot remove the container's directory");
        }
    }

    /// Removes what containers left that are on no record any more.
    pub(super) async fn sweep_scratch(&self) {
        let names = match fs::read_dir(self.all_scratch()) {
            Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(%error, "containers' directories cannot be listed");
                return;
            }
        };
        // In this order: a container is on record before it has a directory.
        let mut left: Vec<String> = names.collect();
        {
            let state = self.state.lock();
            left.retain(|name| !state.containers.contains_key(name));
        }
        for name in left {
            tracing::info!(container = name, "removing the directory of a container that is no more");
            self.remove_scratch(&name).await;
        }
    }
}

/// What is not there takes nothing.
pub(super) fn measure(dir: &Path) -> Taken {
    let made = entries(dir);
    let files = made.iter().flat_map(|made| entries(made));
    let mut taken = Taken::default();
    for meta in files.chain(made.iter().cloned()).chain([dir.to_owned()]).flat_map(fs::symlink_metadata) {
        taken.bytes += meta.blocks() * 512;
        taken.inodes += 1;
    }
    taken
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Removes a directory and all in it, but nothing of what is mounted there. Whatever its depth, a handful of files is
/// open and nothing recurses: directories come up to the top before they go.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match rustix::fs::open(dir, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut lifted = 0;
    // What comes up while the top is read may or may not be seen then.
    while clear(top.as_fd(), &mut |name| {
        let below = enter(top.as_fd(), name)?;
        clear(below.as_fd(), &mut |name| lift(below.as_fd(), name, top.as_fd(), &mut lifted))?;
        gone(rustix::fs::unlinkat(&top, name, AtFlags::REMOVEDIR))
    })? {}
    Ok(gone(rustix::fs::rmdir(dir))?)
}

/// Removes the files of a directory and calls `each` with the names of its directories. Whether there was anything.
fn clear(dir: BorrowedFd<'_>, each: &mut dyn FnMut(&std::ffi::CStr) -> Result<(), Errno>) -> Result<bool, Errno> {
    let mut found = false;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        found = true;
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => each(name)?,
            other => gone(other)?,
        }
    }
    Ok(found)
}

/// Opens a directory to empty it.
fn enter(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let below = rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)?;
    // Who is not root may not take anything out of one that is only for reading.
    rustix::fs::fchmod(&below, Mode::RWXU)?;
    Ok(below)
}

/// Moves a directory to where nothing has its new name.
fn lift(from: BorrowedFd<'_>, name: &std::ffi::CStr, to: BorrowedFd<'_>, lifted: &mut u64) -> Result<(), Errno> {
    // Who moves one writes into it: where it is.
    gone(enter(from, name).map(drop))?;
    loop {
        *lifted += 1;
        match rustix::fs::renameat(from, name, to, format!("lifted-{lifted}")) {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            other => return gone(other),
        }
    }
}

/// Two may be removing the same.
fn gone(outcome: Result<(), Errno>) -> Result<(), Errno> {
    match outcome {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More levels than fit [`STACK_BYTES`].
    const LEVELS: usize = 1000;
    const STACK_BYTES: usize = 64 << 10;

    fn deep(dir: &Path) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(dir, flags, Mode::empty()).expect("it is there");
        for _ in 0..LEVELS {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("a directory can be made");
            at = rustix::fs::openat(&at, "d", flags, Mode::empty()).expect("it is there");
        }
    }

    #[test]
    fn a_directory_of_any_depth_and_width_is_removed() {
        let root = tempfile::tempdir().expect("a directory can be made");
        let dir = root.path().join("c");
        for made in ["0/sub/deeper", "1/lifted-1", "lifted-2/full"] {
            fs::create_dir_all(dir.join(made)).expect("a directory can be made");
            for file in 0..100 {
                fs::write(dir.join(made).join(format!("f{file}")), "x").expect("a file can be made");
            }
        }
        fs::write(root.path().join("kept"), "kept").expect("a file can be made");
        std::os::unix::fs::symlink(root.path(), dir.join("0/link")).expect("a link can be made");
        deep(&dir.join("1"));
        std::thread::scope(|scope| {
            let small = std::thread::Builder::new().stack_size(STACK_BYTES);
            let removing = small.spawn_scoped(scope, || remove(&dir)).expect("a thread can be started");
            removing.join().expect("it does not panic").expect("it can be removed");
        });
        assert!(!dir.exists());
        assert_eq!(fs::read_to_string(root.path().join("kept")).expect("it is there"), "kept");
        remove(&dir).expect("what is not there is removed already");
    }

    #[test]
    fn what_is_only_for_reading_is_removed_too() {
        let root = tempfile::tempdir().expect("a directory can be made");
        let dir = root.path().join("c");
        fs::create_dir_all(dir.join("0/sub")).expect("a directory can be made");
        fs::write(dir.join("0/sub/file"), "x").expect("a file can be made");
        for sealed in ["0/sub", "0"] {
            let sealed_mode = std::os::unix::fs::PermissionsExt::from_mode(0o555);
            fs::set_permissions(dir.join(sealed), sealed_mode).expect("it is ours");
        }
        remove(&dir).expect("it can be removed");
        assert!(!dir.exists());
    }

    #[test]
    fn what_was_made_is_measured_and_no_more_is_looked_at() {
        let root = tempfile::tempdir().expect("a directory can be made");
        assert_eq!(measure(&root.path().join("nothing")), Taken::default());
        fs::create_dir_all(root.path().join("0/by/a/guest")).expect("a directory can be made");
        fs::write(root.path().join("0/file"), vec![1; 100_000]).expect("a file can be made");
        let taken = measure(root.path());
        assert_eq!(taken.inodes, 4);
        assert!(taken.bytes >= 100_000, "{taken:?}");
    }
}
