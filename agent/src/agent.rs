//! The agent as a whole: its parts, started in order, in one scope.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::events::{Recorder, Source};
use coracle_client::watched;
use coracle_client::{ListParams, OnExit, Pod, TaskScope};
use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::{Addressing, AgentConfig, AgentDeps, NetworkReady, NodeAddressing, NodeNetwork};
use crate::housekeeping::Housekeeper;
use crate::local::{Records, write_private};
use crate::node::{NodeState, NodeTask, RuntimeView, allocatable, readiness, renew};
use crate::pod::context::{NodeNet, Shared};
use crate::pods::Pods;
use crate::rotation::Rotation;
use crate::runtime::{Runtime, Runtimes};
use crate::server::{NodeApi, PodSource, ServeError};
use crate::sources::Sources;
use crate::starts::Starts;
use crate::stats::Stats;
use crate::status::StatusWriter;
use crate::tokens::Tokens;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// For a runtime that tells no events: how often it is asked instead.
const RELIST: Duration = Duration::from_secs(1);

/// Why an agent cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the data directory {}: {source}; give another with --data-dir, or the right to write there", path.display())]
    DataDir { path: PathBuf, source: io::Error },
}

/// A node agent.
pub struct Agent;

/// A running agent. Its pods go on running when it is gone.
pub struct AgentHandle {
    scope: TaskScope,
    ready: watched::Receiver<bool>,
    state: watched::Receiver<NodeState>,
    pods: Arc<Pods>,
}

impl AgentHandle {
    /// Resolves once the server has been told that the node is ready.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        // The sender lives in the agent's scope; if that is gone there is nothing to wait for.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// What keeps the node from being ready, in the words of its Ready condition.
    pub fn waits_for(&self) -> Option<String> {
        readiness(&self.state.borrow()).err()
    }

    /// Where the node API listens, once it does.
    pub fn node_api(&self) -> Option<SocketAddr> {
        let state = self.state.borrow();
        Some(SocketAddr::new(*state.net.ips.first()?, state.api_port?))
    }

    /// The node's addresses, once they are known.
    pub fn node_ips(&self) -> Vec<IpAddr> {
        self.state.borrow().net.ips.clone()
    }

    /// The pods of this node, as the node API shows them.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.pods()
    }

    /// The scope of all its tasks.
    pub fn scope(&self) -> &TaskScope {
        &self.scope
    }

    /// Ends the agent, not its pods.
    pub async fn shutdown(&self) {
        self.scope.shutdown().await;
    }
}

/// What the tasks of an agent share.
struct Parts {
    config: Arc<AgentConfig>,
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    state: watched::Sender<NodeState>,
    net: watched::Sender<NodeNet>,
}

impl Agent {
    /// Starts an agent in a scope of its own below `scope`. It needs neither the server nor the runtimes to be there.
    pub fn start(config: AgentConfig, deps: AgentDeps, scope: &TaskScope) -> Result<AgentHandle, StartError> {
        let scope = scope.child("agent");
        let data_dir = config.data_dir.clone();
        let unusable = |source| StartError::DataDir { path: data_dir.clone(), source };
        std::fs::create_dir_all(&config.data_dir).map_err(unusable)?;
        let records = Records::open(&config.data_dir, config.disk, &scope).map_err(unusable)?;
        let source = Source { component: "kubelet".into(), host: config.node_name.to_string().into() };
        let recorder = Recorder::new(&deps.client, deps.clock.clone(), deps.ids.clone(), source, &scope);
        let ips = match &config.addressing {
            Addressing::Loopback => Vec::new(),
            Addressing::Fixed(ips) => ips.clone(),
        };
        let pending = Some("this node has no pod CIDR yet".to_owned());
        let net = watched::Sender::new(NodeNet { pending, ips, dns: None });
        let runtimes = Runtimes::new(deps.runtimes.clone());
        let state = watched::Sender::new(NodeState {
            handlers: runtimes.handlers().map(str::to_owned).collect(),
            runtimes: vec![RuntimeView::unasked(); runtimes.all().len()],
            net: net.borrow().clone(),
            pod_cidr: recorded_cidr(&config.data_dir),
            ..NodeState::default()
        });
        let shared = Arc::new(Shared {
            allocatable: allocatable(&config),
            client: deps.client.clone(),
            runtimes: runtimes.clone(),
            sources: Sources::new(deps.client.clone(), &scope),
            tokens: Tokens::new(deps.client.clone(), deps.clock.clone()),
            records,
            services: deps.informers.get::<Service>(),
            recorder,
            status: StatusWriter::start(deps.client.clone(), &scope),
            clock: deps.clock.clone(),
            start: Instant::now(),
            prober: deps.prober.clone(),
            network: net.subscribe(),
            scope: scope.child("pods"),
            starts: Starts::default(),
            config: config.clone(),
        });
        let parts = Arc::new(Parts {
            config: Arc::new(config),
            pods: Pods::new(shared.clone(), state.subscribe()),
            shared,
            state,
            net,
        });
        let ready = watched::Sender::new(false);
        let handle = AgentHandle {
            scope: scope.clone(),
            ready: ready.subscribe(),
            state: parts.state.subscribe(),
            pods: parts.pods.clone(),
        };
        parts.spawn(&deps, ready, &scope);
        Ok(handle)
    }
}

