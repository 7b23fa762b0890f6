//! Reads the table that `server/api/generate` writes. Every name is a slice of the table, which is part of the
//! binary: reading allocates little more than the boxes of fields.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::resource::{ResourceDef, SchemaRef, SelectableField, SubresourceDef, Verb, Verbs};
use super::{FieldDef, FieldType, ListType, Name, PatchStrategy, ProtoShape, ProtoTag, Schema, TypeDef, TypeId};

#[derive(Debug, thiserror::Error)]
#[error("line {line} of the schema's table: {what}")]
pub struct TableError {
    line: usize,
    what: String,
}

type Names = HashMap<&'static str, TypeId>;

pub(super) fn parse(text: &'static str) -> Result<Schema, TableError> {
    let names: Names = text
        .lines()
        .filter_map(|line| line.strip_prefix("T "))
        .zip(0..)
        .map(|(rest, i)| (rest.split(' ').next().unwrap_or(rest), TypeId(i)))
        .collect();
    let mut schema = Schema::default();
    let mut ty: Option<(&'static str, bool, Vec<FieldDef>)> = None;
    let mut resource: Option<(ResourceDef, Vec<SubresourceDef>)> = None;
    for (number, line) in text.lines().enumerate() {
        let at = |what: String| TableError { line: number + 1, what };
        match line.split_at_checked(1) {
            None | Some(("#", _)) => {}
            Some(("R", rest)) => {
                finish_resource(&mut schema, resource.take());
                resource = Some((read_resource(rest, &names).map_err(at)?, Vec::new()));
            }
            Some(("S", rest)) => match &mut resource {
                Some((_, subresources)) => subresources.push(read_subresource(rest, &names).map_err(at)?),
                None => return Err(at("a subresource without a resource".to_owned())),
            },
            Some(("T", rest)) => {
                finish_resource(&mut schema, resource.take());
                finish_type(&mut schema, ty.take());
                let mut words = rest.split_ascii_whitespace();
                let name = words.next().ok_or_else(|| at("a type without a name".to_owned()))?;
                ty = Some((name, words.next() == Some("atomic"), Vec::new()));
            }
            Some((" ", rest)) => match &mut ty {
                Some((_, _, fields)) => fields.push(read_field(rest, &names).map_err(at)?),
                None => return Err(at("a field without a type".to_owned())),
            },
            Some(_) => return Err(at(format!("unknown line {line:?}"))),
        }
    }
    finish_type(&mut schema, ty);
    schema.resources.sort_by(|a, b| (&a.group, &a.version, &a.plural).cmp(&(&b.group, &b.version, &b.plural)));
    Ok(schema)
}

fn finish_type(schema: &mut Schema, ty: Option<(&'static str, bool, Vec<FieldDef>)>) {
    if let Some((name, atomic, mut fields)) = ty {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let fields = fields.into_boxed_slice();
        schema.types.push(TypeDef {
            name: Cow::Borrowed(name),
            fields,
            atomic,
            exact: false,
            preserves_unknown: false,
        });
    }
}

fn finish_resource(schema: &mut Schema, resource: Option<(ResourceDef, Vec<SubresourceDef>)>) {
    if let Some((mut resource, subresources)) = resource {
        resource.subresources = subresources.into_boxed_slice();
        schema.resources.push(Arc::new(resource));
    }
}

fn read_resource(rest: &'static str, names: &Names) -> Result<ResourceDef, String> {
    let words: Vec<&'static str> = rest.split_ascii_whitespace().collect();
    let &[group, version, plural, kind, scope, singular, short, categories, verbs, ty, selectable] = words.as_slice()
    else {
        return Err(format!("{} words in a resource", words.len()));
    };
    let verbs = read_verbs(verbs)?;
    let listable = verbs.contains(Verb::List);
    Ok(ResourceDef {
        group: undash(group),
        version: Cow::Borrowed(version),
        kind: Cow::Borrowed(kind),
        list_kind: if listable { Cow::Owned(format!("{kind}List")) } else { Cow::Borrowed("") },
        plural: Cow::Borrowed(plural),
        singular: Cow::Borrowed(singular),
        short_names: list(short),
        categories: list(categories),
        namespaced: scope == "namespaced",
        verbs,
        subresources: Box::default(),
        selectable: list(selectable).iter().map(read_selectable).collect(),
        ty: type_id(ty, names)?,
        schema: SchemaRef::BuiltIn,
    })
}

fn read_subresource(rest: &'static str, names: &Names) -> Result<SubresourceDef, String> {
    let words: Vec<&'static str> = rest.split_ascii_whitespace().collect();
    let &[name, group, version, kind, verbs, ty] = words.as_slice() else {
        return Err(format!("{} words in a subresource", words.len()));
    };
    Ok(SubresourceDef {
        name: Cow::Borrowed(name),
        group: undash(group),
        version: undash(version),
        kind: Cow::Borrowed(kind),
        verbs: read_verbs(verbs)?,
        ty: if ty == "-" { None } else { Some(type_id(ty, names)?) },
    })
}

fn read_field(rest: &'static str, names: &Names) -> Result<FieldDef, String> {
    let mut words = rest.split_ascii_whitespace();
    let (Some(name), Some(ty), Some(tag)) = (words.next(), words.next(), words.next()) else {
        return Err("a field needs a name, a type and a tag".to_owned());
    };
    let mut field = FieldDef {
        name: Cow::Borrowed(name),
        ty: read_type(ty, names)?,
        list: ListType::Atomic,
        patch: PatchStrategy::default(),
        required: false,
        atomic: false,
        proto: read_tag(tag)?,
    };
    for flag in words {
        let shape = match flag {
            "raw" => ProtoShape::Raw,
            "wrapped" => ProtoShape::Wrapped,
            "or-array" => ProtoShape::SchemaOrArray,
            "or-bool" => ProtoShape::SchemaOrBool,
            "or-strings" => ProtoShape::SchemaOrStrings,
            other => {
                read_flag(&mut field, other)?;
                continue;
            }
        };
        if let Some(tag) = &mut field.proto {
            tag.shape = shape;
        }
    }
    Ok(field)
}

fn read_flag(field: &mut FieldDef, flag: &'static str) -> Result<(), String> {
    match flag.split_once('=').unwrap_or((flag, "")) {
        ("required", _) => field.required = true,
        ("set", _) => field.list = ListType::Set,
        ("map", keys) => field.list = ListType::Map(list(keys)),
        ("atomic", _) => field.atomic = true,
        ("merge", _) => field.patch.merge = true,
        ("replace", _) => field.patch.replace = true,
        ("retain", _) => field.patch.retain_keys = true,
        ("key", key) => field.patch.merge_key = Some(Cow::Borrowed(key)),
        _ => return Err(format!("unknown flag {flag:?}")),
    }
    Ok(())
}

fn read_type(text: &'static str, names: &Names) -> Result<FieldType, String> {
    if let Some(of) = text.strip_prefix("[]") {
        return Ok(FieldType::List(Box::new(read_type(of, names)?)));
    }
    if let Some(of) = text.strip_prefix("{}") {
        return Ok(FieldType::Map(Box::new(read_type(of, names)?)));
    }
    Ok(match text {
        "bool" => FieldType::Bool,
        "int32" => FieldType::Int32,
        "int64" => FieldType::Int64,
        "double" => FieldType::Double,
        "string" => FieldType::String,
        "bytes" => FieldType::Bytes,
        "time" => FieldType::Time,
        "microtime" => FieldType::MicroTime,
        "quantity" => FieldType::Quantity,
        "int-or-string" => FieldType::IntOrString,
        "json" => FieldType::Json,
        name => FieldType::Object(type_id(name, names)?),
    })
}

fn read_tag(text: &str) -> Result<Option<ProtoTag>, String> {
    if text == "-" {
        return Ok(None);
    }
    let mut numbers = text.split('.').map(|n| n.parse::<u16>().map_err(|_| format!("bad tag {text:?}")));
    let mut next = || numbers.next().transpose();
    let (outer, number) = match (next()?, next()?, next()?) {
        (Some(number), None, None) => ([0, 0], number),
        (Some(outer), Some(number), None) => ([outer, 0], number),
        (Some(outer), Some(inner), Some(number)) => ([outer, inner], number),
        _ => return Err(format!("bad tag {text:?}")),
    };
    Ok(Some(ProtoTag { outer, number, shape: ProtoShape::Plain }))
}

fn read_verbs(text: &str) -> Result<Verbs, String> {
    text.split(',').map(|v| Verb::parse(v).ok_or_else(|| format!("unknown verb {v:?}"))).collect()
}

/// `status.successful=status.succeeded`, `source=source.component|reportingComponent`, or a path alone.
fn read_selectable(text: &Name) -> SelectableField {
    let text: &'static str = match text {
        Cow::Borrowed(text) => text,
        Cow::Owned(_) => "",
    };
    let (name, paths) = text.split_once('=').unwrap_or((text, text));
    let path = |p: &'static str| p.split('.').map(Cow::Borrowed).collect();
    SelectableField { name: Cow::Borrowed(name), paths: paths.split('|').map(path).collect() }
}

fn type_id(name: &str, names: &Names) -> Result<TypeId, String> {
    names.get(name).copied().ok_or_else(|| format!("unknown type {name:?}"))
}

fn undash(text: &'static str) -> Name {
    Cow::Borrowed(if text == "-" { "" } else { text })
}

fn list(text: &'static str) -> Box<[Name]> {
    if text == "-" || text.is_empty() {
        return Box::default();
    }
    text.split(',').map(Cow::Borrowed).collect()
}
