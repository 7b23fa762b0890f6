//! What is special about a kind: defaults, validation, which fields a client may not set, what a status write may
//! touch. The generic registry calls a `Strategy` at fixed points of every write and knows nothing of kinds itself.
//! A strategy is synchronous, does no I/O and sees one object (and its predecessor) at a time: what needs other objects
//! (quotas, service addresses, accounts) is admission's or the registry's. Flags and selectable fields of kinds are
//! data: `registry::facts`.

mod autoscaler;
mod check;
mod claim;
mod class;
mod config;
mod daemonset;
mod definition;
mod deployment;
mod endpoints;
mod event;
mod job;
mod kind;
mod lease;
mod namespace;
mod network;
mod node;
mod pod;
mod quota;
mod rbac;
mod replicaset;
mod resources;
mod schedule;
mod service;
mod signing;
mod statefulset;
#[cfg(test)]
mod tests;
mod volume;
mod workload;

use std::sync::Arc;

use coracle_api::fields::FieldError;
use coracle_api::object::Object;

use kind::{Kind, Typed};

use crate::registry::context::Context;

/// Order in a create: decode, `default`, mutating admission, `prepare_for_create`, metadata checks, `validate_create`,
/// validating admission, store. Order in an update: decode, `default`, mutating admission, `prepare_for_update` (or
/// `prepare_status_update`), metadata checks, `validate_update` (or `validate_status_update`), validating admission.
/// Objects are always in the version they are stored in.
#[allow(unused_variables)]
pub trait Strategy: Send + Sync {
    /// Fills unset fields with upstream's defaults. Runs on every decoded or patched object.
    fn default(&self, object: &mut Object) {}

    /// Removes what a creator may not set. The default resets `status` for kinds that have a status subresource.
    fn prepare_for_create(&self, context: &Context, object: &mut Object) {
        if context.def.has_status() {
            object.remove(&["status"]);
        }
    }

    /// Restores what an update of the main resource may not change. The default restores `status` likewise.
    fn prepare_for_update(&self, context: &Context, object: &mut Object, old: &Object) {
        if context.def.has_status() {
            keep(object, old, "status");
        }
    }

    /// Restores what a status update may not change. The default lets `status`, labels and annotations through and
    /// keeps everything else.
    fn prepare_status_update(&self, context: &Context, object: &mut Object, old: &Object) {
        keep_all_but_status(object, old);
    }

    fn validate_create(&self, context: &Context, object: &Object) -> Vec<FieldError> {
        Vec::new()
    }

    fn validate_update(&self, context: &Context, object: &Object, old: &Object) -> Vec<FieldError> {
        Vec::new()
    }

    fn validate_status_update(&self, context: &Context, object: &Object, old: &Object) -> Vec<FieldError> {
        Vec::new()
    }

    /// Texts for `Warning: 299` headers on create (`old` is None) and update.
    fn warnings(&self, context: &Context, object: &Object, old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }
}

/// Puts the old object's field (absent included) in place of the new one's.
pub fn keep(object: &mut Object, old: &Object, field: &str) {
    keep_at(object, old, &[field]);
}

/// The same for a field at a path.
pub fn keep_at(object: &mut Object, old: &Object, path: &[&str]) {
    match old.path(path) {
        Some(value) => object.set(path, value.clone()),
        None => {
            object.remove(path);
        }
    }
}

/// Keeps every top-level field of the old object but metadata and status.
pub fn keep_all_but_status(object: &mut Object, old: &Object) {
    let fields: Vec<String> = object.0.keys().chain(old.0.keys()).cloned().collect();
    for field in fields {
        if !matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
            keep(object, old, &field);
        }
    }
}

/// The strategy of kinds with nothing special.
pub struct Plain;

impl Strategy for Plain {}

/// The strategy of a built-in resource, by its group and plural.
pub fn of(group: &str, plural: &str) -> Arc<dyn Strategy> {
    match (group, plural) {
        ("", "configmaps") => Arc::new(config::ConfigMaps),
        ("", "secrets") => Arc::new(config::Secrets),
        ("", "namespaces") => Arc::new(namespace::Namespaces),
        ("", "events") => Arc::new(event::Events),
        ("coordination.k8s.io", "leases") => Arc::new(lease::Leases),
        ("", "nodes") => typed(node::Nodes),
        ("", "pods") => typed(pod::Pods),
        ("", "podtemplates") => typed(pod::PodTemplates),
        ("", "services") => typed(service::Services),
        ("", "endpoints") => typed(endpoints::EndpointsKind),
        ("discovery.k8s.io", "endpointslices") => typed(endpoints::EndpointSlices),
        ("", "replicationcontrollers") => typed(replicaset::ReplicationControllers),
        ("apps", "replicasets") => typed(replicaset::ReplicaSets),
        ("apps", "deployments") => typed(deployment::Deployments),
        ("apps", "statefulsets") => typed(statefulset::StatefulSets),
        ("apps", "daemonsets") => typed(daemonset::DaemonSets),
        ("batch", "jobs") => typed(job::Jobs),
        ("batch", "cronjobs") => typed(job::CronJobs),
        ("autoscaling", "horizontalpodautoscalers") => typed(autoscaler::Autoscalers),
        ("policy", "poddisruptionbudgets") => typed(quota::DisruptionBudgets),
        ("", "resourcequotas") => typed(quota::ResourceQuotas),
        ("", "limitranges") => typed(quota::LimitRanges),
        ("", "persistentvolumeclaims") => typed(claim::Claims),
        ("", "persistentvolumes") => typed(volume::Volumes),
        ("storage.k8s.io", "storageclasses") => typed(volume::StorageClasses),
        ("networking.k8s.io", "ingresses") => typed(network::Ingresses),
        ("networking.k8s.io", "ingressclasses") => typed(network::IngressClasses),
        ("networking.k8s.io", "networkpolicies") => typed(network::NetworkPolicies),
        ("scheduling.k8s.io", "priorityclasses") => typed(class::PriorityClasses),
        ("node.k8s.io", "runtimeclasses") => typed(class::RuntimeClasses),
        ("rbac.authorization.k8s.io", "roles") => typed(rbac::Roles),
        ("rbac.authorization.k8s.io", "clusterroles") => typed(rbac::ClusterRoles),
        ("rbac.authorization.k8s.io", "rolebindings") => typed(rbac::RoleBindings),
        ("rbac.authorization.k8s.io", "clusterrolebindings") => typed(rbac::ClusterRoleBindings),
        ("apiextensions.k8s.io", "customresourcedefinitions") => typed(definition::Definitions),
        ("apiregistration.k8s.io", "apiservices") => typed(definition::ApiServices),
        ("certificates.k8s.io", "certificatesigningrequests") => typed(signing::SigningRequests),
        _ => Arc::new(Plain),
    }
}

fn typed<K: Kind>(kind: K) -> Arc<dyn Strategy> {
    Arc::new(Typed(kind))
}
