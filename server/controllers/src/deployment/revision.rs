//! Revisions and the other annotations by which a Deployment and its ReplicaSets remember a rollout. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::sizes;

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

/// Annotations that belong to the one object only.
const NOT_COPIED: [&str; 6] = [LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, ROLLBACK_TO];

/// Characters of history that are kept.
const HISTORY_MAX: usize = 2000;

pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// 0 when there is none or it does not parse.
pub(crate) fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn annotations(meta: &mut ObjectMeta) -> &mut BTreeMap<String, String> {
    meta.annotations.get_or_insert_default()
}

/// Brings the newest set's annotations up to date: the Deployment's own, and `revision` if that is higher than what the
/// set has. A revision that it leaves behind goes to its history: that is a rollback to it.
pub(crate) fn annotate_new(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) {
    let target = annotations(&mut set.metadata);
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) && target.get(key) != Some(value) {
            target.insert(key.clone(), value.clone());
        }
    }
    let old = target.get(REVISION).cloned();
    // One that does not parse is left alone, as upstream leaves it.
    let number = match old.as_deref().map(str::parse::<i64>) {
        None => 0,
        Some(Ok(number)) => number,
        Some(Err(_)) => return,
    };
    if number >= revision {
        return;
    }
    target.insert(REVISION.to_owned(), revision.to_string());
    if let Some(old) = old {
        let history = target.get(REVISION_HISTORY).map_or("", String::as_str);
        let history = remember(history, &old);
        target.insert(REVISION_HISTORY.to_owned(), history);
    }
}

fn remember(history: &str, old: &str) -> String {
    let mut entries: Vec<&str> = history.split(',').filter(|e| !e.is_empty()).collect();
    entries.push(old);
    let mut length = entries.iter().map(|e| e.len() + 1).sum::<usize>() - 1;
    let mut first = 0;
    while length > HISTORY_MAX && first + 1 < entries.len() {
        length -= entries[first].len() + 1;
        first += 1;
    }
    entries[first..].join(",")
}

/// Notes on a set what the Deployment wanted when the set got its size.
pub(crate) fn annotate_replicas(deployment: &Deployment, set: &mut ReplicaSet) {
    let wanted = sizes::wanted(deployment);
    let most = wanted + sizes::leeway(deployment).surge;
    let target = annotations(&mut set.metadata);
    target.insert(DESIRED_REPLICAS.to_owned(), wanted.to_string());
    target.insert(MAX_REPLICAS.to_owned(), most.to_string());
}

pub(crate) fn desired(set: &ReplicaSet) -> Option<i32> {
    annotation(&set.metadata, DESIRED_REPLICAS).and_then(|v| v.parse().ok())
}

pub(crate) fn replicas_noted(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let most = sizes::wanted(deployment) + sizes::leeway(deployment).surge;
    desired(set) == Some(sizes::wanted(deployment))
        && annotation(&set.metadata, MAX_REPLICAS) == Some(most.to_string().as_str())
}
