//! Other programs of an image than the one it is run by: the `.wasm` files in the layers of its file system. They are
//! found when they are asked for, and what was taken out is kept with the image's name.

use super::manifest::{self, MAX_DOCUMENT_BYTES, Shape};
use super::{Digest, Image, ImageError, ImageStore, rootfs};

/// What could be run of an image.
#[derive(Debug)]
pub struct Programs {
    /// Of all `.wasm` files, sorted. None, if the image is one file without a file system.
    pub paths: Vec<String>,
    /// One file is all there is, under however many paths.
    pub is_one: bool,
}

impl ImageStore {
    pub fn programs(&self, image: &Image) -> Result<Programs, ImageError> {
        match self.shape(image)? {
            Shape::Artifact { .. } => Ok(Programs { paths: Vec::new(), is_one: true }),
            Shape::Rootfs { layers, .. } => {
                let (paths, files) = rootfs::list(&self.blobs, &image.name, &layers)?;
                Ok(Programs { paths, is_one: files == 1 })
            }
        }
    }

    /// The image as it would be if `path` were what it is run by.
    pub fn program(&self, image: &Image, path: &str) -> Result<Image, ImageError> {
        let (wasm, image) = match image.programs.get(path) {
            Some(wasm) if self.blobs.has(wasm) => (wasm.clone(), image.clone()),
            Some(_) | None => self.take_out(image, path)?,
        };
        let wasm_bytes = self.blobs.len(&wasm)?;
        Ok(Image { wasm, wasm_bytes, ..image })
    }

    /// Makes a blob of the file at `path`, and notes it with the image.
    fn take_out(&self, image: &Image, path: &str) -> Result<(Digest, Image), ImageError> {
        let Shape::Rootfs { layers, .. } = self.shape(image)? else {
            let why = format!("it is one file and has no {path:?}");
            return Err(ImageError::NotWasm { name: image.name.clone(), why });
        };
        let _adding = self.blobs.adding()?;
        let wasm = rootfs::extract(&self.blobs, &image.name, &layers, Some(path))?;
        let with = |mut current: Image| {
            current.programs.insert(path.to_owned(), wasm.clone());
            if !current.blobs.contains(&wasm) {
                current.blobs.push(wasm.clone());
            }
            current
        };
        // Another image may have come under the name.
        let named = self.read_ref(&self.ref_path(&image.name))?.filter(|named| named.id == image.id);
        named.map(|named| self.write_ref(&with(named))).transpose()?;
        self.held(&image.id)?.map(|held| self.write_use(&with(held))).transpose()?;
        Ok((wasm.clone(), with(image.clone())))
    }

    fn shape(&self, image: &Image) -> Result<Shape, ImageError> {
        let text = self.blobs.read(&image.id, MAX_DOCUMENT_BYTES)?;
        let manifest = manifest::single(&image.name, &text)?;
        let config = if manifest::has_image_config(&manifest) {
            Some(self.blobs.read(&manifest.config.digest, MAX_DOCUMENT_BYTES)?)
        } else {
            None
        };
        Ok(manifest::anatomy(&image.name, &manifest, config.as_deref())?.shape)
    }
}
