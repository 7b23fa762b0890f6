//! Who controls whom: controller references, and the rule by which a controller takes in what is its own and lets go of
//! what no longer is. Pure; knows no kind in particular.

use coracle_api::meta::ObjectKey;
use coracle_api::selector::LabelSelector;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|r| r.controller == Some(true))
}

pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|r| r.uid == uid)
}

pub(crate) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or("")
}

pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or("")
}

pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or("")
}

pub(crate) fn key_of(meta: &ObjectMeta) -> ObjectKey {
    ObjectKey { namespace: namespace(meta).into(), name: name(meta).into() }
}

/// The controller reference that `owner` puts on what it makes.
pub(crate) fn reference<K: Metadata<Ty = ObjectMeta>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: name(owner.metadata()).to_owned(),
        uid: uid(owner.metadata()).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What an owner does about one object that might be its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Own,
    Adopt,
    Release,
    Ignore,
}

/// Decides as upstream's `ControllerRefManager`: an owner that is being deleted neither adopts nor releases, and an
/// orphan that is on its way out (`leaving`) is left alone.
pub(crate) fn claim(owner: &ObjectMeta, selector: &LabelSelector, object: &ObjectMeta, leaving: bool) -> Claim {
    let matches = |object: &ObjectMeta| selector.matches_opt(object.labels.as_ref());
    let owner_leaves = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if reference.uid != uid(owner) => Claim::Ignore,
        Some(_) if matches(object) => Claim::Own,
        Some(_) if owner_leaves => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_leaves || leaving || object.deletion_timestamp.is_some() => Claim::Ignore,
        None if namespace(owner) != namespace(object) || !matches(object) => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Strategic merge patch that puts `reference` on the object, provided it is still the one that was seen.
pub(crate) fn adopt_patch(reference: &OwnerReference, object_uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [reference], "uid": object_uid}})
}

/// Strategic merge patch that takes `owner_uid`'s reference off the object, provided it is still the one that was seen.
pub(crate) fn release_patch(owner_uid: &str, object_uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": owner_uid}], "uid": object_uid}})
}
