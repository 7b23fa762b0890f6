//! The user-space service proxy: connections to a service's address go to one of its endpoints.
//!
//! ```text
//!   Services ──┐
//!              ├──► desired() ──► diff() ──► Engine ──► a task for each listener ──► connections, flows
//!   Slices ────┘
//! ```
//!
//! What should be is computed anew after every change and compared with what is. Changed endpoints concern new
//! connections only: those that are established go on, even when their listener is closed; UDP flows end with their
//! endpoint. A port without an endpoint is not listened on, so that the kernel refuses it.

mod balance;
mod engine;
mod plan;
mod tcp;
mod udp;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_client::{Informer, OnExit, TaskScope, events::Recorder};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use tokio::{sync::watch, time::sleep_until};
use tokio_util::sync::CancellationToken;

use self::engine::Engine;
pub use self::plan::{Backends, Change, Listener, NodeFacts, desired, diff};
pub use crate::socket::Protocol;

/// Bounds and deadlines of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Connections of one TCP listener; more wait in the kernel's queue until one ends.
    pub max_connections: usize,
    /// Flows of one UDP listener; for one more, the one that was idle longest ends.
    pub max_udp_flows: usize,
    /// A flow ends when nothing came for so long,
    pub udp_idle: Duration,
    /// or for so long if the client sent again after a reply. Both are the kernel's own for connection tracking.
    pub udp_idle_lasting: Duration,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_udp_flows: 4096,
            udp_idle: Duration::from_secs(30),
            udp_idle_lasting: Duration::from_secs(120),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerState {
    Open,
    /// Why it could not be opened; it is tried again.
    Failed(String),
}

/// What the proxy does now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// How often a plan was carried out; 0 until services and endpoints are known.
    pub plans: u64,
    pub listeners: BTreeMap<Listener, ListenerState>,
}

/// Looks into a running proxy.
#[derive(Debug, Clone)]
pub struct ProxyHandle {
    status: watch::Receiver<Arc<Status>>,
}

impl ProxyHandle {
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// Waits until the proxy's status is as wanted; `None` if the proxy has ended.
    pub async fn wait_for(&self, wanted: impl FnMut(&Arc<Status>) -> bool) -> Option<Arc<Status>> {
        self.status.clone().wait_for(wanted).await.ok().map(|status| status.clone())
    }
}

/// Starts the proxy in `scope`.
pub fn start(
    config: ProxyConfig,
    facts: NodeFacts,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    recorder: Option<Recorder>,
    scope: &TaskScope,
) -> ProxyHandle {
    let (sender, status) = watch::channel(Arc::default());
    let facts = Arc::new(facts);
    let listeners = scope.child("proxy");
    scope.spawn("proxy", OnExit::restart(), move |cancel| {
        let engine = Engine::new(config, listeners.child("listen"), recorder.clone(), sender.clone());
        run(engine, facts.clone(), services.clone(), slices.clone(), cancel)
    });
    ProxyHandle { status }
}

async fn run(
    mut engine: Engine,
    facts: Arc<NodeFacts>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    cancel: CancellationToken,
) {
    let (mut service_changes, mut slice_changes) = (services.subscribe(), slices.subscribe());
    loop {
        let retry = engine.next_retry();
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            change = service_changes.next() => if change.is_none() { return cancel.cancelled().await },
            change = slice_changes.next() => if change.is_none() { return cancel.cancelled().await },
            () = async {
                match retry {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            } => {
                engine.retry();
                continue;
            }
        }
        // Whatever came at once is one plan: the plan looks at the whole, not at the changes.
        while service_changes.try_next().is_some() || slice_changes.try_next().is_some() {}
        // Before both views are complete, an absent endpoint says nothing.
        if services.is_synced() && slices.is_synced() {
            engine.apply(desired(&services.list(), &slices.list(), &facts));
        }
    }
}

#[cfg(test)]
mod tests;
