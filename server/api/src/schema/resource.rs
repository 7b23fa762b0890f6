//! `ResourceDef`: one served resource. Built-in and custom resources are told apart by nothing but their schema.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::{FieldType, Name, Schema, TypeId};
use crate::meta::{GroupKind, GroupResource, GroupVersionKind};
use crate::object::Object;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    /// In the order in which discovery lists them.
    pub const ALL: [Verb; 8] = [
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }

    pub fn parse(text: &str) -> Option<Verb> {
        Self::ALL.into_iter().find(|v| v.as_str() == text)
    }
}

/// A set of verbs.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Verbs(u8);

impl Verbs {
    pub const fn all() -> Self {
        Self(u8::MAX)
    }

    pub fn contains(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u8) != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |v| self.contains(*v))
    }
}

impl FromIterator<Verb> for Verbs {
    fn from_iter<I: IntoIterator<Item = Verb>>(verbs: I) -> Self {
        Self(verbs.into_iter().fold(0, |set, verb| set | 1 << verb as u8))
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(Verb::as_str)).finish()
    }
}

/// The schema that a resource's types live in.
#[derive(Clone)]
pub enum SchemaRef {
    BuiltIn,
    Own(Arc<Schema>),
}

impl fmt::Debug for SchemaRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SchemaRef::BuiltIn => "BuiltIn",
            SchemaRef::Own(_) => "Own",
        })
    }
}

/// A field that lists and watches may select by, beside metadata.name and metadata.namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectableField {
    /// As selectors spell it: `spec.nodeName`.
    pub name: Name,
    /// Where the value is; of several paths the first that is not empty.
    pub paths: Box<[Box<[Name]>]>,
}

#[derive(Clone, Debug)]
pub struct SubresourceDef {
    /// `status`, `scale`, `exec`
    pub name: Name,
    /// The kind that goes over the wire, which may be of another group than the resource (Scale is autoscaling/v1).
    pub group: Name,
    pub version: Name,
    pub kind: Name,
    pub verbs: Verbs,
    /// None for streams and their options (log, exec, attach, portforward, proxy).
    pub ty: Option<TypeId>,
}

impl SubresourceDef {
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&*self.group, &*self.version, &*self.kind)
    }
}

/// One resource of one version as it is served.
#[derive(Clone, Debug)]
pub struct ResourceDef {
    /// "" is the core group.
    pub group: Name,
    pub version: Name,
    pub kind: Name,
    /// "" for what can't be listed.
    pub list_kind: Name,
    pub plural: Name,
    pub singular: Name,
    pub short_names: Box<[Name]>,
    pub categories: Box<[Name]>,
    pub namespaced: bool,
    pub verbs: Verbs,
    /// Sorted by name.
    pub subresources: Box<[SubresourceDef]>,
    pub selectable: Box<[SelectableField]>,
    pub ty: TypeId,
    pub schema: SchemaRef,
}

impl ResourceDef {
    pub fn schema(&self) -> &Schema {
        match &self.schema {
            SchemaRef::BuiltIn => Schema::v1_36(),
            SchemaRef::Own(schema) => schema,
        }
    }

    /// "v1", "apps/v1"
    pub fn api_version(&self) -> String {
        crate::meta::api_version(&self.group, &self.version)
    }

    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&*self.group, &*self.plural)
    }

    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(&*self.group, &*self.kind)
    }

    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&*self.group, &*self.version, &*self.kind)
    }

    /// "pods", "deployments.apps": the same for all versions, so that they share their objects.
    pub fn storage_name(&self) -> String {
        self.group_resource().to_string()
    }

    pub fn subresource(&self, name: &str) -> Option<&SubresourceDef> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The fields of an object that selectors may ask for, metadata.name and metadata.namespace included.
    pub fn selectable_values(&self, object: &Object) -> Vec<(Name, String)> {
        let mut values = Vec::with_capacity(self.selectable.len() + 2);
        values.push((Name::Borrowed("metadata.name"), object.name().to_owned()));
        if self.namespaced {
            values.push((Name::Borrowed("metadata.namespace"), object.namespace().to_owned()));
        }
        for field in &self.selectable {
            let found = field.paths.iter().map(|path| self.value_text(object, path)).find(|text| !text.is_empty());
            values.push((field.name.clone(), found.unwrap_or_default()));
        }
        values
    }

    pub fn is_selectable(&self, field: &str) -> bool {
        field == "metadata.name"
            || (self.namespaced && field == "metadata.namespace")
            || self.selectable.iter().any(|s| s.name == field)
    }

    fn value_text(&self, object: &Object, path: &[Name]) -> String {
        let path: Vec<&str> = path.iter().map(|p| &**p).collect();
        match object.path(&path) {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
            Some(Value::Null | Value::Array(_) | Value::Object(_)) => String::new(),
            // Go's zero values are what a selector on an absent field is compared to.
            None => match self.schema().field_at(self.ty, &path).map(|f| &f.ty) {
                Some(FieldType::Bool) => "false".to_owned(),
                Some(FieldType::Int32 | FieldType::Int64) => "0".to_owned(),
                Some(_) | None => String::new(),
            },
        }
    }
}
