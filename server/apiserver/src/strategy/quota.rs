//! What bounds a namespace: ResourceQuotas and LimitRanges, and PodDisruptionBudgets.

use std::collections::BTreeSet;

use coracle_api::Quantity;
use coracle_api::fields::{FieldError, FieldPath};
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem, ResourceQuota, ResourceQuotaSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};

use super::check::{self, Quantities, number};
use super::kind::{Errors, Kind};
use super::resources;
use super::workload::Counts;
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const MISAPPLIED: &str = "unsupported scope applied to resource";
const MUST_EXIST: &str = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

/// Scopes without values.
const EXISTENTIAL: &[&str] =
    &["BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "Terminating"];

/// What quotas of upstream itself count; those of others may have any scope.
const STANDARD: &[&str] = &[
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const OF_PODS: &[&str] = &["cpu", "limits.cpu", "limits.memory", "memory", "pods", "requests.cpu", "requests.memory"];

/// The resources of the quota that objects of this scope do not use.
fn misapplied<'a>(scope: &str, spec: &'a ResourceQuotaSpec) -> impl Iterator<Item = &'a String> {
    let fitting: Option<&[&str]> = match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            Some(OF_PODS)
        }
        "BestEffort" => Some(&["pods"]),
        "VolumeAttributesClass" => Some(&["persistentvolumeclaims", "requests.storage"]),
        _other => None,
    };
    let names = spec.hard.iter().flatten().map(|(name, _)| name);
    names.filter(move |name| {
        STANDARD.contains(&name.as_str()) && fitting.is_some_and(|fitting| !fitting.contains(&name.as_str()))
    })
}

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
const LIMIT_TYPES: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];

pub(super) struct ResourceQuotas;

impl Kind for ResourceQuotas {
    type Type = ResourceQuota;
    const DEFAULTS: bool = false;

    fn validate_create(&self, _context: &Context, quota: &ResourceQuota, errors: &mut Errors) {
        let blank = ResourceQuotaSpec::default();
        let spec = quota.spec.as_ref().unwrap_or(&blank);
        amounts(spec.hard.as_ref(), &SPEC.child("hard"), errors);
        let list = SPEC.child("scopes");
        let scopes = spec.scopes.as_deref().unwrap_or_default();
        for scope in scopes {
            if !SCOPES.contains(&scope.as_str()) {
                errors.push(FieldError::invalid(&list, scopes, "unsupported scope"));
            }
            for _ in misapplied(scope, spec) {
                errors.push(FieldError::invalid(&list, scopes, MISAPPLIED));
            }
        }
        for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
            let has = |scope: &str| scopes.iter().any(|given| given == scope);
            if has(one) && has(other) {
                errors.push(FieldError::invalid(&list, scopes, "conflicting scopes"));
            }
        }
        let list = SPEC.child("scopeSelector.matchExpressions");
        let expressions = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
        for (i, expression) in expressions.enumerate() {
            let at = list.index(i);
            if !SCOPES.contains(&expression.scope_name.as_str()) {
                errors.push(FieldError::invalid(&at.child("scopeName"), &expression.scope_name, "unsupported scope"));
            }
            for _ in misapplied(&expression.scope_name, spec) {
                errors.push(FieldError::invalid(&list, &spec.scope_selector, MISAPPLIED));
            }
            if EXISTENTIAL.contains(&expression.scope_name.as_str()) && expression.operator != "Exists" {
                errors.push(FieldError::invalid(&at.child("operator"), &expression.operator, MUST_EXIST));
            }
            let values = expression.values.as_ref().map_or(0, Vec::len);
            match expression.operator.as_str() {
                "In" | "NotIn" if values == 0 => {
                    let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                    errors.push(FieldError::required(&at.child("values"), detail));
                }
                "Exists" | "DoesNotExist" if values > 0 => {
                    let detail = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
                    errors.push(FieldError::invalid(&at.child("values"), &expression.values, detail));
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => {
                    errors.push(FieldError::invalid(&at.child("operator"), other, "not a valid selector operator"));
                }
            }
        }
    }

