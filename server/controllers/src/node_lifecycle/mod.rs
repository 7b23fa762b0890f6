//! Watches over the nodes: one that is silent for too long counts as lost; conditions become taints; pods leave for taints
//! they do not tolerate. Works by deadlines: a node that reports in time costs nothing.
//!
//! Only ever judges by what it has itself seen and when, on a clock that nobody can set.

mod eviction;
mod evictor;
mod health;
mod taints;
#[cfg(test)]
mod tests;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::ObjectKey;
use coracle_client::events::EventType;
use coracle_client::{Change, Error, Index, Informer, Outcome, Pod, WorkQueue, drive};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, PodCondition};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

pub(crate) use self::evictor::start as start_eviction;
use self::zones::{Disruption, Permission, disruptions, permission, zone_of};
use crate::answer::{unless_conflict, unless_gone};
use crate::context::Context;
use crate::indexes::pods_by_node;
use crate::owner;

const LEASES: &str = "kube-node-lease";
const WORKERS: usize = 4;

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    pods_by_node: Index<Pod>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When each node was last heard from.
    heard: BTreeMap<String, Instant>,
    /// When a node of each zone was last marked for eviction.
    marked: BTreeMap<String, Instant>,
    /// Pods that were declared not ready since their node was lost, by node: by UID.
    doubted: BTreeMap<String, BTreeSet<String>>,
    /// After all nodes were lost at once they are given time to come back.
    blind_until: Option<Instant>,
}

pub(crate) fn start(context: Context) {
    let context = context.reporting_as("node-controller");
    let controller = Arc::new(Controller {
        nodes: context.informers.get(),
        leases: context.informers.get(),
        pods: context.informers.get(),
        pods_by_node: pods_by_node(&context.informers),
        state: Mutex::default(),
        context,
    });
    let this = controller.clone();
    let synced = async move {
        this.nodes.synced().await;
        this.leases.synced().await;
        this.pods.synced().await;
    };
    controller.context.clone().when(synced, move || run(&controller));
}

/// What a node says about itself and when, so that a repetition counts as a word from it.
fn report(node: &Node) -> Option<&NodeCondition> {
    health::condition(node, "Ready").filter(|c| c.status != "Unknown")
}

fn run(controller: &Arc<Controller>) {
    let context = controller.context.clone();
    let queue = WorkQueue::new();
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("nodes", &controller.nodes, move |change| match change {
        Change::Applied { old, new } => {
            let name = owner::name(&new.metadata);
            if old.as_ref().and_then(|o| report(o)) != report(&new) && report(&new).is_some() {
                this.hear(name);
            }
            into.add(owner::key_of(&new.metadata));
            // Whether one may be given up depends on how the others are.
            if old.is_none_or(|old| health::is_ready(&old) != health::is_ready(&new)) {
                this.add_lost(&into);
            }
        }
        Change::Deleted(old) => {
            let mut state = this.state.lock();
            state.heard.remove(owner::name(&old.metadata));
            state.doubted.remove(owner::name(&old.metadata));
            drop(state);
            this.add_lost(&into);
        }
        Change::Resync => this.nodes.list().iter().for_each(|n| into.add(owner::key_of(&n.metadata))),
    });
    let this = controller.clone();
    context.feed("leases", &controller.leases, move |change| {
        if let Change::Applied { old, new } = change {
            let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|s| s.renew_time.clone());
            let is_news = old.is_none_or(|old| renewed(&old) != renewed(&new));
            if owner::namespace(&new.metadata) == LEASES && is_news {
                this.hear(owner::name(&new.metadata));
            }
        }
    });
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("pods", &controller.pods, move |change| {
        if let Change::Applied { new, .. } = change
            && let Some(name) = crate::pod::node_name(&new)
        {
            let key = ObjectKey::cluster(name);
            if this.nodes.get(&key).is_some_and(|n| this.doubt(&n, &new).is_some()) {
                into.add(key);
            }
        }
    });
    let controller = controller.clone();
    drive(&context.scope, "sync", &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { unless_conflict(controller.reconcile(&key).await) }
    });
}

impl Controller {
    fn hear(&self, node: &str) {
        self.state.lock().heard.insert(node.to_owned(), Instant::now());
    }

