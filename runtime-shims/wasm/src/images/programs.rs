//! Other programs of an image than the one it is run by: the `.wasm` files in the layers of its file system. They are
//! found when they are asked for, and what was taken out is kept with the image's name.

use std::sync::Arc;

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
    /// What there is in the image's layers, which are read only once.
    pub async fn programs(&self, image: &Image) -> Result<Arc<Programs>, ImageError> {
        if let Some(known) = self.readings.known(&image.id) {
            return Ok(known);
        }
        let image = image.clone();
        self.read(move |store| store.look_for_programs(&image)).await
    }

    fn look_for_programs(&self, image: &Image) -> Result<Arc<Programs>, ImageError> {
        // Somebody may have asked the same before.
        if let Some(known) = self.readings.known(&image.id) {
            return Ok(known);
        }
        let programs = match self.shape(image)? {
            Shape::Artifact { .. } => Programs { paths: Vec::new(), is_one: true },
            Shape::Rootfs { layers, .. } => {
                let (paths, files) = rootfs::list(&self.blobs, &image.name, &layers)?;
                Programs { paths, is_one: files == 1 }
            }
        };
        let programs = Arc::new(programs);
        self.readings.remember(image.id.clone(), &programs);
        Ok(programs)
    }

    /// The image as it would be if `path` were what it is run by.
    pub async fn program(&self, image: &Image, path: &str) -> Result<Image, ImageError> {
        let taken_out = match self.taken_out(image, path) {
            Some(taken_out) => taken_out,
            None => {
                let (image, path) = (image.clone(), path.to_owned());
                self.read(move |store| store.take_out(&image, &path)).await?
            }
        };
        let (wasm, image) = taken_out;
        let wasm_bytes = self.blobs.len(&wasm)?;
        Ok(Image { wasm, wasm_bytes, ..image })
    }

    fn taken_out(&self, image: &Image, path: &str) -> Option<(Digest, Image)> {
        let wasm = image.programs.get(path).filter(|wasm| self.blobs.has(wasm))?;
        Some((wasm.clone(), image.clone()))
    }

    /// Makes a blob of the file at `path`, and notes it with the image.
    fn take_out(&self, image: &Image, path: &str) -> Result<(Digest, Image), ImageError> {
        // Somebody may have asked the same before.
        if let Some(taken_out) = self.held(&image.id)?.and_then(|held| self.taken_out(&held, path)) {
            return Ok(taken_out);
        }
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
        let config = self.image_config(&image.name, &manifest)?;
        Ok(manifest::anatomy(&image.name, &manifest, config)?.shape)
    }
}
