//! `Object`: any Kubernetes object as JSON, with typed access to what all objects share. The only place outside
//! decoding, patching and encoding where JSON is walked by string keys.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::meta::{GroupVersionKind, ObjectKey, Revision, Uid};
use crate::time;

/// An object between an object's JSON text and its typed struct.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Map<String, Value>);

/// A conversion between JSON and a typed struct failed: a bug, or an object that was stored by another version.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error("cannot read {kind} {key} as its typed form")]
    FromObject {
        kind: String,
        key: ObjectKey,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot write a typed {kind} as JSON")]
    ToObject {
        kind: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("an object must be a JSON object")]
    NotAnObject,
}

impl Object {
    pub fn new(gvk: &GroupVersionKind) -> Self {
        let mut object = Self::default();
        object.set_gvk(gvk);
        object
    }

    pub fn from_value(value: Value) -> Result<Self, ConvertError> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(ConvertError::NotAnObject)
            }
        }
    }

    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// The typed struct; the JSON tree is read in place, not copied first.
    pub fn typed<T: DeserializeOwned>(&self) -> Result<T, ConvertError> {
        T::deserialize(&self.0).map_err(|source| ConvertError::FromObject {
            kind: self.kind().to_owned(),
            key: self.key(),
            source,
        })
    }

    /// A typed struct's JSON, apiVersion and kind included.
    pub fn from_typed<T: Serialize>(object: &T) -> Result<Self, ConvertError> {
        let value = serde_json::to_value(object)
            .map_err(|source| ConvertError::ToObject { kind: short_type_name::<T>(), source })?;
        Self::from_value(value)
    }

    /// Part of the object as a typed struct: `object.typed_at::<PodSpec>(&["spec"])`. Absent is None.
    pub fn typed_at<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Option<T>, ConvertError> {
        let Some(value) = self.path(path) else { return Ok(None) };
        T::deserialize(value).map(Some).map_err(|source| ConvertError::FromObject {
            kind: self.kind().to_owned(),
            key: self.key(),
            source,
        })
    }

    // apiVersion and kind

    pub fn api_version(&self) -> &str {
        self.0.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn kind(&self) -> &str {
        self.0.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::from_api_version(self.api_version(), self.kind())
    }

    pub fn set_gvk(&mut self, gvk: &GroupVersionKind) {
        self.0.insert("apiVersion".to_owned(), gvk.api_version().into());
        self.0.insert("kind".to_owned(), Value::from(&*gvk.kind));
    }

    // metadata

    pub fn metadata(&self) -> Option<&Map<String, Value>> {
        self.0.get("metadata").and_then(Value::as_object)
    }

    /// Made if absent. A metadata that is no JSON object is replaced: decoding never lets one through.
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        child_mut(&mut self.0, "metadata")
    }

    pub fn object_meta(&self) -> Result<ObjectMeta, ConvertError> {
        self.typed_at(&["metadata"]).map(Option::unwrap_or_default)
    }

    pub fn set_object_meta(&mut self, meta: &ObjectMeta) -> Result<(), ConvertError> {
        let object = Self::from_typed(meta)?;
        self.0.insert("metadata".to_owned(), Value::Object(object.0));
        Ok(())
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace(), self.name())
    }

    pub fn name(&self) -> &str {
        self.meta_str("name")
    }

    pub fn namespace(&self) -> &str {
        self.meta_str("namespace")
    }

    pub fn generate_name(&self) -> &str {
        self.meta_str("generateName")
    }

    /// The empty Uid when unset.
    pub fn uid(&self) -> Uid {
        Uid::from(self.meta_str("uid"))
    }

    pub fn uid_str(&self) -> &str {
        self.meta_str("uid")
    }

    /// Unset (0) when absent or not a number of ours.
    pub fn revision(&self) -> Revision {
        self.meta_str("resourceVersion").parse().unwrap_or(Revision::UNSET)
    }

    /// metadata.resourceVersion as it was sent.
    pub fn resource_version(&self) -> &str {
        self.meta_str("resourceVersion")
    }

    pub fn generation(&self) -> i64 {
        self.metadata().and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or_default()
    }

    pub fn creation_timestamp(&self) -> Option<Timestamp> {
        self.meta_time("creationTimestamp")
    }

    pub fn deletion_timestamp(&self) -> Option<Timestamp> {
        self.meta_time("deletionTimestamp")
    }

    pub fn is_being_deleted(&self) -> bool {
        self.metadata().is_some_and(|m| m.get("deletionTimestamp").is_some_and(|v| !v.is_null()))
    }

    pub fn deletion_grace_period_seconds(&self) -> Option<i64> {
        self.metadata()?.get("deletionGracePeriodSeconds")?.as_i64()
    }

    pub fn labels(&self) -> BTreeMap<String, String> {
        self.string_map(&["metadata", "labels"])
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.field(&["metadata", "labels", key])
    }

    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.string_map(&["metadata", "annotations"])
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.field(&["metadata", "annotations", key])
    }

    pub fn finalizers(&self) -> Vec<&str> {
        let list = self.metadata().and_then(|m| m.get("finalizers")).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    pub fn owner_references(&self) -> Result<Vec<OwnerReference>, ConvertError> {
        self.typed_at(&["metadata", "ownerReferences"]).map(Option::unwrap_or_default)
    }

    pub fn managed_fields(&self) -> Result<Vec<ManagedFieldsEntry>, ConvertError> {
        self.typed_at(&["metadata", "managedFields"]).map(Option::unwrap_or_default)
    }

    pub fn set_name(&mut self, name: &str) {
        self.set_meta_str("name", name);
    }

    pub fn set_namespace(&mut self, namespace: &str) {
        self.set_meta_str("namespace", namespace);
    }

    pub fn set_uid(&mut self, uid: &Uid) {
        self.set_meta_str("uid", uid);
    }

    /// An unset revision removes the field.
    pub fn set_revision(&mut self, revision: Revision) {
        let text = if revision.is_unset() { String::new() } else { revision.to_string() };
        self.set_meta_str("resourceVersion", &text);
    }

    pub fn set_generation(&mut self, generation: i64) {
        self.metadata_mut().insert("generation".to_owned(), generation.into());
    }

    pub fn set_creation_timestamp(&mut self, at: Timestamp) {
        self.set_meta_str("creationTimestamp", &time::format_time(at));
    }

    pub fn set_deletion(&mut self, at: Timestamp, grace_period_seconds: i64) {
        self.set_meta_str("deletionTimestamp", &time::format_time(at));
        self.metadata_mut().insert("deletionGracePeriodSeconds".to_owned(), grace_period_seconds.into());
    }

    pub fn set_finalizers(&mut self, finalizers: &[&str]) {
        self.set_meta_list("finalizers", finalizers.iter().map(|f| Value::from(*f)).collect());
    }

    pub fn set_labels(&mut self, labels: BTreeMap<String, String>) {
        self.set_meta_map("labels", labels);
    }

    pub fn set_annotations(&mut self, annotations: BTreeMap<String, String>) {
        self.set_meta_map("annotations", annotations);
    }

    pub fn set_label(&mut self, key: &str, value: &str) {
        child_mut(self.metadata_mut(), "labels").insert(key.to_owned(), value.into());
    }

    pub fn set_annotation(&mut self, key: &str, value: &str) {
        child_mut(self.metadata_mut(), "annotations").insert(key.to_owned(), value.into());
    }

    pub fn set_managed_fields(&mut self, entries: &[ManagedFieldsEntry]) -> Result<(), ConvertError> {
        let values: Result<Vec<Value>, _> = entries.iter().map(serde_json::to_value).collect();
        let values = values.map_err(|source| ConvertError::ToObject { kind: "ManagedFieldsEntry", source })?;
        self.set_meta_list("managedFields", values);
        Ok(())
    }

    // any path

    /// The value at a path of object keys; null counts as absent.
    pub fn path(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let mut at = self.0.get(*first)?;
        for key in rest {
            at = at.as_object()?.get(*key)?;
        }
        (!at.is_null()).then_some(at)
    }

    pub fn path_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        let (first, rest) = path.split_first()?;
        let mut at = self.0.get_mut(*first)?;
        for key in rest {
            at = at.as_object_mut()?.get_mut(*key)?;
        }
        Some(at)
    }

    /// The string at a path.
    pub fn field(&self, path: &[&str]) -> Option<&str> {
        self.path(path)?.as_str()
    }

    pub fn int(&self, path: &[&str]) -> Option<i64> {
        self.path(path)?.as_i64()
    }

    pub fn flag(&self, path: &[&str]) -> Option<bool> {
        self.path(path)?.as_bool()
    }

    pub fn list(&self, path: &[&str]) -> &[Value] {
        self.path(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// The map of strings at a path; empty when absent.
    pub fn string_map(&self, path: &[&str]) -> BTreeMap<String, String> {
        let map = self.path(path).and_then(Value::as_object);
        let pairs = map.into_iter().flatten();
        pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    }

    /// Sets the value at a path, making the objects on the way. An empty path does nothing.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut at = &mut self.0;
        for key in parents {
            at = child_mut(at, key);
        }
        at.insert((*last).to_owned(), value.into());
    }

    /// Takes the value at a path out.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        let mut at = &mut self.0;
        for key in parents {
            at = at.get_mut(*key)?.as_object_mut()?;
        }
        at.remove(*last)
    }

    fn meta_str(&self, key: &str) -> &str {
        self.metadata().and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default()
    }

    fn meta_time(&self, key: &str) -> Option<Timestamp> {
        time::parse(self.metadata()?.get(key)?.as_str()?)
    }

    fn set_meta_str(&mut self, key: &str, value: &str) {
        let metadata = self.metadata_mut();
        if value.is_empty() {
            metadata.remove(key);
        } else {
            metadata.insert(key.to_owned(), value.into());
        }
    }

    fn set_meta_list(&mut self, key: &str, values: Vec<Value>) {
        let metadata = self.metadata_mut();
        if values.is_empty() {
            metadata.remove(key);
        } else {
            metadata.insert(key.to_owned(), Value::Array(values));
        }
    }

    fn set_meta_map(&mut self, key: &str, map: BTreeMap<String, String>) {
        let metadata = self.metadata_mut();
        if map.is_empty() {
            metadata.remove(key);
        } else {
            let map: Map<String, Value> = map.into_iter().map(|(k, v)| (k, Value::String(v))).collect();
            metadata.insert(key.to_owned(), map.into());
        }
    }
}

fn child_mut<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    if !map.get(key).is_some_and(Value::is_object) {
        map.insert(key.to_owned(), Value::Object(Map::new()));
    }
    map.get_mut(key).and_then(Value::as_object_mut).expect("an object was put there if there was none")
}

fn short_type_name<T>() -> &'static str {
    let full = std::any::type_name::<T>();
    full.rsplit("::").next().unwrap_or(full)
}

#[cfg(test)]
mod tests;
