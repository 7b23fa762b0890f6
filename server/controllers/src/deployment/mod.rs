//! Rolls Deployments out: one ReplicaSet for each pod template, sized so that there are never too many pods and never
//! too few. Owns ReplicaSets and the Deployment's status; pods are the ReplicaSets' business.

mod plan;
mod revision;
mod sizes;
mod status;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::ObjectKey;
use coracle_api::selector::LabelSelector;
use coracle_client::events::EventType;
use coracle_client::{Change, DeleteParams, Error, Index, Informer, Outcome, Pod, Propagation, WorkQueue, drive};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use self::plan::{Observed, Plan, Step, plan};
use crate::answer::{is_namespace_terminating, unless_gone};
use crate::context::{Context, UNSEEN_RECHECK};
use crate::indexes::{orphans_of, pods_by_controller};
use crate::memory::{Memory, Remembered};
use crate::overlay::Overlay;
use crate::{owner, pod};

const WORKERS: usize = 5;
/// Usually an event comes first.
const AGAIN: Duration = Duration::from_millis(20);

impl Remembered for Overlay<ReplicaSet> {
    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

struct Controller {
    context: Context,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    sets_by_controller: Index<ReplicaSet>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
    /// The sets as this controller wrote them, by Deployment.
    written: Memory<ObjectKey, Overlay<ReplicaSet>>,
}

pub(crate) fn start(context: Context) {
    let context = context.reporting_as("deployment-controller");
    let sets = context.informers.get::<ReplicaSet>();
    let controller = Arc::new(Controller {
        deployments: context.informers.get(),
        sets_by_controller: sets.index("controller-or-orphan", |set| {
            let meta = &set.metadata;
            vec![owner::controller_of(meta).map_or_else(|| orphans_of(owner::namespace(meta)), |r| r.uid.clone())]
        }),
        sets,
        pods: context.informers.get(),
        pods_by_controller: pods_by_controller(&context.informers),
        written: Memory::default(),
        context,
    });
    let this = controller.clone();
    let synced = async move {
        this.deployments.synced().await;
        this.sets.synced().await;
        this.pods.synced().await;
    };
    controller.context.clone().when(synced, move || run(&controller));
}

fn run(controller: &Arc<Controller>) {
    let context = controller.context.clone();
    let queue = WorkQueue::new();
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("deployments", &controller.deployments, move |change| match change {
        Change::Applied { new, .. } => into.add(owner::key_of(&new.metadata)),
        Change::Deleted(old) => into.add(owner::key_of(&old.metadata)),
        Change::Resync => this.deployments.list().iter().for_each(|d| into.add(owner::key_of(&d.metadata))),
    });
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("replicasets", &controller.sets, move |change| match change {
        Change::Applied { old, new } => {
            let moved = old.filter(|old| {
                owner::controller_of(&old.metadata) != owner::controller_of(&new.metadata)
                    || old.metadata.labels != new.metadata.labels
            });
            moved.iter().chain([&new]).flat_map(|s| this.deployments_of(&s.metadata)).for_each(|key| into.add(key));
        }
        Change::Deleted(old) => this.deployments_of(&old.metadata).into_iter().for_each(|key| into.add(key)),
        Change::Resync => this.deployments.list().iter().for_each(|d| into.add(owner::key_of(&d.metadata))),
    });
    // Only a Recreate waits for pods, and only for their end.
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("pods", &controller.pods, move |change| match change {
        Change::Applied { new, .. } if pod::is_terminal(&new) => into.add_all(this.recreating(&new.metadata)),
        Change::Applied { .. } => {}
        Change::Deleted(old) => into.add_all(this.recreating(&old.metadata)),
        Change::Resync => this.deployments.list().iter().for_each(|d| into.add(owner::key_of(&d.metadata))),
    });
    let controller = controller.clone();
    drive(&context.scope, "sync", &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    });
}

/// How a pass goes on after a step.
enum Next {
    Go,
    /// The rest rests on what has turned out otherwise: decide anew.
    Again,
    /// There is nothing more to be done for this Deployment.
    Stop,
}

impl Next {
    /// After a write to something that may have been gone.
    fn after<T>(written: Option<T>) -> Self {
        if written.is_some() { Self::Go } else { Self::Again }
    }
}

/// Adds what may be nothing.
trait AddAll<K> {
    fn add_all(&self, keys: impl IntoIterator<Item = K>);
}

impl<K: Ord + Clone> AddAll<K> for WorkQueue<K> {
    fn add_all(&self, keys: impl IntoIterator<Item = K>) {
        keys.into_iter().for_each(|key| self.add(key));
    }
}

