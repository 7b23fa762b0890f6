//! Between objects and the bytes that are stored and sent. Stored JSON always begins with kind, apiVersion and metadata,
//! and metadata always begins with resourceVersion, so that lists, other versions' headers and revisions are made by
//! splicing bytes, never by decoding.

use std::sync::Arc;

use bytes::Bytes;
use coracle_api::meta::{Revision, api_version};
use coracle_api::object::Object;
use coracle_api::status::Status;
use coracle_store::Entry;
use serde_json::{Map, Value};

/// The bytes that begin every object of one kind and version: `{"kind":"Pod","apiVersion":"v1",`.
#[derive(Debug, Clone)]
pub struct Header(Arc<[u8]>);

const METADATA: &[u8] = b"\"metadata\":{";
const REVISION: &[u8] = b"\"resourceVersion\":\"";

impl Header {
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        let text =
            format!("{{\"kind\":{},\"apiVersion\":{},", Value::from(kind), Value::from(api_version(group, version)));
        Self(text.into_bytes().into())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The object's JSON without its revision, and where the revision belongs.
    pub fn encode(&self, object: &Object) -> (Vec<u8>, usize) {
        let mut json = Vec::with_capacity(1024);
        json.extend_from_slice(&self.0);
        json.extend_from_slice(METADATA);
        let revision_at = json.len();
        let empty = Map::new();
        let metadata = object.metadata().unwrap_or(&empty);
        members(&mut json, metadata, &["resourceVersion"]);
        json.push(b'}');
        if object.0.keys().any(|field| !HEAD_FIELDS.contains(&field.as_str())) {
            json.push(b',');
            members(&mut json, &object.0, &HEAD_FIELDS);
        }
        json.push(b'}');
        (json, revision_at)
    }

    /// The object's JSON with the revision it carries, for answers that are not stored.
    pub fn encode_whole(&self, object: &Object) -> Bytes {
        let (json, at) = self.encode(object);
        match object.resource_version() {
            "" => json.into(),
            revision => splice(&json, at, at, revision).into(),
        }
    }

    /// What follows the header in an entry of this kind and version.
    pub fn body<'a>(&self, json: &'a [u8]) -> &'a [u8] {
        debug_assert!(json.starts_with(&self.0), "stored JSON begins with its kind's header");
        &json[self.0.len()..]
    }

    /// The entry's JSON as a draft has it, and where the revision belongs.
    pub fn without_revision(&self, json: &[u8]) -> (Vec<u8>, usize) {
        let (at, after) = self.revision_span(json);
        ([&json[..at], &json[after..]].concat(), at)
    }

    /// The entry's JSON under another revision (an object that leaves a selector goes at the revision of that change).
    pub fn at_revision(&self, json: &[u8], revision: Revision) -> Bytes {
        let (at, after) = self.revision_span(json);
        splice(json, at, after, &revision.to_string()).into()
    }

    /// Where the revision begins and what follows it (and its comma) begins.
    fn revision_span(&self, json: &[u8]) -> (usize, usize) {
        let at = self.0.len() + METADATA.len();
        let rest = &json[at..];
        debug_assert!(rest.starts_with(REVISION), "stored metadata begins with its revision");
        let value = rest.iter().skip(REVISION.len()).position(|byte| *byte == b'"').unwrap_or(0);
        let after = at + REVISION.len() + value + 1;
        (at, if json.get(after) == Some(&b',') { after + 1 } else { after })
    }
}

const HEAD_FIELDS: [&str; 3] = ["kind", "apiVersion", "metadata"];

/// `json[..from] + revision + json[to..]`.
fn splice(json: &[u8], from: usize, to: usize, revision: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() + 32);
    out.extend_from_slice(&json[..from]);
    out.extend_from_slice(REVISION);
    out.extend_from_slice(revision.as_bytes());
    out.push(b'"');
    if json.get(to) != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(&json[to..]);
    out
}

/// Writes the members of a JSON object, but those named, without the braces.
fn members(json: &mut Vec<u8>, map: &Map<String, Value>, but: &[&str]) {
    let mut first = true;
    for (key, value) in map.iter().filter(|(key, _)| !but.contains(&key.as_str())) {
        if !first {
            json.push(b',');
        }
        first = false;
        let wrote = serde_json::to_writer(&mut *json, key).and_then(|()| {
            json.push(b':');
            serde_json::to_writer(&mut *json, value)
        });
        wrote.expect("a JSON value is written into memory without fail");
    }
}

/// The stored object, decoded.
pub fn object(entry: &Entry) -> Result<Object, Status> {
    serde_json::from_slice(&entry.json)
        .map_err(|error| Status::internal(format!("the stored object {} cannot be read: {error}", entry.key)))
}
