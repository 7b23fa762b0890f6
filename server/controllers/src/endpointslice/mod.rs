//! Publishes what stands behind each Service as EndpointSlices, for proxies and DNS. Must be quick: between a pod's
//! readiness and its first request lies this module.

mod plan;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::ObjectKey;
use coracle_client::{Change, DeleteParams, Error, Index, Informer, Outcome, Pod, WorkQueue, drive};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

pub(crate) use self::plan::pod_reference;
use self::plan::{MANAGED_BY, MANAGED_BY_LABEL, NodeOf, Observed, SERVICE_LABEL, plan};
use crate::answer::{is_namespace_terminating, unless_conflict, unless_gone};
use crate::context::{Context, UNSEEN_RECHECK};
use crate::memory::{Memory, Remembered};
use crate::overlay::Overlay;
use crate::pace::Pace;
use crate::{backend, owner};

const WORKERS: usize = 5;
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

impl Remembered for Overlay<EndpointSlice> {
    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    /// Slices of this controller, by the key of their Service.
    by_service: Index<EndpointSlice>,
    written: Memory<ObjectKey, Overlay<EndpointSlice>>,
    pace: Pace,
}

/// The Service of a slice that this controller made.
fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let service =
        labels.get(SERVICE_LABEL).filter(|_| labels.get(MANAGED_BY_LABEL).is_some_and(|m| m == MANAGED_BY))?;
    Some(ObjectKey::new(owner::namespace(&slice.metadata), service.as_str()))
}

pub(crate) fn start(context: Context) {
    let slices = context.informers.get::<EndpointSlice>();
    let controller = Arc::new(Controller {
        services: context.informers.get(),
        pods: context.informers.get(),
        nodes: context.informers.get(),
        by_service: slices.index("endpointslice-controller/service", |slice| {
            service_of(slice).map(|key| key.to_string()).into_iter().collect()
        }),
        slices,
        written: Memory::default(),
        pace: Pace::new(Duration::from_micros(500), Duration::from_millis(500)),
        context,
    });
    let this = controller.clone();
    let synced = async move {
        this.services.synced().await;
        this.pods.synced().await;
        this.nodes.synced().await;
        this.slices.synced().await;
    };
    controller.context.clone().when(synced, move || run(&controller));
}

fn run(controller: &Arc<Controller>) {
    let context = controller.context.clone();
    let queue = WorkQueue::new();
    feed_services(&context, &controller.services, &queue);
    feed_pods(&context, &controller.pods, &controller.services, &controller.pace, &queue);
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("nodes", &controller.nodes, move |change| {
        let zone = |n: &Node| n.metadata.labels.as_ref().and_then(|l| l.get(ZONE_LABEL)).cloned();
        let affects = match &change {
            Change::Applied { old: Some(old), new } => zone(old) != zone(new),
            Change::Applied { old: None, .. } | Change::Deleted(_) | Change::Resync => true,
        };
        if affects {
            this.services.list().iter().for_each(|s| into.add(owner::key_of(&s.metadata)));
        }
    });
    let (this, into) = (controller.clone(), queue.clone());
    context.feed("slices", &controller.slices, move |change| match change {
        Change::Applied { new: slice, .. } | Change::Deleted(slice) => {
            service_of(&slice).into_iter().for_each(|key| this.pace.add(&into, key));
        }
        Change::Resync => this.services.list().iter().for_each(|s| into.add(owner::key_of(&s.metadata))),
    });
    let controller = controller.clone();
    drive(&context.scope, "sync", &queue, WORKERS, move |key| {
        let controller = controller.clone();
        async move { unless_conflict(controller.reconcile(key).await) }
    });
}

/// Adds each Service that changes.
pub(crate) fn feed_services(context: &Context, services: &Informer<Service>, queue: &WorkQueue<ObjectKey>) {
    let (list, into) = (services.clone(), queue.clone());
    context.feed("services", services, move |change| match change {
        Change::Applied { new: service, .. } | Change::Deleted(service) => into.add(owner::key_of(&service.metadata)),
        Change::Resync => list.list().iter().for_each(|s| into.add(owner::key_of(&s.metadata))),
    });
}

