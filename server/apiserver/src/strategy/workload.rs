//! What the kinds that make pods from a template have in common.

use coracle_api::fields::{FieldError, FieldPath};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::json;

use super::check::{self, Labels, is_blank, text};
use super::kind::Errors;
use super::pod;

pub(super) const NO_MATCH: &str = "`selector` does not match template `labels`";

pub(super) fn template_labels(template: &PodTemplateSpec) -> Option<&Labels> {
    template.metadata.as_ref()?.labels.as_ref()
}

/// A selector that must be there and select the template's own pods.
pub(super) fn selector_and_template(
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    path: &FieldPath<'_>,
    errors: &mut Errors,
) {
    let selector_path = path.child("selector");
    if is_blank(selector) {
        errors.push(FieldError::required(&selector_path, ""));
    } else {
        check::label_selector(selector, &selector_path, errors);
    }
    matching_template(selector, template, &path.child("template"), errors);
}

/// A template that the selector selects, of pods that run until they are deleted.
fn matching_template(selector: &LabelSelector, template: &PodTemplateSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    if !check::selects(selector, template_labels(template)) {
        let shown = template_labels(template).map_or(json!({}), |labels| json!(labels));
        errors.push(FieldError::invalid(&path.child("metadata.labels"), shown, NO_MATCH));
    }
    pod::spec::template(template, path, errors);
}

/// Pods of this kind are restarted for ever. `kind` is as upstream calls it in the message.
pub(super) fn always_restarted(template: &PodTemplateSpec, kind: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    let Some(spec) = &template.spec else { return };
    let policy = text(&spec.restart_policy);
    if policy != "Always" {
        errors.push(FieldError::not_supported(&path.child("spec.restartPolicy"), policy, &["Always"]));
    }
    if spec.active_deadline_seconds.is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden(&path.child("spec.activeDeadlineSeconds"), detail));
    }
}

/// Counters of a status: none negative, and each at most the one it is a part of.
pub(super) struct Counts<'a> {
    pub(super) path: FieldPath<'a>,
}

impl Counts<'_> {
    pub(super) fn none_negative(&self, counts: &[(&str, i64)], errors: &mut Errors) {
        for (field, value) in counts {
            check::nonnegative(*value, &self.path.child(field), errors);
        }
    }

    pub(super) fn at_most(&self, field: &str, value: i32, limit: i32, of: &str, errors: &mut Errors) {
        if value > limit {
            let detail = format!("cannot be greater than {of}");
            errors.push(FieldError::invalid(&self.path.child(field), value, detail));
        }
    }

    pub(super) fn never_less(&self, field: &str, new: Option<i32>, old: Option<i32>, errors: &mut Errors) {
        match (new, old) {
            (Some(new), Some(old)) if new < old => {
                errors.push(FieldError::invalid(&self.path.child(field), new, "cannot be decremented"));
            }
            (None, Some(old)) => {
                errors.push(FieldError::invalid(&self.path.child(field), old, "cannot be decremented"));
            }
            (_, _) => {}
        }
    }
}
