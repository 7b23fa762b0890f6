//! Strategic merge patch: a merge patch whose lists are merged by the schema's merge keys, with directives.
//!
//! The order of a merged list: elements of the patch in the patch's order (or in that of `$setElementOrder/x`), and
//! between them those that only the server has, as near as may be to where they were.

use serde_json::{Map, Value};

use super::PatchError;
use super::unstructured::{go_text, go_type};
use crate::schema::{FieldDef, FieldType, PatchStrategy, Schema, TypeId};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_SET_ORDER: &str = "invalid patch format of setElementOrder list";
const BAD_DELETE_FROM_LIST: &str = "invalid patch format of primitive list";

type Json = Map<String, Value>;
type Result<T> = std::result::Result<T, PatchError>;

/// Applies `patch` to an object of type `ty`. Errors are in upstream's words.
pub fn strategic(original: Value, patch: Value, schema: &Schema, ty: TypeId) -> Result<Value> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(malformed("a strategic merge patch must be a JSON object"));
    };
    Merge { schema }.map(original, patch, Shape::Type(ty)).map(Value::Object)
}

/// What the schema says about the value being merged.
#[derive(Clone, Copy)]
enum Shape<'a> {
    Type(TypeId),
    /// A map, its values being of this type.
    Map(&'a FieldType),
    /// Nothing: any JSON, or a field that the schema does not name (decoding will say so).
    Opaque,
}

impl<'a> Shape<'a> {
    fn of(ty: &'a FieldType) -> Self {
        match ty {
            FieldType::Object(id) => Shape::Type(*id),
            FieldType::Map(of) => Shape::Map(of),
            _ => Shape::Opaque,
        }
    }

    fn of_elements(ty: &'a FieldType) -> Self {
        match ty {
            FieldType::List(of) => Shape::of(of),
            _ => Shape::Opaque,
        }
    }
}

/// A field as far as merging is concerned.
#[derive(Clone, Copy)]
struct Place<'a> {
    name: &'a str,
    ty: Option<&'a FieldType>,
    strategy: Option<&'a PatchStrategy>,
}

impl<'a> Place<'a> {
    fn merges(&self) -> bool {
        self.strategy.is_some_and(|s| s.merge)
    }

    fn replaces(&self) -> bool {
        self.strategy.is_some_and(|s| s.replace)
    }

    fn merge_key(&self) -> Option<&'a str> {
        self.strategy?.merge_key.as_deref()
    }

    fn shape(&self) -> Shape<'a> {
        self.ty.map_or(Shape::Opaque, Shape::of)
    }

    fn element_shape(&self) -> Shape<'a> {
        self.ty.map_or(Shape::Opaque, Shape::of_elements)
    }
}

struct Merge<'s> {
    schema: &'s Schema,
}

