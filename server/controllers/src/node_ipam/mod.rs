//! Gives every node its own range of pod addresses. What is given out stands in the nodes' own `spec.podCIDR`, so a
//! restart forgets nothing; one worker, so no two nodes are ever given the same.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::meta::ObjectKey;
use coracle_client::events::EventType;
use coracle_client::{Change, Error, Informer, Outcome, WorkQueue, drive};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;

pub use self::plan::RangeError;
pub(crate) use self::plan::Ranges;
use crate::answer::unless_gone;
use crate::context::Context;
use crate::owner;

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    ranges: Ranges,
    /// Given to the node with this UID, while the cache does not show it.
    promised: Mutex<BTreeMap<String, Ipv4Net>>,
}

pub(crate) fn start(context: Context, ranges: Ranges) {
    let context = context.reporting_as("cidrAllocator");
    let nodes = context.informers.get::<Node>();
    let controller = Arc::new(Controller { context, nodes, ranges, promised: Mutex::default() });
    let this = controller.clone();
    controller.context.clone().when(async move { this.nodes.synced().await }, move || run(&controller));
}

fn run(controller: &Arc<Controller>) {
    let context = controller.context.clone();
    let queue = WorkQueue::new();
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("nodes", &controller.nodes, move |change| match change {
        Change::Applied { new, .. } if cidrs(&new).is_empty() => into.add(owner::key_of(&new.metadata)),
        Change::Applied { .. } => {}
        // A range has become free, or changes were missed.
        Change::Deleted(_) | Change::Resync => {
            let list = this.nodes.list();
            list.iter().filter(|n| cidrs(n).is_empty()).for_each(|n| into.add(owner::key_of(&n.metadata)));
        }
    });
    let controller = controller.clone();
    drive(&context.scope, "sync", &queue, 1, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn cidrs(node: &Node) -> Vec<Ipv4Net> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    listed.filter_map(|cidr| cidr.parse().ok()).collect()
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(node) = self.nodes.get(key).filter(|n| cidrs(n).is_empty()) else { return Ok(Outcome::Done) };
        let uid = owner::uid(&node.metadata);
        let Some(cidr) = self.promise(uid) else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.context.event(&*node, EventType::Normal, "CIDRNotAvailable", message);
            return Ok(Outcome::Done);
        };
        let cidr = cidr.to_string();
        let patch = json!({"metadata": {"uid": uid}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
        unless_gone(self.context.client.all::<Node>().merge_patch(&key.name, &patch).await)?;
        tracing::info!(node = %key.name, cidr, "pod addresses given");
        Ok(Outcome::Done)
    }

    /// The same node is promised the same range until the cache shows it, however often it asks.
    fn promise(&self, uid: &str) -> Option<Ipv4Net> {
        let nodes = self.nodes.list();
        let mut promised = self.promised.lock();
        let waiting = |uid: &String| nodes.iter().any(|n| owner::uid(&n.metadata) == uid && cidrs(n).is_empty());
        promised.retain(|uid, _| waiting(uid));
        if let Some(cidr) = promised.get(uid) {
            return Some(*cidr);
        }
        let taken: BTreeSet<Ipv4Net> = nodes.iter().flat_map(|n| cidrs(n)).chain(promised.values().copied()).collect();
        let cidr = self.ranges.free(&taken)?;
        promised.insert(uid.to_owned(), cidr);
        Some(cidr)
    }
}
