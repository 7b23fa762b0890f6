//! The Node object of this node: registered, kept true, and its lease renewed.
//!
//! Owns what the cluster is told of the node. Must not know: pods.

mod facts;
mod lease;
mod object;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use coracle_client::watched;
use coracle_client::{Change, Client, Clock, Error, Informers, ListParams};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use facts::HostFacts;
pub(crate) use lease::renew;
pub(crate) use object::{RuntimeView, allocatable, readiness};

use crate::config::AgentConfig;
use crate::housekeeping::Pressure;
use crate::pod::context::NodeNet;
use crate::runtime::Runtimes;

/// The status is written at least this often, so that a watcher sees that somebody looks after it.
const REPORT: Duration = Duration::from_secs(300);
/// A runtime that does not answer must not keep the node's status back.
const ASK_IMAGES: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);

/// What the node's object is made from, as it changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeState {
    pub runtimes: Vec<RuntimeView>,
    /// The handlers that RuntimeClasses may name here.
    pub handlers: Vec<String>,
    pub net: NodeNet,
    /// Where the node API listens.
    pub api_port: Option<u16>,
    pub pod_cidr: Option<IpNet>,
    /// What the host runs out of.
    pub pressures: Vec<Pressure>,
}

/// Keeps the Node object true.
pub(crate) struct NodeTask {
    pub(crate) config: Arc<AgentConfig>,
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtimes: Runtimes,
    /// Told of the pod CIDR once the server has given one.
    pub(crate) state: watched::Sender<NodeState>,
    /// Becomes true when the server has been told that the node is ready.
    pub(crate) ready: watched::Sender<bool>,
}

impl NodeTask {
    pub(crate) async fn run(&self, cancel: CancellationToken) {
        let mut state = self.state.subscribe();
        let own = ListParams::default().fields(format!("metadata.name={}", self.config.node_name));
        let informer = self.informers.get_with::<Node>(&own);
        let mut changes = informer.subscribe();
        let mut node = self.register().await;
        let mut last_report: Option<Instant> = None;
        loop {
            self.take_cidr(&node);
            let now = self.clock.now();
            let seen = state.borrow_and_update().clone();
            let images = self.images().await;
            let wanted = object::status(&self.config, &seen, &images, &node, now);
            let due = last_report.is_none_or(|at| at.elapsed() >= REPORT);
            if due || object::differs(node.status.as_ref(), &wanted) {
                let patch = object::status_patch(node.status.as_ref(), &wanted);
                let api = self.client.all::<Node>();
                match api.strategic_patch_status(&self.config.node_name, &patch).await {
                    Ok(patched) => {
                        last_report = Some(Instant::now());
                        self.ready.send_replace(object::is_ready(&wanted));
                        node = patched;
                    }
                    Err(error) if error.is_not_found() => node = self.register().await,
                    Err(error) => {
                        tracing::debug!(%error, "node status not written yet");
                        tokio::select! {
                            biased;
                            () = cancel.cancelled() => return,
                            () = sleep(RETRY) => continue,
                        }
                    }
                }
            }
            let next = last_report.unwrap_or_else(Instant::now) + REPORT;
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                changed = state.changed() => if changed.is_err() { return },
                change = changes.next() => match change {
                    // Somebody has deleted it while the node lives: it comes back, as with kubelet.
                    Some(Change::Deleted(_)) => node = self.register().await,
                    Some(Change::Applied { .. } | Change::Resync) => if let Some(current) = informer.list().first() {
                        node = Node::clone(current);
                    },
                    None => return,
                },
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// The images on the node, for the scheduler. Not knowing them is no fault.
    async fn images(&self) -> Vec<coracle_cri::v1::Image> {
        let mut images = Vec::new();
        for runtime in self.runtimes.all() {
            if runtime.info().is_some()
                && let Ok(Ok(found)) = tokio::time::timeout(ASK_IMAGES, runtime.images()).await
            {
                images.extend(found);
            }
        }
        images
    }

    fn take_cidr(&self, node: &Node) {
        let text = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref());
        let Some(cidr) = text.and_then(|text| text.parse::<IpNet>().ok()) else { return };
        self.state.send_if_modified(|state| {
            let news = state.pod_cidr != Some(cidr);
            state.pod_cidr = Some(cidr);
            news
        });
    }

    /// Makes the Node object, or takes over the one that is there. Tries until the server answers.
    async fn register(&self) -> Node {
        let api = self.client.all::<Node>();
        let seen = self.state.borrow().clone();
        let fresh = object::node(&self.config, &seen, self.clock.now());
        let mut wait = Duration::from_millis(100);
        loop {
            let registered = match api.create(&fresh).await {
                Err(error) if error.is_already_exists() => self.take_over(&fresh).await,
                other => other,
            };
            match registered {
                Ok(node) => {
                    tracing::info!(node = %self.config.node_name, "node registered");
                    return node;
                }
                Err(error) => tracing::warn!(node = %self.config.node_name, %error, "the node is not registered yet"),
            }
            sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(7));
        }
    }

    /// The labels that are the node's own are put right; everything else stays as users have set it.
    async fn take_over(&self, fresh: &Node) -> Result<Node, Error> {
        let api = self.client.all::<Node>();
        let existing = api.get(&self.config.node_name).await?;
        match object::label_patch(&existing, fresh) {
            Some(patch) => api.strategic_patch(&self.config.node_name, &patch).await,
            None => Ok(existing),
        }
    }
}
