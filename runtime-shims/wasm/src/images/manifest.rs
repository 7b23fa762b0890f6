//! Decides what an image is from its manifest and configuration, before anything large is fetched. No I/O.

use std::collections::HashSet;

use super::layout::{DOCKER_CONFIG, Descriptor, Document, ImageConfig, Index, Manifest, OCI_CONFIG, WASM_LAYERS};
use super::{Digest, ImageError};
use crate::listed::{listed, short};

/// The largest WebAssembly file accepted.
pub(super) const MAX_WASM_BYTES: u64 = 256 << 20;
/// Manifests and configurations.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Docker has 127. A manifest has room for 38,000, and each costs a request.
const MAX_LAYERS: usize = 128;
/// Of the words that a configuration says an image is run with. Each name of the image has them in its record, and all
/// records are read to list images. Linux takes 128 KiB for one argument.
const MAX_RUN_BYTES: usize = 128 << 10;
const MAX_RUN_WORDS: usize = 4096;

/// Where the WebAssembly file is.
#[derive(Debug)]
pub(super) enum Shape {
    /// A layer is the file.
    Artifact { layer: Descriptor },
    /// A file in the root filesystem that the layers make up. Without `entry`, the only `.wasm` there is.
    Rootfs { layers: Vec<Descriptor>, entry: Option<String> },
}

/// What an image is, and how it wants to be run.
#[derive(Debug)]
pub(super) struct Anatomy {
    pub(super) shape: Shape,
    pub(super) config: ImageConfig,
}

/// Does the configuration have to be read to decide? If not, nothing is known of it.
pub(super) fn has_image_config(manifest: &Manifest) -> bool {
    [OCI_CONFIG, DOCKER_CONFIG].contains(&manifest.config.media_type.as_str())
}

pub(super) fn config(name: &str, text: &[u8]) -> Result<ImageConfig, ImageError> {
    serde_json::from_slice(text).map_err(|error| ImageError::corrupt(format!("the configuration of {name}"), error))
}

/// The kind is decided first: what else is wrong with an image is said only of one of this kind.
pub(super) fn anatomy(name: &str, manifest: &Manifest, config: ImageConfig) -> Result<Anatomy, ImageError> {
    let shape = shape(name, manifest, &config)?;
    check_layers(name, manifest.layers.len())?;
    check_run(name, &config)?;
    Ok(Anatomy { shape, config })
}

fn shape(name: &str, manifest: &Manifest, config: &ImageConfig) -> Result<Shape, ImageError> {
    let mut wasm = manifest.layers.iter().filter(|layer| WASM_LAYERS.contains(&layer.media_type.as_str()));
    if let Some(layer) = wasm.next() {
        if wasm.next().is_some() {
            return Err(not_wasm(
                name,
                manifest,
                config,
                "it has more than one Wasm layer, and which to run is not said",
            ));
        }
        within(layer, MAX_WASM_BYTES)?;
        return Ok(Shape::Artifact { layer: layer.clone() });
    }
    if !has_image_config(manifest) {
        return Err(not_wasm(name, manifest, config, "no layer is a Wasm file"));
    }
    let entry = entry(config);
    if entry.is_none() && !config.platform().is_wasm() {
        return Err(not_wasm(name, manifest, config, "its entrypoint is no .wasm file and its platform not wasi/wasm"));
    }
    Ok(Shape::Rootfs { layers: manifest.layers.clone(), entry })
}

pub(super) fn check_layers(name: &str, layers: usize) -> Result<(), ImageError> {
    if layers > MAX_LAYERS {
        let why = format!("it has {layers} layers, and an image has {MAX_LAYERS} at most");
        return Err(ImageError::corrupt(format!("the manifest of {name}"), why));
    }
    Ok(())
}

fn check_run(name: &str, config: &ImageConfig) -> Result<(), ImageError> {
    let Some(run) = &config.config else { return Ok(()) };
    let lists = [&run.entrypoint, &run.cmd, &run.env].into_iter().flatten();
    let lengths: Vec<usize> = lists.flatten().chain(&run.working_dir).map(String::len).collect();
    let (words, bytes) = (lengths.len(), lengths.iter().sum::<usize>());
    if words > MAX_RUN_WORDS || bytes > MAX_RUN_BYTES {
        let why = format!(
            "its entrypoint, command, environment and working directory have {words} words and {bytes} bytes; \
             {MAX_RUN_WORDS} words and {MAX_RUN_BYTES} bytes are most"
        );
        return Err(ImageError::corrupt(format!("the configuration of {name}"), why));
    }
    Ok(())
}

