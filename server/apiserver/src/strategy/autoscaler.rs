//! HorizontalPodAutoscalers, as autoscaling/v2 has them: that is how they are stored.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, MetricSpec, MetricTarget,
    ResourceMetricSource,
};

use super::check::{self, fill, number, text};
use super::kind::{Errors, Kind};
use super::workload::Counts;
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const METRICS: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const DEFAULT_CPU_UTILIZATION: i32 = 80;
const MAX_PERIOD_SECONDS: i32 = 1800;
const MAX_WINDOW_SECONDS: i32 = 3600;

pub(super) struct Autoscalers;

impl Kind for Autoscalers {
    type Type = HorizontalPodAutoscaler;

    fn default(&self, autoscaler: &mut HorizontalPodAutoscaler) {
        let spec = &mut autoscaler.spec;
        spec.min_replicas.get_or_insert(1);
        if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
            let target = MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(DEFAULT_CPU_UTILIZATION),
                ..MetricTarget::default()
            };
            spec.metrics = Some(vec![MetricSpec {
                type_: "Resource".to_owned(),
                resource: Some(ResourceMetricSource { name: "cpu".to_owned(), target }),
                ..MetricSpec::default()
            }]);
        }
        if let Some(behavior) = &mut spec.behavior {
            let percent = |period_seconds| HPAScalingPolicy { type_: "Percent".to_owned(), value: 100, period_seconds };
            let pods = HPAScalingPolicy { type_: "Pods".to_owned(), value: 4, period_seconds: 15 };
            if let Some(up) = &mut behavior.scale_up {
                default_rules(up, Some(0), vec![pods, percent(15)]);
            }
            if let Some(down) = &mut behavior.scale_down {
                default_rules(down, None, vec![percent(15)]);
            }
        }
    }

    fn validate_create(&self, _context: &Context, autoscaler: &HorizontalPodAutoscaler, errors: &mut Errors) {
        let spec = &autoscaler.spec;
        let min = spec.min_replicas.unwrap_or(1);
        if min < 1 {
            let detail = "must be greater than or equal to 1";
            errors.push(FieldError::invalid(&SPEC.child("minReplicas"), min, detail));
        }
        if spec.max_replicas < 1 {
            let detail = "must be greater than 0";
            errors.push(FieldError::invalid(&SPEC.child("maxReplicas"), spec.max_replicas, detail));
        }
        if spec.max_replicas < min {
            let detail = "must be greater than or equal to `minReplicas`";
            errors.push(FieldError::invalid(&SPEC.child("maxReplicas"), spec.max_replicas, detail));
        }
        reference(&spec.scale_target_ref, &SPEC.child("scaleTargetRef"), errors);
        let list = SPEC.child("metrics");
        for (i, one) in spec.metrics.iter().flatten().enumerate() {
            metric(one, &list.index(i), errors);
        }
        if let Some(behavior) = &spec.behavior {
            let path = SPEC.child("behavior");
            for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
                if let Some(rules) = rules {
                    self::rules(rules, &path.child(field), errors);
                }
            }
        }
    }

    fn validate_update(
        &self,
        context: &Context,
        new: &HorizontalPodAutoscaler,
        _old: &HorizontalPodAutoscaler,
        errors: &mut Errors,
    ) {
        self.validate_create(context, new, errors);
    }

    fn validate_status_update(
        &self,
        _context: &Context,
        new: &HorizontalPodAutoscaler,
        _old: &HorizontalPodAutoscaler,
        errors: &mut Errors,
    ) {
        let status = new.status.clone().unwrap_or_default();
        let counts = [
            ("currentReplicas", i64::from(status.current_replicas.unwrap_or(0))),
            ("desiredReplicas", i64::from(status.desired_replicas)),
        ];
        Counts { path: FieldPath::new("status") }.none_negative(&counts, errors);
    }
}

fn default_rules(rules: &mut HPAScalingRules, window: Option<i32>, policies: Vec<HPAScalingPolicy>) {
    fill(&mut rules.select_policy, "Max");
    if rules.stabilization_window_seconds.is_none() {
        rules.stabilization_window_seconds = window;
    }
    if rules.policies.as_ref().is_none_or(Vec::is_empty) {
        rules.policies = Some(policies);
    }
}

fn reference(reference: &CrossVersionObjectReference, path: &FieldPath<'_>, errors: &mut Errors) {
    for (field, value) in [("kind", &reference.kind), ("name", &reference.name)] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        } else {
            check::problems(names::path_segment(value), &path.child(field), value, errors);
        }
    }
}

