//! What must hold after every step, checked from outside by a client that no fault touches.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::quantity::Quantity;
use coracle_client::{Client, ListParams, Pod};
use coracle_cri::fake::FakeRuntime;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;

/// What the checker remembers from one step to the next.
#[derive(Default)]
pub(crate) struct Checker {
    revision: u64,
    /// Node by pod UID: once bound, always bound there.
    bound: BTreeMap<String, String>,
}

impl Checker {
    /// Checks everything that needs no convergence; `Err` says what was broken.
    pub(crate) async fn check(&mut self, admin: &Client, runtimes: &[(String, FakeRuntime)]) -> Result<(), String> {
        let pods = admin.all::<Pod>().list(&ListParams::default()).await.map_err(|e| format!("list pods: {e}"))?;
        let revision: u64 = pods.resource_version.parse().map_err(|e| format!("revision: {e}"))?;
        if revision < self.revision {
            return Err(format!("the revision went back from {} to {revision}", self.revision));
        }
        self.revision = revision;
        self.check_bindings(&pods.items)?;
        check_specs(&pods.items)?;
        let nodes = admin.all::<Node>().list(&ListParams::default()).await.map_err(|e| format!("list nodes: {e}"))?;
        check_capacity(&pods.items, &nodes.items)?;
        check_runtimes(runtimes)
    }

    fn check_bindings(&mut self, pods: &[Pod]) -> Result<(), String> {
        for pod in pods {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
            match self.bound.get(&uid) {
                Some(before) if *before != node => {
                    return Err(format!("pod {uid} was bound to {before} and is now on {node:?}"));
                }
                Some(_) => {}
                None if node.is_empty() => {}
                None => {
                    self.bound.insert(uid, node);
                }
            }
        }
        Ok(())
    }
}

/// The pods that one controller has on a node are specified equally, so that readers hold one spec for all of them.
fn check_specs(pods: &[Pod]) -> Result<(), String> {
    let mut seen: BTreeMap<(&str, &str), &Pod> = BTreeMap::new();
    for pod in pods {
        let Some(spec) = &pod.spec else { continue };
        let mut owners = pod.metadata.owner_references.iter().flatten();
        let Some(owner) = owners.find(|owner| owner.controller == Some(true)) else { continue };
        let other = *seen.entry((&owner.uid, spec.node_name.as_deref().unwrap_or_default())).or_insert(pod);
        if !other.spec.as_ref().is_some_and(|other| Arc::ptr_eq(other, spec)) {
            let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
            return Err(format!("pods {} and {} of one controller do not share their spec", name(other), name(pod)));
        }
    }
    Ok(())
}

/// Requests of the pods bound to a node never exceed what it has to give.
fn check_capacity(pods: &[Pod], nodes: &[Node]) -> Result<(), String> {
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let Some(allocatable) = node.status.as_ref().and_then(|s| s.allocatable.as_ref()) else { continue };
        for resource in ["cpu", "memory"] {
            let Some(limit) = allocatable.get(resource).and_then(|q| q.0.parse::<Quantity>().ok()) else { continue };
            let requested: i128 = pods.iter().filter(|p| runs_on(p, name)).map(|p| requests(p, resource)).sum();
            if requested > i128::from(limit.milli()) {
                return Err(format!("node {name}: {requested}m {resource} is requested, {limit} is there"));
            }
        }
    }
    Ok(())
}

fn runs_on(pod: &Pod, node: &str) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node)
        && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn requests(pod: &Pod, resource: &str) -> i128 {
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    let quantities = containers.filter_map(|c| c.resources.as_ref()?.requests.as_ref()?.get(resource));
    quantities.filter_map(|q| q.0.parse::<Quantity>().ok()).map(|q| i128::from(q.milli())).sum()
}

/// Never two live containers for one (pod UID, name): not on one node, not on two.
fn check_runtimes(runtimes: &[(String, FakeRuntime)]) -> Result<(), String> {
    let mut seen: BTreeMap<(String, String), String> = BTreeMap::new();
    for (node, runtime) in runtimes {
        if let Some(violation) = runtime.violations().first() {
            return Err(format!("runtime of {node}: {violation}"));
        }
        for (container, count) in runtime.live() {
            if count > 0
                && let Some(other) = seen.insert(container.clone(), node.clone())
            {
                return Err(format!("container {container:?} lives on {other} and on {node}"));
            }
        }
    }
    Ok(())
}

/// Whether everything that was asked for is there and nothing else: `None`, or what is still missing.
pub(crate) async fn missing(admin: &Client, runtimes: &[(String, FakeRuntime)]) -> Option<String> {
    let deployments = match admin.all::<Deployment>().list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) => return Some(error.to_string()),
    };
    let mut wanted = 0;
    for deployment in &deployments {
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        let replicas = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        if status.ready_replicas.unwrap_or(0) != replicas || status.updated_replicas.unwrap_or(0) != replicas {
            return Some(format!("deployment {name}: {replicas} wanted, status {status:?}"));
        }
        if status.observed_generation != deployment.metadata.generation {
            return Some(format!("deployment {name}: its newest generation was not observed"));
        }
        wanted += usize::try_from(replicas).unwrap_or(0);
    }
    let pods = match admin.all::<Pod>().list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) => return Some(error.to_string()),
    };
    if pods.len() != wanted {
        let names: Vec<_> = pods.iter().filter_map(|p| p.metadata.name.as_deref()).collect();
        return Some(format!("{wanted} pods are wanted, there are {names:?}"));
    }
    let live: usize = runtimes.iter().map(|(_, r)| r.live().values().sum::<usize>()).sum();
    (live != wanted).then(|| format!("{wanted} containers are wanted, {live} live"))
}
