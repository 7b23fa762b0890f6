//! Checks of metadata that all kinds share, in upstream's words.

use std::collections::BTreeSet;

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::meta::split_api_version;
use coracle_api::names;
use coracle_api::object::Object;
use coracle_api::status::Status;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::facts::Facts;

pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";
pub const ORPHAN_FINALIZER: &str = "orphan";
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN_FINALIZER, FOREGROUND_FINALIZER];

const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
const IMMUTABLE: &str = "field is immutable";
const METADATA: FieldPath<'static> = FieldPath::new("metadata");

/// Everything that must hold of an object's metadata on its own.
pub fn validate(object: &Object, namespaced: bool, facts: &Facts) -> Result<Vec<FieldError>, Status> {
    let mut errors = Vec::new();
    let invalid = |path: &FieldPath<'_>, value: &str, problems: Vec<String>| {
        problems.into_iter().map(|problem| FieldError::invalid(path, value, problem)).collect::<Vec<_>>()
    };
    let generate_name = object.generate_name();
    if !generate_name.is_empty() {
        let problems = facts.name_problems(generate_name, true);
        errors.extend(invalid(&METADATA.child("generateName"), generate_name, problems));
    }
    let name = object.name();
    if name.is_empty() {
        errors.push(FieldError::required(&METADATA.child("name"), "name or generateName is required"));
    } else {
        errors.extend(invalid(&METADATA.child("name"), name, facts.name_problems(name, false)));
    }
    let namespace = object.namespace();
    let path = METADATA.child("namespace");
    if namespaced && namespace.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else if namespaced {
        errors.extend(invalid(&path, namespace, names::dns1123_label(namespace)));
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden(&path, "not allowed on this type"));
    }
    labels_and_annotations(object, &mut errors);
    owner_references(&typed_owners(object)?, &mut errors);
    finalizers(object, &mut errors);
    Ok(errors)
}

fn labels_and_annotations(object: &Object, errors: &mut Vec<FieldError>) {
    let path = METADATA.child("labels");
    for (key, value) in object.labels() {
        errors.extend(names::label_key(&key).into_iter().map(|problem| FieldError::invalid(&path, &key, problem)));
        errors
            .extend(names::label_value(&value).into_iter().map(|problem| FieldError::invalid(&path, &value, problem)));
    }
    let path = METADATA.child("annotations");
    let mut size = 0;
    for (key, value) in object.annotations() {
        size += key.len() + value.len();
        let problems = names::qualified_name(&key.to_lowercase());
        errors.extend(problems.into_iter().map(|problem| FieldError::invalid(&path, &key, problem)));
    }
    if size > ANNOTATIONS_MAX_BYTES {
        errors.push(FieldError::too_long(&path, ANNOTATIONS_MAX_BYTES));
    }
}

fn owner_references(owners: &[OwnerReference], errors: &mut Vec<FieldError>) {
    let list = METADATA.child("ownerReferences");
    let mut controller: Option<String> = None;
    for (at, owner) in owners.iter().enumerate() {
        let path = list.index(at);
        let (group, version) = split_api_version(&owner.api_version);
        if version.is_empty() {
            errors.push(FieldError::invalid(
                &path.child("apiVersion"),
                &owner.api_version,
                "version must not be empty",
            ));
        }
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.push(FieldError::invalid(&path.child(field), "", "must not be empty"));
            }
        }
        if group.is_empty() && owner.kind == "Event" {
            errors.push(FieldError::invalid(&path, owner, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.controller == Some(true) {
            let this = format!("{}/{}", owner.kind, owner.name);
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.push(FieldError::invalid(&list, owners, detail));
            } else {
                controller = Some(this);
            }
        }
    }
}

fn finalizers(object: &Object, errors: &mut Vec<FieldError>) {
    let path = METADATA.child("finalizers");
    let finalizers = object.finalizers();
    for finalizer in &finalizers {
        let problems = names::qualified_name(finalizer);
        errors.extend(problems.into_iter().map(|problem| FieldError::invalid(&path, finalizer, problem)));
    }
    for (at, finalizer) in finalizers.iter().enumerate() {
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(finalizer) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&path.index(at), finalizer, detail));
        }
    }
    if finalizers.contains(&FOREGROUND_FINALIZER) && finalizers.contains(&ORPHAN_FINALIZER) {
        let detail = format!("finalizer {ORPHAN_FINALIZER} and {FOREGROUND_FINALIZER} cannot be both set");
        errors.push(FieldError::invalid(&path, &finalizers, detail));
    }
}

/// What an update must not change.
pub fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.is_being_deleted() {
        let before: BTreeSet<&str> = old.finalizers().into_iter().collect();
        let added: BTreeSet<&str> = new.finalizers().into_iter().filter(|one| !before.contains(one)).collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|one| format!("{one:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(FieldError::forbidden(&METADATA.child("finalizers"), detail));
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (now, before) = (new.path(&["metadata", field]), old.path(&["metadata", field]));
        if now != before {
            // Upstream shows a text that is missing as an empty one.
            let shown = now.cloned().unwrap_or_else(|| "".into());
            errors.push(FieldError::invalid(&METADATA.child(field), shown, IMMUTABLE));
        }
    }
    errors
}

/// Removes owner references that are there twice; the UIDs of those are for a warning.
pub fn dedup_owners(object: &mut Object) -> Vec<String> {
    let path = ["metadata", "ownerReferences"];
    let owners = object.list(&path);
    if owners.len() < 2 {
        return Vec::new();
    }
    let mut kept = Vec::with_capacity(owners.len());
    let mut duplicates = Vec::new();
    for owner in owners {
        if kept.contains(owner) {
            let uid = Object::from_value(owner.clone()).ok().and_then(|owner| owner.field(&["uid"]).map(str::to_owned));
            duplicates.extend(uid);
        } else {
            kept.push(owner.clone());
        }
    }
    if !duplicates.is_empty() {
        object.set(&path, kept);
    }
    duplicates
}

fn typed_owners(object: &Object) -> Result<Vec<OwnerReference>, Status> {
    object.owner_references().map_err(|error| Status::bad_request(error.to_string()))
}
