//! Volumes: which directories a guest sees where.
//!
//! WASI opens directories only, so single files (a subPath, `/etc/hosts`, the termination log) get a directory made for
//! them, with the files linked in, or bound where they lie on another mount than the runtime's own directory, or copied
//! where workers, who are another user, may not read them. Guests write into these files, but make no others beside them:
//! nobody would bound what they take.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use coracle_cri::v1::Mount;

use super::scratch;
use crate::confine::{self, Bind, Purpose};
use crate::wire::VolumeSpec;

/// Where guests see volumes, decided from the mounts and what lies on the host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MountPlan {
    dirs: Vec<DirMount>,
    /// Directories that have to be made, with the files in them.
    made: Vec<MadeDir>,
    /// What `wasi:config` reads.
    config: Option<PathBuf>,
}

const READ_BY_OTHERS: u32 = 0o004;

/// A volume mounted here is a guest's `wasi:config`, and no directory it sees.
const CONFIG_PATH: &str = "/run/coracle/config";

#[derive(Debug, PartialEq, Eq)]
struct DirMount {
    guest_path: String,
    host_path: PathBuf,
    readonly: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct MadeDir {
    guest_path: String,
    files: Vec<FileMount>,
}

#[derive(Debug, PartialEq, Eq)]
struct FileMount {
    name: String,
    host_path: PathBuf,
    readonly: bool,
}

/// `is_dir` says what a host path is: none if nothing is there.
pub(super) fn plan_mounts(mounts: &[Mount], is_dir: impl Fn(&Path) -> Option<bool>) -> Result<MountPlan, String> {
    let mut plan = MountPlan::default();
    for mount in mounts {
        let guest_path = guest_path(&mount.container_path)?;
        if mount.image.as_ref().is_some_and(|image| !image.image.is_empty()) {
            return Err(format!("mount {guest_path}: image volumes are not supported in Wasm containers"));
        }
        let host_path = PathBuf::from(&mount.host_path);
        match is_dir(&host_path) {
            None => return Err(format!("mount {guest_path}: there is no {} on the host", host_path.display())),
            Some(true) if guest_path == CONFIG_PATH => plan.config = Some(host_path),
            Some(true) => {
                if plan.dirs.iter().any(|dir| dir.guest_path == guest_path) {
                    return Err(format!("mount {guest_path}: is there twice"));
                }
                plan.dirs.push(DirMount { guest_path, host_path, readonly: mount.readonly });
            }
            Some(false) => {
                let Some((dir, name)) = guest_path.rsplit_once('/').filter(|(_, name)| !name.is_empty()) else {
                    return Err(format!("mount {guest_path}: a file cannot be the root directory"));
                };
                let dir = if dir.is_empty() { "/" } else { dir };
                let file = FileMount { name: name.to_owned(), host_path, readonly: mount.readonly };
                match plan.made.iter_mut().find(|made| made.guest_path == dir) {
                    Some(made) if made.files.iter().any(|other| other.name == name) => {
                        return Err(format!("mount {guest_path}: is there twice"));
                    }
                    Some(made) => made.files.push(file),
                    None => plan.made.push(MadeDir { guest_path: dir.to_owned(), files: vec![file] }),
                }
            }
        }
    }
    for made in &plan.made {
        if plan.dirs.iter().any(|dir| dir.guest_path == made.guest_path) {
            return Err(format!(
                "mount {}/{}: a single file inside another mount is not supported in Wasm containers; mount the \
                 directory, or the file elsewhere",
                made.guest_path,
                made.files.first().map_or("", |file| file.name.as_str()),
            ));
        }
    }
    Ok(plan)
}

/// Absolute, without `.`, `..` and doubled slashes.
fn guest_path(path: &str) -> Result<String, String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if !path.starts_with('/') || parts.contains(&"..") {
        return Err(format!("mount {path:?}: must be an absolute path without \"..\""));
    }
    Ok(format!("/{}", parts.join("/")))
}

impl MountPlan {
    pub(super) fn open_config(&self) -> Result<Option<OwnedFd>, String> {
        let open = |path: &PathBuf| {
            confine::detached(path, Purpose::Read)
                .map_err(|error| format!("mount {CONFIG_PATH}: cannot open {}: {error}", path.display()))
        };
        self.config.as_ref().map(open).transpose()
    }

    /// Makes what has to be made below `scratch`, if it is not there yet, and opens everything. The descriptors are
    /// numbered from `first`.
    pub(super) fn open(&self, scratch: &Path, first: usize) -> Result<(Vec<VolumeSpec>, Vec<OwnedFd>), String> {
        let mut volumes = Vec::new();
        let mut fds = Vec::new();
        let mut add = |guest_path: &str, readonly: bool, fd: OwnedFd| {
            volumes.push(VolumeSpec { guest_path: guest_path.to_owned(), readonly, dir: first + fds.len() });
            fds.push(fd);
        };
        for DirMount { guest_path, host_path, readonly } in &self.dirs {
            let fd = confine::detached(host_path, purpose(*readonly))
                .map_err(|error| format!("mount {guest_path}: cannot open {}: {error}", host_path.display()))?;
            add(guest_path, *readonly, fd);
        }
        for (number, made) in self.made.iter().enumerate() {
            let fd = made
                .open(&scratch.join(number.to_string()))
                .map_err(|error| format!("mount {}: {error}", made.guest_path))?;
            add(&made.guest_path, made.readonly(), fd);
        }
        Ok((volumes, fds))
    }
}

