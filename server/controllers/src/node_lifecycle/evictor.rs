//! Carries out eviction by taints of effect NoExecute. Owns the deadlines of the pods that tolerate one for a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::ObjectKey;
use coracle_client::events::EventType;
use coracle_client::{Change, DeleteParams, Error, Index, Informer, Outcome, Pod, WorkQueue, drive};
use k8s_openapi::api::core::v1::{Node, Taint};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

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
    /// Pods that are to leave later: since when they have to, for the pod with that UID.
    pending: Mutex<BTreeMap<ObjectKey, (Option<String>, Instant)>>,
}

pub(crate) fn start(context: Context) {
    let controller = Arc::new(Controller {
        nodes: context.informers.get(),
        pods: context.informers.get(),
        by_node: pods_by_node(&context.informers),
        pending: Mutex::default(),
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
                this.add_pods(owner::name(&new.metadata), &into);
            }
        }
        Change::Deleted(_) => {}
        Change::Resync => {
            for node in this.nodes.list().iter().filter(|n| !evicting(n).is_empty()) {
                this.add_pods(owner::name(&node.metadata), &into);
            }
        }
    });
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("pods", &controller.pods, move |change| match change {
        Change::Applied { new, .. } if this.is_concerned(&new) => into.add(owner::key_of(&new.metadata)),
        Change::Applied { .. } => {}
        Change::Deleted(old) => drop(this.pending.lock().remove(&owner::key_of(&old.metadata))),
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
            || self.pending.lock().contains_key(&owner::key_of(&pod.metadata))
    }

    fn add_pods(&self, node: &str, queue: &WorkQueue<ObjectKey>) {
        self.by_node.get(node).iter().for_each(|p| queue.add(owner::key_of(&p.metadata)));
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(Outcome::Done) };
        let Some(node) = self.node_of(&pod) else { return Ok(Outcome::Done) };
        let stays = match judge(&pod, taints::list(&node)) {
            Verdict::Stay => {
                if self.pending.lock().remove(key).is_some() && !pod::is_deleting(&pod) {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.context.event(&*pod, EventType::Normal, "TaintManagerEviction", message);
                }
                return Ok(Outcome::Done);
            }
            Verdict::LeaveAfter(time) => time.saturating_sub(self.pending_for(key, &pod)),
            Verdict::LeaveNow => Duration::ZERO,
        };
        if !stays.is_zero() {
            return Ok(Outcome::RequeueAfter(stays));
        }
        self.evict(key, &pod).await?;
        self.pending.lock().remove(key);
        Ok(Outcome::Done)
    }

    /// How long the pod has had to leave, from now on if that is new. Measured here and not by the taint's time: a step
    /// of the clock must not evict.
    fn pending_for(&self, key: &ObjectKey, pod: &Pod) -> Duration {
        let mut pending = self.pending.lock();
        let entry = pending.entry(key.clone()).or_insert_with(|| (pod.metadata.uid.clone(), Instant::now()));
        if entry.0 != pod.metadata.uid {
            *entry = (pod.metadata.uid.clone(), Instant::now());
        }
        entry.1.elapsed()
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