    fn add_lost(&self, queue: &WorkQueue<ObjectKey>) {
        let nodes = self.nodes.list();
        nodes.iter().filter(|n| !health::is_ready(n)).for_each(|n| queue.add(owner::key_of(&n.metadata)));
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(mut node) = self.nodes.get(key) else { return Ok(Outcome::Done) };
        // A node that was never heard of by this process is given its time from now on.
        let heard = *self.state.lock().heard.entry(key.name.to_string()).or_insert_with(Instant::now);
        let left = health::grace(&node).saturating_sub(heard.elapsed());
        let mut wake = None;
        if !left.is_zero() {
            // A node that is known to be lost reports its return by itself.
            wake = (health::readiness(&node) != Some("Unknown")).then_some(left);
        } else {
            let conditions = health::lost(&node, self.context.now());
            if !conditions.is_empty() {
                let Some(changed) = self.declare_lost(&node, &conditions).await? else { return Ok(Outcome::Done) };
                node = Arc::new(changed);
            }
        }
        let (evict, retry) = self.may_evict(&node);
        if let Some(next) = taints::plan(&node, evict, self.context.now()) {
            let meta = json!({"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version});
            let patch = json!({"metadata": meta, "spec": {"taints": next}});
            unless_gone(self.context.client.all::<Node>().merge_patch(&key.name, &patch).await)?;
        }
        self.mark_pods(&node).await?;
        Ok(wake.into_iter().chain(retry).min().map_or(Outcome::Done, Outcome::RequeueAfter))
    }

    async fn declare_lost(&self, node: &Node, conditions: &[NodeCondition]) -> Result<Option<Node>, Error> {
        let name = owner::name(&node.metadata);
        let was_ready = health::is_ready(node);
        tracing::warn!(node = name, "node has stopped reporting");
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": conditions}});
        let changed = unless_gone(self.context.client.all::<Node>().strategic_patch_status(name, &patch).await)?;
        if was_ready {
            let message = format!("Node {name} status is now: NodeNotReady");
            self.context.event(node, EventType::Normal, "NodeNotReady", message);
        }
        Ok(changed)
    }

    /// Whether this node's pods may be evicted, and when to ask again.
    fn may_evict(&self, node: &Node) -> (bool, Option<Duration>) {
        let mut nodes = self.nodes.list();
        // This node as it was written just now.
        nodes.retain(|n| n.metadata.name != node.metadata.name);
        nodes.push(Arc::new(node.clone()));
        let zones = disruptions(&nodes);
        let all_lost = zones::all_lost(&zones);
        let mut state = self.state.lock();
        if all_lost {
            state.blind_until = Some(Instant::now() + health::GRACE);
        }
        if !taints::wants_eviction(node) || all_lost {
            return (false, None);
        }
        if taints::is_marked_for_eviction(node) {
            return (true, None);
        }
        let zone = zone_of(node);
        let disruption = zones.get(&zone).copied().unwrap_or(Disruption::Normal);
        let since_last = state.marked.get(&zone).map(Instant::elapsed);
        let blind_for = state.blind_until.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        match permission(disruption, all_lost, since_last, blind_for) {
            Permission::Now => {
                state.marked.insert(zone, Instant::now());
                (true, None)
            }
            Permission::After(time) => (false, Some(time)),
            Permission::No => (false, None),
        }
    }

    /// What to say of a pod whose node is lost; nothing if that was said before. Once for each loss: an agent that comes
    /// back may speak for its pods before it speaks for its node, and it knows better.
    fn doubt(&self, node: &Node, pod: &Pod) -> Option<PodCondition> {
        let state = self.state.lock();
        let doubted = state.doubted.get(owner::name(&node.metadata));
        if doubted.is_some_and(|uids| uids.contains(owner::uid(&pod.metadata))) {
            return None;
        }
        health::pod_not_ready(node, pod, self.context.now())
    }

    /// Pods of a lost node serve nobody, as far as anybody knows.
    async fn mark_pods(&self, node: &Node) -> Result<(), Error> {
        let name = owner::name(&node.metadata);
        if health::readiness(node) != Some("Unknown") {
            self.state.lock().doubted.remove(name);
            return Ok(());
        }
        let mut failed = None;
        for pod in self.pods_by_node.get(name) {
            let Some(condition) = self.doubt(node, &pod) else { continue };
            let meta = &pod.metadata;
            let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}});
            let api = self.context.client.namespaced::<Pod>(owner::namespace(meta));
            match unless_gone(api.strategic_patch_status(owner::name(meta), &patch).await) {
                Ok(_) => {
                    let uid = owner::uid(meta).to_owned();
                    self.state.lock().doubted.entry(name.to_owned()).or_default().insert(uid);
                    self.context.event(&*pod, EventType::Warning, "NodeNotReady", "Node is not ready");
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
