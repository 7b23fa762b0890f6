//! `coracle-agent`: a node agent alone, for nodes whose container runtimes are started by others.
//! Parses the command line and hands over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use coracle_agent::config::{Addressing, AgentConfig, AgentDeps, Disk, NodeApiConfig, Resolver};
use coracle_agent::host_network::HostNetwork;
use coracle_agent::housekeeping::{HostGauge, HousekeepingArgs};
use coracle_agent::join::{self, JoinConfig, Way};
use coracle_agent::node::HostFacts;
use coracle_agent::probes::HostProber;
use coracle_agent::{Agent, AgentHandle};
use coracle_client::events::{Recorder, Source};
use coracle_client::{Client, Informers, RandomIds, RemoteConfig, SystemClock, TaskScope};
use coracle_cri::{Endpoint, RuntimeRouter};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The node API's port, as kubelet has it.
const NODE_API_PORT: u16 = 10250;
/// Takes pods without a runtime class whose images are Wasm, whatever the default is.
const WASM_HANDLER: &str = "wasm";

/// Runs the pods that a Coracle server binds to this host.
#[derive(Parser)]
#[command(name = "coracle-agent", version)]
struct Args {
    /// The server to join: https://HOST:6443
    #[arg(long, short = 's', value_name = "URL", env = "CORACLE_URL")]
    server: String,
    /// The server's token; needed until the node has certificates of its own
    #[arg(long, short = 't', env = "CORACLE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Where state lies
    #[arg(long, short = 'd', value_name = "DIR", default_value = "/var/lib/coracle/agent")]
    data_dir: PathBuf,
    /// The node's name [default: the host's]
    #[arg(long, value_name = "NAME", env = "CORACLE_NODE_NAME")]
    node_name: Option<String>,
    /// Labels to register the node with
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    node_label: Vec<String>,
    /// How many pods the node takes
    #[arg(long, value_name = "N", default_value_t = 110)]
    max_pods: u32,
    #[command(flatten)]
    housekeeping: HousekeepingArgs,
    /// Addresses on which NodePorts listen, beside the node's own
    #[arg(long, value_name = "IP", value_delimiter = ',', default_value = "127.0.0.1")]
    node_port_addresses: Vec<IpAddr>,
    /// The CRI socket for pods without a runtime class
    #[arg(long, value_name = "SOCKET", default_value = "/run/containerd/containerd.sock")]
    container_runtime_endpoint: String,
    /// CRI sockets of further runtime handlers
    #[arg(long, value_name = "HANDLER=SOCKET", value_delimiter = ',')]
    runtime_handler: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    coracle_agent::logging::start("info");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("coracle-agent").build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let scope = TaskScope::root();
    let _agent = start(args, &scope).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminate.recv() => Ok(()),
        fatal = scope.fatal() => Err(fatal.into()),
    };
    scope.shutdown().await;
    ended
}

async fn start(args: Args, scope: &TaskScope) -> anyhow::Result<AgentHandle> {
    let host = HostFacts::read().context("this host cannot be read")?.with_storage_of(&args.data_dir)?;
    let name = args.node_name.clone().unwrap_or_else(|| host.hostname.to_lowercase());
    let wrong = coracle_api::names::dns1123_subdomain(&name);
    if !wrong.is_empty() {
        bail!("{name:?} is no name for a node: {}; choose one with --node-name", wrong.join("; "));
    }
    let (clock, ids) = (SystemClock::shared(), RandomIds::from_os());
    let server = args.server.trim_end_matches('/').to_owned();
    let way = Way::Token { server: server.clone(), token: args.token.clone() };
    let join = JoinConfig { way, node_name: name.clone(), dir: args.data_dir.join("tls"), clock: clock.clone() };
    let credentials = join::enrol(&join).await?;
    let client = Client::remote(RemoteConfig::new(server, credentials.server_ca_pem.clone(), credentials.identity()))?;
    let ((sender, certificates), connection) = (watch::channel(credentials.node_certificates()), client.clone());
    join::renew(join, credentials, scope, move |renewed| {
        if let Some(Err(error)) = connection.connection().map(|remote| remote.replace_identity(renewed.identity())) {
            tracing::error!(%error, "the renewed certificate cannot be used");
        }
        sender.send_replace(renewed.node_certificates());
    });
    let informers = Informers::new(client.clone(), scope, ids.clone());
    let source = Source { component: "service-proxy".into(), host: name.as_str().into() };
    let recorder = Recorder::new(&client, clock.clone(), ids.clone(), source, scope);
    let network =
        HostNetwork { informers: informers.clone(), recorder, node_port_addresses: args.node_port_addresses.clone() };
    let deps = AgentDeps {
        client,
        informers,
        runtimes: runtimes(&args)?,
        clock,
        ids,
        prober: Arc::new(HostProber::default()),
        gauge: Arc::new(HostGauge),
        network: Some(Arc::new(network)),
    };
    let config = AgentConfig {
        node_name: name.into(),
        data_dir: args.data_dir,
        node_labels: pairs("--node-label", &args.node_label)?,
        node_taints: Vec::new(),
        max_pods: args.max_pods,
        cluster_domain: "cluster.local".to_owned(),
        addressing: Addressing::Loopback,
        host,
        node_api: Some(NodeApiConfig { port: NODE_API_PORT, certificates }),
        resolver: Resolver::of_this_host(),
        disk: Disk::Threaded,
        housekeeping: args.housekeeping.build(),
    };
    Ok(Agent::start(config, deps, scope)?)
}

fn runtimes(args: &Args) -> anyhow::Result<RuntimeRouter> {
    let endpoint = |socket: &str| Endpoint::unix(socket.strip_prefix("unix://").unwrap_or(socket));
    let router = RuntimeRouter::new(endpoint(&args.container_runtime_endpoint)).with_claimant(WASM_HANDLER);
    let handlers = pairs("--runtime-handler", &args.runtime_handler)?;
    Ok(handlers.iter().fold(router, |router, (handler, socket)| router.with_handler(handler, endpoint(socket))))
}

fn pairs(flag: &str, given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').ok_or_else(|| anyhow!("{flag} {text:?}: it is KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    given.iter().map(pair).collect()
}
