//! The JSON documents of the OCI image specification, as far as they are read or written here. Unknown fields are
//! ignored: manifests are kept and pushed as the bytes that came.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Digest;

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(super) const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub(super) const WASM_LAYER: &str = "application/wasm";

/// Layer types that are a WebAssembly file: the CNCF artifact's, and the older ones of wasm-to-oci and cargo-component.
pub(super) const WASM_LAYERS: [&str; 3] = [
    WASM_LAYER,
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
}

impl Platform {
    /// `wasi/wasm` and its relatives (`wasip1/wasm`, `wasi/wasm32`, `wasm/wasip2` where somebody swapped them).
    pub(super) fn is_wasm(&self) -> bool {
        self.architecture.starts_with("wasm") || self.os.starts_with("wasi") || self.os == "wasm"
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    pub(super) config: Descriptor,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Index {
    pub(super) manifests: Vec<Descriptor>,
}

/// An image's configuration; both Docker and OCI spell these fields so.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct ImageConfig {
    // Written out: flattened, they would have all that is not known here read into memory.
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    pub(super) config: Option<RunConfig>,
}

impl ImageConfig {
    pub(super) fn platform(&self) -> Platform {
        Platform { architecture: self.architecture.clone(), os: self.os.clone() }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RunConfig {
    #[serde(default)]
    pub(super) entrypoint: Option<Vec<String>>,
    #[serde(default)]
    pub(super) cmd: Option<Vec<String>>,
    #[serde(default)]
    pub(super) env: Option<Vec<String>>,
    #[serde(default)]
    pub(super) working_dir: Option<String>,
}

/// One document that is either; told apart by what it contains, because `mediaType` is optional in both.
pub(super) enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    pub(super) fn parse(text: &[u8]) -> Result<Document, String> {
        #[derive(Deserialize)]
        struct Probe {
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if probe.manifests.is_some() {
            serde_json::from_slice(text).map(Document::Index).map_err(|error| error.to_string())
        } else {
            serde_json::from_slice(text).map(Document::Manifest).map_err(|error| error.to_string())
        }
    }
}
