//! Decoding by schema: JSON, YAML or a JSON tree in, an `Object` out that has known fields only, each of its type and
//! in canonical form, as if it had gone through Go's structs: nulls and empty optional lists and maps are gone,
//! quantities and times are as upstream writes them. What was unknown or given twice is an error or a warning.
//!
//! One pass over the text, straight into the tree: no typed struct and no second copy in between.

mod aliases;
mod error;
mod scalar;
mod seed;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde_json::{Map, Value};

pub use error::DecodeError;

use crate::depth;
use crate::meta::{GroupVersionKind, api_version, split_api_version};
use crate::object::Object;
use crate::schema::{FieldType, ResourceDef, Schema, SubresourceDef, TypeId};
use seed::{Context, Frame, Seed};

/// What to do about fields that are unknown or given twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Strict,
    #[default]
    Warn,
    Ignore,
}

impl FieldValidation {
    /// The query parameter `fieldValidation`; empty is the default. None if it is no such word.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "Strict" => Self::Strict,
            "Warn" | "" => Self::Warn,
            "Ignore" => Self::Ignore,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}

/// What a body is to be.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub schema: &'a Schema,
    pub ty: TypeId,
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    /// DeleteOptions and its like are taken in any group's version, and stay as they came.
    pub any_version: bool,
}

impl<'a> Target<'a> {
    pub fn of(def: &'a ResourceDef) -> Self {
        Self {
            schema: def.schema(),
            ty: def.ty,
            group: &def.group,
            version: &def.version,
            kind: &def.kind,
            any_version: false,
        }
    }

    /// None for subresources that have no body (log, exec, …).
    pub fn subresource(def: &'a ResourceDef, sub: &'a SubresourceDef) -> Option<Self> {
        Some(Self {
            schema: def.schema(),
            ty: sub.ty?,
            group: &sub.group,
            version: &sub.version,
            kind: &sub.kind,
            any_version: false,
        })
    }

    /// A kind that every group has: DeleteOptions, Status, ….
    pub fn meta(kind: &'a str) -> Option<Self> {
        let schema = Schema::v1_36();
        Some(Self { schema, ty: schema.meta_type(kind)?, group: "", version: "v1", kind, any_version: true })
    }

    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(self.group, self.version, self.kind)
    }
}

/// An object, and the warnings that `FieldValidation::Warn` asks for.
#[derive(Debug)]
pub struct Decoded {
    pub object: Object,
    pub warnings: Vec<String>,
}

/// Decodes a request's body. apiVersion and kind may be left out: the target tells them.
pub fn decode(
    bytes: &[u8],
    format: Format,
    target: &Target<'_>,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    match format {
        Format::Json => decode_json(bytes, target, validation),
        Format::Yaml => decode_yaml(bytes, target, validation),
    }
}

pub fn decode_json(bytes: &[u8], target: &Target<'_>, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = |seed: Seed<'_, '_>| {
        let value = seed.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok::<Value, serde_json::Error>(value)
    };
    let names = || serde_json::from_slice::<Names>(bytes).ok();
    run(target, validation, false, read, names, bytes)
}

pub fn decode_yaml(bytes: &[u8], target: &Target<'_>, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    aliases::check(bytes).map_err(|error| error::syntax(target, error, bytes))?;
    let read = |seed: Seed<'_, '_>| seed.deserialize(serde_norway::Deserializer::from_slice(bytes));
    let names = || serde_norway::from_slice::<Names>(bytes).ok();
    run(target, validation, true, read, names, bytes)
}

/// Reads YAML that is no object of the schema as a JSON tree, with the same care.
pub fn yaml_value(bytes: &[u8]) -> Result<Value, serde_norway::Error> {
    aliases::check(bytes)?;
    serde_norway::from_slice(bytes)
}

/// Decodes a tree that is there already: the outcome of a patch, or an object inside another.
pub fn decode_value(value: Value, target: &Target<'_>, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let names = Names::deserialize(&value).ok();
    run(target, validation, false, |seed| seed.deserialize(value), || names, b"{}")
}

/// The two fields that say what an object claims to be.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Names {
    api_version: Option<String>,
    kind: Option<String>,
}

fn run<E: std::fmt::Display>(
    target: &Target<'_>,
    validation: FieldValidation,
    yaml: bool,
    read: impl FnOnce(Seed<'_, '_>) -> Result<Value, E>,
    names: impl FnOnce() -> Option<Names>,
    bytes: &[u8],
) -> Result<Decoded, DecodeError> {
    let context = Context {
        schema: target.schema,
        yaml,
        strict: validation != FieldValidation::Ignore,
        problems: RefCell::default(),
        mismatch: RefCell::default(),
    };
    let ty = FieldType::Object(target.ty);
    let root = Frame::root();
    let read = read(Seed { cx: &context, ty: &ty, owner: None, at: &root });
    let problems = context.problems.into_inner();
    let value = match (read, context.mismatch.into_inner()) {
        (Ok(value), None) => value,
        (_, Some(mismatch)) => {
            check_names(target, &names().unwrap_or_default())?;
            return Err(error::mismatch(target, mismatch));
        }
        (Err(error), None) => return Err(error::syntax(target, error, bytes)),
    };
    if depth::exceeds(&value, depth::MOST) {
        return Err(error::syntax(target, "exceeded max depth", bytes));
    }
    let Value::Object(map) = value else {
        return Err(error::syntax(target, "the body is empty", bytes));
    };
    let mut object = Object(map);
    let claimed = Names {
        api_version: object.field(&["apiVersion"]).map(str::to_owned),
        kind: object.field(&["kind"]).map(str::to_owned),
    };
    check_names(target, &claimed)?;
    if !problems.is_empty() && validation == FieldValidation::Strict {
        return Err(error::strict(target, problems));
    }
    fill_names(&mut object.0, target);
    Ok(Decoded { object, warnings: problems })
}

fn check_names(target: &Target<'_>, claimed: &Names) -> Result<(), DecodeError> {
    if target.any_version {
        return Ok(());
    }
    let kind = claimed.kind.as_deref().unwrap_or_default();
    let version = claimed.api_version.as_deref().unwrap_or_default();
    let (claimed_group, claimed_version) = split_api_version(version);
    let same_version = version.is_empty() || (claimed_group, claimed_version) == (target.group, target.version);
    if !kind.is_empty() && kind != target.kind {
        let version = if version.is_empty() { target.version } else { claimed_version };
        return Err(error::wrong_kind(target, kind, version));
    }
    if !same_version {
        return Err(error::wrong_version(target, version));
    }
    Ok(())
}

fn fill_names(map: &mut Map<String, Value>, target: &Target<'_>) {
    let has = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).is_some_and(|s| !s.is_empty());
    if !has(map, "apiVersion") {
        map.insert("apiVersion".to_owned(), api_version(target.group, target.version).into());
    }
    if !has(map, "kind") {
        map.insert("kind".to_owned(), target.kind.into());
    }
}
