//! A Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure with upstream's reasons
//! and messages. Pure.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::sizes;
use crate::owner;
use crate::time::{after, whole_seconds};

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// `None` when progress is not watched.
fn progress_deadline(deployment: &Deployment) -> Option<i64> {
    let seconds = deployment.spec.as_ref().and_then(|s| s.progress_deadline_seconds)?;
    (seconds != i32::MAX).then(|| i64::from(seconds))
}

fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

fn has_reason(condition: Option<&DeploymentCondition>, reason: &str) -> bool {
    condition.is_some_and(|c| c.reason.as_deref() == Some(reason))
}

fn new_condition(kind: &str, value: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(whole_seconds(now)),
        last_transition_time: Some(whole_seconds(now)),
    }
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != kind);
    }
}

/// One that says the same for the same reason stays as it is, with its times.
fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(old) = self::condition(status, &condition.type_) {
        if old.status == condition.status && old.reason == condition.reason {
            return;
        }
        if old.status == condition.status {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

/// A pause stops the progress clock, its end starts it again; what has timed out stays so.
pub(crate) fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    let progressing = condition(status, PROGRESSING);
    if progress_deadline(deployment).is_none() || has_reason(progressing, TIMED_OUT) {
        return;
    }
    let noted = has_reason(progressing, PAUSED);
    let paused = deployment.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
    let (reason, message) = match (paused, noted) {
        (true, false) => (PAUSED, "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        (true, true) | (false, false) => return,
    };
    set(status, new_condition(PROGRESSING, "Unknown", reason, message.to_owned(), now));
}

pub(crate) fn note_found(deployment: &Deployment, status: &mut DeploymentStatus, name: &str, now: Timestamp) {
    if progress_deadline(deployment).is_some() && condition(status, PROGRESSING).is_none() {
        let message = format!("Found new replica set {name:?}");
        set(status, new_condition(PROGRESSING, "True", "FoundNewReplicaSet", message, now));
    }
}

pub(crate) fn note_created(deployment: &Deployment, status: &mut DeploymentStatus, name: &str, now: Timestamp) {
    if progress_deadline(deployment).is_some() {
        let message = format!("Created new replica set {name:?}");
        set(status, new_condition(PROGRESSING, "True", "NewReplicaSetCreated", message, now));
    }
}

/// The status after the newest set could not be made, and the message that tells of it.
pub(crate) fn create_failed(
    deployment: &Deployment,
    name: &str,
    error: &str,
    now: Timestamp,
) -> (Option<DeploymentStatus>, String) {
    let message = format!("Failed to create new replica set {name:?}: {error}");
    if progress_deadline(deployment).is_none() {
        return (None, message);
    }
    let mut status = deployment.status.clone().unwrap_or_default();
    set(&mut status, new_condition(PROGRESSING, "False", "ReplicaSetCreateError", message.clone(), now));
    (differs(deployment.status.as_ref(), &status).then_some(status), message)
}

/// Counts and availability; the other conditions are taken over from `old`.
pub(crate) fn calculate(
    deployment: &Deployment,
    old: &DeploymentStatus,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| sets.iter().map(|s| count(s)).sum::<i32>();
    let available = sum(sizes::available);
    let terminating: Option<i32> =
        sets.iter().map(|s| s.status.as_ref().map_or(Some(0), |s| s.terminating_replicas)).sum();
    let count = |n: i32| (n != 0).then_some(n);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation.filter(|g| *g != 0),
        replicas: count(sum(sizes::actual)),
        updated_replicas: count(new.map_or(0, sizes::actual)),
        ready_replicas: count(sum(sizes::ready)),
        available_replicas: count(available),
        unavailable_replicas: count((sum(sizes::size) - available).max(0)),
        terminating_replicas: terminating,
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    };
    let least = sizes::wanted(deployment) - sizes::leeway(deployment).unavailable;
    let (value, reason, message) = if available >= least {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, new_condition(AVAILABLE, value, reason, message.to_owned(), now));
    status
}

/// [`calculate`] with what the rollout's progress says.
pub(crate) fn rollout(
    deployment: &Deployment,
    old: &DeploymentStatus,
    sets: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = calculate(deployment, old, sets, new, now);
    let current = condition(old, PROGRESSING).cloned();
    let done = status.replicas == status.updated_replicas && has_reason(current.as_ref(), NEW_SET_AVAILABLE);
    match progress_deadline(deployment) {
        None => remove(&mut status, PROGRESSING),
        Some(_) if done => {}
        Some(seconds) => progress(deployment, old, &mut status, current, new, seconds, now),
    }
    // A failing newest set says more than a failing old one.
    let failures = new.into_iter().chain(sets.iter().copied()).filter_map(replica_failure);
    match failures.into_iter().next() {
        Some(failure) => set(&mut status, failure),
        None => remove(&mut status, REPLICA_FAILURE),
    }
    status
}

fn progress(
    deployment: &Deployment,
    old: &DeploymentStatus,
    status: &mut DeploymentStatus,
    current: Option<DeploymentCondition>,
    new: Option<&ReplicaSet>,
    seconds: i64,
    now: Timestamp,
) {
    let subject = match new {
        Some(set) => format!("ReplicaSet {:?}", owner::name(&set.metadata)),
        None => format!("Deployment {:?}", owner::name(&deployment.metadata)),
    };
    if is_complete(deployment, Some(status)) {
        let message = format!("{subject} has successfully progressed.");
        set(status, new_condition(PROGRESSING, "True", NEW_SET_AVAILABLE, message, now));
    } else if has_progressed(old, status) {
        let message = format!("{subject} is progressing.");
        let mut condition = new_condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
        if let Some(current) = current.filter(|c| c.status == "True") {
            condition.last_transition_time = current.last_transition_time;
        }
        // Put anew even for the same reason: its update time is what the deadline counts from.
        remove(status, PROGRESSING);
        set(status, condition);
    } else if has_timed_out(status, seconds, now) {
        let message = format!("{subject} has timed out progressing.");
        set(status, new_condition(PROGRESSING, "False", TIMED_OUT, message, now));
    }
}

pub(crate) fn is_complete(deployment: &Deployment, status: Option<&DeploymentStatus>) -> bool {
    let Some(status) = status else { return false };
    let wanted = sizes::wanted(deployment);
    [status.updated_replicas, status.replicas, status.available_replicas].iter().all(|n| n.unwrap_or(0) == wanted)
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn has_timed_out(status: &DeploymentStatus, seconds: i64, now: Timestamp) -> bool {
    let Some(condition) = condition(status, PROGRESSING) else { return false };
    match condition.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => condition.last_update_time.as_ref().is_some_and(|from| after(from.0, seconds) < now),
    }
}

/// When the rollout will have timed out unless something moves.
pub(crate) fn deadline(deployment: &Deployment, status: &DeploymentStatus) -> Option<Timestamp> {
    let seconds = progress_deadline(deployment)?;
    let condition = condition(status, PROGRESSING)?;
    let settled = matches!(condition.reason.as_deref(), Some(TIMED_OUT | NEW_SET_AVAILABLE | PAUSED));
    if settled || is_complete(deployment, Some(status)) {
        return None;
    }
    // Times are written in whole seconds: one more makes sure that it has passed.
    Some(after(condition.last_update_time.as_ref()?.0, seconds + 1))
}

fn replica_failure(set: &ReplicaSet) -> Option<DeploymentCondition> {
    let conditions = set.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|c| c.type_ == REPLICA_FAILURE)?;
    Some(DeploymentCondition {
        type_: failure.type_.clone(),
        status: failure.status.clone(),
        reason: failure.reason.clone(),
        message: failure.message.clone(),
        last_transition_time: failure.last_transition_time.clone(),
        last_update_time: failure.last_transition_time.clone(),
    })
}

/// Compares what a status says: a count of zero and none are the same.
pub(crate) fn differs(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let plain = |status: &DeploymentStatus| {
        let mut status = status.clone();
        for count in [
            &mut status.replicas,
            &mut status.updated_replicas,
            &mut status.ready_replicas,
            &mut status.available_replicas,
            &mut status.unavailable_replicas,
        ] {
            *count = count.filter(|n| *n != 0);
        }
        status.conditions = status.conditions.filter(|c| !c.is_empty());
        status
    };
    old.map_or_else(DeploymentStatus::default, plain) != plain(new)
}