    fn validate_update(&self, context: &Context, new: &ResourceQuota, old: &ResourceQuota, errors: &mut Errors) {
        self.validate_create(context, new, errors);
        let scopes = |quota: &ResourceQuota| -> BTreeSet<String> {
            quota.spec.iter().flat_map(|spec| spec.scopes.iter().flatten().cloned()).collect()
        };
        if scopes(new) != scopes(old) {
            let shown = new.spec.as_ref().and_then(|spec| spec.scopes.clone());
            errors.push(FieldError::invalid(&SPEC.child("scopes"), shown, check::IMMUTABLE));
        }
    }

    fn validate_status_update(
        &self,
        _context: &Context,
        new: &ResourceQuota,
        _old: &ResourceQuota,
        errors: &mut Errors,
    ) {
        let status = new.status.clone().unwrap_or_default();
        amounts(status.hard.as_ref(), &FieldPath::new("status.hard"), errors);
        amounts(status.used.as_ref(), &FieldPath::new("status.used"), errors);
    }
}

fn amounts(amounts: Option<&Quantities>, path: &FieldPath<'_>, errors: &mut Errors) {
    for (name, amount) in amounts.into_iter().flatten() {
        resources::quota_resource_name(name, &path.key(name), errors);
        resources::amount(name, amount, &path.key(name), errors);
    }
}

pub(super) struct LimitRanges;

impl Kind for LimitRanges {
    type Type = LimitRange;

    fn default(&self, range: &mut LimitRange) {
        let Some(spec) = &mut range.spec else { return };
        for item in spec.limits.iter_mut().filter(|item| item.type_ == "Container") {
            let limits = item.default.get_or_insert_default();
            fill(limits, item.max.as_ref());
            let requests = item.default_request.get_or_insert_default();
            fill(requests, item.default.as_ref());
            fill(requests, item.min.as_ref());
        }
    }

    fn validate_create(&self, _context: &Context, range: &LimitRange, errors: &mut Errors) {
        let Some(spec) = &range.spec else { return };
        let list = SPEC.child("limits");
        for (i, item) in spec.limits.iter().enumerate() {
            let at = list.index(i);
            check::qualified_name(&item.type_, &at.child("type"), errors);
            if !item.type_.contains('/') && !LIMIT_TYPES.contains(&item.type_.as_str()) {
                let detail = "must be a standard limit type or fully qualified";
                errors.push(FieldError::invalid(&at.child("type"), &item.type_, detail));
            }
            if spec.limits[..i].iter().any(|other| other.type_ == item.type_) {
                errors.push(FieldError::duplicate(&at.child("type"), &item.type_));
            }
            limit(item, &at, errors);
        }
    }

    fn validate_update(&self, context: &Context, new: &LimitRange, _old: &LimitRange, errors: &mut Errors) {
        self.validate_create(context, new, errors);
    }
}

