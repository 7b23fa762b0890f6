//! How images are shown: as `crictl images` does, or as JSON.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use coracle_shim_wasm::compile::Interfaces;
use coracle_shim_wasm::images::{Description, Digest, Image, ImageName};
use serde::Serialize;

use crate::cli::Output;

/// Everything that is known of an image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inspected {
    pub(crate) names: Vec<String>,
    pub(crate) id: Digest,
    pub(crate) repo_digest: String,
    pub(crate) size: u64,
    pub(crate) wasm: Digest,
    pub(crate) wasm_size: u64,
    pub(crate) compiled: bool,
    pub(crate) pinned: bool,
    pub(crate) manifest: Description,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interfaces: Option<Interfaces>,
    /// What is wrong with the Wasm file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) invalid: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    id: &'a Digest,
    repo_tags: Vec<&'a str>,
    repo_digests: BTreeSet<String>,
    size: u64,
}

/// All names, or all images with their names.
pub(crate) fn list(images: &[Image], output: Output) -> serde_json::Result<String> {
    match output {
        Output::Table => Ok(table(images)),
        Output::Json => {
            let mut listed: Vec<Listed> = Vec::new();
            for image in images {
                let at = listed.iter().position(|other| *other.id == image.id).unwrap_or_else(|| {
                    let (repo_tags, repo_digests) = (Vec::new(), BTreeSet::new());
                    listed.push(Listed { id: &image.id, repo_tags, repo_digests, size: image.size_bytes });
                    listed.len() - 1
                });
                listed[at].repo_tags.push(&image.name);
                listed[at].repo_digests.insert(image.repo_digest());
            }
            Ok(serde_json::to_string_pretty(&serde_json::json!({ "images": listed }))? + "\n")
        }
    }
}

fn table(images: &[Image]) -> String {
    let mut rows = vec![["IMAGE", "TAG", "IMAGE ID", "SIZE"].map(str::to_owned)];
    for image in images {
        let name = ImageName::parse(&image.name);
        let tag = name.as_ref().ok().and_then(|name| name.tag()).unwrap_or("<none>").to_owned();
        let repository = name.map_or_else(|_| image.name.clone(), |name| name.repository());
        let id = image.id.hex().get(..13).unwrap_or_default().to_owned();
        rows.push([repository, tag, id, crate::image::size(image.size_bytes).replace(' ', "")]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [image, tag, id, size] in &rows {
        let [a, b, c] = widths;
        let _ = writeln!(text, "{image:<a$}   {tag:<b$}   {id:<c$}   {size}");
    }
    text
}

/// For people.
pub(crate) fn inspected(image: &Inspected) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key:<12} {value}");
    };
    for (at, name) in image.names.iter().enumerate() {
        line(if at == 0 { "Name:" } else { "" }, name);
    }
    line("Digest:", &image.id.to_string());
    line("Size:", &crate::image::size(image.size));
    line("Wasm:", &format!("{} ({})", image.wasm, crate::image::size(image.wasm_size)));
    match (&image.interfaces, &image.invalid) {
        (Some(Interfaces { kind, wasi, .. }), _) => {
            let wasi = wasi.as_ref().map(|version| format!(", WASI {version}")).unwrap_or_default();
            line("Kind:", &format!("{kind}{wasi}"));
        }
        (None, Some(why)) => line("Kind:", why),
        (None, None) => {}
    }
    line("Compiled:", if image.compiled { "yes" } else { "no" });
    line("Pinned:", if image.pinned { "yes" } else { "no" });
    line("Manifest:", &image.manifest.media_type);
    line("Config:", &format!("{} {}", image.manifest.config.media_type, image.manifest.config.digest));
    for (at, layer) in image.manifest.layers.iter().enumerate() {
        let missing = if layer.present { "" } else { ", not pulled" };
        let value = format!("{} {} ({}{missing})", layer.media_type, layer.digest, crate::image::size(layer.size));
        line(if at == 0 { "Layers:" } else { "" }, &value);
    }
    if let Some(interfaces) = &image.interfaces {
        for (key, names) in [("Imports:", &interfaces.imports), ("Exports:", &interfaces.exports)] {
            for (at, name) in names.iter().enumerate() {
                line(if at == 0 { key } else { "" }, name);
            }
        }
    }
    text
}
