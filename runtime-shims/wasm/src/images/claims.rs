//! What pulls and pushes under way need of the store, so that they hold up nobody who collects: a registry may take as long
//! as it likes. Each has a file that lists it, locked as long as that pull or push lives.
//!
//! That of a pull which broke off stays behind without a lock, and what it lists is kept for whoever pulls the same once
//! more, for as long as [`remains`](super::remains) has it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};

use super::blobs::Blobs;
use super::remains::Remains;
use super::{Digest, ImageError};

/// Blobs that stay as long as this lives, those too that come only now.
#[derive(Debug)]
pub(super) struct Claim {
    file: File,
    path: PathBuf,
    /// Does it stay behind?
    lasts: bool,
}

impl Claim {
    /// Nobody needs what was claimed any more, but for what has a name.
    pub(super) fn end(mut self) {
        self.lasts = false;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.lasts {
            // It is kept from now on, not from when it was made.
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let _ = futimens(&self.file, &Timestamps { last_access: now, last_modification: now });
        } else {
            // Where it cannot be removed, it is in the way no longer than one that lasts.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Blobs {
    /// For a pull or push of this manifest.
    pub(super) fn claim<'a>(
        &self,
        manifest: &Digest,
        digests: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<Claim, ImageError> {
        // Whoever collects sees all of a claim or none of it, and nobody sees one that is not locked yet.
        let _adding = self.adding()?;
        let mut file = self.temporary()?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ImageError::io("write", path, source)
        };
        let text = lines(digests);
        file.as_file().lock().and_then(|()| file.write_all(text.as_bytes())).map_err(failed(file.path()))?;
        let unique = file.path().file_name().unwrap_or_default().to_string_lossy();
        let path = self.claims().join(format!("{}{unique}", manifest.hex()));
        let file = file.persist(&path).map_err(|error| failed(&path)(error.error))?;
        Ok(Claim { file, path, lasts: false })
    }

    pub(super) fn claim_more<'a>(
        &self,
        claim: &mut Claim,
        digests: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<(), ImageError> {
        let _adding = self.adding()?;
        let written = claim.file.write_all(lines(digests).as_bytes());
        written.map_err(|source| ImageError::io("write", &claim.path, source))
    }

    /// What is claimed stays, also when the claim is dropped, unless that was ended. It is in the place of what earlier
    /// claims for the same manifest left.
    pub(super) fn keep(&self, claim: &mut Claim) -> Result<(), ImageError> {
        claim.lasts = true;
        let manifest = |path: &Path| path.file_name().and_then(|name| name.to_str()?.get(..64).map(str::to_owned));
        let same = manifest(&claim.path);
        let earlier = Remains::in_dir(self.claims())?.into_iter().filter(|other| manifest(&other.path) == same);
        earlier.map(Remains::remove_if_idle).try_for_each(|removed| removed.map(drop))
    }

    /// What is claimed, also by claims that only were left. For who has seen to it that nobody adds anything at this moment.
    pub(super) fn claimed(&self) -> Result<HashSet<String>, ImageError> {
        let mut found = HashSet::new();
        for claim in Remains::in_dir(self.claims())? {
            found.extend(listed(&claim.path)?);
        }
        Ok(found)
    }
}

/// The blobs that a claim lists.
pub(super) fn listed(claim: &Path) -> Result<Vec<String>, ImageError> {
    match fs::read(claim) {
        // A power loss may have left anything there; what is no digest is the name of nothing.
        Ok(text) => Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(ImageError::io("read", claim, source)),
    }
}

fn lines<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> String {
    digests.into_iter().map(|digest| format!("{}\n", digest.hex())).collect()
}