/// Chooses from a list of platforms.
pub(super) fn choose(name: &str, index: &Index) -> Result<Digest, ImageError> {
    let wasm = index.manifests.iter().find(|entry| entry.platform.as_ref().is_some_and(|platform| platform.is_wasm()));
    // A list of one without a platform is how some tools wrap an artifact.
    let only = match index.manifests.as_slice() {
        [one] if one.platform.as_ref().is_none_or(|platform| platform.os.is_empty() || platform.os == "unknown") => {
            Some(one)
        }
        _ => None,
    };
    wasm.or(only).map(|entry| entry.digest.clone()).ok_or_else(|| {
        let offered: Vec<String> = index
            .manifests
            .iter()
            .map(|entry| {
                entry.platform.as_ref().map_or_else(|| entry.media_type.clone(), |platform| platform.to_string())
            })
            .collect();
        ImageError::NotWasm {
            name: name.to_owned(),
            why: format!("it is offered for {}, not for wasi/wasm", listed(&offered)),
        }
    })
}

/// Parses `text` as the manifest of a single image.
pub(super) fn single(name: &str, text: &[u8]) -> Result<Manifest, ImageError> {
    match Document::parse(text) {
        Ok(Document::Manifest(manifest)) => Ok(manifest),
        Ok(Document::Index(_)) => {
            Err(ImageError::corrupt(format!("the manifest of {name}"), "a list of platforms names another list"))
        }
        Err(why) => Err(ImageError::corrupt(format!("the manifest of {name}"), why)),
    }
}

/// Checks the magic number and tells a component from a module.
pub(super) fn magic(what: &str, head: &[u8]) -> Result<Magic, ImageError> {
    match head {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(Magic::Module),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(Magic::Component),
        [0, b'a', b's', b'm', version @ ..] if version.len() < 4 => Err(ImageError::corrupt(what, "it is cut short")),
        [0, b'a', b's', b'm', version @ ..] => Err(ImageError::corrupt(
            what,
            format!("WebAssembly of an unknown version {:02x?}", &version[..version.len().min(4)]),
        )),
        [0x7f, b'E', b'L', b'F', ..] => {
            Err(ImageError::corrupt(what, "it is machine code, not WebAssembly (precompiled files are not accepted)"))
        }
        [] => Err(ImageError::corrupt(what, "it is empty")),
        other => Err(ImageError::corrupt(
            what,
            format!("not WebAssembly: it begins with {:02x?} instead of \"\\0asm\"", &other[..other.len().min(4)]),
        )),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Magic {
    Module,
    Component,
}

/// The `.wasm` file that the configuration wants to run.
fn entry(config: &ImageConfig) -> Option<String> {
    let run = config.config.as_ref()?;
    let first = |words: &Option<Vec<String>>| words.as_ref().and_then(|words| words.first().cloned());
    let word = first(&run.entrypoint).or_else(|| first(&run.cmd))?;
    word.ends_with(".wasm").then_some(word)
}

fn within(layer: &Descriptor, limit_bytes: u64) -> Result<(), ImageError> {
    if layer.size > limit_bytes {
        return Err(ImageError::TooLarge { what: format!("layer {}", layer.digest), limit_bytes });
    }
    Ok(())
}

fn not_wasm(name: &str, manifest: &Manifest, config: &ImageConfig, reason: &str) -> ImageError {
    let mut seen = HashSet::new();
    let layers = manifest.layers.iter().map(|layer| layer.media_type.as_str());
    let layers: Vec<&str> = layers.filter(|media_type| seen.insert(*media_type)).collect();
    let platform = config.platform();
    let platform =
        if platform.os.is_empty() { String::new() } else { format!(" for {}", short(&platform.to_string())) };
    ImageError::NotWasm {
        name: name.to_owned(),
        why: format!(
            "{reason} (configuration {}{platform}; layers {}). Accepted are a layer of type {}, a platform of wasi/wasm, \
             or an entrypoint that is a .wasm file",
            short(&manifest.config.media_type),
            if layers.is_empty() { "none".to_owned() } else { listed(&layers) },
            WASM_LAYERS.join(" or "),
        ),
    }
}
