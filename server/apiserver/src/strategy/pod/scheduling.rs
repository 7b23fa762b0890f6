//! What says where a pod may run: tolerations, affinities, spread constraints. Node selectors and taints are shared with
//! other kinds.

use std::collections::HashSet;

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, Taint, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use super::super::check::{self, text};
use super::super::kind::Errors;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(in super::super) fn tolerations(tolerations: &[Toleration], path: &FieldPath<'_>, errors: &mut Errors) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let at = path.index(i);
        let (key, operator) = (text(&toleration.key), text(&toleration.operator));
        let (value, effect) = (text(&toleration.value), text(&toleration.effect));
        if !key.is_empty() {
            check::problems(names::label_key(key), &at.child("key"), key, errors);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&at.child("operator"), operator, detail));
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&at.child("effect"), effect, detail));
        }
        match operator {
            "Equal" | "" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    errors.push(FieldError::invalid(&at.child("operator"), value, wrong.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&at.child("operator"), value, detail));
            }
            "Exists" => {}
            other => errors.push(FieldError::not_supported(&at.child("operator"), other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.push(FieldError::not_supported(&at.child("effect"), effect, EFFECTS));
        }
    }
}

pub(in super::super) fn taints(taints: &[Taint], path: &FieldPath<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let at = path.index(i);
        check::problems(names::label_key(&taint.key), &at.child("key"), &taint.key, errors);
        let wrong = names::label_value(text(&taint.value));
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(&at.child("value"), text(&taint.value), wrong.join(";")));
        }
        check::one_of(&taint.effect, EFFECTS, &at.child("effect"), errors);
        if !seen.insert((&taint.key, &taint.effect)) {
            let mut error = FieldError::duplicate(&at, taint);
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

pub(super) fn affinity(affinity: &Affinity, path: &FieldPath<'_>, errors: &mut Errors) {
    if let Some(node) = &affinity.node_affinity {
        let here = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            node_selector(required, &here.child("requiredDuringSchedulingIgnoredDuringExecution"), errors);
        }
        let list = here.child("preferredDuringSchedulingIgnoredDuringExecution");
        let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (i, term) in preferred.enumerate() {
            let at = list.index(i);
            weight(term.weight, &at, errors);
            // A label value that can't be is let through: the term is a mere wish.
            node_selector_term(&term.preference, true, &at.child("preference"), errors);
        }
    }
    if let Some(pod) = &affinity.pod_affinity {
        pod_terms(
            pod.required_during_scheduling_ignored_during_execution.as_deref(),
            pod.preferred_during_scheduling_ignored_during_execution.as_deref(),
            &path.child("podAffinity"),
            errors,
        );
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        pod_terms(
            pod.required_during_scheduling_ignored_during_execution.as_deref(),
            pod.preferred_during_scheduling_ignored_during_execution.as_deref(),
            &path.child("podAntiAffinity"),
            errors,
        );
    }
}

fn weight(weight: i32, at: &FieldPath<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(&at.child("weight"), weight, "must be in the range 1-100"));
    }
}

pub(in super::super) fn node_selector(selector: &NodeSelector, path: &FieldPath<'_>, errors: &mut Errors) {
    let list = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.push(FieldError::required(&list, "must have at least one node selector term"));
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        node_selector_term(term, false, &list.index(i), errors);
    }
}

fn node_selector_term(term: &NodeSelectorTerm, any_value: bool, path: &FieldPath<'_>, errors: &mut Errors) {
    let list = path.child("matchExpressions");
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        label_requirement(requirement, any_value, &list.index(i), errors);
    }
    let list = path.child("matchFields");
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        field_requirement(requirement, &list.index(i), errors);
    }
}

fn label_requirement(r: &NodeSelectorRequirement, any_value: bool, at: &FieldPath<'_>, errors: &mut Errors) {
    let values = r.values.as_deref().unwrap_or_default();
    let path = at.child("values");
    match r.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(FieldError::required(&path, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&path, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&path, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(&at.child("operator"), other, "not a valid selector operator")),
    }
    check::problems(names::label_key(&r.key), &at.child("key"), &r.key, errors);
    if !any_value {
        for (v, value) in values.iter().enumerate() {
            check::problems(names::label_value(value), &path.index(v), value, errors);
        }
    }
}

