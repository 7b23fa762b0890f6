//! Pushes an image as it was taken in: the same blobs, the same manifest, hence the same digest.

use oci_client::RegistryOperation;

use super::layout::{Descriptor, OCI_MANIFEST};
use super::manifest::{self, MAX_DOCUMENT_BYTES, MAX_LAYER_BYTES};
use super::pull::{client, failed};
use super::{Credentials, Digest, Image, ImageError, ImageName, ImageStore, Registries};

pub(super) async fn push(
    store: &ImageStore,
    image: &Image,
    target: &ImageName,
    credentials: &Credentials,
    registries: &Registries,
) -> Result<Digest, ImageError> {
    let client = client(target, registries)?;
    let reference = &target.reference();
    client
        .auth(reference, &credentials.auth(), RegistryOperation::Push)
        .await
        .map_err(|error| failed("push", target, error))?;
    let text = store.blobs.read(&image.id, MAX_DOCUMENT_BYTES)?;
    let manifest = manifest::single(&image.name, &text)?;
    for Descriptor { digest, .. } in manifest.layers.iter().chain([&manifest.config]) {
        let there =
            client.blob_exists(reference, &digest.to_string()).await.map_err(|error| failed("push", target, error))?;
        if there {
            continue;
        }
        let content = store.blobs.read(digest, MAX_LAYER_BYTES)?;
        client
            .push_blob(reference, content, &digest.to_string())
            .await
            .map_err(|error| failed("push", target, error))?;
    }
    let media_type = manifest.media_type.as_deref().unwrap_or(OCI_MANIFEST);
    let media_type = http::HeaderValue::from_str(media_type)
        .map_err(|error| ImageError::corrupt(format!("the manifest of {}", image.name), error))?;
    client.push_manifest_raw(reference, text, media_type).await.map_err(|error| failed("push", target, error))?;
    Ok(image.id.clone())
}
