//! Images in use. What a container was made of stays whole until the last such container is removed, though its name may
//! go to another image meanwhile, or be removed: an instance more of it must be the same program.
//!
//! These records are replaced by rename but not synced: they tell of containers, and none outlives a power loss.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::{Digest, Image, ImageError, ImageStore};

/// What became of an image that nobody uses any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Released {
    /// It has a name, and stays.
    Named,
    Gone,
}

impl ImageStore {
    /// Keeps the content of an image until it is released. An image whose content has gone is unknown.
    pub(crate) fn hold(&self, image: &Image) -> Result<(), ImageError> {
        // Nobody collects while this is held.
        let _adding = self.blobs.adding()?;
        if self.held(&image.id)?.is_some() {
            return Ok(());
        }
        if !image.blobs.iter().all(|digest| self.blobs.has(digest)) {
            return Err(ImageError::Unknown { name: image.name.clone() });
        }
        self.write_use(image)
    }

    /// The image of this id that is held.
    pub(crate) fn held(&self, id: &Digest) -> Result<Option<Image>, ImageError> {
        self.read_ref(&self.use_path(id))
    }

    /// Nobody uses the image any more; what has no name goes.
    pub(crate) fn release(&self, id: &Digest) -> Result<Released, ImageError> {
        remove(self.use_path(id))?;
        if self.list()?.iter().any(|image| image.id == *id) {
            return Ok(Released::Named);
        }
        self.collect()?;
        Ok(Released::Gone)
    }

    /// Releases all but those.
    pub(crate) fn hold_only(&self, ids: &HashSet<Digest>) -> Result<(), ImageError> {
        let mut released = false;
        for image in self.in_use()?.into_iter().filter(|image| !ids.contains(&image.id)) {
            remove(self.use_path(&image.id))?;
            released = true;
        }
        if released { self.collect() } else { Ok(()) }
    }

    pub(crate) fn in_use(&self) -> Result<Vec<Image>, ImageError> {
        self.read_refs("uses")
    }

    pub(super) fn write_use(&self, image: &Image) -> Result<(), ImageError> {
        let path = self.use_path(&image.id);
        let text = serde_json::to_vec(image).map_err(|error| ImageError::corrupt(&image.name, error))?;
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| ImageError::io("write", path, source))
    }

    pub(super) fn use_path(&self, id: &Digest) -> PathBuf {
        self.root.join("uses").join(format!("{}.json", id.hex()))
    }
}

fn remove(path: PathBuf) -> Result<(), ImageError> {
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
