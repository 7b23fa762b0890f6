//! The garbage collector: objects whose owners are gone go too, and owners that wait for their dependents are let go.
//! Works on metadata alone, so it knows no kind. Level-triggered: what it does follows from what is there, and before it
//! deletes anything it asks the server, by UID, whether the owner is really gone.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::ObjectKey;
use coracle_client::{DeleteParams, Error, Outcome, Propagation, ResourceRef, WorkQueue, drive};
use futures::future::join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use parking_lot::Mutex;
use serde_json::json;

use self::plan::{Dependent, ORPHAN, OwnerState, Verdict, is_of_interest, is_waiting, judge, references};
use crate::answer::{unless_conflict, unless_gone};
use crate::context::Context;
use crate::monitors::{Item, Meta, Monitor, Monitors, Seen};
use crate::owner;

const WORKERS: usize = 8;
/// Patches under way at once for one owner that orphans its dependents.
const ORPHANS: usize = 32;
/// UIDs remembered as gone; a UID never comes back.
const ABSENT: usize = 500;
const SYNC_PATIENCE: Duration = Duration::from_secs(30);
const INCOMPLETE_RECHECK: Duration = Duration::from_secs(1);

struct Controller {
    context: Context,
    monitors: Arc<Monitors>,
    absent: Mutex<Absent>,
}

#[derive(Default)]
struct Absent {
    uids: BTreeSet<String>,
    order: VecDeque<String>,
}