impl Controller {
    fn deployments_of(&self, set: &ObjectMeta) -> Vec<ObjectKey> {
        let namespace = owner::namespace(set);
        if let Some(reference) = owner::controller_of(set) {
            let key = ObjectKey::new(namespace, reference.name.as_str());
            return (reference.kind == "Deployment").then_some(key).into_iter().collect();
        }
        let candidates = self.deployments.in_namespace(namespace);
        let selects = |d: &&Arc<Deployment>| selector(d).is_some_and(|s| s.matches_opt(set.labels.as_ref()));
        candidates.iter().filter(selects).map(|d| owner::key_of(&d.metadata)).collect()
    }

    /// The Deployment above this pod, if it is one that recreates.
    fn recreating(&self, pod: &ObjectMeta) -> Option<ObjectKey> {
        let reference = owner::controller_of(pod).filter(|r| r.kind == "ReplicaSet")?;
        let set = self.sets.get(&ObjectKey::new(owner::namespace(pod), reference.name.as_str()))?;
        let key = self.deployments_of(&set.metadata).into_iter().next()?;
        let deployment = self.deployments.get(&key)?;
        (sizes::strategy(&deployment) == sizes::Strategy::Recreate).then_some(key)
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(deployment) = self.deployments.get(&key) else {
            self.written.forget(&key);
            return Ok(Outcome::Done);
        };
        let Some(selector) = selector(&deployment) else { return Ok(Outcome::Done) };
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.context.event(&*deployment, EventType::Warning, "SelectingAll", message);
            return Ok(Outcome::Done);
        }
        let mut written = self.written.open(&key);
        let seen = self.sets.revision();
        let mut sets = self.sets_by_controller.get(owner::uid(&deployment.metadata));
        sets.extend(self.sets_by_controller.get(&orphans_of(&key.namespace)));
        let sets = written.over(sets, seen);
        let pods = match sizes::strategy(&deployment) {
            sizes::Strategy::RollingUpdate => Vec::new(),
            sizes::Strategy::Recreate => {
                sets.iter().flat_map(|s| self.pods_by_controller.get(owner::uid(&s.metadata))).collect()
            }
        };
        let observed = Observed {
            deployment: &deployment,
            selector: &selector,
            sets: &sets,
            pods: &pods,
            now: self.context.now(),
        };
        let Plan { steps, status, wake } = plan(&observed);
        for step in steps {
            match self.carry_out(&deployment, &mut written, step).await? {
                Next::Go => {}
                Next::Again => return Ok(Outcome::RequeueAfter(AGAIN)),
                Next::Stop => return Ok(Outcome::Done),
            }
        }
        if let Some(status) = status {
            self.write_status(&deployment, &status).await?;
        }
        Ok(if written.is_empty() { self.context.outcome(wake) } else { Outcome::RequeueAfter(UNSEEN_RECHECK) })
    }

    async fn carry_out(
        &self,
        deployment: &Deployment,
        written: &mut Overlay<ReplicaSet>,
        step: Step,
    ) -> Result<Next, Error> {
        let api = self.context.client.namespaced::<ReplicaSet>(owner::namespace(&deployment.metadata));
        match step {
            Step::Adopt(set) => {
                if !self.may_adopt(deployment).await? {
                    return Ok(Next::Stop);
                }
                let patch = owner::adopt_patch(&owner::reference(deployment), owner::uid(&set.metadata));
                let answer = unless_gone(api.strategic_patch(owner::name(&set.metadata), &patch).await)?;
                Ok(Next::after(answer.map(|set| written.wrote(set))))
            }
            Step::Release(set) => {
                let patch = owner::release_patch(owner::uid(&deployment.metadata), owner::uid(&set.metadata));
                let answer = unless_gone(api.strategic_patch(owner::name(&set.metadata), &patch).await)?;
                Ok(Next::after(answer.map(|set| written.wrote(set))))
            }
            Step::Create { set, event } => self.create(deployment, written, &set, event).await,
            Step::Update { set, event } => {
                let patch = set_patch(&set);
                let answer = unless_gone(api.merge_patch(owner::name(&set.metadata), &patch).await)?;
                let Some(set) = answer else { return Ok(Next::Again) };
                written.wrote(set);
                self.scaled(deployment, event);
                Ok(Next::Go)
            }
            Step::Revision(revision) => {
                let meta = &deployment.metadata;
                let annotations = json!({revision::REVISION: revision});
                let patch = json!({"metadata": {"uid": meta.uid, "annotations": annotations}});
                let api = self.context.client.namespaced::<Deployment>(owner::namespace(meta));
                // With the status, as upstream: on the object itself an annotation makes a new generation.
                Ok(Next::after(unless_gone(api.merge_patch_status(owner::name(meta), &patch).await)?))
            }
            Step::Delete(set) => {
                let params =
                    DeleteParams::default().uid(owner::uid(&set.metadata)).propagation(Propagation::Background);
                unless_gone(api.delete(owner::name(&set.metadata), &params).await)?;
                written.removed(&set.metadata);
                Ok(Next::Go)
            }
        }
    }

    fn scaled(&self, deployment: &Deployment, event: Option<String>) {
        if let Some(message) = event {
            self.context.event(deployment, EventType::Normal, "ScalingReplicaSet", message);
        }
    }

    async fn create(
        &self,
        deployment: &Deployment,
        written: &mut Overlay<ReplicaSet>,
        set: &ReplicaSet,
        event: Option<String>,
    ) -> Result<Next, Error> {
        let api = self.context.client.namespaced::<ReplicaSet>(owner::namespace(&deployment.metadata));
        let error = match api.create(set).await {
            Ok(created) => {
                written.wrote(created);
                self.scaled(deployment, event);
                return Ok(Next::Go);
            }
            Err(error) => error,
        };
        if error.is_already_exists() {
            let name = owner::name(&set.metadata);
            let Some(found) = api.get_opt(name).await? else { return Ok(Next::Again) };
            let template = |s: &ReplicaSet| s.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
            let ours = owner::is_controlled_by(&found.metadata, owner::uid(&deployment.metadata));
            if ours && template::same(&template(&found), &template(set)) {
                // Ours: the cache was slow, or the answer to its creation was lost.
                written.wrote(found);
            } else {
                self.note_collision(deployment, name).await?;
            }
            return Ok(Next::Again);
        }
        if is_namespace_terminating(&error) {
            return Ok(Next::Stop);
        }
        let name = owner::name(&set.metadata);
        let (status, message) = status::create_failed(deployment, name, &error.to_string(), self.context.now());
        self.context.event(deployment, EventType::Warning, "ReplicaSetCreateError", message);
        if let Some(status) = status {
            self.write_status(deployment, &status).await?;
        }
        Err(error)
    }

    /// Another set has the name: with a collision more the next hash is another one.
    async fn note_collision(&self, deployment: &Deployment, name: &str) -> Result<(), Error> {
        let mut status = deployment.status.clone().unwrap_or_default();
        let collisions = status.collision_count.unwrap_or(0) + 1;
        tracing::info!(deployment = %owner::key_of(&deployment.metadata), replicaset = name, collisions, "hash collision");
        status.collision_count = Some(collisions);
        self.write_status(deployment, &status).await
    }

    /// Asks the server, not the cache: a Deployment that is going must not take anything with it.
    async fn may_adopt(&self, deployment: &Deployment) -> Result<bool, Error> {
        let meta = &deployment.metadata;
        let api = self.context.client.namespaced::<Deployment>(owner::namespace(meta));
        let live = api.get_opt(owner::name(meta)).await?;
        Ok(live.is_some_and(|l| l.metadata.uid == meta.uid && l.metadata.deletion_timestamp.is_none()))
    }

    /// Without resourceVersion: nobody else writes this status, and users write the rest of the object.
    async fn write_status(&self, deployment: &Deployment, status: &DeploymentStatus) -> Result<(), Error> {
        let meta = &deployment.metadata;
        let patch = json!({
            "metadata": {"uid": meta.uid},
            "status": {
                "observedGeneration": status.observed_generation,
                "replicas": status.replicas,
                "updatedReplicas": status.updated_replicas,
                "readyReplicas": status.ready_replicas,
                "availableReplicas": status.available_replicas,
                "unavailableReplicas": status.unavailable_replicas,
                "terminatingReplicas": status.terminating_replicas,
                "collisionCount": status.collision_count,
                "conditions": status.conditions,
            },
        });
        let api = self.context.client.namespaced::<Deployment>(owner::namespace(meta));
        unless_gone(api.merge_patch_status(owner::name(meta), &patch).await).map(drop)
    }
}

fn selector(deployment: &Deployment) -> Option<LabelSelector> {
    LabelSelector::from_object(Some(&deployment.spec.as_ref()?.selector)).ok()
}

/// What a Deployment decides about a set that exists. Without resourceVersion: the set's own controller writes its status
/// all the time, and this part is nobody else's.
fn set_patch(set: &ReplicaSet) -> serde_json::Value {
    let spec = set.spec.as_ref();
    json!({
        "metadata": {"uid": set.metadata.uid, "annotations": set.metadata.annotations},
        "spec": {
            "replicas": spec.and_then(|s| s.replicas),
            "minReadySeconds": spec.and_then(|s| s.min_ready_seconds).unwrap_or(0),
        },
    })
}
