//! Removes the pods that nobody else will: bound to a node that is gone, deleted before they were ever bound, or finished
//! and too many.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::meta::ObjectKey;
use coracle_client::{Change, DeleteParams, Error, Index, Informer, Outcome, Pod, WorkQueue, drive};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use self::plan::{Cause, NodeState, TERMINATED_THRESHOLD, Verdict, disruption, judge, surplus};
use crate::answer::unless_gone;
use crate::context::Context;
use crate::indexes::pods_by_node;
use crate::time::whole_seconds;
use crate::{owner, pod};

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Pod(ObjectKey),
    /// Finished pods are counted all together.
    Finished,
}

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    by_node: Index<Pod>,
    /// Since when pods were found to be bound to a node that is not there.
    gone: Mutex<BTreeMap<String, Instant>>,
}

pub(crate) fn start(context: Context) {
    let controller = Arc::new(Controller {
        pods: context.informers.get(),
        nodes: context.informers.get(),
        by_node: pods_by_node(&context.informers),
        gone: Mutex::default(),
        context,
    });
    let this = controller.clone();
    let synced = async move {
        this.pods.synced().await;
        this.nodes.synced().await;
    };
    controller.context.clone().when(synced, move || run(&controller));
}

fn run(controller: &Arc<Controller>) {
    let context = controller.context.clone();
    let queue = WorkQueue::new();
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("pods", &controller.pods, move |change| match change {
        Change::Applied { new, .. } => {
            if this.concerns(&new) {
                into.add(Key::Pod(owner::key_of(&new.metadata)));
            }
            if pod::is_terminal(&new) && this.pods.len() > TERMINATED_THRESHOLD {
                into.add(Key::Finished);
            }
        }
        Change::Deleted(_) => {}
        Change::Resync => {
            into.add(Key::Finished);
            let list = this.pods.list();
            list.iter().filter(|p| this.concerns(p)).for_each(|p| into.add(Key::Pod(owner::key_of(&p.metadata))));
        }
    });
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("nodes", &controller.nodes, move |change| match change {
        Change::Applied { new: node, .. } | Change::Deleted(node) => {
            // Should it vanish again, its time begins anew.
            this.gone.lock().remove(owner::name(&node.metadata));
            let pods = this.by_node.get(owner::name(&node.metadata));
            let concerned = pods.iter().filter(|p| this.concerns(p));
            concerned.for_each(|p| into.add(Key::Pod(owner::key_of(&p.metadata))));
        }
        Change::Resync => {
            let list = this.pods.list();
            list.iter().filter(|p| this.concerns(p)).for_each(|p| into.add(Key::Pod(owner::key_of(&p.metadata))));
        }
    });
    let controller = controller.clone();
    drive(&context.scope, "sync", &queue, 4, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    });
}

impl Controller {
    fn node_state(&self, name: &str) -> NodeState {
        let Some(node) = self.nodes.get(&ObjectKey::cluster(name)) else {
            let since = *self.gone.lock().entry(name.to_owned()).or_insert_with(Instant::now);
            return NodeState::GoneFor(since.elapsed());
        };
        self.gone.lock().remove(name);
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[]);
        let out = taints.iter().any(|t| t.key == OUT_OF_SERVICE);
        let ready = node.status.iter().filter_map(|s| s.conditions.as_ref()).flatten();
        let ready = ready.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
        if out && !ready { NodeState::OutOfService } else { NodeState::Present }
    }

    fn concerns(&self, pod: &Pod) -> bool {
        judge(pod, |name| self.node_state(name)) != Verdict::Keep
    }

    async fn reconcile(&self, key: Key) -> Result<Outcome, Error> {
        match key {
            Key::Pod(key) => self.reconcile_pod(&key).await,
            Key::Finished => {
                for pod in surplus(&self.pods.list(), TERMINATED_THRESHOLD) {
                    self.remove(&pod, Cause::Surplus).await?;
                }
                Ok(Outcome::Done)
            }
        }
    }

    async fn reconcile_pod(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(Outcome::Done) };
        match judge(&pod, |name| self.node_state(name)) {
            Verdict::Keep => Ok(Outcome::Done),
            Verdict::Wait(time) => Ok(Outcome::RequeueAfter(time)),
            Verdict::Remove(Cause::Orphaned) if self.node_is_there(&pod).await? => Ok(Outcome::Done),
            Verdict::Remove(cause) => {
                self.remove(&pod, cause).await?;
                Ok(Outcome::Done)
            }
        }
    }

    /// Asks the server, not the cache: a pod that is removed is lost.
    async fn node_is_there(&self, pod: &Pod) -> Result<bool, Error> {
        let Some(name) = pod::node_name(pod) else { return Ok(false) };
        Ok(self.context.client.all::<Node>().get_opt(name).await?.is_some())
    }

    async fn remove(&self, pod: &Pod, cause: Cause) -> Result<(), Error> {
        let (meta, name) = (&pod.metadata, owner::name(&pod.metadata));
        let api = self.context.client.namespaced::<Pod>(owner::namespace(meta));
        if let Some(message) = disruption(pod, cause) {
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": message,
                "lastTransitionTime": whole_seconds(self.context.now()),
            });
            let status = json!({"phase": "Failed", "conditions": [condition]});
            let patch = json!({"metadata": {"uid": meta.uid}, "status": status});
            unless_gone(api.strategic_patch_status(name, &patch).await)?;
        }
        tracing::info!(pod = %owner::key_of(meta), ?cause, "removing pod");
        let params = DeleteParams::default().grace(0).uid(owner::uid(meta));
        match unless_gone(api.delete(name, &params).await) {
            // Another pod of that name: this one is gone.
            Err(error) if error.is_conflict() => Ok(()),
            result => result.map(drop),
        }
    }
}