impl Absent {
    fn insert(&mut self, uid: &str) {
        if self.uids.insert(uid.to_owned()) {
            self.order.push_back(uid.to_owned());
        }
        if self.order.len() > ABSENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}

pub(crate) fn start(context: Context, monitors: &Arc<Monitors>) {
    let controller = Arc::new(Controller { context, monitors: monitors.clone(), absent: Mutex::default() });
    let queue = WorkQueue::new();
    let (into, all) = (queue.clone(), Arc::downgrade(monitors));
    monitors.listen(move |monitor, change| {
        if let Some(monitors) = all.upgrade() {
            feed(&monitors, monitor, change, &into);
        }
    });
    let synced = monitors.clone();
    let synced = async move {
        // One API that does not answer must not keep all garbage. What is not known is asked of the server, or waited for.
        if tokio::time::timeout(SYNC_PATIENCE, synced.synced()).await.is_err() {
            tracing::warn!("not everything that is served could be listed; collecting what can be");
        }
    };
    controller.context.clone().when(synced, move || {
        let scope = controller.context.scope.clone();
        drive(&scope, "sync", &queue, WORKERS, move |item| {
            let controller = controller.clone();
            async move { unless_conflict(controller.reconcile(item).await) }
        });
    });
}

fn item(monitor: &Monitor, object: &Arc<Meta>) -> Item {
    Item { resource: monitor.resource.clone(), key: object.key() }
}

/// Adds the objects whose fate may change by this.
fn feed(monitors: &Monitors, monitor: &Monitor, change: &Seen, queue: &WorkQueue<Item>) {
    match change {
        Seen::Applied { old, new } => {
            let facts =
                |m: &ObjectMeta| (m.owner_references.clone(), m.finalizers.clone(), m.deletion_timestamp.clone());
            let meta = new.meta();
            if old.as_ref().is_some_and(|old| facts(old.meta()) == facts(meta)) {
                return;
            }
            if is_of_interest(meta) {
                queue.add(item(monitor, new));
            }
            if is_waiting(meta) && !old.as_ref().is_some_and(|old| is_waiting(old.meta())) {
                add_dependents(monitors, meta, queue);
            }
            // A reference that is gone may have been what the former owner waited for.
            if let Some(old) = old {
                add_waiting_owners(monitors, old.meta(), queue);
            }
        }
        Seen::Deleted(old) => {
            add_dependents(monitors, old.meta(), queue);
            add_waiting_owners(monitors, old.meta(), queue);
        }
        Seen::Resync => {
            let kind = &*monitor.resource.kind;
            monitor
                .objects
                .list()
                .iter()
                .filter(|m| is_of_interest(m.meta()))
                .for_each(|m| queue.add(item(monitor, m)));
            // Deletions of this kind may have gone unseen.
            for other in monitors.all().iter().filter(|o| o.resource != monitor.resource) {
                let depends = |m: &&Arc<Meta>| references(m.meta()).iter().any(|r| r.kind == kind);
                other.objects.list().iter().filter(depends).for_each(|m| queue.add(item(other, m)));
            }
        }
    }
}

fn add_dependents(monitors: &Monitors, meta: &ObjectMeta, queue: &WorkQueue<Item>) {
    for (resource, dependent) in monitors.dependents(owner::uid(meta), owner::namespace(meta)) {
        queue.add(Item { resource, key: dependent.key() });
    }
}

fn add_waiting_owners(monitors: &Monitors, meta: &ObjectMeta, queue: &WorkQueue<Item>) {
    for reference in references(meta) {
        let Some((monitor, key)) = locate(monitors, reference, meta) else { continue };
        let waits = |m: &Arc<Meta>| m.meta().uid.as_ref() == Some(&reference.uid) && is_waiting(m.meta());
        if monitor.objects.get(&key).is_some_and(|m| waits(&m)) {
            queue.add(Item { resource: monitor.resource.clone(), key });
        }
    }
}

/// Where the owner would be.
fn locate(monitors: &Monitors, reference: &OwnerReference, meta: &ObjectMeta) -> Option<(Arc<Monitor>, ObjectKey)> {
    let resource = monitors.resource_of(&reference.api_version, &reference.kind)?;
    let key = owner_key(&resource, reference, meta)?;
    Some((monitors.seeing(&resource)?, key))
}

/// `None` for an owner in a namespace of an object that is in none: that can never be.
fn owner_key(resource: &ResourceRef, reference: &OwnerReference, meta: &ObjectMeta) -> Option<ObjectKey> {
    let namespace = owner::namespace(meta);
    match (resource.namespaced, namespace.is_empty()) {
        (false, _) => Some(ObjectKey::cluster(reference.name.as_str())),
        (true, false) => Some(ObjectKey::new(namespace, reference.name.as_str())),
        (true, true) => None,
    }
}

fn state_of(owner: &ObjectMeta, reference: &OwnerReference) -> OwnerState {
    if owner.uid.as_ref() != Some(&reference.uid) {
        OwnerState::Absent
    } else if is_waiting(owner) {
        OwnerState::Waiting
    } else {
        OwnerState::Present
    }
}

impl Controller {
    async fn reconcile(&self, item: Item) -> Result<Outcome, Error> {
        let Some(monitor) = self.monitors.of(&item.resource) else { return Ok(Outcome::Done) };
        let Some(cached) = monitor.objects.get(&item.key) else { return Ok(Outcome::Done) };
        let meta = cached.meta();
        // Almost always the owners are simply there. Dependents can add reasons to wait, none to act.
        if judge(meta, |r| self.cached_state(r, meta), &[]) == Verdict::Keep {
            return Ok(Outcome::Done);
        }
        let dependents = self.monitors.dependents(owner::uid(meta), owner::namespace(meta));
        let views: Vec<_> = dependents.iter().map(|(_, d)| Dependent { meta: d.meta() }).collect();
        if judge(meta, |r| self.cached_state(r, meta), &views) == Verdict::Keep {
            return Ok(Outcome::Done);
        }
        // Something is to be done: from here on only what the server says counts.
        let api = self.context.client.dynamic(item.resource.clone(), Some(&item.key.namespace));
        let Some(live) = api.get_metadata_opt(&item.key.name).await? else { return Ok(Outcome::Done) };
        if live.metadata.uid != meta.uid {
            return Ok(Outcome::Done);
        }
        let meta = &live.metadata;
        let states = self.live_states(meta).await?;
        let state = |r: &OwnerReference| states.get(&r.uid).copied().unwrap_or(OwnerState::Unknowable);
        let verdict = judge(meta, state, &views);
        let concludes_absence = matches!(verdict, Verdict::Release(_) | Verdict::OrphanDependents);
        if concludes_absence && !self.monitors.is_complete() {
            return Ok(Outcome::RequeueAfter(INCOMPLETE_RECHECK));
        }
        tracing::debug!(resource = %item.resource.group_resource(), key = %item.key, %verdict, "collecting");
        self.carry_out(&item, meta, verdict, &dependents).await?;
        Ok(Outcome::Done)
    }

    /// What the cache says of an owner. An absence has to be confirmed.
    fn cached_state(&self, reference: &OwnerReference, meta: &ObjectMeta) -> OwnerState {
        let Some(resource) = self.monitors.resource_of(&reference.api_version, &reference.kind) else {
            return OwnerState::Unknowable;
        };
        let Some(key) = owner_key(&resource, reference, meta) else { return OwnerState::Unknowable };
        let cached = self.monitors.seeing(&resource).and_then(|m| m.objects.get(&key));
        cached.map_or(OwnerState::Absent, |owner| state_of(owner.meta(), reference))
    }

