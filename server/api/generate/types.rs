//! The types of the served kinds and of all they are made of, with the protobuf tags of their fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Map, Value};

use crate::facts;
use crate::proto::{Field, Messages};
use crate::resources::Resource;

const REF: &str = "#/definitions/";

pub(crate) fn write(
    swagger: &Value,
    messages: &Messages,
    resources: &[Resource],
    out: &mut String,
) -> Result<(), String> {
    let definitions = swagger["definitions"].as_object().ok_or("swagger has no definitions")?;
    let mut pending: Vec<String> = Vec::new();
    for resource in resources {
        pending.push(resource.ty.clone());
        pending.push(format!("{}List", resource.ty));
        pending.extend(resource.subresources.values().map(|s| s.ty.clone()).filter(|ty| ty != "-"));
    }
    pending.extend(definitions.keys().filter(|name| name.starts_with(facts::META)).cloned());
    let mut done: BTreeMap<String, String> = BTreeMap::new();
    while let Some(name) = pending.pop() {
        let Some(definition) = definitions.get(&name) else {
            // Kinds that can't be listed have no list.
            if name.ends_with("List") {
                continue;
            }
            return Err(format!("{name} is not defined"));
        };
        if done.contains_key(&name) || is_leaf(&name) {
            continue;
        }
        let mut writer = Writer { messages, used: BTreeSet::new() };
        let text = writer.definition(&name, definition).map_err(|e| format!("{name}: {e}"))?;
        done.insert(name, text);
        pending.extend(writer.used);
    }
    out.extend(done.into_values());
    Ok(())
}

fn is_leaf(name: &str) -> bool {
    name == facts::NOT_A_TYPE
        || facts::RAW.contains(&name)
        || facts::SCALARS.iter().any(|(n, _)| *n == name)
        || facts::UNIONS.iter().any(|(n, _)| *n == name)
}

struct Writer<'a> {
    messages: &'a Messages,
    used: BTreeSet<String>,
}

/// A field's type as the table spells it, and what protobuf makes of it.
struct Shape {
    ty: String,
    proto: &'static str,
}

