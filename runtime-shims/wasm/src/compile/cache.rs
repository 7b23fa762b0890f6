//! What machine code is kept: that of images that are here, and not more than a limit, the longest unused first.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use super::{Compiler, Inner, NEW};
use crate::images::{Digest, Usage};

/// Has the image machine code in `code`, the directory of a front?
pub fn is_compiled(code: &Path, wasm: &Digest) -> bool {
    let Ok(entries) = fs::read_dir(code) else { return false };
    entries.flatten().any(|settings| settings.path().join(format!("{}.json", wasm.hex())).exists())
}

impl Compiler {
    /// Removes the code of files that no image needs, whatever version made it.
    pub(crate) fn retain(&self, needed: &HashSet<Digest>) {
        self.0.refused.lock().retain(|digest, _| needed.contains(digest));
        let needed: HashSet<&str> = needed.iter().map(Digest::hex).collect();
        let Ok(versions) = fs::read_dir(&self.0.code) else { return };
        for path in versions.flatten().flat_map(|version| files(&version.path())) {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            // Another image may be being compiled at this moment.
            if !stem.starts_with(NEW) && !needed.contains(stem) {
                remove(&path);
            }
        }
    }

    /// The space that machine code takes.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        let Ok(versions) = fs::read_dir(&self.0.code) else { return usage };
        for path in versions.flatten().flat_map(|version| files(&version.path())) {
            if let Ok(meta) = fs::metadata(path) {
                usage.bytes += meta.len();
                usage.inodes += 1;
            }
        }
        usage
    }
}

impl Inner {
    /// Makes room, but not by removing what was just made. A worker that has mapped code keeps it.
    pub(super) fn trim(&self, settings: &str, just_made: &Digest) {
        let mut total = 0;
        let mut found: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for code in files(&self.code.join(settings)) {
            if code.extension().is_none_or(|extension| extension != "cwasm") {
                continue;
            }
            let record = code.with_extension("json");
            let (Ok(bytes), Ok(used)) =
                (fs::metadata(&code).map(|meta| meta.len()), fs::metadata(&record).and_then(|meta| meta.modified()))
            else {
                continue;
            };
            total += bytes;
            if code.file_stem().is_none_or(|stem| stem != just_made.hex()) {
                found.push((used, bytes, code));
            }
        }
        found.sort();
        for (_, bytes, code) in found {
            if total <= self.max_bytes {
                return;
            }
            tracing::info!(code = %code.display(), bytes, "machine code makes room; its image is compiled when it is used again");
            // The record first: without it the code counts as absent.
            remove(&code.with_extension("json"));
            remove(&code);
            total -= bytes;
        }
    }
}

/// Notes that code was used.
pub(super) fn touch(dir: &Path, wasm: &Digest) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    let record = dir.join(format!("{}.json", wasm.hex()));
    if let Err(error) = utimensat(CWD, &record, &times, AtFlags::empty()) {
        tracing::debug!(record = %record.display(), %error, "the use of machine code cannot be noted");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove machine code");
        }
        Ok(()) | Err(_) => {}
    }
}
