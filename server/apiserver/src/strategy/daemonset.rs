//! DaemonSets.

use coracle_api::fields::{FieldError, FieldPath};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::check::{self, count_value, fill, text};
use super::kind::{Errors, Kind};
use super::pod;
use super::workload::{self, Counts};
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");

pub(super) struct DaemonSets;

impl Kind for DaemonSets {
    type Type = DaemonSet;

    fn default(&self, set: &mut DaemonSet) {
        let spec = set.spec.get_or_insert_default();
        let strategy = spec.update_strategy.get_or_insert_default();
        fill(&mut strategy.type_, "RollingUpdate");
        if text(&strategy.type_) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        spec.revision_history_limit.get_or_insert(10);
        pod::defaults::template(&mut spec.template);
    }

    fn validate_create(&self, _context: &Context, set: &DaemonSet, errors: &mut Errors) {
        let blank = DaemonSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&blank);
        workload::selector_and_template(&spec.selector, &spec.template, &SPEC, errors);
        workload::always_restarted(&spec.template, "DaemonSet", &SPEC.child("template"), errors);
        check::nonnegative_opt(spec.min_ready_seconds, &SPEC.child("minReadySeconds"), errors);
        let blank = DaemonSetUpdateStrategy::default();
        update_strategy(spec.update_strategy.as_ref().unwrap_or(&blank), errors);
        check::nonnegative_opt(spec.revision_history_limit, &SPEC.child("revisionHistoryLimit"), errors);
    }

    fn validate_update(&self, context: &Context, new: &DaemonSet, old: &DaemonSet, errors: &mut Errors) {
        self.validate_create(context, new, errors);
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            check::immutable(&new.selector, &old.selector, &SPEC.child("selector"), errors);
        }
    }

    fn validate_status_update(&self, _context: &Context, new: &DaemonSet, old: &DaemonSet, errors: &mut Errors) {
        let blank = DaemonSetStatus::default();
        let (status, before) = (new.status.as_ref().unwrap_or(&blank), old.status.as_ref().unwrap_or(&blank));
        let number = |value: Option<i32>| i64::from(value.unwrap_or(0));
        let counts = Counts { path: FieldPath::new("status") };
        counts.none_negative(
            &[
                ("currentNumberScheduled", status.current_number_scheduled.into()),
                ("numberMisscheduled", status.number_misscheduled.into()),
                ("desiredNumberScheduled", status.desired_number_scheduled.into()),
                ("numberReady", status.number_ready.into()),
                ("observedGeneration", status.observed_generation.unwrap_or(0)),
                ("updatedNumberScheduled", number(status.updated_number_scheduled)),
                ("numberAvailable", number(status.number_available)),
                ("numberUnavailable", number(status.number_unavailable)),
                ("collisionCount", number(status.collision_count)),
            ],
            errors,
        );
        counts.never_less("collisionCount", status.collision_count, before.collision_count, errors);
    }
}

fn update_strategy(strategy: &DaemonSetUpdateStrategy, errors: &mut Errors) {
    let path = SPEC.child("updateStrategy");
    match text(&strategy.type_) {
        "OnDelete" => {}
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            let Some(rolling) = &strategy.rolling_update else {
                errors.push(FieldError::required(&path, ""));
                return;
            };
            let zero = IntOrString::Int(0);
            let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
            let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
            for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
                check::count_or_percent(value, &path.child(field), errors);
                check::at_most_100_percent(value, &path.child(field), errors);
            }
            match (count_value(unavailable) > 0, count_value(surge) > 0) {
                (true, true) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.push(FieldError::invalid(&path.child("maxSurge"), surge, detail));
                }
                (false, false) => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    errors.push(FieldError::required(&path.child("maxUnavailable"), detail));
                }
                (true, false) | (false, true) => {}
            }
        }
        other => {
            errors.push(FieldError::not_supported(&path, other, &["RollingUpdate", "OnDelete"]));
        }
    }
}
