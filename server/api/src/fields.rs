//! Where in an object something is wrong, and what: `FieldPath` and `FieldError`, worded as upstream words them.
//!
//! A `FieldPath` is a chain of borrowed segments on the stack: walking a valid object allocates nothing, the text is
//! made only for an error.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// A path such as `spec.containers[0].name`. A segment may itself be dotted: `path.child("spec.template")`.
#[derive(Clone, Copy, Debug)]
pub struct FieldPath<'a> {
    parent: Option<&'a FieldPath<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> FieldPath<'a> {
    /// A path that starts at the object's root.
    pub const fn new(name: &'a str) -> FieldPath<'a> {
        FieldPath { parent: None, segment: Segment::Child(name) }
    }

    pub const fn child<'b>(&'b self, name: &'b str) -> FieldPath<'b> {
        FieldPath { parent: Some(self), segment: Segment::Child(name) }
    }

    pub const fn index<'b>(&'b self, index: usize) -> FieldPath<'b> {
        FieldPath { parent: Some(self), segment: Segment::Index(index) }
    }

    /// The element of a map: `metadata.labels[app]`.
    pub const fn key<'b>(&'b self, key: &'b str) -> FieldPath<'b> {
        FieldPath { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Child("") => Ok(()),
            Segment::Child(name) if self.parent.is_some_and(|p| !p.is_blank()) => write!(f, ".{name}"),
            Segment::Child(name) => f.write_str(name),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl FieldPath<'_> {
    fn is_blank(&self) -> bool {
        matches!(self.segment, Segment::Child("")) && self.parent.is_none_or(|p| p.is_blank())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooShort,
    TooMany,
    TypeInvalid,
    Internal,
}

impl FieldErrorKind {
    /// The machine-readable reason in a Status' causes.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One thing that is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    /// `spec.containers[0].name`
    pub field: String,
    /// The value in question, as JSON text; absent where upstream does not show it.
    pub value: Option<String>,
    pub detail: String,
}

impl FieldError {
    pub fn required(path: &FieldPath<'_>, detail: impl Into<String>) -> Self {
        Self::build(FieldErrorKind::Required, path, None, detail.into())
    }

    pub fn invalid(path: &FieldPath<'_>, value: impl Serialize, detail: impl Into<String>) -> Self {
        Self::build(FieldErrorKind::Invalid, path, Some(shown(value)), detail.into())
    }

    pub fn type_invalid(path: &FieldPath<'_>, value: impl Serialize, detail: impl Into<String>) -> Self {
        Self::build(FieldErrorKind::TypeInvalid, path, Some(shown(value)), detail.into())
    }

    /// `supported` in the order in which it is to be shown; upstream mostly sorts.
    pub fn not_supported(path: &FieldPath<'_>, value: impl Serialize, supported: &[&str]) -> Self {
        let mut detail = String::new();
        for (i, one) in supported.iter().enumerate() {
            detail.push_str(if i == 0 { "supported values: " } else { ", " });
            detail.push_str(&shown(one));
        }
        Self::build(FieldErrorKind::NotSupported, path, Some(shown(value)), detail)
    }

    pub fn duplicate(path: &FieldPath<'_>, value: impl Serialize) -> Self {
        Self::build(FieldErrorKind::Duplicate, path, Some(shown(value)), String::new())
    }

    pub fn forbidden(path: &FieldPath<'_>, detail: impl Into<String>) -> Self {
        Self::build(FieldErrorKind::Forbidden, path, None, detail.into())
    }

    pub fn not_found(path: &FieldPath<'_>, value: impl Serialize) -> Self {
        Self::build(FieldErrorKind::NotFound, path, Some(shown(value)), String::new())
    }

    pub fn too_long(path: &FieldPath<'_>, max_bytes: usize) -> Self {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        Self::build(FieldErrorKind::TooLong, path, None, format!("may not be more than {max_bytes} {unit}"))
    }

    pub fn too_many(path: &FieldPath<'_>, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        Self::build(FieldErrorKind::TooMany, path, Some(actual.to_string()), detail)
    }

    pub fn internal(path: &FieldPath<'_>, error: impl fmt::Display) -> Self {
        Self::build(FieldErrorKind::Internal, path, None, error.to_string())
    }

    /// The message without the field's name, as a Status' cause carries it.
    pub fn body(&self) -> String {
        let mut out = self.kind.title().to_owned();
        if let Some(value) = &self.value {
            out.push_str(": ");
            out.push_str(value);
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }

    fn build(kind: FieldErrorKind, path: &FieldPath<'_>, value: Option<String>, detail: String) -> Self {
        Self { kind, field: path.to_string(), value, detail }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

fn shown(value: impl Serialize) -> String {
    serde_json::to_value(value).unwrap_or(Value::Null).to_string()
}

#[cfg(test)]
mod tests;
