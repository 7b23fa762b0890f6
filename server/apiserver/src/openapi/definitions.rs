//! Owns how types of the schema read in OpenAPI, in both of its dialects. One algorithm for built-in and custom kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::meta::GroupVersionKind;
use coracle_api::schema::{FieldDef, FieldType, ListType, ResourceDef, Schema, TypeId};
use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

impl Dialect {
    pub(super) fn reference(self, name: &str) -> Value {
        json!({ "$ref": match self {
            Dialect::V2 => format!("#/definitions/{name}"),
            Dialect::V3 => format!("#/components/schemas/{name}"),
        } })
    }

    /// Types that are no objects and have no fields.
    fn simple(self) -> [(&'static str, Value); 5] {
        let either = |first: &str, second: &str| json!([{ "type": first }, { "type": second }]);
        let (int_or_string, quantity) = match self {
            Dialect::V2 => (json!({ "type": "string", "format": "int-or-string" }), json!({ "type": "string" })),
            Dialect::V3 => (
                json!({ "oneOf": either("integer", "string"), "format": "int-or-string" }),
                json!({ "oneOf": either("string", "number") }),
            ),
        };
        let time = || json!({ "type": "string", "format": "date-time" });
        [
            (TIME, time()),
            (MICRO_TIME, time()),
            (QUANTITY, quantity),
            (INT_OR_STRING, int_or_string),
            (PATCH, json!({ "type": "object" })),
        ]
    }

    fn field(self, schema: &Schema, ty: &FieldType) -> Value {
        match ty {
            FieldType::Bool => json!({ "type": "boolean" }),
            FieldType::Int32 => json!({ "type": "integer", "format": "int32" }),
            FieldType::Int64 => json!({ "type": "integer", "format": "int64" }),
            FieldType::Double => json!({ "type": "number", "format": "double" }),
            FieldType::String => json!({ "type": "string" }),
            FieldType::Bytes => json!({ "type": "string", "format": "byte" }),
            FieldType::Time => self.reference(TIME),
            FieldType::MicroTime => self.reference(MICRO_TIME),
            FieldType::Quantity => self.reference(QUANTITY),
            FieldType::IntOrString => self.reference(INT_OR_STRING),
            // Without a type anything is allowed.
            FieldType::Json => json!({}),
            FieldType::Object(id) => self.reference(&schema.ty(*id).name),
            FieldType::List(element) => json!({ "type": "array", "items": self.field(schema, element) }),
            FieldType::Map(element) => {
                json!({ "type": "object", "additionalProperties": self.field(schema, element) })
            }
        }
    }

    fn property(self, schema: &Schema, field: &FieldDef, description: &str) -> Value {
        let mut property = match self.field(schema, &field.ty) {
            Value::Object(property) => property,
            other => unreachable!("a field's schema is an object, not {other}"),
        };
        // In version 3 nothing may stand beside a reference.
        if self == Dialect::V3 && property.contains_key("$ref") && !description.is_empty() {
            property = Map::from_iter([("allOf".to_owned(), Value::Array(vec![Value::Object(property)]))]);
        }
        let mut put = |key: &str, value: Value| {
            property.insert(key.to_owned(), value);
        };
        if !description.is_empty() {
            put("description", Value::from(description));
        }
        if matches!(field.ty, FieldType::List(_)) {
            match &field.list {
                ListType::Atomic => {
                    if !field.patch.merge {
                        put("x-kubernetes-list-type", Value::from("atomic"));
                    }
                }
                ListType::Set => put("x-kubernetes-list-type", Value::from("set")),
                ListType::Map(keys) => {
                    put("x-kubernetes-list-type", Value::from("map"));
                    put("x-kubernetes-list-map-keys", keys.iter().map(|key| &**key).collect());
                }
            }
        } else if field.atomic {
            put("x-kubernetes-map-type", Value::from("atomic"));
        }
        let patch = &field.patch;
        let strategies = [(patch.merge, "merge"), (patch.replace, "replace"), (patch.retain_keys, "retainKeys")];
        let strategies: Vec<&str> = strategies.into_iter().filter_map(|(is, name)| is.then_some(name)).collect();
        if !strategies.is_empty() {
            put("x-kubernetes-patch-strategy", Value::from(strategies.join(",")));
        }
        if let Some(key) = &patch.merge_key {
            put("x-kubernetes-patch-merge-key", Value::from(&**key));
        }
        Value::Object(property)
    }
}

/// The types that a document has to define, and the kinds they are.
#[derive(Default)]
pub(super) struct Types {
    /// By name; the resource is one whose schema knows the type.
    types: BTreeMap<String, (TypeId, Arc<ResourceDef>)>,
    kinds: BTreeMap<String, BTreeSet<GroupVersionKind>>,
    simple: BTreeSet<&'static str>,
}

impl Types {
    /// Everything `resources` and their subresources send and receive. `served` are all group versions: each of them has
    /// DeleteOptions and WatchEvent.
    pub(super) fn of(resources: &[Arc<ResourceDef>], served: &[(String, String)]) -> Types {
        let mut types = Types::default();
        types.simple.insert(PATCH);
        for def in resources {
            types.add(def, def.ty);
            types.is(def, def.ty, def.gvk());
            if let Some(list) = list_type(def) {
                types.add(def, list);
                types.is(def, list, GroupVersionKind::new(&*def.group, &*def.version, &*def.list_kind));
            }
            for subresource in &def.subresources {
                if let Some(ty) = subresource.ty {
                    types.add(def, ty);
                    types.is(def, ty, subresource.gvk());
                }
            }
            for (name, everywhere) in [("Status", false), ("DeleteOptions", true), ("WatchEvent", true)] {
                let Some(ty) = def.schema().meta_type(name) else { continue };
                types.add(def, ty);
                if everywhere {
                    for (group, version) in served {
                        types.is(def, ty, GroupVersionKind::new(group.as_str(), version.as_str(), name));
                    }
                } else {
                    types.is(def, ty, GroupVersionKind::new("", "v1", name));
                }
            }
        }
        types
    }

