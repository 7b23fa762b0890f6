//! Keeps as many pods as a ReplicaSet or a ReplicationController asks for. Owns adoption, creation, deletion and the
//! owner's status; what a pod does after that is none of its business.

mod outstanding;
mod plan;
mod rank;
#[cfg(test)]
mod tests;
mod workload;

use std::sync::Arc;

use coracle_api::meta::ObjectKey;
use coracle_client::events::EventType;
use coracle_client::{Api, Change, DeleteParams, Error, Index, Informer, Outcome, Pod, WorkQueue, drive};
use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use self::outstanding::Outstanding;
use self::plan::{Failure, Observed, plan, slow_start, status};
use self::rank::Colocated;
use self::workload::Workload;
use crate::answer::{is_ambiguous, is_namespace_terminating, unless_gone};
use crate::context::{Context, UNSEEN_RECHECK};
use crate::indexes::{orphans_of, pods_by_controller};
use crate::memory::{Memory, Remembered};
use crate::{owner, pod};

const WORKERS: usize = 5;
/// Deletions under way at once for one owner.
const DELETIONS: usize = 64;

impl Remembered for Outstanding {
    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

struct Controller<W> {
    context: Context,
    owners: Informer<W>,
    pods: Informer<Pod>,
    pods_by_controller: Index<Pod>,
    /// Owners by the UID of their own controller: the sets of one Deployment.
    related: Index<W>,
    memory: Memory<ObjectKey, Outstanding>,
}

pub(crate) fn start<W: Workload>(context: Context) {
    let context = context.reporting_as(W::COMPONENT);
    let owners = context.informers.get::<W>();
    let controller = Arc::new(Controller {
        related: owners.index("controller", |o: &W| {
            owner::controller_of(o.metadata()).map(|r| r.uid.clone()).into_iter().collect()
        }),
        pods: context.informers.get::<Pod>(),
        pods_by_controller: pods_by_controller(&context.informers),
        memory: Memory::default(),
        owners,
        context,
    });
    let queue = WorkQueue::new();
    let synced = {
        let (owners, pods) = (controller.owners.clone(), controller.pods.clone());
        async move {
            owners.synced().await;
            pods.synced().await;
        }
    };
    controller.context.clone().when(synced, move || run(controller, queue));
}

fn run<W: Workload>(controller: Arc<Controller<W>>, queue: WorkQueue<ObjectKey>) {
    let context = controller.context.clone();
    let (owners, into) = (controller.owners.clone(), queue.clone());
    context.feed("owners", &controller.owners, move |change| match change {
        Change::Applied { new, .. } => into.add(owner::key_of(new.metadata())),
        Change::Deleted(old) => into.add(owner::key_of(old.metadata())),
        Change::Resync => owners.list().iter().for_each(|o| into.add(owner::key_of(o.metadata()))),
    });
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("pods", &controller.pods, move |change| match change {
        Change::Applied { old, new } => {
            let moved = old.filter(|old| {
                owner::controller_of(&old.metadata) != owner::controller_of(&new.metadata)
                    || old.metadata.labels != new.metadata.labels
            });
            moved.iter().chain([&new]).flat_map(|p| this.owners_of(&p.metadata)).for_each(|key| into.add(key));
        }
        Change::Deleted(old) => this.owners_of(&old.metadata).into_iter().for_each(|key| into.add(key)),
        Change::Resync => this.owners.list().iter().for_each(|o| into.add(owner::key_of(o.metadata()))),
    });
    drive(&context.scope, "sync", &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    });
}

