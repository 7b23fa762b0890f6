//! ConfigMaps and Secrets: strategies over the object itself, since their data is worth no second copy.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use coracle_api::object::Object;
use serde_json::Value;

use super::Strategy;
use super::check::{self, IMMUTABLE};
use super::kind::Errors;
use crate::registry::context::Context;

/// How upstream spells the path of the object itself here.
const WHOLE: &str = "[]";
/// Of all values together.
const MAX_BYTES: usize = 1024 * 1024;
const SEALED: &str = "field is immutable when `immutable` is set";

pub(super) struct ConfigMaps;

impl Strategy for ConfigMaps {
    fn validate_create(&self, _context: &Context, object: &Object) -> Errors {
        let mut errors = Errors::new();
        let (data, binary) = (FieldPath::new("data"), FieldPath::new("binaryData"));
        let mut size = 0;
        for (key, value) in entries(object, "data") {
            check::problems(names::config_map_key(key), &data.key(key), key, &mut errors);
            if object.path(&["binaryData", key]).is_some() {
                errors.push(FieldError::invalid(&data.key(key), key, "duplicate of key present in binaryData"));
            }
            size += value.len();
        }
        for (key, value) in entries(object, "binaryData") {
            check::problems(names::config_map_key(key), &binary.key(key), key, &mut errors);
            size += decoded_len(value);
        }
        if size > MAX_BYTES {
            errors.push(FieldError::too_long(&FieldPath::new(WHOLE), MAX_BYTES));
        }
        errors
    }

    fn validate_update(&self, context: &Context, object: &Object, old: &Object) -> Errors {
        let mut errors = sealed(object, old, &["data", "binaryData"]);
        errors.extend(self.validate_create(context, object));
        errors
    }
}

pub(super) struct Secrets;

impl Strategy for Secrets {
    fn default(&self, object: &mut Object) {
        if object.field(&["type"]).unwrap_or_default().is_empty() {
            object.set(&["type"], "Opaque");
        }
        // stringData is a way to write data, and never read back.
        let Some(Value::Object(plain)) = object.remove(&["stringData"]) else { return };
        for (key, value) in plain {
            let value = value.as_str().unwrap_or_default();
            object.set(&["data", &key], STANDARD.encode(value));
        }
    }

    fn validate_create(&self, _context: &Context, object: &Object) -> Errors {
        let mut errors = Errors::new();
        let data = FieldPath::new("data");
        let mut size = 0;
        for (key, value) in entries(object, "data") {
            check::problems(names::config_map_key(key), &data.key(key), key, &mut errors);
            size += decoded_len(value);
        }
        if size > MAX_BYTES {
            errors.push(FieldError::too_long(&data, MAX_BYTES));
        }
        of_type(object, &data, &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context, object: &Object, old: &Object) -> Errors {
        let mut errors = Errors::new();
        let (new_type, old_type) = (object.field(&["type"]), old.field(&["type"]));
        if new_type != old_type {
            errors.push(FieldError::invalid(&FieldPath::new("type"), new_type, IMMUTABLE));
        }
        errors.extend(sealed(object, old, &["data"]));
        errors.extend(self.validate_create(context, object));
        errors
    }
}

/// What a well-known type promises about the keys.
fn of_type(object: &Object, data: &FieldPath<'_>, errors: &mut Errors) {
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    let value = |key: &str| object.field(&["data", key]);
    let mut require = |keys: &[&str]| {
        errors.extend(keys.iter().map(|key| FieldError::required(&data.key(key), "")));
    };
    match object.field(&["type"]).unwrap_or_default() {
        "kubernetes.io/service-account-token" if object.annotation(ACCOUNT).unwrap_or_default().is_empty() => {
            errors.push(FieldError::required(&FieldPath::new("metadata.annotations").key(ACCOUNT), ""));
        }
        "kubernetes.io/dockercfg" => json(value(".dockercfg"), &data.key(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" => {
            json(value(".dockerconfigjson"), &data.key(".dockerconfigjson"), errors);
        }
        "kubernetes.io/basic-auth" if value("username").is_none() && value("password").is_none() => {
            require(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").unwrap_or_default().is_empty() => {
            require(&["ssh-privatekey"]);
        }
        "kubernetes.io/tls" => {
            let missing: Vec<&str> = ["tls.crt", "tls.key"].into_iter().filter(|key| value(key).is_none()).collect();
            require(&missing);
        }
        _ => {}
    }
}

fn json(value: Option<&str>, path: &FieldPath<'_>, errors: &mut Errors) {
    let Some(encoded) = value else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        errors.push(FieldError::invalid(path, "<secret contents redacted>", error.to_string()));
    }
}

fn sealed(object: &Object, old: &Object, fields: &[&str]) -> Errors {
    if old.flag(&["immutable"]) != Some(true) {
        return Errors::new();
    }
    let mut errors = Errors::new();
    if object.flag(&["immutable"]) != Some(true) {
        errors.push(FieldError::forbidden(&FieldPath::new("immutable"), SEALED));
    }
    for field in fields {
        if object.path(&[field]) != old.path(&[field]) {
            errors.push(FieldError::forbidden(&FieldPath::new(field), SEALED));
        }
    }
    errors
}

fn entries<'a>(object: &'a Object, field: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let map = object.path(&[field]).and_then(Value::as_object);
    map.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

/// Of base64, without decoding it.
fn decoded_len(encoded: &str) -> usize {
    let padding = encoded.bytes().rev().take_while(|c| *c == b'=').count();
    (encoded.len() / 4 * 3).saturating_sub(padding)
}
