//! What machine code is kept: that of images that are here, for settings that something runs under, and not more than a
//! limit, the longest unused first, unless containers use it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use super::{CompileError, Compiler, Inner, NEW};
use crate::images::{Digest, ImageStore, Usage};

/// Has the image machine code in `code`, the directory of a front?
pub fn is_compiled(code: &Path, wasm: &Digest) -> bool {
    let Ok(entries) = fs::read_dir(code) else { return false };
    entries.flatten().any(|settings| settings.path().join(format!("{}.json", wasm.hex())).exists())
}

impl Compiler {
    /// Removes the code of files that no image needs, whatever version made it.
    pub(crate) fn retain(&self, needed: &HashSet<Digest>) {
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

    /// Removes code of other settings than the present ones and those that are `used`: of another version or processor.
    pub(crate) async fn keep_only(&self, used: &HashSet<String>) -> Result<(), CompileError> {
        let others = |present: &str| {
            let versions = files(&self.0.code);
            let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            versions.into_iter().filter(|path| name(path) != present && !used.contains(&name(path))).collect::<Vec<_>>()
        };
        // What the present ones are is not asked for nothing.
        if others("").is_empty() {
            return Ok(());
        }
        for path in others(self.settings().await?) {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove outdated machine code");
            }
        }
        Ok(())
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
    /// Makes room, but not by removing what was just made, nor code of images that containers use: their worker may have
    /// to open it once more.
    pub(super) fn trim(&self, settings: &str, store: &ImageStore, just_made: &Digest) {
        let in_use = match store.in_use() {
            Ok(images) => images,
            Err(error) => return tracing::warn!(%error, "no room is made, because it is not known what is in use"),
        };
        let stays: HashSet<&str> = in_use
            .iter()
            .flat_map(|image| image.programs.values().chain([&image.wasm]))
            .chain([just_made])
            .map(Digest::hex)
            .collect();
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
            let stem = code.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if !stays.contains(stem) {
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