    fn is(&mut self, def: &ResourceDef, ty: TypeId, gvk: GroupVersionKind) {
        self.kinds.entry(def.schema().ty(ty).name.to_string()).or_default().insert(gvk);
    }

    fn add(&mut self, def: &Arc<ResourceDef>, ty: TypeId) {
        let mut pending = vec![ty];
        while let Some(ty) = pending.pop() {
            let definition = def.schema().ty(ty);
            if self.types.contains_key(&*definition.name) {
                continue;
            }
            self.types.insert(definition.name.to_string(), (ty, def.clone()));
            for field in &definition.fields {
                pending.extend(field.ty.object());
                self.simple.extend(simple_type(&field.ty));
            }
        }
    }

    /// Calls `each` with the name and definition of every type, in the order of their names.
    pub(super) fn write<E>(
        &self,
        dialect: Dialect,
        mut each: impl FnMut(&str, Value) -> Result<(), E>,
    ) -> Result<(), E> {
        let descriptions = Descriptions::of(|name| self.simple.contains(name) || self.types.contains_key(name));
        for (name, mut definition) in dialect.simple() {
            if self.simple.contains(name) {
                let description = descriptions.get(name).map(|description| description.text.as_str());
                if let (Some(fields), Some(text)) = (definition.as_object_mut(), description) {
                    fields.insert("description".to_owned(), Value::from(text));
                }
                each(name, definition)?;
            }
        }
        for (name, (ty, def)) in &self.types {
            each(name, self.definition(name, *ty, def.schema(), dialect, &descriptions))?;
        }
        Ok(())
    }

    fn definition(
        &self,
        name: &str,
        ty: TypeId,
        schema: &Schema,
        dialect: Dialect,
        descriptions: &Descriptions,
    ) -> Value {
        let of_type = descriptions.get(name);
        let definition = schema.ty(ty);
        let own_text = of_type.map(|description| description.text.clone()).unwrap_or_else(|| common_type_text(name));
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in &definition.fields {
            let text = of_type.and_then(|description| description.fields.get(&*field.name));
            let text = text.map(String::as_str).unwrap_or_else(|| common_text(&field.name));
            properties.insert(field.name.to_string(), dialect.property(schema, field, text));
            if field.required {
                required.push(&*field.name);
            }
        }
        let mut value = json!({ "type": "object" });
        let Some(fields) = value.as_object_mut() else { return value };
        let mut put = |key: &str, value: Value| {
            fields.insert(key.to_owned(), value);
        };
        if !own_text.is_empty() {
            put("description", Value::from(own_text));
        }
        if !properties.is_empty() {
            put("properties", Value::Object(properties));
        }
        if !required.is_empty() {
            put("required", Value::from(required));
        }
        if definition.atomic {
            put("x-kubernetes-map-type", Value::from("atomic"));
        }
        if definition.preserves_unknown {
            put("x-kubernetes-preserve-unknown-fields", Value::Bool(true));
        }
        if let Some(kinds) = self.kinds.get(name) {
            put("x-kubernetes-group-version-kind", kinds.iter().map(gvk).collect());
        }
        value
    }
}

/// k8s-openapi makes lists and watch events of any kind from one type, which has no schema.
fn common_type_text(name: &str) -> String {
    let short = name.rsplit('.').next().unwrap_or(name);
    match short.strip_suffix("List") {
        Some(kind) => format!("{short} is a list of {kind}."),
        None if short == "WatchEvent" => "Event represents a single event to a watched resource.".to_owned(),
        None => String::new(),
    }
}

/// k8s-openapi keeps apiVersion and kind out of its structs, and so out of their schemas.
fn common_text(field: &str) -> &'static str {
    match field {
        "apiVersion" => {
            "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"
        }
        "kind" => {
            "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
        }
        "items" => "List of objects.",
        "metadata" => {
            "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
        }
        _undescribed => "",
    }
}

fn simple_type(ty: &FieldType) -> Option<&'static str> {
    match ty {
        FieldType::Time => Some(TIME),
        FieldType::MicroTime => Some(MICRO_TIME),
        FieldType::Quantity => Some(QUANTITY),
        FieldType::IntOrString => Some(INT_OR_STRING),
        FieldType::List(of) | FieldType::Map(of) => simple_type(of),
        FieldType::Bool
        | FieldType::Int32
        | FieldType::Int64
        | FieldType::Double
        | FieldType::String
        | FieldType::Bytes
        | FieldType::Json
        | FieldType::Object(_) => None,
    }
}

pub(super) fn gvk(gvk: &GroupVersionKind) -> Value {
    json!({ "group": &*gvk.group, "kind": &*gvk.kind, "version": &*gvk.version })
}

/// The type of a resource's list.
pub(super) fn list_type(def: &ResourceDef) -> Option<TypeId> {
    if def.list_kind.is_empty() {
        return None;
    }
    let own = &def.schema().ty(def.ty).name;
    let package = own.rsplit_once('.').map_or("", |(package, _)| package);
    def.schema().type_named(&format!("{package}.{}", def.list_kind))
}

/// The OpenAPI name of a type of meta/v1.
pub(super) fn meta_name(short: &str) -> String {
    format!("{META}{short}")
}
