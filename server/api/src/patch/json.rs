//! JSON patch, with upstream's limits.

use json_patch::PatchOperation;
use serde::Deserialize;
use serde_json::Value;

use super::{MAX_JSON_PATCH_COPIED_BYTES, MAX_JSON_PATCH_OPERATIONS, PatchError};

/// Applies a list of operations, all or none.
pub fn json(mut original: Value, operations: Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = operations else {
        return Err(PatchError::Malformed("a JSON patch must be a list of operations".to_owned()));
    };
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let mut copied = 0;
    for (index, operation) in operations.into_iter().enumerate() {
        let operation = PatchOperation::deserialize(operation)
            .map_err(|e| PatchError::Malformed(format!("error decoding patch: operation {index}: {e}")))?;
        if let PatchOperation::Copy(copy) = &operation {
            copied += original.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied > MAX_JSON_PATCH_COPIED_BYTES {
                return Err(PatchError::Unprocessable(format!(
                    "unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_JSON_PATCH_COPIED_BYTES}"
                )));
            }
        }
        // Rolling back is not needed: on an error the half-patched document is dropped.
        json_patch::patch_unsafe(&mut original, std::slice::from_ref(&operation))
            .map_err(|e| PatchError::Unprocessable(format!("operation {index} ({operation}): {}", e.kind)))?;
    }
    Ok(original)
}
