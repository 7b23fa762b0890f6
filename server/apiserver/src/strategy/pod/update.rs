//! What an update of a Pod may change: little. And what its subresources may: one thing each.

use coracle_api::fields::{FieldError, FieldPath};
use k8s_openapi::api::core::v1::{Container, NodeSelector, Pod, PodSpec, Toleration};
use serde_json::Value;

use super::super::check::{Quantities, number, text};
use super::super::kind::Errors;
use super::{containers, defaults, qos, spec};

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// The spec with the defaults it may lack because it was stored before they were, or was changed since by admission.
fn settled(pod: &Pod) -> PodSpec {
    let mut spec = pod.spec.clone().unwrap_or_default();
    defaults::service_account(&mut spec);
    spec
}

pub(super) fn main(new: &Pod, old: &Pod, errors: &mut Errors) {
    spec::pod(new, errors);
    mirror_annotation(new, old, errors);
    let (new, old) = (settled(new), settled(old));
    let stopped = same_containers(&new.containers, &old.containers, "containers", errors)
        || same_containers(
            new.init_containers.as_deref().unwrap_or_default(),
            old.init_containers.as_deref().unwrap_or_default(),
            "initContainers",
            errors,
        )
        || active_deadline(&new, &old, errors);
    if stopped {
        return;
    }
    only_added_tolerations(&new, &old, errors);
    only_removed_gates(&new, &old, errors);
    if new == old {
        return;
    }
    let mut munged = new;
    munge(&mut munged, &old, errors);
    if munged != old {
        let detail = format!("{UPDATABLE}\n{}", difference(&old, &munged));
        errors.push(FieldError::forbidden(&SPEC, detail));
    }
}

pub(super) fn mirror_annotation(new: &Pod, old: &Pod, errors: &mut Errors) {
    let get = |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|a| a.get(spec::MIRROR_ANNOTATION)).cloned();
    let detail = match (get(new), get(old)) {
        (new, old) if new == old => return,
        (Some(_), None) => "may not add mirror pod annotation",
        (_, _) => "may not remove or update mirror pod annotation",
    };
    let path = FieldPath::new("metadata.annotations");
    errors.push(FieldError::forbidden(&path.key(spec::MIRROR_ANNOTATION), detail));
}

/// True when looking further makes no sense.
fn same_containers(new: &[Container], old: &[Container], field: &str, errors: &mut Errors) -> bool {
    let differ = new.len() != old.len();
    if differ {
        errors.push(FieldError::forbidden(&SPEC.child(field), "pod updates may not add or remove containers"));
    }
    differ
}

fn active_deadline(new: &PodSpec, old: &PodSpec, errors: &mut Errors) -> bool {
    let path = SPEC.child("activeDeadlineSeconds");
    let before = errors.len();
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.push(FieldError::invalid(&path, new, detail));
        }
        (Some(new), Some(old)) if old < new => {
            errors.push(FieldError::invalid(&path, new, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&path, Value::Null, detail));
            return false;
        }
        (Some(_), _) | (None, None) => {}
    }
    errors.len() > before
}

fn only_added_tolerations(new: &PodSpec, old: &PodSpec, errors: &mut Errors) {
    let kept = |old: &Toleration| {
        new.tolerations.iter().flatten().any(|new| {
            let same = Toleration { toleration_seconds: new.toleration_seconds, ..old.clone() };
            same == *new
        })
    };
    if !old.tolerations.iter().flatten().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(&SPEC.child("tolerations"), detail));
    }
}

fn only_removed_gates(new: &PodSpec, old: &PodSpec, errors: &mut Errors) {
    let path = SPEC.child("schedulingGates");
    for (i, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !old.scheduling_gates.iter().flatten().any(|old| old.name == gate.name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.push(FieldError::forbidden(&path.index(i).child("name"), detail));
        }
    }
}

