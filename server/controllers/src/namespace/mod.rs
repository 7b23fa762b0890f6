//! Empties namespaces that are being deleted, and lets them go when they are empty. Finds out from the server what there
//! may be in a namespace, so it knows no kind but Pod, which goes first: what pods still need stays until they are gone.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::ObjectKey;
use coracle_client::{
    Change, DeleteParams, Error, Informer, ListParams, Outcome, PartialObjectMetadata, Propagation, WorkQueue, drive,
};
use k8s_openapi::api::core::v1::Namespace;
use serde_json::json;

use self::plan::Sweep;
use crate::answer::unless_gone;
use crate::context::Context;
use crate::discovery::{Discovered, Served, discover};
use crate::monitors::{Monitors, Seen};
use crate::owner;

const WORKERS: usize = 10;
const FINALIZER: &str = "kubernetes";
/// Objects go one after the other: so many of their ends are answered by one look.
const GATHER: Duration = Duration::from_millis(10);
/// Objects that wait for somebody's finalizer are heard of through their monitors; this is for those that have none.
const RECHECK: Duration = Duration::from_secs(15);

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
}

fn is_terminating(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

fn has_finalizer(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or(&[]);
    finalizers.iter().any(|f| f == FINALIZER)
}

pub(crate) fn start(context: Context, monitors: &Monitors) {
    let controller = Arc::new(Controller { namespaces: context.informers.get(), context });
    let queue = WorkQueue::new();
    // The last object's end is the moment to look again.
    let (namespaces, into) = (controller.namespaces.clone(), queue.clone());
    monitors.listen(move |_, change| {
        if let Seen::Deleted(old) = change
            && let Some(name) = old.meta().namespace.as_deref()
        {
            let key = ObjectKey::cluster(name);
            if namespaces.get(&key).is_some_and(|n| is_terminating(&n)) {
                into.add_after(key, GATHER);
            }
        }
    });
    let this = controller.clone();
    controller.context.clone().when(async move { this.namespaces.synced().await }, move || run(&controller, &queue));
}

fn run(controller: &Arc<Controller>, queue: &WorkQueue<ObjectKey>) {
    let context = controller.context.clone();
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("namespaces", &controller.namespaces, move |change| match change {
        Change::Applied { new, .. } if is_terminating(&new) => into.add(owner::key_of(&new.metadata)),
        Change::Applied { .. } | Change::Deleted(_) => {}
        Change::Resync => {
            let list = this.namespaces.list();
            list.iter().filter(|n| is_terminating(n)).for_each(|n| into.add(owner::key_of(&n.metadata)));
        }
    });
    let controller = controller.clone();
    drive(&context.scope, "sync", queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    });
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let name = &*key.name;
        let api = self.context.client.all::<Namespace>();
        let Some(namespace) = api.get_opt(name).await?.filter(is_terminating) else { return Ok(Outcome::Done) };
        if !has_finalizer(&namespace) {
            return Ok(Outcome::Done);
        }
        let sweep = self.sweep(name).await;
        let status = sweep.status(namespace.status.as_ref(), self.context.now());
        if namespace.status.as_ref() != Some(&status) {
            let patch = json!({"metadata": {"uid": namespace.metadata.uid}, "status": status});
            if unless_gone(api.merge_patch_status(name, &patch).await)?.is_none() {
                return Ok(Outcome::Done);
            }
        }
        if !sweep.is_clean() {
            if let Some(error) = sweep.discovery_error.iter().chain(&sweep.errors).next() {
                return Err(Error::Request(format!("namespace {name} cannot be emptied: {error}")));
            }
            let grace = Duration::from_secs(u64::try_from(sweep.grace_seconds).unwrap_or(0) / 2 + 1);
            return Ok(Outcome::RequeueAfter(if sweep.grace_seconds > 0 { grace } else { RECHECK }));
        }
        self.finalize(&namespace).await?;
        Ok(Outcome::Done)
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let name = owner::name(&namespace.metadata);
        let mut next = namespace.clone();
        // The status was written just now; this subresource looks at the finalizers only.
        next.metadata.resource_version = None;
        if let Some(finalizers) = next.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        let api = self.context.client.all::<Namespace>();
        let answer: Result<Namespace, Error> = api.replace_subresource(name, "finalize", &next).await;
        unless_gone(answer).map(drop)
    }

    /// Deletes what can be deleted and counts what is left.
    async fn sweep(&self, namespace: &str) -> Sweep {
        let mut sweep = Sweep::default();
        let discovered = match discover(&self.context.client).await {
            Ok(discovered) => discovered,
            Err(error) => {
                sweep.discovery_error = Some(error.to_string());
                return sweep;
            }
        };
        if !discovered.stale.is_empty() {
            sweep.discovery_error = Some(format!("{}: stale GroupVersion discovery", discovered.stale.join(", ")));
        }
        let (pods, others) = deletable(discovered);
        for served in &pods {
            self.sweep_resource(namespace, served, &mut sweep).await;
        }
        if !sweep.remaining.is_empty() || !sweep.errors.is_empty() {
            return sweep;
        }
        for served in &others {
            self.sweep_resource(namespace, served, &mut sweep).await;
        }
        sweep
    }

    async fn sweep_resource(&self, namespace: &str, served: &Served, sweep: &mut Sweep) {
        let name = format!("{}.{}", served.resource.plural, served.resource.group);
        match self.empty(namespace, served).await {
            Ok(left) if left.is_empty() => {}
            Ok(left) => {
                for object in &left {
                    for finalizer in object.metadata.finalizers.iter().flatten() {
                        *sweep.finalizers.entry(finalizer.clone()).or_default() += 1;
                    }
                    let grace = object.metadata.deletion_grace_period_seconds.unwrap_or(0);
                    sweep.grace_seconds = sweep.grace_seconds.max(grace);
                }
                sweep.remaining.insert(name, left.len());
            }
            Err(error) => sweep.errors.push(error.to_string()),
        }
    }

    /// Gives what is left after everything was told to go.
    async fn empty(&self, namespace: &str, served: &Served) -> Result<Vec<PartialObjectMetadata>, Error> {
        if !served.can("list") {
            return Ok(Vec::new());
        }
        let api = self.context.client.dynamic(served.resource.clone(), Some(namespace));
        let everything = ListParams::default();
        let Some(found) = unless_gone(api.list_metadata(&everything).await)? else { return Ok(Vec::new()) };
        if found.items.iter().all(|o| o.metadata.deletion_timestamp.is_some()) {
            return Ok(found.items);
        }
        let params = DeleteParams::default().propagation(Propagation::Background);
        if served.can("deletecollection") {
            unless_gone(api.delete_collection(&params, &everything).await)?;
        } else {
            for object in &found.items {
                unless_gone(api.delete(owner::name(&object.metadata), &params).await)?;
            }
        }
        let left = unless_gone(api.list_metadata(&everything).await)?;
        Ok(left.map(|l| l.items).unwrap_or_default())
    }
}

/// What can be deleted in a namespace: pods, and all the rest.
fn deletable(discovered: Discovered) -> (Vec<Served>, Vec<Served>) {
    let served = discovered.served.into_iter();
    let deletable = served.filter(|s| s.preferred && s.resource.namespaced && s.can("delete"));
    deletable.partition(|s| s.resource.group.is_empty() && &*s.resource.plural == "pods")
}