fn fill(into: &mut Quantities, from: Option<&Quantities>) {
    for (name, value) in from.into_iter().flatten() {
        into.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

fn limit(item: &LimitRangeItem, at: &FieldPath<'_>, errors: &mut Errors) {
    let lists = [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    let mut names = BTreeSet::new();
    for (field, list) in lists {
        let path = at.child(field);
        if item.type_ == "Pod" && field.starts_with("default") && list.as_ref().is_some_and(|l| !l.is_empty()) {
            errors.push(FieldError::forbidden(&path, "may not be specified when `type` is 'Pod'"));
            continue;
        }
        for (name, _) in list.iter().flatten() {
            match item.type_.as_str() {
                "Pod" | "Container" => resources::container_resource_name(name, &path.key(name), errors),
                _ => resources::any_resource_name(name, &path.key(name), errors),
            }
            names.insert(name.as_str());
        }
    }
    let has_storage = |list: &Option<Quantities>| list.as_ref().is_some_and(|list| list.contains_key("storage"));
    if item.type_ == "PersistentVolumeClaim" && !has_storage(&item.min) && !has_storage(&item.max) {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(&at.child("limits"), detail));
    }
    names.into_iter().for_each(|name| relations(item, name, at, errors));
}

/// min <= defaultRequest <= default <= max, as far as they are given.
fn relations(item: &LimitRangeItem, name: &str, at: &FieldPath<'_>, errors: &mut Errors) {
    let get = |list: &Option<Quantities>| list.as_ref().and_then(|list| list.get(name)).map(number);
    let (min, max) = (get(&item.min), get(&item.max));
    // A pod has no defaults: they were refused.
    let own = |list| if item.type_ == "Pod" { None } else { get(list) };
    let (default, request) = (own(&item.default), own(&item.default_request));
    let mut order =
        |low: Option<Quantity>, high: Option<Quantity>, field: &str, shown: Option<Quantity>, words: [&str; 2]| {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                let detail = format!("{} value {low} is greater than {} value {high}", words[0], words[1]);
                errors.push(FieldError::invalid(&at.child(field).key(name), shown, detail));
            }
        };
    order(min, max, "min", min, ["min", "max"]);
    order(min, request, "defaultRequest", request, ["min", "default request"]);
    order(request, max, "defaultRequest", request, ["default request", "max"]);
    order(request, default, "defaultRequest", request, ["default request", "default limit"]);
    order(min, default, "default", min, ["min", "default"]);
    order(default, max, "default", max, ["default", "max"]);
    if let Some(ratio) = get(&item.max_limit_request_ratio)
        && ratio < Quantity::from_value(1)
    {
        let path = at.child("maxLimitRequestRatio");
        errors.push(FieldError::invalid(&path.key(name), ratio, format!("ratio {ratio} is less than 1")));
    }
    if !resources::is_overcommit_allowed(name)
        && let (Some(default), Some(request)) = (default, request)
        && default != request
    {
        let detail = format!("default value {default} must equal to defaultRequest value {request} in {name}");
        errors.push(FieldError::invalid(&at.child("defaultRequest").key(name), request, detail));
    }
}

pub(super) struct DisruptionBudgets;

impl Kind for DisruptionBudgets {
    type Type = PodDisruptionBudget;
    const DEFAULTS: bool = false;

    fn validate_create(&self, _context: &Context, budget: &PodDisruptionBudget, errors: &mut Errors) {
        let Some(spec) = &budget.spec else { return };
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.push(FieldError::invalid(&SPEC, spec, detail));
        }
        for (field, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
            if let Some(value) = value {
                check::count_or_percent(value, &SPEC.child(field), errors);
                check::at_most_100_percent(value, &SPEC.child(field), errors);
            }
        }
        if let Some(selector) = &spec.selector {
            check::label_selector(selector, &SPEC.child("selector"), errors);
        }
        let policies = &["AlwaysAllow", "IfHealthyBudget"];
        let path = SPEC.child("unhealthyPodEvictionPolicy");
        check::one_of_opt(&spec.unhealthy_pod_eviction_policy, policies, &path, errors);
    }

    fn validate_update(
        &self,
        context: &Context,
        new: &PodDisruptionBudget,
        _old: &PodDisruptionBudget,
        errors: &mut Errors,
    ) {
        self.validate_create(context, new, errors);
    }

    fn validate_status_update(
        &self,
        _context: &Context,
        new: &PodDisruptionBudget,
        _old: &PodDisruptionBudget,
        errors: &mut Errors,
    ) {
        let blank = PodDisruptionBudgetStatus::default();
        let status = new.status.as_ref().unwrap_or(&blank);
        Counts { path: FieldPath::new("status") }.none_negative(
            &[
                ("disruptionsAllowed", i64::from(status.disruptions_allowed.unwrap_or(0))),
                ("currentHealthy", i64::from(status.current_healthy.unwrap_or(0))),
                ("desiredHealthy", i64::from(status.desired_healthy.unwrap_or(0))),
                ("expectedPods", i64::from(status.expected_pods.unwrap_or(0))),
            ],
            errors,
        );
    }
}