fn metric(metric: &MetricSpec, at: &FieldPath<'_>, errors: &mut Errors) {
    let sources = [
        ("ContainerResource", "containerResource", metric.container_resource.as_ref().map(|m| &m.target)),
        ("External", "external", metric.external.as_ref().map(|m| &m.target)),
        ("Object", "object", metric.object.as_ref().map(|m| &m.target)),
        ("Pods", "pods", metric.pods.as_ref().map(|m| &m.target)),
        ("Resource", "resource", metric.resource.as_ref().map(|m| &m.target)),
    ];
    let kind = metric.type_.as_str();
    if kind.is_empty() {
        errors.push(FieldError::required(&at.child("type"), "must specify a metric source type"));
    } else if !METRICS.contains(&kind) {
        errors.push(FieldError::not_supported(&at.child("type"), kind, METRICS));
    }
    for (name, field, given) in sources {
        match given {
            Some(target) if name == kind => self::target(target, &at.child(field), errors),
            Some(_) => {
                let detail = "must populate the given metric source only";
                errors.push(FieldError::forbidden(&at.child(field), detail));
            }
            None if name == kind => {
                let detail = "must populate information for the given metric source";
                errors.push(FieldError::required(&at.child(field), detail));
            }
            None => {}
        }
    }
    if let Some(resource) = &metric.resource {
        let detail = "must specify a resource name";
        if resource.name.is_empty() {
            errors.push(FieldError::required(&at.child("resource.name"), detail));
        }
    }
}

fn target(target: &MetricTarget, source: &FieldPath<'_>, errors: &mut Errors) {
    let path = source.child("target");
    let types = &["AverageValue", "Utilization", "Value"];
    if target.type_.is_empty() {
        errors.push(FieldError::required(&path.child("type"), "must specify a metric target type"));
    } else if !types.contains(&target.type_.as_str()) {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(&path.child("type"), &target.type_, detail));
    }
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        errors.push(FieldError::invalid(&path.child("averageUtilization"), percent, check::NOT_POSITIVE));
    }
    for (field, value) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(value) = value.as_ref().filter(|value| number(value) <= coracle_api::Quantity::ZERO) {
            errors.push(FieldError::invalid(&path.child(field), &value.0, "must be positive"));
        }
    }
    if target.average_utilization.is_some() && target.average_value.is_some() {
        let detail = "may not set both a target raw value and a target utilization";
        errors.push(FieldError::forbidden(&path.child("averageValue"), detail));
    }
    if target.average_utilization.is_none() && target.average_value.is_none() && target.value.is_none() {
        let detail = "must set either a target raw value or a target utilization";
        errors.push(FieldError::required(&path.child("averageUtilization"), detail));
    }
}

fn rules(rules: &HPAScalingRules, path: &FieldPath<'_>, errors: &mut Errors) {
    if let Some(window) = rules.stabilization_window_seconds {
        let here = path.child("stabilizationWindowSeconds");
        if window < 0 {
            errors.push(FieldError::invalid(&here, window, "must be greater than or equal to zero"));
        } else if window > MAX_WINDOW_SECONDS {
            let detail = format!("must be less than or equal to {MAX_WINDOW_SECONDS}");
            errors.push(FieldError::invalid(&here, window, detail));
        }
    }
    let policies = &["Disabled", "Max", "Min"];
    if !text(&rules.select_policy).is_empty() {
        check::one_of_opt(&rules.select_policy, policies, &path.child("selectPolicy"), errors);
    }
    let list = path.child("policies");
    let policies = rules.policies.as_deref().unwrap_or_default();
    if policies.is_empty() && rules.tolerance.is_none() {
        errors.push(FieldError::required(&list, "must specify at least one Policy"));
    }
    for (i, policy) in policies.iter().enumerate() {
        let at = list.index(i);
        if !["Percent", "Pods"].contains(&policy.type_.as_str()) {
            errors.push(FieldError::not_supported(&at.child("type"), &policy.type_, &["Percent", "Pods"]));
        }
        if policy.value <= 0 {
            errors.push(FieldError::invalid(&at.child("value"), policy.value, "must be greater than zero"));
        }
        let period = policy.period_seconds;
        if period <= 0 {
            errors.push(FieldError::invalid(&at.child("periodSeconds"), period, "must be greater than zero"));
        } else if period > MAX_PERIOD_SECONDS {
            let detail = format!("must be less than or equal to {MAX_PERIOD_SECONDS}");
            errors.push(FieldError::invalid(&at.child("periodSeconds"), period, detail));
        }
    }
}
