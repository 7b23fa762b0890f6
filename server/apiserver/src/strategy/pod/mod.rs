//! Pods and PodTemplates. What a Pod needs because of other objects (its service account, its priority) is admission's.

mod containers;
pub(super) mod defaults;
mod env;
mod probes;
mod qos;
pub(super) mod scheduling;
mod security;
pub(super) mod spec;
mod status;
#[cfg(test)]
mod tests;
pub(super) mod unheeded;
mod update;
mod volumes;

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;
use coracle_api::time::format_time;
use k8s_openapi::api::core::v1::{Pod, PodTemplate, PodTemplateSpec};
use serde_json::json;

use super::check::text;
use super::kind::{Errors, Kind};
use super::{keep_all_but_status, keep_at};
use crate::registry::context::Context;

pub(super) struct Pods;

impl Kind for Pods {
    type Type = Pod;

    fn default(&self, pod: &mut Pod) {
        defaults::pod(pod);
    }

    fn prepare_for_create(&self, context: &Context, object: &mut Object) {
        let mut status = json!({ "phase": "Pending" });
        // A pod that can't be read is refused by validation right after this.
        if let Ok(Some(mut spec)) = object.typed_at::<k8s_openapi::api::core::v1::PodSpec>(&["spec"]) {
            status["qosClass"] = qos::class(&spec).into();
            if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
                status["conditions"] = json!([{
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                    "lastTransitionTime": format_time(context.now),
                }]);
            }
            defaults::service_account(&mut spec);
            if let Some(name) = spec.service_account_name.filter(|name| !name.is_empty()) {
                object.set(&["spec", "serviceAccountName"], name.as_str());
                object.set(&["spec", "serviceAccount"], name);
            }
        }
        object.set(&["status"], status);
    }

    fn prepare_status_update(&self, _context: &Context, object: &mut Object, old: &Object) {
        keep_all_but_status(object, old);
        // Old node agents sent back what they had read: a status write never touches these.
        keep_at(object, old, &["metadata", "ownerReferences"]);
        keep_at(object, old, &["metadata", "deletionTimestamp"]);
        if object.field(&["status", "qosClass"]).unwrap_or_default().is_empty() {
            keep_at(object, old, &["status", "qosClass"]);
        }
    }

    fn validate_create(&self, context: &Context, pod: &Pod, errors: &mut Errors) {
        spec::pod(pod, errors);
        let Some(spec) = &pod.spec else { return };
        let path = FieldPath::new("spec");
        unheeded::tell(context, spec, &path);
        if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
            errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
        }
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        if gated && !text(&spec.node_name).is_empty() {
            let detail = "cannot be set until all schedulingGates have been cleared";
            errors.push(FieldError::forbidden(&path.child("nodeName"), detail));
        }
    }

    fn validate_update(&self, context: &Context, pod: &Pod, old: &Pod, errors: &mut Errors) {
        match context.subresource.as_str() {
            "binding" => update::binding(pod, errors),
            "ephemeralcontainers" => update::ephemeral_containers(pod, old, errors),
            "resize" => update::resize(pod, old, errors),
            // An eviction only marks the pod.
            "eviction" => {}
            _ => update::main(pod, old, errors),
        }
    }

    fn validate_status_update(&self, _context: &Context, pod: &Pod, old: &Pod, errors: &mut Errors) {
        update::mirror_annotation(pod, old, errors);
        status::update(pod, old, errors);
    }
}

pub(super) struct PodTemplates;

impl Kind for PodTemplates {
    type Type = PodTemplate;

    fn default(&self, template: &mut PodTemplate) {
        defaults::template(template.template.get_or_insert_default());
    }

    fn validate_create(&self, _context: &Context, template: &PodTemplate, errors: &mut Errors) {
        let blank = PodTemplateSpec::default();
        spec::template(template.template.as_ref().unwrap_or(&blank), &FieldPath::new("template"), errors);
    }

    fn validate_update(&self, context: &Context, template: &PodTemplate, _old: &PodTemplate, errors: &mut Errors) {
        self.validate_create(context, template, errors);
    }
}