impl<'s> Merge<'s> {
    fn place<'a>(&'a self, shape: Shape<'a>, name: &'a str) -> Place<'a> {
        match shape {
            Shape::Type(id) => {
                let field: Option<&FieldDef> = self.schema.ty(id).field(name);
                Place { name, ty: field.map(|f| &f.ty), strategy: field.map(|f| &f.patch) }
            }
            Shape::Map(of) => Place { name, ty: Some(of), strategy: None },
            Shape::Opaque => Place { name, ty: None, strategy: None },
        }
    }

    fn map(&self, mut original: Json, mut patch: Json, shape: Shape<'_>) -> Result<Json> {
        if let Some(directive) = patch.get(PATCH) {
            return match directive.as_str() {
                Some("replace") => Ok(clean_map(patch)),
                Some("delete") => Ok(Json::new()),
                Some(_) | None => Err(unknown_directive(directive, &Value::Object(patch.clone()))),
            };
        }
        if let Some(keys) = patch.remove(RETAIN_KEYS) {
            retain_keys(&mut original, &patch, &keys)?;
        }
        self.ordered_lists(&mut original, &mut patch, shape)?;
        for (key, value) in patch {
            if let Some(name) = directive_name(&key, DELETE_FROM_LIST, BAD_DELETE_FROM_LIST)? {
                delete_from_list(&mut original, name, value)?;
                continue;
            }
            if value.is_null() {
                original.remove(&key);
                continue;
            }
            let merged = match (original.remove(&key), value) {
                (Some(Value::Object(before)), Value::Object(change)) => {
                    let place = self.place(shape, &key);
                    Value::Object(if place.replaces() { change } else { self.map(before, change, place.shape())? })
                }
                (Some(Value::Array(before)), Value::Array(change)) => {
                    Value::Array(self.list(before, change, self.place(shape, &key))?)
                }
                (_, value) => clean(value),
            };
            original.insert(key, merged);
        }
        Ok(original)
    }

    /// Lists with a `$setElementOrder/x` beside them are merged and put in that order; both leave the patch.
    fn ordered_lists(&self, original: &mut Json, patch: &mut Json, shape: Shape<'_>) -> Result<()> {
        let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
        for directive in directives {
            let order = patch.remove(&directive).unwrap_or_default();
            let Some(name) = directive_name(&directive, SET_ORDER, BAD_SET_ORDER)? else { continue };
            let Value::Array(order) = order else { return Err(malformed(BAD_SET_ORDER)) };
            let place = self.place(shape, name);
            let before = take_list(original, name)?;
            let change = take_list(patch, name)?;
            check_order(change.as_deref().unwrap_or_default(), &order, place.merge_key())?;
            let known = before.clone().unwrap_or_default();
            let merged = match (before, change) {
                (None, None) => continue,
                (Some(before), None) => before,
                (None, Some(change)) => change.into_iter().filter_map(clean_element).collect(),
                (Some(before), Some(change)) => self.list(before, change, place)?,
            };
            original.insert(name.to_owned(), Value::Array(arrange(merged, &order, &known, place.merge_key())?));
        }
        Ok(())
    }

    fn list(&self, before: Vec<Value>, change: Vec<Value>, place: Place<'_>) -> Result<Vec<Value>> {
        if !place.merges() {
            return Ok(change.into_iter().filter_map(clean_element).collect());
        }
        check_same_kind(&before, &change)?;
        let of_maps = before.iter().chain(&change).next().is_some_and(Value::is_object);
        if !of_maps {
            let mut merged = before.clone();
            for value in &change {
                if !merged.contains(value) {
                    merged.push(value.clone());
                }
            }
            return arrange(merged, &change, &before, None);
        }
        let Some(key) = place.merge_key() else {
            return Err(PatchError::Unprocessable(format!(
                "cannot merge lists without merge key for field {}",
                place.name
            )));
        };
        let (before, change) = special_elements(before, change, key)?;
        let order = change.clone();
        let known = before.clone();
        let mut merged = before;
        for element in change {
            let Value::Object(element) = element else { return Err(no_merge_key(key, &element)) };
            let wanted = element.get(key).ok_or_else(|| no_merge_key(key, &Value::Object(element.clone())))?;
            match merged.iter().position(|m| m.get(key) == Some(wanted)) {
                Some(at) => {
                    let Value::Object(old) = merged[at].take() else { return Err(no_merge_key(key, &merged[at])) };
                    merged[at] = Value::Object(self.map(old, element, place.element_shape())?);
                }
                None => merged.push(Value::Object(clean_map(element))),
            }
        }
        arrange(merged, &order, &known, Some(key))
    }
}

/// Takes the elements with a `$patch` out of the change: deletions are done, a replacement empties the list.
fn special_elements(mut before: Vec<Value>, change: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut rest = Vec::with_capacity(change.len());
    let mut replace = false;
    for element in change {
        match element.get(PATCH).map(|d| d.as_str()) {
            None => rest.push(element),
            Some(Some("delete")) => {
                let wanted = element.get(key).ok_or_else(|| no_merge_key(key, &element))?;
                before.retain(|b| b.get(key) != Some(wanted));
            }
            Some(Some("replace")) => replace = true,
            Some(Some("merge")) => return Err(unprocessable("merging lists cannot yet be specified in the patch")),
            Some(_) => return Err(unknown_directive(&element[PATCH], &element)),
        }
    }
    if replace {
        before.clear();
    }
    Ok((before, rest))
}

/// Puts a merged list in order: what `order` names as `order` has it, the rest between as `known` had it.
fn arrange(merged: Vec<Value>, order: &[Value], known: &[Value], key: Option<&str>) -> Result<Vec<Value>> {
    let identity = |value: &Value| match key {
        None => Ok(value.clone()),
        Some(key) => value.get(key).cloned().ok_or_else(|| no_merge_key(key, value)),
    };
    let order: Vec<Value> = order.iter().map(identity).collect::<Result<_>>()?;
    let known: Vec<Value> = known.iter().map(identity).collect::<Result<_>>()?;
    let position = |list: &[Value], of: &Value| list.iter().position(|v| v == of);
    let mut patched = Vec::new();
    let mut others = Vec::new();
    for value in merged {
        let id = identity(&value)?;
        match position(&order, &id) {
            Some(at) => patched.push((at, position(&known, &id), value)),
            None => others.push((position(&known, &id), value)),
        }
    }
    patched.sort_by_key(|(at, _, _)| *at);
    others.sort_by_key(|(at, _)| *at);
    let mut out = Vec::with_capacity(patched.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, patched_at, value) in patched {
        while others.peek().is_some_and(|(at, _)| patched_at.is_some() && at.is_some() && *at < patched_at) {
            out.extend(others.next().map(|(_, v)| v));
        }
        out.push(value);
    }
    out.extend(others.map(|(_, v)| v));
    Ok(out)
}

