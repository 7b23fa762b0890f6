//! Owns the OpenAPI documents: version 3 by group version, version 2 as one (JSON, and protobuf for kubectl). Each is made
//! when it is first asked for, from the schema, and kept compressed. Must not know how a request was authorised.

mod definitions;
mod descriptions;
mod gnostic;
mod paths;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use coracle_api::schema::ResourceDef;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use definitions::{Dialect, Types};

/// What is served at the moment, ordered by group, version and plural.
pub type Served = Arc<dyn Fn() -> Vec<Arc<ResourceDef>> + Send + Sync>;

/// Which document is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Document {
    V2Json,
    V2Protobuf,
    /// Of a group version.
    V3(String, String),
}

/// A document as it is kept: compressed, with the hash of what it was made from.
#[derive(Clone, Debug)]
pub struct Compressed {
    pub gzip: Bytes,
    pub hash: String,
}

/// The documents of a server.
pub struct OpenApi {
    served: Served,
    version: String,
    made: Mutex<HashMap<Document, Compressed>>,
}

impl OpenApi {
    /// `version` is the Kubernetes version that is served, `v1.36.0`.
    pub fn new(version: &str, served: Served) -> OpenApi {
        OpenApi { served, version: version.to_owned(), made: Mutex::new(HashMap::new()) }
    }

    /// The list of version 3's documents: path below `/openapi/v3/` (`api/v1`, `apis/apps/v1`) to hash.
    pub fn index(&self) -> BTreeMap<String, String> {
        let served = (self.served)();
        let versions = group_versions(&served);
        versions.iter().map(|gv| (path_of(gv), self.hash(&of_group_version(&served, gv)))).collect()
    }

    /// A document; `None` if there is no such group version. Takes a while the first time: call where that does no harm.
    pub fn document(&self, which: &Document) -> Option<Compressed> {
        let served = (self.served)();
        let resources = match which {
            Document::V2Json | Document::V2Protobuf => served.clone(),
            Document::V3(group, version) => of_group_version(&served, &(group.clone(), version.clone())),
        };
        if resources.is_empty() {
            return None;
        }
        let hash = self.hash(&resources);
        // The lock is held while a document is made: whoever waits for it wants the same one.
        let mut made = self.made.lock();
        if let Some(kept) = made.get(which).filter(|kept| kept.hash == hash) {
            return Some(kept.clone());
        }
        let all = group_versions(&served);
        let gzip = match which {
            Document::V2Json => self.write_v2(&resources, &all),
            Document::V2Protobuf => self.write_v2_protobuf(&resources, &all),
            Document::V3(_, _) => self.write_v3(&resources, &all),
        };
        let gzip = gzip.unwrap_or_else(|error| unreachable!("writing into memory does not fail: {error}"));
        let compressed = Compressed { gzip: gzip.into(), hash };
        made.insert(which.clone(), compressed.clone());
        Some(compressed)
    }

