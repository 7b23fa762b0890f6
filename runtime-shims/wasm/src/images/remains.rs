//! What pulls that broke off leave for the next ones to go on with: downloads that are not whole, and claims, which keep
//! what was fetched whole. Bounded in time and in bytes. What somebody works on is locked, and not touched.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::ImageError;
use super::blobs::Blobs;
use super::claims::listed;
use crate::clock::UnixNanos;

/// How long it is kept for somebody to go on with.
pub(super) const KEPT_NS: i128 = 24 * 3600 * 1_000_000_000;
/// And where room is wanted: twice the longest pause of an agent between two tries. It may wait longer for its turn, and
/// then begins anew.
pub(super) const KEPT_AT_LEAST_NS: i128 = 600 * 1_000_000_000;

/// A download or a claim, as it lies there.
pub(super) struct Remains {
    pub(super) path: PathBuf,
    bytes: u64,
    modified_ns: i128,
}

impl Remains {
    pub(super) fn in_dir(dir: &Path) -> Result<Vec<Remains>, ImageError> {
        use std::os::unix::fs::MetadataExt;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(|source| ImageError::io("read", dir, source))? {
            let path = entry.map_err(|source| ImageError::io("read", dir, source))?.path();
            // It may be whole now, and have another name.
            let Ok(meta) = fs::metadata(&path) else { continue };
            let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
            found.push(Remains { bytes: meta.len(), modified_ns, path });
        }
        Ok(found)
    }

    /// Locked, if nobody works on it.
    fn idle(&self) -> Option<File> {
        File::open(&self.path).ok().filter(|file| file.try_lock().is_ok())
    }

    /// Whether it is gone.
    pub(super) fn remove_if_idle(self) -> Result<bool, ImageError> {
        let Some(_locked) = self.idle() else { return Ok(false) };
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(source) => Err(ImageError::io("remove", self.path, source)),
        }
    }
}

impl Blobs {
    /// Removes what nobody went on with for so long.
    pub(super) fn expire_remains(&self, now: UnixNanos, kept_ns: i128) -> Result<(), ImageError> {
        let all = Remains::in_dir(self.partials())?.into_iter().chain(Remains::in_dir(self.claims())?);
        let old = all.filter(|remains| i128::from(now) - remains.modified_ns > kept_ns);
        old.map(Remains::remove_if_idle).try_for_each(|removed| removed.map(drop))
    }

    /// Removes what nobody goes on with, the newest last, so that all together has no more than this. The downloads in
    /// `own` stay, up to these sizes: whoever wants room for them goes on with them now. `held` are blobs that stay anyway.
    /// Returns whether there are blobs now that nobody claims.
    pub(super) fn limit_remains(
        &self,
        max_bytes: u64,
        own: &HashMap<PathBuf, u64>,
        mut held: HashSet<String>,
    ) -> Result<bool, ImageError> {
        let mut all: Vec<(Remains, Vec<String>)> = Vec::new();
        for claim in Remains::in_dir(self.claims())? {
            let blobs = listed(&claim.path)?;
            match claim.idle() {
                Some(_) => all.push((claim, blobs)),
                None => held.extend(blobs),
            }
        }
        let partials = Remains::in_dir(self.partials())?.into_iter();
        let others = partials.filter(|partial| own.get(&partial.path).is_none_or(|size| partial.bytes > *size));
        all.extend(others.map(|partial| (partial, Vec::new())));
        all.sort_by_key(|(remains, _)| Reverse(remains.modified_ns));
        let (mut total, mut unclaimed) = (0, false);
        for (remains, mut blobs) in all {
            blobs.retain(|blob| !held.contains(blob));
            let whole: u64 = blobs.iter().map(|blob| self.bytes_of(blob)).sum();
            let bytes = remains.bytes + whole;
            if total + bytes > max_bytes && remains.remove_if_idle()? {
                unclaimed |= whole > 0;
                continue;
            }
            total += bytes;
            held.extend(blobs);
        }
        Ok(unclaimed)
    }
}