impl Writer<'_> {
    fn definition(&mut self, name: &str, definition: &Value) -> Result<String, String> {
        let mut out = format!("T {name}");
        match definition["x-kubernetes-map-type"].as_str() {
            Some("atomic") => out.push_str(" atomic"),
            None => {}
            Some(other) => return Err(format!("map type {other:?}")),
        }
        out.push('\n');
        let no_fields = Map::new();
        let properties = definition["properties"].as_object().unwrap_or(&no_fields);
        let required: BTreeSet<&str> =
            definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let message = message_name(name);
        let fields = self.messages.get(&message);
        if fields.is_none() && !facts::JSON_ONLY.contains(&name) {
            return Err(format!("no protobuf message {message}"));
        }
        let names: BTreeSet<String> = properties.keys().map(|name| normal(name)).collect();
        let fields = fields.map(Vec::as_slice).unwrap_or_default();
        for (field, property) in properties {
            let line = self
                .property(field, property, fields, &names, required.contains(&**field))
                .map_err(|e| format!("{field}: {e}"))?;
            let _ = writeln!(out, " {field} {line}");
        }
        Ok(out)
    }

    fn property(
        &mut self,
        name: &str,
        property: &Value,
        fields: &[Field],
        names: &BTreeSet<String>,
        required: bool,
    ) -> Result<String, String> {
        let shape = self.shape(property)?;
        let tag = match self.tag(name, fields, names) {
            Some((tag, proto_ty)) => {
                let wrapped = shape.ty.ends_with("[]string") && self.is_wrapper(&proto_ty);
                (tag, if wrapped { "wrapped" } else { shape.proto })
            }
            // TypeMeta travels outside the message, in runtime.Unknown.
            None if matches!(name, "kind" | "apiVersion") || fields.is_empty() => ("-".to_owned(), ""),
            None => return Err("no protobuf tag".to_owned()),
        };
        let mut line = format!("{} {}", shape.ty, tag.0);
        let mut flag = |text: &str| {
            line.push(' ');
            line.push_str(text);
        };
        if required {
            flag("required");
        }
        if !tag.1.is_empty() {
            flag(tag.1);
        }
        match property["x-kubernetes-list-type"].as_str() {
            None | Some("atomic") => {}
            Some("set") => flag("set"),
            Some("map") => {
                let keys: Vec<&str> = property["x-kubernetes-list-map-keys"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                flag(&format!("map={}", keys.join(",")));
            }
            Some(other) => return Err(format!("list type {other:?}")),
        }
        match property["x-kubernetes-map-type"].as_str() {
            None | Some("granular") => {}
            Some("atomic") => flag("atomic"),
            Some(other) => return Err(format!("map type {other:?}")),
        }
        match property["x-kubernetes-patch-strategy"].as_str() {
            None => {}
            Some("merge") => flag("merge"),
            Some("replace") => flag("replace"),
            Some("retainKeys") => flag("retain"),
            Some("merge,retainKeys") => {
                flag("merge");
                flag("retain");
            }
            Some(other) => return Err(format!("patch strategy {other:?}")),
        }
        if let Some(key) = property["x-kubernetes-patch-merge-key"].as_str() {
            flag(&format!("key={key}"));
        }
        Ok(line)
    }

    fn shape(&mut self, property: &Value) -> Result<Shape, String> {
        let plain = |ty: &str| Ok(Shape { ty: ty.to_owned(), proto: "" });
        if let Some(reference) = property["$ref"].as_str() {
            let name = reference.strip_prefix(REF).ok_or_else(|| format!("reference {reference:?}"))?;
            if let Some((_, scalar)) = facts::SCALARS.iter().find(|(n, _)| *n == name) {
                return plain(scalar);
            }
            if facts::RAW.contains(&name) {
                return Ok(Shape { ty: "json".to_owned(), proto: "raw" });
            }
            if let Some((_, union)) = facts::UNIONS.iter().find(|(n, _)| *n == name) {
                // The union's own decoder reads these; their types are still part of the schema.
                return Ok(Shape { ty: "json".to_owned(), proto: union });
            }
            self.used.insert(name.to_owned());
            return plain(name);
        }
        let format = property["format"].as_str();
        match (property["type"].as_str(), format) {
            (Some("string"), None) => plain("string"),
            (Some("string"), Some("byte")) => plain("bytes"),
            (Some("integer"), Some("int32")) => plain("int32"),
            (Some("integer"), Some("int64")) => plain("int64"),
            (Some("number"), Some("double")) => plain("double"),
            (Some("boolean"), None) => plain("bool"),
            (Some("array"), None) => {
                let of = self.shape(&property["items"])?;
                Ok(Shape { ty: format!("[]{}", of.ty), proto: of.proto })
            }
            (Some("object"), None) if property["additionalProperties"].is_object() => {
                let of = self.shape(&property["additionalProperties"])?;
                Ok(Shape { ty: format!("{{}}{}", of.ty), proto: of.proto })
            }
            other => Err(format!("type {other:?}")),
        }
    }

    /// `5`, or `2.5` for a field of an embedded struct: field 5 of the message in field 2.
    fn tag(&self, name: &str, fields: &[Field], names: &BTreeSet<String>) -> Option<(String, String)> {
        let wanted = normal(name);
        if let Some(field) = fields.iter().find(|f| normal(&f.name) == wanted) {
            return Some((field.number.to_string(), field.ty.clone()));
        }
        fields.iter().find_map(|outer| {
            // A message that JSON has no field for is a struct that Go embeds.
            let inner = self.messages.get(&outer.ty).filter(|_| !names.contains(&normal(&outer.name)))?;
            let (tag, ty) = self.tag(name, inner, names)?;
            Some((format!("{}.{tag}", outer.number), ty))
        })
    }

    /// A message that only wraps a list of strings, as in `map<string, ExtraValue>`.
    fn is_wrapper(&self, proto_ty: &str) -> bool {
        let name = proto_ty.strip_prefix("map<string, ").and_then(|t| t.strip_suffix('>')).unwrap_or(proto_ty);
        self.messages.get(name).is_some_and(|fields| matches!(fields.as_slice(), [one] if one.name == "items"))
    }
}

/// `io.k8s.api.core.v1.PodSpec` to `api.core.v1.PodSpec`.
fn message_name(definition: &str) -> String {
    definition.strip_prefix("io.k8s.").unwrap_or(definition).replace('-', "_")
}

/// Protobuf's names differ from JSON's in case and signs only.
fn normal(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}
