//! The schema: which resources there are and what their objects are made of. Facts only; what is done with them
//! (decoding, patching, OpenAPI, codecs) lives elsewhere and is one algorithm each.
//!
//! `Schema::v1_36()` is the built-in one, read once from a table that is part of the binary. A schema made at run
//! time (for a CustomResourceDefinition) extends it: ids below the built-in types' count mean the built-in types.

mod resource;
mod table;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

pub use resource::{ResourceDef, SchemaRef, SelectableField, SubresourceDef, Verb, Verbs};
pub use table::TableError;

use crate::meta::GroupVersionKind;

/// A name in the schema: borrowed from the table in the binary, or owned by a schema made at run time.
pub type Name = Cow<'static, str>;

/// A type within a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub(crate) u32);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldType {
    Bool,
    Int32,
    Int64,
    Double,
    String,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    Quantity,
    IntOrString,
    /// Anything: RawExtension, FieldsV1, a CRD's JSON; for the unions of JSONSchemaProps see `ProtoShape`.
    Json,
    Object(TypeId),
    List(Box<FieldType>),
    /// Keys are strings.
    Map(Box<FieldType>),
}

impl FieldType {
    /// The type of a list's or map's elements.
    pub fn element(&self) -> Option<&FieldType> {
        match self {
            FieldType::List(of) | FieldType::Map(of) => Some(of),
            FieldType::Bool
            | FieldType::Int32
            | FieldType::Int64
            | FieldType::Double
            | FieldType::String
            | FieldType::Bytes
            | FieldType::Time
            | FieldType::MicroTime
            | FieldType::Quantity
            | FieldType::IntOrString
            | FieldType::Json
            | FieldType::Object(_) => None,
        }
    }

    /// The object's type, of the field itself or of its elements.
    pub fn object(&self) -> Option<TypeId> {
        match self {
            FieldType::Object(id) => Some(*id),
            other => other.element().and_then(FieldType::object),
        }
    }
}

/// How server-side apply merges a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    /// By the values of these fields.
    Map(Box<[Name]>),
}

/// How a strategic merge patch merges a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists are merged (by `merge_key`, or as sets) rather than replaced.
    pub merge: bool,
    /// An object is replaced rather than merged.
    pub replace: bool,
    /// A patch may name, in `$retainKeys`, the only fields that are to stay.
    pub retain_keys: bool,
    pub merge_key: Option<Name>,
}

/// What protobuf makes of a field beyond its `FieldType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProtoShape {
    #[default]
    Plain,
    /// A message with the JSON text in field 1 (RawExtension, JSON, FieldsV1).
    Raw,
    /// The list of strings (the map's value) is wrapped in a message, repeated field 1 (ExtraValue, Verbs).
    Wrapped,
    /// JSONSchemaPropsOrArray: 1 schema, 2 repeated schemas.
    SchemaOrArray,
    /// JSONSchemaPropsOrBool: 1 allows, 2 schema.
    SchemaOrBool,
    /// JSONSchemaPropsOrStringArray: 1 schema, 2 repeated strings.
    SchemaOrStrings,
}

/// The number of a field on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtoTag {
    /// The fields of the messages that Go embeds and JSON inlines, outermost first; 0 is none.
    pub outer: [u16; 2],
    pub number: u16,
    pub shape: ProtoShape,
}

#[derive(Clone, Debug)]
pub struct FieldDef {
    pub name: Name,
    pub ty: FieldType,
    pub list: ListType,
    pub patch: PatchStrategy,
    /// Required by OpenAPI: Go writes it even when it is empty.
    pub required: bool,
    /// A map (or an object) that server-side apply replaces as a whole.
    pub atomic: bool,
    /// None for apiVersion and kind, which travel outside the message, and for run-time types.
    pub proto: Option<ProtoTag>,
}

#[derive(Clone, Debug)]
pub struct TypeDef {
    /// The definition's name in OpenAPI: `io.k8s.api.core.v1.PodSpec`.
    pub name: Name,
    /// Sorted by name.
    pub fields: Box<[FieldDef]>,
    /// Server-side apply replaces the object as a whole.
    pub atomic: bool,
    /// Nulls and empty lists and maps stay as they are: custom resources are JSON, not Go structs.
    pub exact: bool,
    /// Fields that the type does not name are kept (a CRD's x-kubernetes-preserve-unknown-fields).
    pub preserves_unknown: bool,
}