    /// Documents are a function of this software and of what is served, so their hash is taken of that.
    fn hash(&self, resources: &[Arc<ResourceDef>]) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.version);
        hash.update(env!("CARGO_PKG_VERSION"));
        for def in resources {
            let types = (def.schema().ty(def.ty).name.as_ref(), def.namespaced, &def.subresources.len());
            hash.update(format!("{}/{}/{}/{:?}\n", def.group, def.version, def.plural, types));
            // A custom resource's schema may change under the same name.
            if !std::ptr::eq(def.schema(), coracle_api::schema::Schema::v1_36()) {
                hash.update(format!("{:?}", def.schema().ty(def.ty)));
            }
        }
        crate::auth::hex(&hash.finalize())[..64].to_uppercase()
    }

    fn write_v3(&self, resources: &[Arc<ResourceDef>], all: &[(String, String)]) -> std::io::Result<Vec<u8>> {
        let types = Types::of(resources, all);
        let mut out = Writer::new();
        out.raw(&format!(
            r#"{{"openapi":"3.0.0","info":{{"title":"Kubernetes","version":"{}"}},"paths":{{"#,
            self.version
        ))?;
        for (path, item) in paths::paths(Dialect::V3, resources) {
            out.member(&path, &item)?;
        }
        out.raw(r#"},"components":{"schemas":{"#)?;
        out.first = true;
        types.write(Dialect::V3, |name, definition| out.member(name, &definition))?;
        out.raw(r#"},"securitySchemes":"#)?;
        out.value(&security())?;
        out.raw("}}")?;
        out.finish()
    }

    fn head(&self) -> Value {
        json!({
            "swagger": "2.0",
            "info": { "title": "Kubernetes", "version": self.version },
            "securityDefinitions": security(),
        })
    }

    fn write_v2(&self, resources: &[Arc<ResourceDef>], all: &[(String, String)]) -> std::io::Result<Vec<u8>> {
        let types = Types::of(resources, all);
        let mut out = Writer::new();
        out.raw("{")?;
        for (key, value) in self.head().as_object().into_iter().flatten() {
            out.member(key, value)?;
        }
        out.raw(r#","paths":{"#)?;
        out.first = true;
        for (path, item) in paths::paths(Dialect::V2, resources) {
            out.member(&path, &item)?;
        }
        out.raw(r#"},"definitions":{"#)?;
        out.first = true;
        types.write(Dialect::V2, |name, definition| out.member(name, &definition))?;
        out.raw("}}")?;
        out.finish()
    }

    fn write_v2_protobuf(&self, resources: &[Arc<ResourceDef>], all: &[(String, String)]) -> std::io::Result<Vec<u8>> {
        let types = Types::of(resources, all);
        let mut document = gnostic::Document::new(&self.head());
        for (path, item) in paths::paths(Dialect::V2, resources) {
            document.path(&path, &item);
        }
        types.write(Dialect::V2, |name, definition| {
            document.definition(name, &definition);
            Ok::<_, std::io::Error>(())
        })?;
        let mut out = GzEncoder::new(Vec::new(), Compression::default());
        out.write_all(&document.finish())?;
        out.finish()
    }
}

/// A JSON document that is compressed while it is written.
struct Writer {
    gzip: GzEncoder<Vec<u8>>,
    /// The next member needs no comma.
    first: bool,
}

impl Writer {
    fn new() -> Writer {
        Writer { gzip: GzEncoder::new(Vec::new(), Compression::default()), first: true }
    }

    fn raw(&mut self, text: &str) -> std::io::Result<()> {
        self.gzip.write_all(text.as_bytes())
    }

    fn value(&mut self, value: &Value) -> std::io::Result<()> {
        Ok(serde_json::to_writer(&mut self.gzip, value)?)
    }

    fn member(&mut self, key: &str, value: &Value) -> std::io::Result<()> {
        if !std::mem::take(&mut self.first) {
            self.raw(",")?;
        }
        serde_json::to_writer(&mut self.gzip, key)?;
        self.raw(":")?;
        self.value(value)
    }

    fn finish(self) -> std::io::Result<Vec<u8>> {
        self.gzip.finish()
    }
}

fn security() -> Value {
    json!({ "BearerToken": { "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication" } })
}

fn group_versions(resources: &[Arc<ResourceDef>]) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> =
        resources.iter().map(|def| (def.group.to_string(), def.version.to_string())).collect();
    all.sort();
    all.dedup();
    all
}

fn of_group_version(resources: &[Arc<ResourceDef>], gv: &(String, String)) -> Vec<Arc<ResourceDef>> {
    let own = resources.iter().filter(|def| *def.group == *gv.0 && *def.version == *gv.1);
    own.cloned().collect()
}

/// `api/v1`, `apis/apps/v1`.
fn path_of((group, version): &(String, String)) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The group version a path below `/openapi/v3/` names.
pub fn group_version_of(path: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["api", version] => Some((String::new(), (*version).to_owned())),
        ["apis", group, version] => Some(((*group).to_owned(), (*version).to_owned())),
        _other => None,
    }
}
