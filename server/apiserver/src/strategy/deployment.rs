//! Deployments.

use coracle_api::fields::{FieldError, FieldPath};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::check::{self, count_value, fill, text};
use super::kind::{Errors, Kind};
use super::pod;
use super::workload::{self, Counts};
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");

pub(super) struct Deployments;

impl Kind for Deployments {
    type Type = Deployment;

    fn default(&self, deployment: &mut Deployment) {
        let spec = deployment.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        let strategy = spec.strategy.get_or_insert_default();
        fill(&mut strategy.type_, "RollingUpdate");
        if text(&strategy.type_) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
            rolling.max_surge.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
        }
        pod::defaults::template(&mut spec.template);
    }

    fn validate_create(&self, context: &Context, deployment: &Deployment, errors: &mut Errors) {
        let blank = DeploymentSpec::default();
        let deployment = deployment.spec.as_ref().unwrap_or(&blank);
        spec(deployment, errors);
        if let Some(spec) = &deployment.template.spec {
            pod::unheeded::tell(context, spec, &SPEC.child("template").child("spec"));
        }
    }

    fn validate_update(&self, context: &Context, new: &Deployment, old: &Deployment, errors: &mut Errors) {
        self.validate_create(context, new, errors);
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            check::immutable(&new.selector, &old.selector, &SPEC.child("selector"), errors);
        }
    }

    fn validate_status_update(&self, _context: &Context, new: &Deployment, old: &Deployment, errors: &mut Errors) {
        let blank = DeploymentStatus::default();
        let (status, before) = (new.status.as_ref().unwrap_or(&blank), old.status.as_ref().unwrap_or(&blank));
        let counts = Counts { path: FieldPath::new("status") };
        let number = |value: Option<i32>| value.unwrap_or(0);
        let replicas = number(status.replicas);
        let (updated, ready) = (number(status.updated_replicas), number(status.ready_replicas));
        let available = number(status.available_replicas);
        counts.none_negative(
            &[
                ("observedGeneration", status.observed_generation.unwrap_or(0)),
                ("replicas", replicas.into()),
                ("updatedReplicas", updated.into()),
                ("readyReplicas", ready.into()),
                ("availableReplicas", available.into()),
                ("unavailableReplicas", number(status.unavailable_replicas).into()),
                ("collisionCount", number(status.collision_count).into()),
            ],
            errors,
        );
        counts.at_most("updatedReplicas", updated, replicas, "status.replicas", errors);
        counts.at_most("readyReplicas", ready, replicas, "status.replicas", errors);
        counts.at_most("availableReplicas", available, replicas, "status.replicas", errors);
        counts.at_most("availableReplicas", available, ready, "readyReplicas", errors);
        counts.never_less("collisionCount", status.collision_count, before.collision_count, errors);
    }
}

fn spec(spec: &DeploymentSpec, errors: &mut Errors) {
    check::nonnegative_opt(spec.replicas, &SPEC.child("replicas"), errors);
    workload::selector_and_template(&spec.selector, &spec.template, &SPEC, errors);
    workload::always_restarted(&spec.template, "ReplicaSet", &SPEC.child("template"), errors);
    let blank = DeploymentStrategy::default();
    strategy(spec.strategy.as_ref().unwrap_or(&blank), &SPEC.child("strategy"), errors);
    check::nonnegative_opt(spec.min_ready_seconds, &SPEC.child("minReadySeconds"), errors);
    check::nonnegative_opt(spec.revision_history_limit, &SPEC.child("revisionHistoryLimit"), errors);
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = SPEC.child("progressDeadlineSeconds");
        check::nonnegative(deadline, &path, errors);
        if deadline <= spec.min_ready_seconds.unwrap_or(0) {
            errors.push(FieldError::invalid(&path, deadline, "must be greater than minReadySeconds"));
        }
    }
}

fn strategy(strategy: &DeploymentStrategy, path: &FieldPath<'_>, errors: &mut Errors) {
    let rolling = path.child("rollingUpdate");
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("Recreate", Some(_)) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(&rolling, detail));
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => {
            errors.push(FieldError::required(&rolling, "this should be defaulted and never be nil"));
        }
        ("RollingUpdate", Some(update)) => {
            let zero = IntOrString::Int(0);
            let unavailable = update.max_unavailable.as_ref().unwrap_or(&zero);
            let surge = update.max_surge.as_ref().unwrap_or(&zero);
            rolling_update(unavailable, surge, &rolling, errors);
        }
        (other, _) => errors.push(FieldError::not_supported(path, other, &["Recreate", "RollingUpdate"])),
    }
}

fn rolling_update(unavailable: &IntOrString, surge: &IntOrString, path: &FieldPath<'_>, errors: &mut Errors) {
    let unavailable_path = path.child("maxUnavailable");
    check::count_or_percent(unavailable, &unavailable_path, errors);
    check::count_or_percent(surge, &path.child("maxSurge"), errors);
    if count_value(unavailable) == 0 && count_value(surge) == 0 {
        errors.push(FieldError::invalid(&unavailable_path, unavailable, "may not be 0 when `maxSurge` is 0"));
    }
    check::at_most_100_percent(unavailable, &unavailable_path, errors);
}
