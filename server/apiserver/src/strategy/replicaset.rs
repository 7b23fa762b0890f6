//! ReplicaSets and their elders, ReplicationControllers.

use coracle_api::fields::{FieldError, FieldPath};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus,
};
use serde_json::json;

use super::check::{self, Labels};
use super::kind::{Errors, Kind};
use super::pod;
use super::workload::{self, Counts, template_labels};
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");

pub(super) struct ReplicaSets;

impl Kind for ReplicaSets {
    type Type = ReplicaSet;

    fn default(&self, set: &mut ReplicaSet) {
        let spec = set.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        pod::defaults::template(spec.template.get_or_insert_default());
    }

    fn validate_create(&self, _context: &Context, set: &ReplicaSet, errors: &mut Errors) {
        let blank = ReplicaSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&blank);
        check::nonnegative_opt(spec.replicas, &SPEC.child("replicas"), errors);
        check::nonnegative_opt(spec.min_ready_seconds, &SPEC.child("minReadySeconds"), errors);
        let blank = PodTemplateSpec::default();
        let template = spec.template.as_ref().unwrap_or(&blank);
        workload::selector_and_template(&spec.selector, template, &SPEC, errors);
        workload::always_restarted(template, "ReplicaSet", &SPEC.child("template"), errors);
    }

    fn validate_update(&self, context: &Context, new: &ReplicaSet, old: &ReplicaSet, errors: &mut Errors) {
        self.validate_create(context, new, errors);
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            check::immutable(&new.selector, &old.selector, &SPEC.child("selector"), errors);
        }
    }

    fn validate_status_update(&self, _context: &Context, new: &ReplicaSet, _old: &ReplicaSet, errors: &mut Errors) {
        let blank = ReplicaSetStatus::default();
        let status = new.status.as_ref().unwrap_or(&blank);
        replicas(
            [Some(status.replicas), status.fully_labeled_replicas, status.ready_replicas, status.available_replicas],
            status.observed_generation,
            errors,
        );
    }
}

/// Replicas, and which of them are fully labelled, ready and available.
fn replicas(counts: [Option<i32>; 4], observed: Option<i64>, errors: &mut Errors) {
    let [replicas, labelled, ready, available] = counts.map(|count| count.unwrap_or(0));
    let status = Counts { path: FieldPath::new("status") };
    status.none_negative(
        &[
            ("replicas", replicas.into()),
            ("fullyLabeledReplicas", labelled.into()),
            ("readyReplicas", ready.into()),
            ("availableReplicas", available.into()),
            ("observedGeneration", observed.unwrap_or(0)),
        ],
        errors,
    );
    status.at_most("fullyLabeledReplicas", labelled, replicas, "status.replicas", errors);
    status.at_most("readyReplicas", ready, replicas, "status.replicas", errors);
    status.at_most("availableReplicas", available, replicas, "status.replicas", errors);
    status.at_most("availableReplicas", available, ready, "readyReplicas", errors);
}

pub(super) struct ReplicationControllers;

impl Kind for ReplicationControllers {
    type Type = ReplicationController;

    fn default(&self, controller: &mut ReplicationController) {
        let spec = controller.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        let template = spec.template.get_or_insert_default();
        pod::defaults::template(template);
        // The old kind takes its selector and labels from its template.
        if let Some(labels) = template_labels(template).cloned() {
            let blank = |labels: &Option<Labels>| labels.as_ref().is_none_or(Labels::is_empty);
            if blank(&spec.selector) {
                spec.selector = Some(labels.clone());
            }
            if blank(&controller.metadata.labels) {
                controller.metadata.labels = Some(labels);
            }
        }
    }

    fn validate_create(&self, _context: &Context, controller: &ReplicationController, errors: &mut Errors) {
        let blank = ReplicationControllerSpec::default();
        let spec = controller.spec.as_ref().unwrap_or(&blank);
        check::nonnegative_opt(spec.min_ready_seconds, &SPEC.child("minReadySeconds"), errors);
        check::nonnegative_opt(spec.replicas, &SPEC.child("replicas"), errors);
        let blank = Labels::new();
        let selector = spec.selector.as_ref().unwrap_or(&blank);
        if selector.is_empty() {
            errors.push(FieldError::required(&SPEC.child("selector"), ""));
        }
        let path = SPEC.child("template");
        let Some(template) = &spec.template else {
            errors.push(FieldError::required(&path, ""));
            return;
        };
        let labels = template_labels(template).unwrap_or(&blank);
        if !selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
            let labels_path = path.child("metadata.labels");
            errors.push(FieldError::invalid(&labels_path, json!(labels), workload::NO_MATCH));
        }
        pod::spec::template(template, &path, errors);
        workload::always_restarted(template, "ReplicationController", &path, errors);
    }

    fn validate_update(
        &self,
        context: &Context,
        new: &ReplicationController,
        _old: &ReplicationController,
        errors: &mut Errors,
    ) {
        self.validate_create(context, new, errors);
    }

    fn validate_status_update(
        &self,
        _context: &Context,
        new: &ReplicationController,
        _old: &ReplicationController,
        errors: &mut Errors,
    ) {
        let blank = ReplicationControllerStatus::default();
        let status = new.status.as_ref().unwrap_or(&blank);
        replicas(
            [Some(status.replicas), status.fully_labeled_replicas, status.ready_replicas, status.available_replicas],
            status.observed_generation,
            errors,
        );
    }
}
