//! The three patches that are plain functions on JSON: strategic merge (by schema), merge (RFC 7396) and JSON patch
//! (RFC 6902). Their outcome is to be decoded by schema again (`decode::decode_value`).

mod json;
mod strategic;
#[cfg(test)]
mod tests;
mod unstructured;

use serde_json::{Map, Value};

use crate::meta::GroupResource;
use crate::status::{Reason, Status, StatusCause, StatusDetails};

pub use json::json;
pub use strategic::strategic;
pub use unstructured::{go_text, mismatch};

/// Upstream's cap on the operations of one JSON patch.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;
/// What `copy` operations may add to a document, in bytes of JSON: some few of them could double it without end.
pub const MAX_JSON_PATCH_COPIED_BYTES: usize = 3 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch makes no sense by itself: 400.
    #[error("{0}")]
    Malformed(String),
    /// It does not fit the object: 422.
    #[error("{0}")]
    Unprocessable(String),
    /// 413
    #[error("The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
}

impl PatchError {
    pub fn status(&self, gr: &GroupResource, name: &str) -> Status {
        match self {
            PatchError::Malformed(message) => Status::bad_request(message.clone()),
            PatchError::Unprocessable(message) => {
                let text = "the server rejected our request due to an error in our request";
                // kubectl shows a cause as "field: message".
                let cause = StatusCause { reason: String::new(), message: message.clone(), field: "patch".to_owned() };
                let details = StatusDetails {
                    name: name.to_owned(),
                    group: gr.group.to_string(),
                    kind: gr.resource.to_string(),
                    causes: vec![cause],
                    ..Default::default()
                };
                Status::new(422, Reason::Invalid, text).with_details(details)
            }
            PatchError::TooManyOperations(_) => Status::request_entity_too_large(self),
        }
    }
}

/// JSON merge patch: objects merge, null removes, everything else replaces.
pub fn merge(original: Value, patch: Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("a merge patch must be a JSON object".to_owned()));
    }
    Ok(merge_any(original, patch))
}

fn merge_any(original: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut merged = match original {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            merged.remove(&key);
        } else {
            let before = merged.remove(&key).unwrap_or(Value::Null);
            merged.insert(key, merge_any(before, value));
        }
    }
    Value::Object(merged)
}