impl Parts {
    fn spawn(self: &Arc<Self>, deps: &AgentDeps, ready: watched::Sender<bool>, scope: &TaskScope) {
        for (index, runtime) in self.shared.runtimes.all().iter().enumerate() {
            let (parts, runtime) = (self.clone(), runtime.clone());
            let title = format!("runtime-{}", runtime.endpoint().name().replace('/', "_"));
            scope.spawn(&title, OnExit::restart(), move |cancel| {
                let (parts, runtime) = (parts.clone(), runtime.clone());
                async move { until(cancel, parts.hear(index, &runtime)).await }
            });
        }
        let own = format!("spec.nodeName={}", self.config.node_name);
        let informer = deps.informers.get_with::<Pod>(&ListParams::default().fields(own));
        let parts = self.clone();
        scope.spawn("pods", OnExit::restart(), move |cancel| parts.pods.clone().run(informer.clone(), cancel));
        let node = Arc::new(NodeTask {
            config: self.config.clone(),
            client: deps.client.clone(),
            informers: deps.informers.clone(),
            clock: deps.clock.clone(),
            runtimes: self.shared.runtimes.clone(),
            state: self.state.clone(),
            ready,
        });
        scope.spawn("node-status", OnExit::restart(), move |cancel| {
            let node = node.clone();
            async move { until(cancel.clone(), node.run(cancel)).await }
        });
        let (client, clock, name) = (deps.client.clone(), deps.clock.clone(), self.config.node_name.to_string());
        scope.spawn("node-lease", OnExit::restart(), move |cancel| {
            renew(client.clone(), clock.clone(), name.clone(), cancel)
        });
        let parts = self.clone();
        scope.spawn("log-rotation", OnExit::restart(), move |cancel| {
            let parts = parts.clone();
            async move { until(cancel, parts.rotate_logs()).await }
        });
        let keeper = Arc::new(Housekeeper {
            shared: self.shared.clone(),
            pods: self.pods.clone(),
            gauge: deps.gauge.clone(),
            state: self.state.clone(),
        });
        scope.spawn("housekeeping", OnExit::restart(), move |cancel| {
            let keeper = keeper.clone();
            async move { until(cancel, keeper.run()).await }
        });
        let (parts, network, own) = (self.clone(), deps.network.clone(), scope.clone());
        scope.spawn("node-network", OnExit::restart(), move |cancel| {
            let (parts, network, own) = (parts.clone(), network.clone(), own.clone());
            async move { until(cancel, parts.bring_up_network(network, &own)).await }
        });
    }

    async fn rotate_logs(&self) {
        let mut rotation = Rotation::default();
        loop {
            let wait = rotation.look(self.pods.live_logs(), self.shared.clock.now()).await;
            sleep(wait).await;
        }
    }

