//! PersistentVolumeClaims, also as templates.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use serde_json::json;

use super::check::{self, Quantities, fill, number, text};
use super::keep_all_but_status;
use super::kind::{Errors, Kind};
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");
pub(super) const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

pub(super) struct Claims;

pub(super) fn default(claim: &mut PersistentVolumeClaim) {
    fill(&mut claim.status.get_or_insert_default().phase, "Pending");
    let spec = claim.spec.get_or_insert_default();
    fill(&mut spec.volume_mode, "Filesystem");
    spec.resources.get_or_insert_default();
}

impl Kind for Claims {
    type Type = PersistentVolumeClaim;

    fn default(&self, claim: &mut PersistentVolumeClaim) {
        default(claim);
    }

    fn prepare_for_create(&self, _context: &Context, object: &mut Object) {
        object.set(&["status"], json!({ "phase": "Pending" }));
        if object.path(&["spec", "dataSourceRef"]).is_none()
            && let Some(source) = object.path(&["spec", "dataSource"]).cloned()
        {
            object.set(&["spec", "dataSourceRef"], source);
        }
    }

    fn prepare_status_update(&self, _context: &Context, object: &mut Object, old: &Object) {
        keep_all_but_status(object, old);
    }

    fn validate_create(&self, _context: &Context, claim: &PersistentVolumeClaim, errors: &mut Errors) {
        let blank = PersistentVolumeClaimSpec::default();
        spec(claim.spec.as_ref().unwrap_or(&blank), &SPEC, errors);
    }

    fn validate_update(
        &self,
        context: &Context,
        new: &PersistentVolumeClaim,
        old: &PersistentVolumeClaim,
        errors: &mut Errors,
    ) {
        self.validate_create(context, new, errors);
        let (Some(spec), Some(before)) = (&new.spec, &old.spec) else { return };
        let bound = old.status.as_ref().is_some_and(|status| text(&status.phase) == "Bound");
        let mut munged = spec.clone();
        if text(&before.volume_name).is_empty() {
            munged.volume_name = before.volume_name.clone();
        }
        if bound {
            requests_may_grow(&mut munged, before);
            munged.volume_attributes_class_name = before.volume_attributes_class_name.clone();
        }
        let late_class = before.storage_class_name.is_none() && spec.storage_class_name.is_some();
        if late_class && text(&before.volume_name).is_empty() {
            munged.storage_class_name = None;
        }
        if munged != *before {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            errors.push(FieldError::forbidden(&SPEC, detail));
        }
        shrunk(spec, before, new, errors);
    }

    fn validate_status_update(
        &self,
        _context: &Context,
        new: &PersistentVolumeClaim,
        _old: &PersistentVolumeClaim,
        errors: &mut Errors,
    ) {
        let path = FieldPath::new("status.capacity");
        let capacity = new.status.as_ref().and_then(|status| status.capacity.as_ref());
        for (name, amount) in capacity.into_iter().flatten() {
            if number(amount).is_negative() {
                let detail = "must be a valid resource quantity";
                errors.push(FieldError::invalid(&path.key(name), number(amount).value(), detail));
            }
        }
    }
}

fn requests_may_grow(munged: &mut PersistentVolumeClaimSpec, before: &PersistentVolumeClaimSpec) {
    let requests = before.resources.as_ref().and_then(|resources| resources.requests.clone());
    munged.resources.get_or_insert_with(VolumeResourceRequirements::default).requests = requests;
}

fn storage(spec: &PersistentVolumeClaimSpec) -> Option<coracle_api::Quantity> {
    spec.resources.as_ref()?.requests.as_ref()?.get("storage").map(number)
}

/// A volume can't shrink below what it has.
fn shrunk(
    spec: &PersistentVolumeClaimSpec,
    before: &PersistentVolumeClaimSpec,
    claim: &PersistentVolumeClaim,
    errors: &mut Errors,
) {
    let (now, was) = (storage(spec), storage(before));
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    let has = capacity.and_then(|capacity: &Quantities| capacity.get("storage")).map(number);
    if now < was && now <= has {
        let detail = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden(&SPEC.child("resources.requests.storage"), detail));
    }
}

/// The spec of a claim or of a template of one.
pub(super) fn spec(spec: &PersistentVolumeClaimSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let list = path.child("accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(&list, "at least 1 access mode is required"));
    }
    for mode in modes {
        if !ACCESS_MODES.contains(&mode.as_str()) {
            errors.push(FieldError::not_supported(&list, mode, ACCESS_MODES));
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(&list, detail));
    }
    if let Some(selector) = &spec.selector {
        check::label_selector(selector, &path.child("selector"), errors);
    }
    let storage = path.child("resources").to_string();
    let storage = FieldPath::new(&storage);
    match spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|requests| requests.get("storage")) {
        None => errors.push(FieldError::required(&storage.key("storage"), "")),
        Some(amount) if number(amount) <= coracle_api::Quantity::ZERO => {
            errors.push(FieldError::invalid(&storage.key("storage"), &amount.0, "must be greater than zero"));
        }
        Some(_) => {}
    }
    let class = text(&spec.storage_class_name);
    if !class.is_empty() {
        check::dns_subdomain(class, &path.child("storageClassName"), errors);
    }
    check::one_of_opt(&spec.volume_mode, VOLUME_MODES, &path.child("volumeMode"), errors);
    if let Some(source) = &spec.data_source {
        check::required_text(&source.name, &path.child("dataSource.name"), errors);
        check::required_text(&source.kind, &path.child("dataSource.kind"), errors);
        if text(&source.api_group).is_empty() && source.kind != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(FieldError::invalid(&path.child("dataSource"), &source.kind, detail));
        }
    }
}
