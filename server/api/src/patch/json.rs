//! JSON patch, with upstream's limits.

use json_patch::PatchOperation;
use serde::Deserialize;
use serde_json::Value;

use crate::depth;

use super::{MAX_JSON_PATCH_COPIED_BYTES, MAX_JSON_PATCH_OPERATIONS, PatchError};

/// The patch itself was read by serde_json, which goes no deeper.
const OPERAND_DEPTH: usize = 128;
/// A document may become so deep before it is measured: far less than fills a thread's stack.
const DEPTH_UNMEASURED: usize = 1000;

/// Applies a list of operations, all or none.
pub fn json(mut original: Value, operations: Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = operations else {
        return Err(PatchError::Malformed("a JSON patch must be a list of operations".to_owned()));
    };
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let mut copied = 0;
    // No level of the document is deeper than this.
    let mut depth = depth::MOST;
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
        depth = depth_after(&operation, depth);
        // Measured before it can grow beyond what a stack holds, not only at the end.
        if depth > DEPTH_UNMEASURED {
            check_depth(&original)?;
            depth = depth::MOST;
        }
    }
    check_depth(&original)?;
    Ok(original)
}

/// How deep the operation can have made a document that was `depth` deep.
fn depth_after(operation: &PatchOperation, depth: usize) -> usize {
    match operation {
        PatchOperation::Add(add) => depth.max(add.path.count() + OPERAND_DEPTH),
        PatchOperation::Replace(replace) => depth.max(replace.path.count() + OPERAND_DEPTH),
        PatchOperation::Copy(copy) => depth + copy.path.count(),
        PatchOperation::Move(moved) => depth + moved.path.count(),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => depth,
    }
}

fn check_depth(document: &Value) -> Result<(), PatchError> {
    if depth::exceeds(document, depth::MOST) {
        return Err(PatchError::Unprocessable(format!("the patched object has more than {} levels", depth::MOST)));
    }
    Ok(())
}