/// Adds each Service behind which a pod changes in a way that is published.
pub(crate) fn feed_pods(
    context: &Context,
    pods: &Informer<Pod>,
    services: &Informer<Service>,
    pace: &Pace,
    queue: &WorkQueue<ObjectKey>,
) {
    let (services, pace, into) = (services.clone(), pace.clone(), queue.clone());
    context.feed("pods", pods, move |change| {
        let touched = match &change {
            Change::Applied { old: Some(old), new } if !backend::is_affected(old, new) => return,
            Change::Applied { old, new } => old.iter().chain([new]).cloned().collect(),
            Change::Deleted(old) => vec![old.clone()],
            Change::Resync => {
                services.list().iter().for_each(|s| into.add(owner::key_of(&s.metadata)));
                return;
            }
        };
        for pod in touched {
            let candidates = services.in_namespace(owner::namespace(&pod.metadata));
            backend::services_of(&candidates, &pod.metadata).for_each(|s| pace.add(&into, owner::key_of(&s.metadata)));
        }
    });
}

/// The pods that the Service selects.
pub(crate) fn pods_of(pods: &Informer<Pod>, service: &Service) -> Option<Vec<Arc<Pod>>> {
    let selector = backend::selector(service)?;
    let mut found = pods.in_namespace(owner::namespace(&service.metadata));
    found.retain(|p| backend::selects(selector, &p.metadata));
    Some(found)
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Outcome, Error> {
        // A Service that is gone takes its slices with it: they name it as their owner.
        let Some(service) = self.services.get(&key) else {
            self.written.forget(&key);
            self.pace.observe(&key, 0);
            return Ok(Outcome::Done);
        };
        let Some(pods) = pods_of(&self.pods, &service) else { return Ok(Outcome::Done) };
        self.pace.observe(&key, pods.len());
        let mut written = self.written.open(&key);
        let seen = self.slices.revision();
        let slices = written.over(self.by_service.get(&key.to_string()), seen);
        let node = |name: &str| match self.nodes.get(&ObjectKey::cluster(name)) {
            Some(node) => {
                NodeOf::Known { zone: node.metadata.labels.as_ref().and_then(|l| l.get(ZONE_LABEL)).cloned() }
            }
            None => NodeOf::Missing,
        };
        let plan = plan(&Observed { service: &service, pods: &pods, slices: &slices, node: &node });
        let outcome = self.carry_out(&key, &mut written, plan).await?;
        Ok(if written.is_empty() { outcome } else { Outcome::RequeueAfter(UNSEEN_RECHECK) })
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        written: &mut Overlay<EndpointSlice>,
        plan: plan::Plan,
    ) -> Result<Outcome, Error> {
        let api = &self.context.client.namespaced::<EndpointSlice>(&key.namespace);
        let mut created = plan.create;
        for slice in &mut created {
            let base = slice.metadata.generate_name.as_deref().unwrap_or("");
            slice.metadata.name = Some(format!("{}{}", &base[..base.len().min(58)], self.context.ids.suffix(5)));
        }
        let creates = join_all(created.iter().map(|s| api.create(s))).await;
        let updates = join_all(plan.update.iter().map(|s| api.replace(owner::name(&s.metadata), s))).await;
        let mut failed = None;
        for answer in creates.into_iter().chain(updates) {
            match answer {
                Ok(slice) => drop(written.wrote(slice)),
                Err(error) if is_namespace_terminating(&error) => {}
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        // Last, so that no endpoint is missing in between.
        for slice in &plan.delete {
            let params = DeleteParams::default().uid(owner::uid(&slice.metadata));
            unless_gone(api.delete(owner::name(&slice.metadata), &params).await)?;
            written.removed(&slice.metadata);
        }
        Ok(Outcome::Done)
    }
}