/// Undoes what may change, so that whatever differs then may not.
fn munge(spec: &mut PodSpec, old: &PodSpec, errors: &mut Errors) {
    for (container, old) in spec.containers.iter_mut().zip(&old.containers) {
        container.image = old.image.clone();
    }
    let old_init = old.init_containers.iter().flatten();
    for (container, old) in spec.init_containers.iter_mut().flatten().zip(old_init) {
        container.image = old.image.clone();
    }
    spec.active_deadline_seconds = old.active_deadline_seconds;
    spec.scheduling_gates = old.scheduling_gates.clone();
    spec.tolerations = old.tolerations.clone();
    let was_negative = old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0);
    if was_negative && spec.termination_grace_period_seconds == Some(1) {
        spec.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if old.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        munge_gated(spec, old, errors);
    }
}

/// A pod that may not be scheduled yet may still be restricted further.
fn munge_gated(spec: &mut PodSpec, old: &PodSpec, errors: &mut Errors) {
    let kept = old
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| spec.node_selector.as_ref().and_then(|selector| selector.get(key)) == Some(value));
    if spec.node_selector != old.node_selector {
        if !kept {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(&SPEC.child("nodeSelector"), &spec.node_selector, detail));
        }
        spec.node_selector = old.node_selector.clone();
    }
    let node_affinity = |spec: &PodSpec| spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let (now, before) = (node_affinity(spec), node_affinity(old));
    if now == before {
        return;
    }
    let required = |affinity: &Option<k8s_openapi::api::core::v1::NodeAffinity>| -> Option<NodeSelector> {
        affinity.as_ref()?.required_during_scheduling_ignored_during_execution.clone()
    };
    if let Some(before) = required(&before)
        && !required(&now).is_some_and(|now| narrows(&now, &before))
    {
        let path = SPEC.child("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let shown = required(&now).map(|selector| selector.node_selector_terms);
        errors.push(FieldError::invalid(&path, shown, detail));
    }
    match (&mut spec.affinity, &old.affinity) {
        (Some(affinity), Some(_)) => affinity.node_affinity = before,
        (Some(affinity), None) if affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none() => {
            spec.affinity = None;
        }
        (Some(affinity), None) => affinity.node_affinity = None,
        (None, old) => spec.affinity = old.clone(),
    }
}

/// Every term still asks for at least what it asked for.
fn narrows(now: &NodeSelector, before: &NodeSelector) -> bool {
    let (now, before) = (&now.node_selector_terms, &before.node_selector_terms);
    now.len() == before.len()
        && now.iter().zip(before).all(|(now, before)| {
            let kept = |now: &Option<Vec<_>>, before: &Option<Vec<_>>| {
                before.iter().flatten().all(|old| now.iter().flatten().any(|new| new == old))
            };
            kept(&now.match_expressions, &before.match_expressions) && kept(&now.match_fields, &before.match_fields)
        })
}

/// The fields that differ, as `path: old -> new`.
fn difference(old: &PodSpec, new: &PodSpec) -> String {
    let tree = |spec: &PodSpec| serde_json::to_value(spec).unwrap_or_default();
    let mut lines = Vec::new();
    compare(&tree(old), &tree(new), &SPEC, &mut lines);
    lines.join("\n")
}

fn compare(old: &Value, new: &Value, path: &FieldPath<'_>, lines: &mut Vec<String>) {
    const MAX_LINES: usize = 20;
    if old == new || lines.len() >= MAX_LINES {
        return;
    }
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                compare(value, new.get(key).unwrap_or(&Value::Null), &path.child(key), lines);
            }
            for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                compare(&Value::Null, value, &path.child(key), lines);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (i, (old, new)) in old.iter().zip(new).enumerate() {
                compare(old, new, &path.index(i), lines);
            }
        }
        (old, new) => lines.push(format!("  {path}: {old} -> {new}")),
    }
}

pub(super) fn ephemeral_containers(new: &Pod, old: &Pod, errors: &mut Errors) {
    if is_mirror(old) {
        errors.push(FieldError::forbidden(&FieldPath::new(""), "static pods do not support ephemeral containers"));
        return;
    }
    spec::pod(new, errors);
    let path = SPEC.child("ephemeralContainers");
    let (new, old) = (settled(new), settled(old));
    for old in old.ephemeral_containers.iter().flatten() {
        match new.ephemeral_containers.iter().flatten().find(|new| new.name == old.name) {
            None => {
                let detail = format!("existing ephemeral containers {:?} may not be removed\n", old.name);
                errors.push(FieldError::forbidden(&path, detail));
            }
            Some(new) if new != old => {
                let detail = format!("existing ephemeral containers {:?} may not be changed\n", old.name);
                errors.push(FieldError::forbidden(&path, detail));
            }
            Some(_) => {}
        }
    }
}

fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(spec::MIRROR_ANNOTATION))
}

/// Only cpu and memory of containers that run may change.
pub(super) fn resize(new: &Pod, old: &Pod, errors: &mut Errors) {
    if is_mirror(old) {
        errors.push(FieldError::forbidden(&FieldPath::new(""), "static pods cannot be resized"));
        return;
    }
    spec::pod(new, errors);
    let (new, old) = (settled(new), settled(old));
    if qos::class(&new) != qos::class(&old) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&SPEC, qos::class(&new), detail));
    }
    let mut munged = new.clone();
    let pairs = [
        ("containers", Some(&mut munged.containers), Some(&old.containers)),
        ("initContainers", munged.init_containers.as_mut(), old.init_containers.as_ref()),
    ];
    for (field, new, old) in pairs {
        let list = SPEC.child(field);
        for (i, (new, old)) in new.into_iter().flatten().zip(old.into_iter().flatten()).enumerate() {
            if field == "containers" || containers::is_sidecar(old) {
                let at = list.index(i);
                resize_container(new, old, &at.child("resources"), errors);
            }
        }
    }
    if munged != old {
        errors.push(FieldError::forbidden(&SPEC, "only cpu and memory resources are mutable"));
    }
}

fn resize_container(new: &mut Container, old: &Container, path: &FieldPath<'_>, errors: &mut Errors) {
    let memory_policy = new.resize_policy.iter().flatten().find(|policy| policy.resource_name == "memory");
    let restarts = memory_policy.is_some_and(|policy| policy.restart_policy == "RestartContainer");
    let before = old.resources.clone().unwrap_or_default();
    let resources = new.resources.get_or_insert_default();
    for (field, new, old) in
        [("requests", &resources.requests, &before.requests), ("limits", &resources.limits, &before.limits)]
    {
        let gone = old.iter().flatten().any(|(name, _)| !new.as_ref().is_some_and(|new| new.contains_key(name)));
        if gone {
            errors.push(FieldError::forbidden(&path.child(field), format!("resource {field} cannot be removed")));
        }
    }
    let limit = |q: &Option<Quantities>| q.as_ref().and_then(|q| q.get("memory")).map(number);
    let (now, was) = (limit(&resources.limits), limit(&before.limits));
    let limits = path.child("limits");
    if !restarts && now < was && now.is_some() {
        let detail = "memory limits cannot be decreased unless resizePolicy is RestartContainer";
        errors.push(FieldError::forbidden(&limits.key("memory"), detail));
    } else if !restarts && now.is_some() && was.is_none() {
        let detail = "memory limits cannot be added unless resizePolicy is RestartContainer";
        errors.push(FieldError::forbidden(&limits.key("memory"), detail));
    }
    restore_cpu_and_memory(&mut resources.requests, &before.requests);
    restore_cpu_and_memory(&mut resources.limits, &before.limits);
    if *resources == before {
        new.resources = old.resources.clone();
    }
}

fn restore_cpu_and_memory(new: &mut Option<Quantities>, old: &Option<Quantities>) {
    for name in ["cpu", "memory"] {
        match old.as_ref().and_then(|old| old.get(name)) {
            Some(value) => {
                new.get_or_insert_default().insert(name.to_owned(), value.clone());
            }
            None => {
                new.iter_mut().for_each(|new| {
                    new.remove(name);
                });
            }
        }
    }
    if old.is_none() && new.as_ref().is_some_and(Quantities::is_empty) {
        *new = None;
    }
}

/// The name of the node, for a binding that has just set it.
pub(super) fn binding(new: &Pod, errors: &mut Errors) {
    let node = new.spec.as_ref().map_or("", |spec| text(&spec.node_name));
    if node.is_empty() {
        errors.push(FieldError::required(&FieldPath::new("target.name"), ""));
    }
}