impl<W: Workload> Controller<W> {
    /// Who may have to act on a change of this pod: its controller, or whoever would adopt it.
    fn owners_of(&self, pod: &ObjectMeta) -> Vec<ObjectKey> {
        let namespace = owner::namespace(pod);
        if let Some(reference) = owner::controller_of(pod) {
            let key = ObjectKey::new(namespace, reference.name.as_str());
            return (reference.kind == W::KIND).then_some(key).into_iter().collect();
        }
        let selects = |o: &Arc<W>| o.selector().is_some_and(|s| s.matches_opt(pod.labels.as_ref()));
        let candidates = self.owners.in_namespace(namespace);
        candidates.iter().filter(|o| selects(o)).map(|o| owner::key_of(o.metadata())).collect()
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let Some(owner) = self.owners.get(&key) else {
            self.memory.forget(&key);
            return Ok(Outcome::Done);
        };
        // One that selects everything or nothing sensible was refused by validation; it is left alone here.
        let Some(selector) = owner.selector() else { return Ok(Outcome::Done) };
        let mut outstanding = self.memory.open(&key);
        let api = self.context.client.namespaced::<Pod>(&key.namespace);
        self.settle_unanswered(&owner, &api, &mut outstanding).await?;

        let seen = self.pods.revision();
        let mut pods = self.pods_by_controller.get(owner::uid(owner.metadata()));
        outstanding.settle(&pods, seen);
        pods.extend(self.pods_by_controller.get(&orphans_of(&key.namespace)));
        let (now, pods) = (self.context.now(), pods.as_slice());
        let plan = {
            let observed = Observed { owner: &*owner, selector: &selector, pods, outstanding: &outstanding, now };
            plan(&observed, || self.colocated(&owner))
        };
        self.claim(&owner, &api, &plan).await?;
        let failure = if plan.create > 0 {
            self.create(&owner, &api, &mut outstanding, plan.create).await.map(|e| (Failure::Create, e))
        } else {
            self.delete(&owner, &api, &mut outstanding, &plan.delete).await.map(|e| (Failure::Delete, e))
        };
        let observed = Observed { owner: &*owner, selector: &selector, pods, outstanding: &outstanding, now };
        let text = failure.as_ref().map(|(failure, error)| (*failure, error.to_string()));
        let wake = self.report(&observed, text.as_ref().map(|(f, e)| (*f, e.as_str()))).await?;
        match failure {
            Some((_, error)) => Err(error),
            None if outstanding.is_empty() => Ok(self.context.outcome(wake)),
            None => Ok(Outcome::RequeueAfter(UNSEEN_RECHECK)),
        }
    }

    /// Finds out about creates and deletes that were sent and not answered.
    async fn settle_unanswered(&self, owner: &W, api: &Api<Pod>, outstanding: &mut Outstanding) -> Result<(), Error> {
        let names: Vec<String> = outstanding.unanswered().cloned().collect();
        for name in names {
            let pod = api.get_opt(&name).await?;
            let mine = pod.filter(|p| owner::is_controlled_by(&p.metadata, owner::uid(owner.metadata())));
            outstanding.answered(&name, mine);
        }
        for pod in outstanding.unsure_deletions() {
            self.delete_pod(owner, api, outstanding, &pod).await?;
        }
        Ok(())
    }

    /// Active pods of the owner and its relatives (the other sets of its Deployment) by node.
    fn colocated(&self, owner: &W) -> Colocated {
        let relatives = match owner::controller_of(owner.metadata()) {
            Some(reference) => self.related.get(&reference.uid),
            None => self.owners.get(&owner::key_of(owner.metadata())).into_iter().collect(),
        };
        let mut colocated = Colocated::new();
        for relative in relatives {
            for pod in self.pods_by_controller.get(owner::uid(relative.metadata())) {
                if let Some(node) = pod::node_name(&pod).filter(|_| pod::is_active(&pod)) {
                    *colocated.entry(node.to_owned()).or_default() += 1;
                }
            }
        }
        colocated
    }

    async fn claim(&self, owner: &W, api: &Api<Pod>, plan: &plan::Plan) -> Result<(), Error> {
        if !plan.adopt.is_empty() && !self.may_adopt(owner).await? {
            return Err(Error::Request(format!("{} is being deleted and adopts nothing", W::KIND)));
        }
        let reference = owner::reference(owner);
        for pod in &plan.adopt {
            let patch = owner::adopt_patch(&reference, owner::uid(&pod.metadata));
            unless_gone(api.strategic_patch(owner::name(&pod.metadata), &patch).await)?;
        }
        for pod in &plan.release {
            let patch = owner::release_patch(owner::uid(owner.metadata()), owner::uid(&pod.metadata));
            unless_gone(api.strategic_patch(owner::name(&pod.metadata), &patch).await)?;
        }
        Ok(())
    }

    /// Asks the server, not the cache: an owner that is going must not take anything with it.
    async fn may_adopt(&self, owner: &W) -> Result<bool, Error> {
        let meta = owner.metadata();
        let api = self.context.client.namespaced::<W>(owner::namespace(meta));
        let live = api.get_opt(owner::name(meta)).await?;
        Ok(live.is_some_and(|l| l.metadata().uid == meta.uid && l.metadata().deletion_timestamp.is_none()))
    }

