//! Machine code that travels in an image. Loading machine code is running it, so it is used only when a key of the
//! policy's `precompiledKeys` has signed that it is what the image's WebAssembly file compiles to.
//!
//! It is a layer of its own type, one for each processor and engine. Runtimes that do not know the type leave it alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Policy;
use crate::images::layout::{Descriptor, Manifest};
use crate::images::push::PushExtras;
use crate::images::{Digest, Image, ImageError, ImageStore, manifest};

const LAYER: &str = "application/vnd.coracle.wasm.precompiled.v1";
const ARCHITECTURE: &str = "dev.coracle.precompiled.architecture";
const ENGINE: &str = "dev.coracle.precompiled.engine";
const KIND: &str = "dev.coracle.precompiled.kind";
const SIGNATURE: &str = "dev.coracle.precompiled.signature";

/// Machine code whose signature is valid.
pub(in crate::images) struct Trusted<'a> {
    pub(in crate::images) layer: &'a Descriptor,
    pub(in crate::images) kind: String,
}

pub(in crate::images) fn layers(manifest: &Manifest) -> impl Iterator<Item = &Descriptor> {
    manifest.layers.iter().filter(|layer| layer.media_type == LAYER)
}

/// The machine code of `wasm` for this processor and `engine`, if the image has it and a trusted key signed it.
pub(in crate::images) fn choose<'a>(
    name: &str,
    manifest: &'a Manifest,
    wasm: &Digest,
    engine: &str,
    policy: &Policy,
) -> Option<Trusted<'a>> {
    let mut here = layers(manifest).peekable();
    here.peek()?;
    let said = |layer: &Descriptor, key: &str| layer.annotations.get(key).cloned().unwrap_or_default();
    let fitting =
        here.filter(|layer| said(layer, ARCHITECTURE) == std::env::consts::ARCH && said(layer, ENGINE) == engine);
    let mut why = "none is for this processor and version";
    for layer in fitting {
        let kind = said(layer, KIND);
        let statement = statement(wasm, &layer.digest, std::env::consts::ARCH, engine, &kind);
        let signed = STANDARD.decode(said(layer, SIGNATURE)).unwrap_or_default();
        if policy.precompiled.iter().any(|key| key.verifies(statement.as_bytes(), &signed)) {
            return Some(Trusted { layer, kind });
        }
        why = "it is not signed by a key of the policy's precompiledKeys";
    }
    tracing::info!(image = name, why, "the machine code in the image is not used; it is compiled here");
    None
}

/// Everything that has to be true of machine code, as it is signed.
fn statement(wasm: &Digest, code: &Digest, architecture: &str, engine: &str, kind: &str) -> String {
    format!(
        "coracle precompiled v1\nwasm {wasm}\ncode {code}\narchitecture {architecture}\nengine {engine}\nkind {kind}\n"
    )
}

/// The manifest with machine code in it. Other fields of it stay as they are.
pub(in crate::images) fn embed(
    store: &ImageStore,
    image: &Image,
    text: &[u8],
    extras: &PushExtras,
) -> Result<Vec<u8>, ImageError> {
    let what = format!("the manifest of {}", image.name);
    let bad = |why: String| ImageError::corrupt(&what, why);
    let old = manifest::single(&image.name, text)?;
    if !old.layers.iter().any(|layer| layer.digest == image.wasm) {
        return Err(bad(
            "machine code goes into images whose layer is the Wasm file, and this one is of another shape".to_owned(),
        ));
    }
    let key = extras.key.as_ref().ok_or_else(|| bad("machine code without a signature is never used".to_owned()))?;
    let mut document: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
    let mut layers: Vec<Descriptor> = old.layers.into_iter().filter(|layer| layer.media_type != LAYER).collect();
    for code in &extras.code {
        let digest = store.put_blob("machine code", &code.content)?;
        let statement = statement(&image.wasm, &digest, &code.architecture, &code.engine, &code.kind);
        let signed = key.sign(statement.as_bytes()).map_err(bad)?;
        let annotations = [
            (ARCHITECTURE, code.architecture.clone()),
            (ENGINE, code.engine.clone()),
            (KIND, code.kind.clone()),
            (SIGNATURE, STANDARD.encode(signed)),
        ];
        layers.push(Descriptor {
            media_type: LAYER.to_owned(),
            digest,
            size: code.content.len() as u64,
            platform: None,
            annotations: annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        });
    }
    let layers = serde_json::to_value(layers).map_err(|error| bad(error.to_string()))?;
    document.insert("layers".to_owned(), layers);
    serde_json::to_vec(&document).map_err(|error| bad(error.to_string()))
}
