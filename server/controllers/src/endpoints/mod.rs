//! Keeps the Endpoints object of each Service, for clients that do not read EndpointSlices yet.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::ObjectKey;
use coracle_client::{Change, DeleteParams, Error, Informer, Outcome, Pod, WorkQueue, drive};
use k8s_openapi::api::core::v1::{Endpoints, Service};

use self::plan::{MANAGED_BY, MANAGED_BY_LABEL, plan};
use crate::answer::{is_namespace_terminating, unless_conflict, unless_gone};
use crate::context::{Context, UNSEEN_RECHECK};
use crate::endpointslice::{feed_pods, feed_services, pods_of};
use crate::memory::{Memory, Remembered};
use crate::overlay::Overlay;
use crate::owner;
use crate::pace::Pace;

const WORKERS: usize = 2;

impl Remembered for Overlay<Endpoints> {
    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    written: Memory<ObjectKey, Overlay<Endpoints>>,
    pace: Pace,
}

pub(crate) fn start(context: Context) {
    let controller = Arc::new(Controller {
        services: context.informers.get(),
        pods: context.informers.get(),
        endpoints: context.informers.get(),
        written: Memory::default(),
        // One object for all of them, which few read.
        pace: Pace::new(Duration::from_millis(2), Duration::from_secs(1)),
        context,
    });
    let this = controller.clone();
    let synced = async move {
        this.services.synced().await;
        this.pods.synced().await;
        this.endpoints.synced().await;
    };
    controller.context.clone().when(synced, move || run(&controller));
}

fn run(controller: &Arc<Controller>) {
    let context = controller.context.clone();
    let queue = WorkQueue::new();
    feed_services(&context, &controller.services, &queue);
    feed_pods(&context, &controller.pods, &controller.services, &controller.pace, &queue);
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("endpoints", &controller.endpoints, move |change| match change {
        Change::Applied { new: endpoints, .. } | Change::Deleted(endpoints) => {
            this.pace.add(&into, owner::key_of(&endpoints.metadata));
        }
        // Those without a Service too: they may be left over.
        Change::Resync => this.endpoints.list().iter().for_each(|e| into.add(owner::key_of(&e.metadata))),
    });
    let controller = controller.clone();
    drive(&context.scope, "sync", &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { unless_conflict(controller.reconcile(key).await) }
    });
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, Error> {
        let mut written = self.written.open(&key);
        let seen = self.endpoints.revision();
        let current = written.over(self.endpoints.get(&key).into_iter().collect(), seen).into_iter().next();
        let api = self.context.client.namespaced::<Endpoints>(&key.namespace);
        let Some(service) = self.services.get(&key) else {
            self.pace.observe(&key, 0);
            // Endpoints that somebody else keeps are his.
            let ours = current.filter(|e| {
                e.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY_LABEL)).is_some_and(|m| m == MANAGED_BY)
            });
            if let Some(endpoints) = ours {
                let params = DeleteParams::default().uid(owner::uid(&endpoints.metadata));
                unless_gone(api.delete(&key.name, &params).await)?;
                written.removed(&endpoints.metadata);
            }
            return Ok(Outcome::Done);
        };
        let Some(pods) = pods_of(&self.pods, &service) else { return Ok(Outcome::Done) };
        self.pace.observe(&key, pods.len());
        if let Some(next) = plan(&service, &pods, current.as_deref()) {
            let answer = match current {
                Some(_) => api.replace(&key.name, &next).await,
                None => api.create(&next).await,
            };
            match answer {
                Ok(endpoints) => drop(written.wrote(endpoints)),
                Err(error) if is_namespace_terminating(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(if written.is_empty() { Outcome::Done } else { Outcome::RequeueAfter(UNSEEN_RECHECK) })
    }
}
