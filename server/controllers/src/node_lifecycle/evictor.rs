//! Carries out eviction by taints of effect NoExecute. Owns the deadlines of the pods that tolerate one for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::meta::ObjectKey;
use coracle_client::events::EventType;
use coracle_client::{Change, DeleteParams, Error, Index, Informer, Outcome, WorkQueue, drive};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use parking_lot::Mutex;
use serde_json::json;

use super::eviction::{Verdict, judge};
use super::taints;
use crate::answer::unless_gone;
use crate::context::Context;
use crate::indexes::pods_by_node;
use crate::time::whole_seconds;
use crate::{owner, pod};

const WORKERS: usize = 8;

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    by_node: Index<Pod>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When a node's taint that carries no time was first seen: by node, then by taint.
    seen: BTreeMap<String, BTreeMap<(String, Option<String>), Timestamp>>,
    /// Pods that are to leave at a later time.
    pending: BTreeSet<ObjectKey>,
}

pub(crate) fn start(context: Context) {
    let controller = Arc::new(Controller {
        nodes: context.informers.get(),
        pods: context.informers.get(),
        by_node: pods_by_node(&context.informers),
        state: Mutex::default(),
        context,
    });
    let this = controller.clone();
    let synced = async move {
        this.nodes.synced().await;
        this.pods.synced().await;
    };
    controller.context.clone().when(synced, move || run(&controller));
}

fn evicting(node: &Node) -> Vec<&Taint> {
    taints::list(node).iter().filter(|t| t.effect == taints::NO_EXECUTE).collect()
}

fn run(controller: &Arc<Controller>) {
    let context = controller.context.clone();
    let queue = WorkQueue::new();
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("nodes", &controller.nodes, move |change| match change {
        Change::Applied { old, new } => {
            let before = old.as_ref().map(|o| evicting(o)).unwrap_or_default();
            if before != evicting(&new) {
                this.note(&new);
                this.add_pods(owner::name(&new.metadata), &into);
            }
        }
        Change::Deleted(old) => drop(this.state.lock().seen.remove(owner::name(&old.metadata))),
        Change::Resync => {
            for node in this.nodes.list().iter().filter(|n| !evicting(n).is_empty()) {
                this.note(node);
                this.add_pods(owner::name(&node.metadata), &into);
            }
        }
    });
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("pods", &controller.pods, move |change| match change {
        Change::Applied { new, .. } if this.is_concerned(&new) => into.add(owner::key_of(&new.metadata)),
        Change::Applied { .. } => {}
        Change::Deleted(old) => drop(this.state.lock().pending.remove(&owner::key_of(&old.metadata))),
        Change::Resync => {
            let list = this.pods.list();
            list.iter().filter(|p| this.is_concerned(p)).for_each(|p| into.add(owner::key_of(&p.metadata)));
        }
    });
    let controller = controller.clone();
    drive(&context.scope, "sync", &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    fn node_of(&self, pod: &Pod) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectKey::cluster(pod::node_name(pod)?))
    }

    fn is_concerned(&self, pod: &Pod) -> bool {
        self.node_of(pod).is_some_and(|n| !evicting(&n).is_empty())
            || self.state.lock().pending.contains(&owner::key_of(&pod.metadata))
    }

    fn add_pods(&self, node: &str, queue: &WorkQueue<ObjectKey>) {
        self.by_node.get(node).iter().for_each(|p| queue.add(owner::key_of(&p.metadata)));
    }

    fn note(&self, node: &Node) {
        let now = self.context.now();
        let taints: BTreeSet<_> = evicting(node).into_iter().map(|t| (t.key.clone(), t.value.clone())).collect();
        let mut state = self.state.lock();
        let seen = state.seen.entry(owner::name(&node.metadata).to_owned()).or_default();
        seen.retain(|taint, _| taints.contains(taint));
        for taint in taints {
            seen.entry(taint).or_insert(now);
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(Outcome::Done) };
        let Some(node) = self.node_of(&pod) else { return Ok(Outcome::Done) };
        let now = self.context.now();
        let verdict = {
            let state = self.state.lock();
            let seen = state.seen.get(owner::name(&node.metadata));
            let since = |t: &Taint| seen.and_then(|s| s.get(&(t.key.clone(), t.value.clone()))).copied().unwrap_or(now);
            judge(&pod, taints::list(&node), since, now)
        };
        match verdict {
            Verdict::Stay => {
                if self.state.lock().pending.remove(key) && !pod::is_deleting(&pod) {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.context.event(&*pod, EventType::Normal, "TaintManagerEviction", message);
                }
                Ok(Outcome::Done)
            }
            Verdict::LeaveAt(at) => {
                self.state.lock().pending.insert(key.clone());
                Ok(self.context.outcome(Some(at)))
            }
            Verdict::LeaveNow => {
                self.evict(key, &pod).await?;
                self.state.lock().pending.remove(key);
                Ok(Outcome::Done)
            }
        }
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), Error> {
        let message = format!("Marking for deletion Pod {key}");
        self.context.event(pod, EventType::Normal, "TaintManagerEviction", message);
        let api = self.context.client.namespaced::<Pod>(&key.namespace);
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": whole_seconds(self.context.now()),
        });
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        unless_gone(api.strategic_patch_status(&key.name, &patch).await)?;
        let params = DeleteParams::default().uid(owner::uid(&pod.metadata));
        match unless_gone(api.delete(&key.name, &params).await) {
            // Another pod of that name: this one is gone.
            Err(error) if error.is_conflict() => Ok(()),
            result => result.map(drop),
        }
    }
}
