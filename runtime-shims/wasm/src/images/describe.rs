//! What an image consists of, for those who look at it.

use serde::Serialize;

use super::manifest::{self, MAX_DOCUMENT_BYTES};
use super::{Digest, Image, ImageError, ImageStore};

/// An image's manifest, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    pub media_type: String,
    pub config: Layer,
    pub layers: Vec<Layer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    /// Machine code for other processors is not pulled.
    pub present: bool,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl ImageStore {
    pub fn describe(&self, image: &Image) -> Result<Description, ImageError> {
        let text = self.blobs.read(&image.id, MAX_DOCUMENT_BYTES)?;
        let manifest = manifest::single(&image.name, &text)?;
        let layer = |descriptor: &super::layout::Descriptor| Layer {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            present: self.blobs.has(&descriptor.digest),
            annotations: descriptor.annotations.clone(),
        };
        Ok(Description {
            media_type: manifest.media_type.clone().unwrap_or_else(|| super::layout::OCI_MANIFEST.to_owned()),
            config: layer(&manifest.config),
            layers: manifest.layers.iter().map(layer).collect(),
        })
    }
}