    async fn create(&self, owner: &W, api: &Api<Pod>, outstanding: &mut Outstanding, count: usize) -> Option<Error> {
        let template = new_pod(owner)?;
        for batch in slow_start(count) {
            let pods: Vec<Pod> = (0..batch).map(|_| named(&template, &self.context.ids.suffix(5))).collect();
            pods.iter().for_each(|p| outstanding.creating(owner::name(&p.metadata)));
            let answers = join_all(pods.iter().map(|p| api.create(p))).await;
            let mut failed = None;
            for (pod, answer) in pods.iter().zip(answers) {
                let name = owner::name(&pod.metadata);
                match answer {
                    Ok(created) => {
                        outstanding.answered(name, Some(created));
                        let message = format!("Created pod: {name}");
                        self.context.event(owner, EventType::Normal, "SuccessfulCreate", message);
                    }
                    Err(error) => {
                        // Whether a create without an answer came about is asked before anything else is done.
                        if !is_ambiguous(&error) {
                            outstanding.answered(name, None);
                        }
                        failed = Some(error);
                    }
                }
            }
            let Some(error) = failed else { continue };
            if is_namespace_terminating(&error) {
                return None;
            }
            self.context.event(owner, EventType::Warning, "FailedCreate", format!("Error creating: {error}"));
            return Some(error);
        }
        None
    }

    async fn delete(
        &self,
        owner: &W,
        api: &Api<Pod>,
        outstanding: &mut Outstanding,
        pods: &[Arc<Pod>],
    ) -> Option<Error> {
        for batch in pods.chunks(DELETIONS) {
            batch.iter().for_each(|p| outstanding.deleting(p));
            let params = |p: &Pod| DeleteParams::default().uid(owner::uid(&p.metadata));
            let requests = batch.iter().map(|p| async { api.delete(owner::name(&p.metadata), &params(p)).await });
            let answers = join_all(requests).await;
            let mut failed = None;
            for (pod, answer) in batch.iter().zip(answers) {
                failed = self.deleted(owner, outstanding, pod, answer).err().or(failed);
            }
            if failed.is_some() {
                return failed;
            }
        }
        None
    }

    async fn delete_pod(
        &self,
        owner: &W,
        api: &Api<Pod>,
        outstanding: &mut Outstanding,
        pod: &Pod,
    ) -> Result<(), Error> {
        let params = DeleteParams::default().uid(owner::uid(&pod.metadata));
        let answer = api.delete(owner::name(&pod.metadata), &params).await;
        self.deleted(owner, outstanding, pod, answer)
    }

    fn deleted(
        &self,
        owner: &W,
        outstanding: &mut Outstanding,
        pod: &Pod,
        answer: Result<(), Error>,
    ) -> Result<(), Error> {
        let (name, uid) = (owner::name(&pod.metadata), owner::uid(&pod.metadata));
        match answer {
            Ok(()) => {
                outstanding.deleted(uid);
                self.context.event(owner, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(error) if error.is_not_found() || error.is_conflict() => {
                outstanding.deleted(uid);
                Ok(())
            }
            Err(error) => {
                if !is_ambiguous(&error) {
                    outstanding.kept(uid);
                }
                self.context.event(owner, EventType::Warning, "FailedDelete", format!("Error deleting: {error}"));
                Err(error)
            }
        }
    }

    async fn report(
        &self,
        observed: &Observed<'_, W>,
        failure: Option<(Failure, &str)>,
    ) -> Result<Option<jiff::Timestamp>, Error> {
        let (next, wake) = status(observed, failure);
        let owner = observed.owner;
        if next != owner.status() {
            // No resourceVersion: nobody else writes this status, and the Deployment writes the rest of the object.
            let meta = owner.metadata();
            let patch = json!({"metadata": {"uid": meta.uid}, "status": owner.status_patch(next)});
            let api = self.context.client.namespaced::<W>(owner::namespace(meta));
            unless_gone(api.merge_patch_status(owner::name(meta), &patch).await)?;
        }
        Ok(wake)
    }
}

/// A pod of the owner's template, without a name.
fn new_pod<W: Workload>(owner: &W) -> Option<Pod> {
    let template = owner.template()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner::name(owner.metadata()))),
            namespace: owner.metadata().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner::reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone().map(Arc::new),
        status: None,
    })
}

/// Names the pod as the server would from `generateName`. The name is given here so that a create whose answer is lost
/// can be asked about.
fn named(template: &Pod, suffix: &str) -> Pod {
    const LONGEST_BASE: usize = 58;
    let mut pod = template.clone();
    let base = pod.metadata.generate_name.as_deref().unwrap_or("");
    // Names are ASCII: any byte is a boundary.
    pod.metadata.name = Some(format!("{}{suffix}", &base[..base.len().min(LONGEST_BASE)]));
    pod
}