fn field_requirement(r: &NodeSelectorRequirement, at: &FieldPath<'_>, errors: &mut Errors) {
    let values = r.values.as_deref().unwrap_or_default();
    let path = at.child("values");
    match r.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(&path, detail));
        }
        "In" | "NotIn" => {}
        other => errors.push(FieldError::invalid(&at.child("operator"), other, "not a valid selector operator")),
    }
    if r.key == "metadata.name" {
        for (v, value) in values.iter().enumerate() {
            check::dns_subdomain(value, &path.index(v), errors);
        }
    } else {
        errors.push(FieldError::invalid(&at.child("key"), &r.key, "not a valid field selector key"));
    }
}

fn pod_terms(
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    path: &FieldPath<'_>,
    errors: &mut Errors,
) {
    let list = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in required.into_iter().flatten().enumerate() {
        pod_term(term, &list.index(i), errors);
    }
    let list = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in preferred.into_iter().flatten().enumerate() {
        let at = list.index(i);
        weight(term.weight, &at, errors);
        pod_term(&term.pod_affinity_term, &at.child("podAffinityTerm"), errors);
    }
}

fn pod_term(term: &PodAffinityTerm, at: &FieldPath<'_>, errors: &mut Errors) {
    for (field, selector) in [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            check::label_selector(selector, &at.child(field), errors);
        }
    }
    for namespace in term.namespaces.iter().flatten() {
        check::dns_label(namespace, &at.child("namespace"), errors);
    }
    let keys = [("matchLabelKeys", &term.match_label_keys), ("mismatchLabelKeys", &term.mismatch_label_keys)];
    for (field, list) in keys {
        let list_path = at.child(field);
        for (i, key) in list.iter().flatten().enumerate() {
            check::problems(names::label_key(key), &list_path.index(i), key, errors);
            if term.label_selector.is_none() {
                let detail = "must not be specified when labelSelector is not set";
                errors.push(FieldError::forbidden(&list_path, detail));
            }
        }
    }
    let path = at.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.push(FieldError::required(&path, "can not be empty"));
    }
    check::problems(names::label_key(&term.topology_key), &path, &term.topology_key, errors);
}

pub(super) fn spread(constraints: &[TopologySpreadConstraint], path: &FieldPath<'_>, errors: &mut Errors) {
    for (i, constraint) in constraints.iter().enumerate() {
        let at = path.index(i);
        if constraint.max_skew <= 0 {
            errors.push(FieldError::invalid(&at.child("maxSkew"), constraint.max_skew, check::NOT_POSITIVE));
        }
        let key = at.child("topologyKey");
        if constraint.topology_key.is_empty() {
            errors.push(FieldError::required(&key, "can not be empty"));
        } else {
            check::problems(names::label_key(&constraint.topology_key), &key, &constraint.topology_key, errors);
        }
        let when = constraint.when_unsatisfiable.as_str();
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&when) {
            let supported = &["DoNotSchedule", "ScheduleAnyway"];
            errors.push(FieldError::not_supported(&at.child("whenUnsatisfiable"), when, supported));
        }
        let twice = |other: &TopologySpreadConstraint| {
            (&other.topology_key, &other.when_unsatisfiable)
                == (&constraint.topology_key, &constraint.when_unsatisfiable)
        };
        if constraints[..i].iter().any(twice) {
            let pair = format!("{{{}, {when}}}", constraint.topology_key);
            errors.push(FieldError::duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), pair));
        }
        if let Some(domains) = constraint.min_domains {
            if domains <= 0 {
                errors.push(FieldError::invalid(&at.child("minDomains"), domains, check::NOT_POSITIVE));
            }
            if when != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                errors.push(FieldError::invalid(&at.child("minDomains"), domains, detail));
            }
        }
        let policies = &["Honor", "Ignore"];
        check::one_of_opt(&constraint.node_affinity_policy, policies, &at.child("nodeAffinityPolicy"), errors);
        check::one_of_opt(&constraint.node_taints_policy, policies, &at.child("nodeTaintsPolicy"), errors);
        if let Some(selector) = &constraint.label_selector {
            check::label_selector(selector, &at.child("labelSelector"), errors);
        }
    }
}