    /// Hears what happens in a runtime, and connects again whenever that ends.
    async fn hear(&self, index: usize, runtime: &Arc<Runtime>) {
        let mut wait = RETRY_FIRST;
        loop {
            match runtime.version().await {
                Ok(info) => match runtime.events().await {
                    Ok(mut events) => {
                        wait = RETRY_FIRST;
                        tracing::info!(runtime = %info.name, version = info.version, "runtime connected");
                        self.connected(index, runtime).await;
                        while let Some(Ok(event)) = events.next().await {
                            self.pods.route(event);
                        }
                    }
                    Err(error) if error.code == coracle_cri::Code::Unimplemented => {
                        tracing::info!(runtime = %info.name, "this runtime tells no events and is asked instead");
                        self.connected(index, runtime).await;
                        while runtime.version().await.is_ok() {
                            sleep(RELIST).await;
                            self.pods.relist(runtime);
                        }
                    }
                    Err(error) => tracing::debug!(runtime = runtime.endpoint().name(), %error, "no events"),
                },
                Err(error) => tracing::debug!(runtime = runtime.endpoint().name(), %error, "not there yet"),
            }
            let fault = match self.shared.runtimes.all().len() {
                1 => "container runtime is down".to_owned(),
                _ => format!("container runtime {} is down", runtime.endpoint().name()),
            };
            self.set_view(index, RuntimeView { fault: Some(fault), ..self.view(index) });
            sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// The runtime answers, perhaps after it was started anew: it is told the pod CIDR, and pods look what it holds.
    async fn connected(&self, index: usize, runtime: &Arc<Runtime>) {
        let cidr = self.state.borrow().pod_cidr;
        if let Some(cidr) = cidr {
            self.tell_cidr(runtime, cidr).await;
        }
        self.refresh_view(index, runtime).await;
        // Until it was heard for the first time nothing was begun in it that could have been missed.
        if !runtime.meet() {
            self.pods.relist(runtime);
        }
    }

    async fn tell_cidr(&self, runtime: &Runtime, cidr: IpNet) {
        if let Err(error) = runtime.set_pod_cidr(&cidr.to_string()).await {
            tracing::warn!(runtime = runtime.endpoint().name(), %error, "the runtime does not take the pod CIDR");
        }
    }

    fn view(&self, index: usize) -> RuntimeView {
        self.state.borrow().runtimes[index].clone()
    }

    fn set_view(&self, index: usize, view: RuntimeView) {
        self.state.send_if_modified(|state| {
            let news = state.runtimes[index] != view;
            state.runtimes[index] = view;
            news
        });
    }

    async fn refresh_view(&self, index: usize, runtime: &Runtime) {
        let mut view = RuntimeView::default();
        if let Some(info) = runtime.info() {
            view.name = info.name.to_string();
            view.version = info.version;
        }
        match runtime.status().await {
            Ok(answer) => {
                for condition in answer.status.unwrap_or_default().conditions.into_iter().filter(|c| !c.status) {
                    let message = if condition.message.is_empty() { condition.reason } else { condition.message };
                    match condition.r#type.as_str() {
                        "NetworkReady" => view.network_fault = Some(message),
                        "RuntimeReady" => {
                            view.fault =
                                Some(format!("container runtime not ready: RuntimeReady=false reason:{message}"));
                        }
                        _ => {}
                    }
                }
            }
            Err(error) => view.fault = Some(format!("container runtime status check failed: {error}")),
        }
        self.set_view(index, view);
    }

    /// Waits for the pod CIDR, tells the runtimes, starts the node's network and the node API.
    async fn bring_up_network(&self, network: Option<Arc<dyn NodeNetwork>>, scope: &TaskScope) {
        let mut state = self.state.subscribe();
        loop {
            let Ok(cidr) = state.wait_for(|state| state.pod_cidr.is_some()).await.map(|state| state.pod_cidr) else {
                return;
            };
            let own = scope.child("network");
            // A network that cannot start with one CIDR may be able to with the next.
            tokio::select! {
                biased;
                () = self.bring_up(network.clone(), cidr.expect("just waited for"), &own) => {}
                _ = other_cidr(&self.state, cidr) => {}
            }
            // Another cluster, or a Node object that was deleted and made again, gives another one.
            if state.wait_for(|state| state.pod_cidr != cidr).await.is_err() {
                return;
            }
            tracing::warn!(old = ?cidr, "this node has been given another pod CIDR");
            own.shutdown().await;
        }
    }

    async fn bring_up(&self, network: Option<Arc<dyn NodeNetwork>>, cidr: IpNet, scope: &TaskScope) {
        record_cidr(&self.config.data_dir, cidr);
        let ips = match &self.config.addressing {
            Addressing::Fixed(ips) => ips.clone(),
            Addressing::Loopback => cidr.hosts().next().into_iter().collect(),
        };
        for (index, runtime) in self.shared.runtimes.all().iter().enumerate() {
            if runtime.info().is_some() {
                self.tell_cidr(runtime, cidr).await;
                self.refresh_view(index, runtime).await;
            }
        }
        self.set_net(NodeNet {
            pending: Some("the node's network is starting".to_owned()),
            ips: ips.clone(),
            dns: None,
        });
        let node = NodeAddressing {
            node_name: self.config.node_name.clone(),
            node_ips: ips.clone(),
            pod_cidr: cidr,
            cluster_domain: self.config.cluster_domain.clone(),
        };
        let ready = match &network {
            None => NetworkReady::default(),
            Some(network) => self.start_network(&**network, node, scope).await,
        };
        self.serve_api(&ips, scope).await;
        self.set_net(NodeNet { pending: None, ips, dns: ready.dns });
        self.pods.retry();
    }

    async fn start_network(&self, network: &dyn NodeNetwork, node: NodeAddressing, scope: &TaskScope) -> NetworkReady {
        let mut wait = RETRY_FIRST;
        loop {
            match network.start(node.clone(), scope.clone()).await {
                Ok(ready) => return ready,
                Err(message) => {
                    tracing::error!(message, "the node's network cannot be started");
                    self.set_net(NodeNet { pending: Some(message), ips: node.node_ips.clone(), dns: None });
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX * 5);
        }
    }

    /// A node whose API cannot listen runs pods all the same; only their logs cannot be read.
    async fn serve_api(&self, ips: &[IpAddr], scope: &TaskScope) {
        let (Some(api), Some(ip)) = (&self.config.node_api, ips.first()) else { return };
        let stats = Stats {
            node: self.config.node_name.to_string().into(),
            pods: self.pods.clone(),
            runtimes: self.shared.runtimes.clone(),
            clock: self.shared.clock.clone(),
        };
        let serving = NodeApi {
            certificates: api.certificates.clone(),
            pods: self.pods.clone(),
            clock: self.shared.clock.clone(),
            stats: stats.router(),
        };
        let mut bound = serving.clone().serve(SocketAddr::new(*ip, api.port), scope).await;
        if let Err(error @ ServeError::Listen { .. }) = &bound {
            // The node's status says which port it is, so any other does as well.
            tracing::warn!(%error, "the node API takes another port");
            bound = serving.serve(SocketAddr::new(*ip, 0), scope).await;
        }
        match bound {
            Ok(bound) => self.state.send_modify(|state| state.api_port = Some(bound.port())),
            Err(error) => tracing::error!(%error, "logs of this node cannot be read"),
        }
    }

    fn set_net(&self, net: NodeNet) {
        self.net.send_replace(net.clone());
        self.state.send_modify(|state| state.net = net);
    }
}

async fn other_cidr(state: &watched::Sender<NodeState>, than: Option<IpNet>) {
    let mut state = state.subscribe();
    if state.wait_for(|state| state.pod_cidr != than).await.is_err() {
        std::future::pending().await
    }
}

/// Runs until the end or the cancellation, whichever is first.
async fn until(cancel: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

/// The pod CIDR of the last run: a node that boots without a server needs it.
fn recorded_cidr(data_dir: &Path) -> Option<IpNet> {
    std::fs::read_to_string(data_dir.join("pod-cidr")).ok()?.trim().parse().ok()
}

fn record_cidr(data_dir: &Path, cidr: IpNet) {
    if recorded_cidr(data_dir) == Some(cidr) {
        return;
    }
    let path = data_dir.join("pod-cidr");
    if let Err(error) = write_private(&path, cidr.to_string().as_bytes(), true) {
        tracing::error!(path = %path.display(), %error, "the pod CIDR cannot be recorded");
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
