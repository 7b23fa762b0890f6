//! Scalars in canonical form, or why not.

use serde_json::Value;

use crate::quantity::Quantity;
use crate::time;

/// A quantity as upstream writes it back.
pub(super) fn quantity(text: String) -> Result<Value, String> {
    let quantity: Quantity = text.trim().parse().map_err(|e: crate::quantity::ParseQuantityError| e.to_string())?;
    Ok(Value::String(quantity.to_string()))
}

pub(super) fn timestamp(text: String, micro: bool) -> Result<Value, String> {
    match time::canonical(&text, micro) {
        Ok(None) => Ok(Value::String(text)),
        Ok(Some(canonical)) => Ok(Value::String(canonical)),
        Err(()) => Err(time::parse_error(&text, micro)),
    }
}

/// Standard base64 with padding; line breaks are let through, as Go does, and taken out.
pub(super) fn base64(mut text: String) -> Result<Value, String> {
    if text.contains(['\r', '\n']) {
        text.retain(|c| c != '\r' && c != '\n');
    }
    let bytes = text.as_bytes();
    let padding = bytes.iter().rev().take(2).take_while(|c| **c == b'=').count();
    let digits = &bytes[..bytes.len() - padding];
    let known = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/');
    if let Some(at) = digits.iter().position(|c| !known(c)) {
        return Err(format!("illegal base64 data at input byte {at}"));
    }
    if !bytes.len().is_multiple_of(4) {
        return Err(format!("illegal base64 data at input byte {}", bytes.len() / 4 * 4));
    }
    Ok(Value::String(text))
}

/// YAML 1.1, which upstream reads, has more spellings than serde_norway's 1.2. They reach us as strings.
pub(super) fn yaml_bool(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// `0644` is octal: file modes are written so.
pub(super) fn yaml_octal(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('0').filter(|d| !d.is_empty())?;
    i64::from_str_radix(digits, 8).ok()
}
