//! How upstream tells that a strategically merged object is not of its type. It goes by trees of Go's own types, so it
//! shows a patch as Go prints a map, and names kinds of Go's reflection instead of a field's path.

use serde_json::Value;

use crate::schema::{FieldType, Schema, TypeId};

/// A value as `%v` prints it: `map[spec:map[replicas:3]]`.
pub fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            // In the order of keys.
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            let pairs: Vec<String> = pairs.into_iter().map(|(key, of)| format!("{key}:{}", go_text(of))).collect();
            format!("map[{}]", pairs.join(" "))
        }
    }
}

/// What is wrong with the first value that is not of its field's type. None where that has words of its own: quantities,
/// times and the like are told as they are in every other request.
pub fn mismatch(value: &Value, schema: &Schema, ty: TypeId) -> Option<String> {
    field(value, &FieldType::Object(ty), schema)
}

fn field(value: &Value, ty: &FieldType, schema: &Schema) -> Option<String> {
    if value.is_null() {
        return None;
    }
    let kind = go_kind(value);
    match ty {
        FieldType::Bool => (kind != "bool").then(|| unrecognized("bool")),
        FieldType::Int32 => number(value, "int32"),
        FieldType::Int64 => number(value, "int64"),
        FieldType::Double => number(value, "float64"),
        FieldType::String => match kind {
            "string" => None,
            // Go can make text of a whole number, and the converter knows that it must not.
            "int64" => Some("cannot convert int64 to string".to_owned()),
            _ => Some(unrecognized("string")),
        },
        FieldType::Bytes => (kind != "string").then(|| format!("cannot restore slice from {kind}")),
        FieldType::Time | FieldType::MicroTime | FieldType::Quantity | FieldType::IntOrString | FieldType::Json => None,
        FieldType::List(of) => match value {
            Value::Array(list) => list.iter().find_map(|element| field(element, of, schema)),
            _ => Some(format!("cannot restore slice from {kind}")),
        },
        FieldType::Map(of) => match value {
            Value::Object(map) => map.values().find_map(|element| field(element, of, schema)),
            _ => Some(format!("cannot restore map from {kind}")),
        },
        FieldType::Object(id) => match value {
            Value::Object(map) => {
                let fields = map.iter().filter_map(|(name, value)| Some((schema.ty(*id).field(name)?, value)));
                fields.into_iter().find_map(|(of, value)| field(value, &of.ty, schema))
            }
            _ => Some(format!("cannot restore struct from: {kind}")),
        },
    }
}

fn number(value: &Value, wanted: &str) -> Option<String> {
    (!value.is_number()).then(|| unrecognized(wanted))
}

fn unrecognized(kind: &str) -> String {
    format!("unrecognized type: {kind}")
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

/// Upstream's name of the type in an error of the merge itself.
pub(super) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        Value::Bool(_) | Value::Number(_) | Value::String(_) => go_kind(value),
    }
}
