//! How deep JSON may be nested. Readers of JSON (ours and others') stop at some depth so as not to run out of stack: an
//! object that is deeper than they take could be stored, and then never again be read, changed or deleted.

use serde_json::Value;

/// serde_json reads 128 levels; a list or a watch puts some around the object.
pub(crate) const MOST: usize = 100;

/// Whether `value` has more than `most` levels. Goes no deeper than that itself.
pub(crate) fn exceeds(value: &Value, most: usize) -> bool {
    let Some(left) = most.checked_sub(1) else { return true };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        Value::Array(list) => list.iter().any(|value| exceeds(value, left)),
        Value::Object(map) => map.values().any(|value| exceeds(value, left)),
    }
}
