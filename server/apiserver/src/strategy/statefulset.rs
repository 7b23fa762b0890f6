//! StatefulSets.

use coracle_api::fields::{FieldError, FieldPath};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};

use super::check::{self, count_value, fill, text};
use super::kind::{Errors, Kind};
use super::workload::{self, Counts};
use super::{claim, pod};
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const RETENTION: &[&str] = &["Retain", "Delete"];

pub(super) struct StatefulSets;

impl Kind for StatefulSets {
    type Type = StatefulSet;

    fn default(&self, set: &mut StatefulSet) {
        let spec = set.spec.get_or_insert_default();
        fill(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_default();
        if text(&strategy.type_).is_empty() {
            fill(&mut strategy.type_, "RollingUpdate");
            strategy.rolling_update.get_or_insert_default();
        }
        if text(&strategy.type_) == "RollingUpdate"
            && let Some(rolling) = &mut strategy.rolling_update
        {
            rolling.partition.get_or_insert(0);
        }
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        fill(&mut retention.when_deleted, "Retain");
        fill(&mut retention.when_scaled, "Retain");
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        pod::defaults::template(&mut spec.template);
        spec.volume_claim_templates.iter_mut().flatten().for_each(claim::default);
    }

    fn validate_create(&self, _context: &Context, set: &StatefulSet, errors: &mut Errors) {
        let blank = StatefulSetSpec::default();
        spec(set.spec.as_ref().unwrap_or(&blank), errors);
    }

    fn validate_update(&self, context: &Context, new: &StatefulSet, old: &StatefulSet, errors: &mut Errors) {
        self.validate_create(context, new, errors);
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
        let mut munged = new.clone();
        munged.replicas = old.replicas;
        munged.template = old.template.clone();
        munged.update_strategy = old.update_strategy.clone();
        munged.min_ready_seconds = old.min_ready_seconds;
        munged.ordinals = old.ordinals.clone();
        munged.revision_history_limit = old.revision_history_limit;
        munged.persistent_volume_claim_retention_policy = old.persistent_volume_claim_retention_policy.clone();
        if munged != *old {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            errors.push(FieldError::forbidden(&SPEC, detail));
        }
    }

    fn validate_status_update(&self, _context: &Context, new: &StatefulSet, old: &StatefulSet, errors: &mut Errors) {
        let blank = StatefulSetStatus::default();
        let (status, before) = (new.status.as_ref().unwrap_or(&blank), old.status.as_ref().unwrap_or(&blank));
        let number = |value: Option<i32>| value.unwrap_or(0);
        let counts = Counts { path: FieldPath::new("status") };
        let (ready, current) = (number(status.ready_replicas), number(status.current_replicas));
        let (updated, available) = (number(status.updated_replicas), number(status.available_replicas));
        counts.none_negative(
            &[
                ("replicas", status.replicas.into()),
                ("readyReplicas", ready.into()),
                ("currentReplicas", current.into()),
                ("updatedReplicas", updated.into()),
                ("availableReplicas", available.into()),
                ("observedGeneration", status.observed_generation.unwrap_or(0)),
                ("collisionCount", number(status.collision_count).into()),
            ],
            errors,
        );
        for (field, value) in [("readyReplicas", ready), ("currentReplicas", current), ("updatedReplicas", updated)] {
            counts.at_most(field, value, status.replicas, "status.replicas", errors);
        }
        counts.at_most("availableReplicas", available, status.replicas, "status.replicas", errors);
        counts.at_most("availableReplicas", available, ready, "status.readyReplicas", errors);
        counts.never_less("collisionCount", status.collision_count, before.collision_count, errors);
    }
}

fn spec(spec: &StatefulSetSpec, errors: &mut Errors) {
    let policies = &["OrderedReady", "Parallel"];
    check::one_of(text(&spec.pod_management_policy), policies, &SPEC.child("podManagementPolicy"), errors);
    update_strategy(spec, errors);
    if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
        let path = SPEC.child("persistentVolumeClaimRetentionPolicy");
        check::one_of(text(&retention.when_deleted), RETENTION, &path.child("whenDeleted"), errors);
        check::one_of(text(&retention.when_scaled), RETENTION, &path.child("whenScaled"), errors);
    }
    check::nonnegative_opt(spec.replicas, &SPEC.child("replicas"), errors);
    check::nonnegative_opt(spec.min_ready_seconds, &SPEC.child("minReadySeconds"), errors);
    let ordinal = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start);
    check::nonnegative_opt(ordinal, &SPEC.child("ordinals.start"), errors);
    let service = text(&spec.service_name);
    if !service.is_empty() {
        check::problems(coracle_api::names::dns1035_label(service), &SPEC.child("serviceName"), service, errors);
    }
    workload::selector_and_template(&spec.selector, &spec.template, &SPEC, errors);
    workload::always_restarted(&spec.template, "StatefulSet", &SPEC.child("template"), errors);
}

fn update_strategy(spec: &StatefulSetSpec, errors: &mut Errors) {
    let path = SPEC.child("updateStrategy");
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    match text(&strategy.type_) {
        "" => errors.push(FieldError::required(&path, "")),
        "OnDelete" if strategy.rolling_update.is_some() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(&path.child("rollingUpdate"), &strategy.rolling_update, detail));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            let Some(rolling) = &strategy.rolling_update else { return };
            check::nonnegative_opt(rolling.partition, &path.child("rollingUpdate.partition"), errors);
            if let Some(unavailable) = &rolling.max_unavailable {
                let path = path.child("rollingUpdate.maxUnavailable");
                check::count_or_percent(unavailable, &path, errors);
                if count_value(unavailable) == 0 {
                    errors.push(FieldError::invalid(&path, unavailable, "cannot be 0"));
                }
                check::at_most_100_percent(unavailable, &path, errors);
            }
        }
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid(&path, &strategy, detail));
        }
    }
}