impl TypeDef {
    pub fn field(&self, name: &str) -> Option<&FieldDef> {
        self.fields.binary_search_by(|f| (*f.name).cmp(name)).ok().map(|i| &self.fields[i])
    }

    /// `PodSpec`
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// Types and resources. Ids of types are valid in the schema that gave them out and in those that extend it.
#[derive(Debug, Default)]
pub struct Schema {
    base: Option<&'static Schema>,
    /// Sorted by name.
    types: Vec<TypeDef>,
    resources: Vec<Arc<ResourceDef>>,
}

impl Schema {
    /// The built-in kinds of Kubernetes v1.36.
    pub fn v1_36() -> &'static Schema {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| {
            table::parse(include_str!("v1_36.txt")).expect("the table is part of the source and read in tests")
        })
    }

    /// A schema of run-time types on top of the built-in ones. `build` gets the id that the first new type will have;
    /// types refer to each other by ids counted up from there, in the order in which they are returned.
    pub fn extend(base: &'static Schema, build: impl FnOnce(TypeId) -> Vec<TypeDef>) -> Schema {
        let first = u32::try_from(base.types.len()).expect("far fewer types than 2³²");
        Schema { base: Some(base), types: build(TypeId(first)), resources: Vec::new() }
    }

    /// The definition of a type. An id of another schema is a bug.
    pub fn ty(&self, id: TypeId) -> &TypeDef {
        let index = id.0 as usize;
        match self.base {
            Some(base) if index < base.types.len() => &base.types[index],
            Some(base) => &self.types[index - base.types.len()],
            None => &self.types[index],
        }
    }

    /// By its OpenAPI name: `io.k8s.api.core.v1.Pod`.
    pub fn type_named(&self, name: &str) -> Option<TypeId> {
        let own = match self.base {
            // Run-time types are few and not sorted.
            Some(_) => self.types.iter().position(|t| t.name == name),
            None => self.types.binary_search_by(|t| (*t.name).cmp(name)).ok(),
        };
        match (own, self.base) {
            (Some(i), base) => {
                let offset = base.map_or(0, |b| b.types.len());
                Some(TypeId(u32::try_from(offset + i).expect("far fewer types than 2³²")))
            }
            (None, Some(base)) => base.type_named(name),
            (None, None) => None,
        }
    }

    /// Every type of this schema itself, with its id.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &TypeDef)> {
        let offset = self.base.map_or(0, |b| b.types.len());
        self.types
            .iter()
            .enumerate()
            .map(move |(i, t)| (TypeId(u32::try_from(offset + i).expect("far fewer types than 2³²")), t))
    }

    /// Every served resource, by group, version and plural.
    pub fn resources(&self) -> &[Arc<ResourceDef>] {
        &self.resources
    }

    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceDef>> {
        let wanted = (group, version, plural);
        let found = self.resources.binary_search_by(|r| (&*r.group, &*r.version, &*r.plural).cmp(&wanted));
        found.ok().map(|i| &self.resources[i])
    }

    pub fn resource_of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<ResourceDef>> {
        self.resources.iter().find(|r| r.group == group && r.version == version && r.kind == kind)
    }

    /// The type of a kind that may be a body: a resource's, a subresource's, or one of meta.k8s.io such as
    /// DeleteOptions (which every group has).
    pub fn type_of_kind(&self, gvk: &GroupVersionKind) -> Option<TypeId> {
        if let Some(def) = self.resource_of_kind(&gvk.group, &gvk.version, &gvk.kind) {
            return Some(def.ty);
        }
        let subresources = self.resources.iter().flat_map(|r| r.subresources.iter());
        let named = |s: &&SubresourceDef| s.group == *gvk.group && s.version == *gvk.version && s.kind == *gvk.kind;
        if let Some(id) = subresources.filter(named).find_map(|s| s.ty) {
            return Some(id);
        }
        self.meta_type(&gvk.kind)
    }

    /// A type of meta/v1: `ObjectMeta`, `DeleteOptions`, `Status`.
    pub fn meta_type(&self, short_name: &str) -> Option<TypeId> {
        self.type_named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{short_name}"))
    }

    /// The field at a path of names, through objects, lists' and maps' elements.
    pub fn field_at<'a>(&'a self, ty: TypeId, path: &[&str]) -> Option<&'a FieldDef> {
        let (first, rest) = path.split_first()?;
        let field = self.ty(ty).field(first)?;
        if rest.is_empty() { Some(field) } else { self.field_at(field.ty.object()?, rest) }
    }
}
