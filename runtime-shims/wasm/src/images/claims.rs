//! What pulls under way need of the store, so that they hold up nobody who collects: a registry may take as long as it
//! likes. Each pull has a file that lists it, locked as long as the pull lives.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};

use tempfile::NamedTempFile;

use super::blobs::Blobs;
use super::{Digest, ImageError};

/// Blobs that stay as long as this lives, those too that come only now.
#[derive(Debug)]
pub(super) struct Claim {
    _file: NamedTempFile,
}

impl Blobs {
    pub(super) fn claim<'a>(&self, digests: impl Iterator<Item = &'a Digest>) -> Result<Claim, ImageError> {
        let dir = self.claims();
        // Whoever collects sees all of a claim or none of it.
        let _adding = self.adding()?;
        let mut file = NamedTempFile::new_in(dir).map_err(|source| ImageError::io("make a file in", dir, source))?;
        let text: String = digests.map(|digest| format!("{}\n", digest.hex())).collect();
        file.as_file()
            .lock()
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(|source| ImageError::io("write", file.path(), source))?;
        Ok(Claim { _file: file })
    }

    /// What is claimed. For who has seen to it that nobody adds anything at this moment.
    pub(super) fn claimed(&self) -> Result<HashSet<String>, ImageError> {
        let dir = self.claims();
        let mut found = HashSet::new();
        for entry in fs::read_dir(dir).map_err(|source| ImageError::io("read", dir, source))? {
            let path = entry.map_err(|source| ImageError::io("read", dir, source))?.path();
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(ImageError::io("open", path, source)),
            };
            // Of a process that is gone.
            if file.try_lock().is_ok() {
                let _ = fs::remove_file(&path);
                continue;
            }
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(|source| ImageError::io("read", path, source))?;
            found.extend(text.lines().map(str::to_owned));
        }
        Ok(found)
    }
}
