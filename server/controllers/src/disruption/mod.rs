//! Counts for each PodDisruptionBudget how many of its pods are healthy and how many may go, which the eviction
//! subresource acts on. Owns the budgets' status, and takes back the mark of an eviction that never came about.

mod plan;
mod scale;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coracle_api::meta::ObjectKey;
use coracle_api::selector::LabelSelector;
use coracle_client::events::EventType;
use coracle_client::{Change, Error, Informer, Outcome, Pod, WorkQueue, drive};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::json;

use self::plan::{Observed, Plan, plan, stale_mark};
use self::scale::Scales;
use crate::answer::{unless_conflict, unless_gone};
use crate::context::Context;
use crate::owner;

const WORKERS: usize = 1;

struct Controller {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    scales: Scales,
}

pub(crate) fn start(context: Context) {
    let context = context.reporting_as("controllermanager");
    let controller = Arc::new(Controller {
        budgets: context.informers.get(),
        pods: context.informers.get(),
        scales: Scales::new(&context.informers),
        context,
    });
    let this = controller.clone();
    let synced = async move {
        this.budgets.synced().await;
        this.pods.synced().await;
        this.scales.synced().await;
    };
    controller.context.clone().when(synced, move || run(&controller));
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Budget(ObjectKey),
    /// A pod that is marked as the target of a disruption.
    Marked(ObjectKey),
}

fn run(controller: &Arc<Controller>) {
    let context = controller.context.clone();
    let queue = WorkQueue::new();
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("budgets", &controller.budgets, move |change| match change {
        Change::Applied { new, .. } => into.add(Key::Budget(owner::key_of(&new.metadata))),
        Change::Deleted(_) => {}
        Change::Resync => {
            this.budgets.list().iter().for_each(|b| into.add(Key::Budget(owner::key_of(&b.metadata))));
        }
    });
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("pods", &controller.pods, move |change| match change {
        Change::Applied { old, new } => {
            if stale_mark(&new).is_some() {
                into.add(Key::Marked(owner::key_of(&new.metadata)));
            }
            // One that has left a budget by its labels, which upstream sees only at the budget's next change.
            let left = old.filter(|old| old.metadata.labels != new.metadata.labels);
            let budgets = left.iter().chain([&new]).flat_map(|pod| this.budgets_of(pod));
            budgets.for_each(|key| into.add(Key::Budget(key)));
        }
        Change::Deleted(old) => this.budgets_of(&old).into_iter().for_each(|key| into.add(Key::Budget(key))),
        Change::Resync => {
            this.budgets.list().iter().for_each(|b| into.add(Key::Budget(owner::key_of(&b.metadata))));
            let pods = this.pods.list();
            let marked = pods.iter().filter(|pod| stale_mark(pod).is_some());
            marked.for_each(|pod| into.add(Key::Marked(owner::key_of(&pod.metadata))));
        }
    });
    let (this, into) = (controller.clone(), queue.clone());
    controller.scales.feed(&context, move |namespace| {
        let budgets = match namespace {
            Some(namespace) => this.budgets.in_namespace(namespace),
            None => this.budgets.list(),
        };
        budgets.iter().for_each(|b| into.add(Key::Budget(owner::key_of(&b.metadata))));
    });
    let controller = controller.clone();
    drive(&context.scope, "sync", &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move {
            unless_conflict(match key {
                Key::Budget(key) => controller.reconcile(&key).await,
                Key::Marked(key) => controller.clean(&key).await,
            })
        }
    });
}

impl Controller {
    fn budgets_of(&self, pod: &Pod) -> Vec<ObjectKey> {
        let budgets = self.budgets.in_namespace(owner::namespace(&pod.metadata));
        let selects = |budget: &&Arc<PodDisruptionBudget>| {
            selector(budget).is_some_and(|s| s.matches_opt(pod.metadata.labels.as_ref()))
        };
        budgets.iter().filter(selects).map(|budget| owner::key_of(&budget.metadata)).collect()
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Outcome::Done) };
        let pods: Vec<Arc<Pod>> = match selector(&budget) {
            Some(selector) => {
                let all = self.pods.in_namespace(&key.namespace).into_iter();
                all.filter(|pod| selector.matches_opt(pod.metadata.labels.as_ref())).collect()
            }
            None => Vec::new(),
        };
        let scale_of = |pod: &Pod| self.scales.of(pod);
        let observed = Observed { budget: &budget, pods: &pods, scale_of: &scale_of, now: self.context.now() };
        let Plan { status, events, undeleted, wake } = plan(&observed);
        for (kind, reason, message) in events {
            self.context.event(&*budget, kind, reason, message);
        }
        for pod in undeleted {
            let message = format!("Pod was expected by PDB {}/{} to be deleted but it wasn't", key.namespace, key.name);
            self.context.event(&*pod, EventType::Warning, "NotDeleted", message);
        }
        if let Some(status) = status {
            // With the revision it was decided on: an eviction counts the budget down meanwhile.
            let next = PodDisruptionBudget { status: Some(status), ..PodDisruptionBudget::clone(&budget) };
            let api = self.context.client.namespaced::<PodDisruptionBudget>(&key.namespace);
            unless_gone(api.replace_status(&key.name, &next).await)?;
        }
        Ok(self.context.outcome(wake))
    }

    /// An eviction marks its pod before it deletes it. If the deletion did not follow, the mark goes.
    async fn clean(&self, key: &ObjectKey) -> Result<Outcome, Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(Outcome::Done) };
        let Some(at) = stale_mark(&pod) else { return Ok(Outcome::Done) };
        let now = self.context.now();
        if at > now {
            return Ok(self.context.outcome(Some(at)));
        }
        let condition = json!({
            "type": plan::DISRUPTION_TARGET, "status": "False", "reason": null, "message": null,
            "lastTransitionTime": coracle_api::time::format_time(now),
        });
        let meta = &pod.metadata;
        let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}});
        let api = self.context.client.namespaced::<Pod>(&key.namespace);
        unless_gone(api.strategic_patch_status(&key.name, &patch).await)?;
        Ok(Outcome::Done)
    }
}

/// An empty selector selects every pod of the namespace, and one that is missing or cannot be read none.
fn selector(budget: &PodDisruptionBudget) -> Option<LabelSelector> {
    LabelSelector::from_object(Some(budget.spec.as_ref()?.selector.as_ref()?)).ok()
}