/// What the patch lists must stand in the order that it asks for, and be part of it.
fn check_order(change: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    if change.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut left = order.iter();
    for element in change.iter().filter(|e| e.get(PATCH).is_none()) {
        let same = |o: &Value| match key {
            None => Ok(o == element),
            Some(key) => {
                let (a, b) = (element.get(key), o.get(key));
                match (a, b) {
                    (Some(a), Some(b)) => Ok(a == b),
                    (None, _) => Err(no_merge_key(key, element)),
                    (_, None) => Err(no_merge_key(key, o)),
                }
            }
        };
        let mut found = false;
        for o in left.by_ref() {
            if same(o)? {
                found = true;
                break;
            }
        }
        if !found {
            let (change, order) = (go_text(&Value::from(change)), go_text(&Value::from(order)));
            return Err(unprocessable(format!(
                "The order in patch list:\n{change}\n doesn't match {SET_ORDER} list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

fn retain_keys(original: &mut Json, patch: &Json, keys: &Value) -> Result<()> {
    let Value::Array(keys) = keys else { return Err(malformed(BAD_RETAIN_KEYS)) };
    let kept = |name: &str| keys.iter().any(|k| k.as_str() == Some(name));
    for (key, value) in patch {
        let directive = key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER);
        if !value.is_null() && !directive && !kept(key) {
            return Err(malformed(BAD_RETAIN_KEYS));
        }
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

fn delete_from_list(original: &mut Json, name: &str, values: Value) -> Result<()> {
    let Value::Array(values) = values else { return Err(malformed(BAD_DELETE_FROM_LIST)) };
    if let Some(Value::Array(list)) = original.get_mut(name) {
        list.retain(|value| !values.contains(value));
    }
    Ok(())
}

/// `$directive/name` to `name`.
fn directive_name<'a>(key: &'a str, directive: &str, bad: &str) -> Result<Option<&'a str>> {
    match key.strip_prefix(directive) {
        None => Ok(None),
        Some(rest) => rest.strip_prefix('/').map(Some).ok_or_else(|| malformed(bad)),
    }
}

fn take_list(map: &mut Json, name: &str) -> Result<Option<Vec<Value>>> {
    match map.remove(name) {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(other) => Err(malformed(format!("expected a []interface {{}}, but received a {}", go_type(&other)))),
    }
}

fn check_same_kind(before: &[Value], change: &[Value]) -> Result<()> {
    let mut values = before.iter().chain(change);
    let Some(first) = values.next() else { return Ok(()) };
    if first.is_array() {
        return Err(unprocessable("lists of lists are not supported"));
    }
    let kind = std::mem::discriminant(first);
    if values.any(|v| std::mem::discriminant(v) != kind) {
        let both = [before, change].map(|list| go_text(&Value::from(list)));
        return Err(unprocessable(format!("list element types are not identical: [{}]", both.join(" "))));
    }
    Ok(())
}

/// A value that has nothing to be merged with: directives and nulls have no meaning left in it.
fn clean(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(clean_map(map)),
        Value::Array(list) => Value::Array(list.into_iter().filter_map(clean_element).collect()),
        scalar @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => scalar,
    }
}

fn clean_map(map: Json) -> Json {
    if map.get(PATCH).is_some_and(|d| d == "delete") {
        return Json::new();
    }
    let is_directive = |key: &str| {
        key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER)
    };
    map.into_iter().filter(|(k, v)| !v.is_null() && !is_directive(k)).map(|(k, v)| (k, clean(v))).collect()
}

/// None for an element that was only there to delete another, or to say "replace".
fn clean_element(value: Value) -> Option<Value> {
    let only_directive = match value.get(PATCH).and_then(Value::as_str) {
        Some("delete") => true,
        Some("replace") => value.as_object().is_some_and(|map| map.len() == 1),
        Some(_) | None => false,
    };
    (!only_directive).then(|| clean(value))
}

fn no_merge_key(key: &str, value: &Value) -> PatchError {
    malformed(format!("map: {} does not contain declared merge key: {key}", go_text(value)))
}

fn unknown_directive(directive: &Value, map: &Value) -> PatchError {
    malformed(format!("unknown patch type: {} in map: {}", go_text(directive), go_text(map)))
}

fn malformed(message: impl Into<String>) -> PatchError {
    PatchError::Malformed(message.into())
}

fn unprocessable(message: impl Into<String>) -> PatchError {
    PatchError::Unprocessable(message.into())
}