fn purpose(readonly: bool) -> Purpose {
    if readonly { Purpose::Read } else { Purpose::Write }
}

impl MadeDir {
    fn readonly(&self) -> bool {
        self.files.iter().all(|file| file.readonly)
    }

    fn open(&self, dir: &Path) -> io::Result<OwnedFd> {
        // It is there when the container moves from one worker to another: both use it, and what was written stays.
        if !dir.exists() {
            make(dir, self)?;
        }
        seal(dir)?;
        let purpose = purpose(self.readonly());
        let binds = self.binds(dir)?;
        if binds.is_empty() {
            return confine::detached(dir, purpose);
        }
        match confine::detached_with(dir, purpose, &binds) {
            Ok(fd) => Ok(fd),
            Err(_) if self.readonly() => {
                unseal(dir)?;
                let beside = made_beside(dir);
                for bind in binds {
                    // Of a copy that did not come to its end.
                    let _ = fs::remove_file(&beside);
                    copy(&bind.file, &beside)?;
                    fs::rename(&beside, &bind.over)?;
                }
                seal(dir)?;
                confine::detached(dir, purpose)
            }
            Err(error) => Err(elsewhere(dir, &binds, &error)),
        }
    }

    /// What has only its place held.
    fn binds(&self, dir: &Path) -> io::Result<Vec<Bind>> {
        let may_be = self.files.iter().filter(|file| file.readonly == self.readonly());
        let held = may_be.map(|file| (file, dir.join(&file.name))).filter(|(_, over)| is_placeholder(over));
        held.map(|(file, over)| Ok(Bind { file: fs::canonicalize(&file.host_path)?, over })).collect()
    }
}

fn elsewhere(dir: &Path, binds: &[Bind], error: &io::Error) -> io::Error {
    let files: Vec<String> = binds.iter().map(|bind| bind.file.display().to_string()).collect();
    let why = format!(
        "{} cannot be written from {}, which is on another mount, and cannot be bound there: {error}; start the runtime \
         as root, on Linux 5.12 or later, or have its data directory on the same mount",
        files.join(", "),
        dir.display()
    );
    io::Error::new(error.kind(), why)
}

/// The directory is there when it is whole, whatever became of whoever was to make it before.
fn make(dir: &Path, made: &MadeDir) -> io::Result<()> {
    let beside = made_beside(dir);
    scratch::remove(&beside)?;
    fill(&beside, made)?;
    fs::rename(&beside, dir)
}

/// What is being made for `dir`, or to go into it.
fn made_beside(dir: &Path) -> PathBuf {
    dir.with_extension("new")
}

/// Also who owns it, as workers do that are not another user, makes nothing in it then.
fn seal(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o555))
}

fn unseal(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

fn fill(dir: &Path, made: &MadeDir) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for file in &made.files {
        let path = dir.join(&file.name);
        let host = fs::canonicalize(&file.host_path)?;
        // Where something may be written, a link would let a read-only file be written through.
        if file.readonly && (!made.readonly() || is_closed_to_workers(&host)?) {
            copy(&host, &path)?;
            continue;
        }
        match fs::hard_link(&host, &path) {
            Ok(()) => {}
            // Links end at mounts, also at two of one file system.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => hold_place(&path)?,
            Err(_) if file.readonly => copy(&host, &path)?,
            Err(error) => {
                let why = format!("{} cannot be linked into {}: {error}", host.display(), dir.display());
                return Err(io::Error::new(error.kind(), why));
            }
        }
    }
    Ok(())
}

/// Those that root started are nobody.
fn is_closed_to_workers(host: &Path) -> io::Result<bool> {
    Ok(rustix::process::geteuid().is_root() && fs::metadata(host)?.permissions().mode() & READ_BY_OTHERS == 0)
}

/// Over nothing that is there: it may be a link to somebody's file.
fn copy(host: &Path, path: &Path) -> io::Result<()> {
    let (mut from, mut to) = (fs::File::open(host)?, fs::File::create_new(path)?);
    io::copy(&mut from, &mut to)?;
    to.set_permissions(fs::Permissions::from_mode(0o444))
}

/// Where a file is to be bound, each time the directory is opened.
fn hold_place(path: &Path) -> io::Result<()> {
    fs::File::create(path)?.set_permissions(fs::Permissions::from_mode(0o000))
}

/// Nobody mounts a file that is empty and that nobody may read.
fn is_placeholder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.len() == 0 && meta.permissions().mode() & 0o7777 == 0)
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
