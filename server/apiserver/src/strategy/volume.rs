//! PersistentVolumes and StorageClasses.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

use super::check::{self, fill, number, text};
use super::claim::ACCESS_MODES;
use super::kind::{Errors, Kind};
use super::pod;
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const RECLAIM: &[&str] = &["Delete", "Recycle", "Retain"];

pub(super) struct Volumes;

impl Kind for Volumes {
    type Type = PersistentVolume;

    fn default(&self, volume: &mut PersistentVolume) {
        fill(&mut volume.status.get_or_insert_default().phase, "Pending");
        let spec = volume.spec.get_or_insert_default();
        fill(&mut spec.persistent_volume_reclaim_policy, "Retain");
        fill(&mut spec.volume_mode, "Filesystem");
        if let Some(host) = &mut spec.host_path {
            host.type_.get_or_insert_default();
        }
    }

    fn prepare_for_create(&self, _context: &Context, object: &mut Object) {
        object.set(&["status"], json!({ "phase": "Pending" }));
    }

    fn validate_create(&self, _context: &Context, volume: &PersistentVolume, errors: &mut Errors) {
        let blank = PersistentVolumeSpec::default();
        spec(volume.spec.as_ref().unwrap_or(&blank), errors);
    }

    fn validate_update(&self, context: &Context, new: &PersistentVolume, old: &PersistentVolume, errors: &mut Errors) {
        self.validate_create(context, new, errors);
        let (Some(spec), Some(before)) = (&new.spec, &old.spec) else { return };
        if sources_of(spec) != sources_of(before) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            errors.push(FieldError::forbidden(&SPEC.child("persistentvolumesource"), detail));
        }
        check::immutable(&spec.volume_mode, &before.volume_mode, &SPEC.child("volumeMode"), errors);
        if before.node_affinity.is_some() {
            check::immutable(&spec.node_affinity, &before.node_affinity, &SPEC.child("nodeAffinity"), errors);
        }
    }
}

/// The names of the sources that are given, with what they say.
fn sources_of(spec: &PersistentVolumeSpec) -> Vec<(String, serde_json::Value)> {
    const OTHERS: &[&str] = &[
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let object = Object::from_typed(spec).unwrap_or_default();
    object.0.into_iter().filter(|(field, _)| !OTHERS.contains(&field.as_str())).collect()
}

fn spec(spec: &PersistentVolumeSpec, errors: &mut Errors) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let list = SPEC.child("accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(&list, ""));
    }
    for mode in modes {
        if !ACCESS_MODES.contains(&mode.as_str()) {
            errors.push(FieldError::not_supported(&list, mode, ACCESS_MODES));
        }
    }
    let path = SPEC.child("capacity");
    match &spec.capacity {
        None => errors.push(FieldError::required(&path, "")),
        Some(capacity) if !capacity.contains_key("storage") || capacity.len() > 1 => {
            let shown = capacity.keys().collect::<Vec<_>>();
            errors.push(FieldError::not_supported(&path, shown, &["storage"]));
        }
        Some(_) => {}
    }
    for (name, amount) in spec.capacity.iter().flatten() {
        if number(amount) <= coracle_api::Quantity::ZERO {
            errors.push(FieldError::invalid(&path.key(name), &amount.0, "must be greater than zero"));
        }
    }
    check::one_of(
        text(&spec.persistent_volume_reclaim_policy),
        RECLAIM,
        &SPEC.child("persistentVolumeReclaimPolicy"),
        errors,
    );
    if let Some(required) = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref()) {
        pod::scheduling::node_selector(required, &SPEC.child("nodeAffinity.required"), errors);
    }
    let sources = sources_of(spec);
    if sources.is_empty() {
        errors.push(FieldError::required(&SPEC, "must specify a volume type"));
    }
    for (name, _) in sources.iter().skip(1) {
        errors.push(FieldError::forbidden(&SPEC.child(name), "may not specify more than 1 volume type"));
    }
    if let Some(host) = &spec.host_path {
        check::required_text(&host.path, &SPEC.child("hostPath.path"), errors);
        check::no_backsteps(&host.path, &SPEC.child("hostPath.path"), errors);
        if host.path == "/" && text(&spec.persistent_volume_reclaim_policy) == "Recycle" {
            let detail = "may not be 'recycle' for a hostPath mount of '/'";
            errors.push(FieldError::forbidden(&SPEC.child("persistentVolumeReclaimPolicy"), detail));
        }
    }
    if let Some(local) = &spec.local {
        check::required_text(&local.path, &SPEC.child("local.path"), errors);
        check::no_backsteps(&local.path, &SPEC.child("local.path"), errors);
        if spec.node_affinity.is_none() {
            errors.push(FieldError::required(&SPEC.child("nodeAffinity"), "Local volume requires node affinity"));
        }
    }
    let class = text(&spec.storage_class_name);
    if !class.is_empty() {
        check::dns_subdomain(class, &SPEC.child("storageClassName"), errors);
    }
    check::one_of_opt(&spec.volume_mode, &["Block", "Filesystem"], &SPEC.child("volumeMode"), errors);
}

pub(super) struct StorageClasses;

impl Kind for StorageClasses {
    type Type = StorageClass;

    fn default(&self, class: &mut StorageClass) {
        fill(&mut class.reclaim_policy, "Delete");
        fill(&mut class.volume_binding_mode, "Immediate");
    }

    fn validate_create(&self, _context: &Context, class: &StorageClass, errors: &mut Errors) {
        let path = FieldPath::new("provisioner");
        if class.provisioner.is_empty() {
            errors.push(FieldError::required(&path, &*class.provisioner));
        } else {
            check::qualified_name(&class.provisioner.to_lowercase(), &path, errors);
        }
        let size: usize = class.parameters.iter().flatten().map(|(key, value)| key.len() + value.len()).sum();
        if size > 256 * 1024 {
            errors.push(FieldError::too_long(&FieldPath::new("parameters"), 256 * 1024));
        }
        if class.parameters.iter().flatten().any(|(key, _)| key.is_empty()) {
            errors.push(FieldError::invalid(&FieldPath::new("parameters"), "", "field can not be empty."));
        }
        let policies = &["Delete", "Retain"];
        check::one_of_opt(&class.reclaim_policy, policies, &FieldPath::new("reclaimPolicy"), errors);
        let modes = &["Immediate", "WaitForFirstConsumer"];
        check::one_of(text(&class.volume_binding_mode), modes, &FieldPath::new("volumeBindingMode"), errors);
    }

    fn validate_update(&self, _context: &Context, new: &StorageClass, old: &StorageClass, errors: &mut Errors) {
        let mut forbid = |field: &str, changed: bool| {
            if changed {
                let detail = format!("updates to {field} are forbidden.");
                errors.push(FieldError::forbidden(&FieldPath::new(field), detail));
            }
        };
        forbid("parameters", new.parameters != old.parameters);
        forbid("provisioner", new.provisioner != old.provisioner);
        forbid("reclaimPolicy", new.reclaim_policy != old.reclaim_policy);
        let path = FieldPath::new("volumeBindingMode");
        check::immutable(&new.volume_binding_mode, &old.volume_binding_mode, &path, errors);
    }
}