    async fn live_states(&self, meta: &ObjectMeta) -> Result<BTreeMap<String, OwnerState>, Error> {
        let mut states = BTreeMap::new();
        for reference in references(meta) {
            let mut state = self.cached_state(reference, meta);
            if state == OwnerState::Absent && !self.absent.lock().uids.contains(&reference.uid) {
                state = self.live_state(reference, meta).await?;
                if state == OwnerState::Absent {
                    self.absent.lock().insert(&reference.uid);
                }
            }
            states.insert(reference.uid.clone(), state);
        }
        Ok(states)
    }

    async fn live_state(&self, reference: &OwnerReference, meta: &ObjectMeta) -> Result<OwnerState, Error> {
        let Some(resource) = self.monitors.resource_of(&reference.api_version, &reference.kind) else {
            return Ok(OwnerState::Unknowable);
        };
        let Some(key) = owner_key(&resource, reference, meta) else { return Ok(OwnerState::Unknowable) };
        let api = self.context.client.dynamic(resource, Some(&key.namespace));
        let live = api.get_metadata_opt(&key.name).await?;
        Ok(live.map_or(OwnerState::Absent, |owner| state_of(&owner.metadata, reference)))
    }

    async fn carry_out(
        &self,
        item: &Item,
        meta: &ObjectMeta,
        verdict: Verdict,
        dependents: &[(ResourceRef, Arc<Meta>)],
    ) -> Result<(), Error> {
        match verdict {
            Verdict::Keep => Ok(()),
            Verdict::Disown(uids) => {
                let rest: Vec<_> = references(meta).iter().filter(|r| !uids.contains(&r.uid)).collect();
                self.patch(&item.resource, meta, json!({"ownerReferences": rest})).await
            }
            Verdict::Delete(propagation) => self.delete(item, meta, propagation, true).await,
            Verdict::UnblockAndDelete => {
                let unblocked: Vec<_> = references(meta)
                    .iter()
                    .map(|r| OwnerReference { block_owner_deletion: Some(false), ..r.clone() })
                    .collect();
                self.patch(&item.resource, meta, json!({"ownerReferences": unblocked})).await?;
                // The patch has moved the object's revision.
                self.delete(item, meta, Propagation::Foreground, false).await
            }
            Verdict::Release(finalizer) => self.release(item, meta, finalizer).await,
            Verdict::OrphanDependents => {
                for batch in dependents.chunks(ORPHANS) {
                    let orphan = |(resource, dependent): &(ResourceRef, Arc<Meta>)| {
                        let (resource, dependent) = (resource.clone(), dependent.clone());
                        async move {
                            let keeps = |r: &&OwnerReference| Some(&r.uid) != meta.uid.as_ref();
                            let rest: Vec<_> = references(dependent.meta()).iter().filter(keeps).collect();
                            self.patch(&resource, dependent.meta(), json!({"ownerReferences": rest})).await
                        }
                    };
                    for answer in join_all(batch.iter().map(orphan)).await {
                        answer?;
                    }
                }
                self.release(item, meta, ORPHAN).await
            }
        }
    }

    async fn release(&self, item: &Item, meta: &ObjectMeta, finalizer: &str) -> Result<(), Error> {
        let rest: Vec<_> = meta.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        self.patch(&item.resource, meta, json!({"finalizers": rest})).await
    }

    /// Merges `change` into the metadata of the object as it was seen: a list is replaced, so nobody else may have
    /// written meanwhile.
    async fn patch(&self, resource: &ResourceRef, meta: &ObjectMeta, change: serde_json::Value) -> Result<(), Error> {
        let mut metadata = json!({"uid": meta.uid, "resourceVersion": meta.resource_version});
        if let (Some(target), serde_json::Value::Object(change)) = (metadata.as_object_mut(), change) {
            target.extend(change);
        }
        let api = self.context.client.dynamic(resource.clone(), meta.namespace.as_deref());
        unless_gone(api.merge_patch(owner::name(meta), &json!({"metadata": metadata})).await).map(drop)
    }

    async fn delete(&self, item: &Item, meta: &ObjectMeta, how: Propagation, as_seen: bool) -> Result<(), Error> {
        let mut params = DeleteParams::default().propagation(how).uid(owner::uid(meta));
        if let Some(revision) = meta.resource_version.as_deref().filter(|_| as_seen) {
            // Whoever gives it another owner meanwhile saves it.
            params = params.revision(revision);
        }
        let api = self.context.client.dynamic(item.resource.clone(), Some(&item.key.namespace));
        unless_gone(api.delete(&item.key.name, &params).await).map(drop)
    }
}
