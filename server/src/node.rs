//! A node agent and what belongs to it: the Wasm runtime's process, the runtimes' endpoints, the node's network.
//! The same for the agent inside a server and for one of its own; they differ in the client and the certificates.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use coracle_agent::config::{Addressing, AgentConfig, AgentDeps, Disk, NodeApiConfig, NodeCertificates, Resolver};
use coracle_agent::host_network::HostNetwork;
use coracle_agent::housekeeping::HostGauge;
use coracle_agent::join::{self, Credentials, JoinConfig, Way};
use coracle_agent::node::HostFacts;
use coracle_agent::probes::HostProber;
use coracle_agent::{Agent, AgentHandle};
use coracle_api::meta::NodeName;
use coracle_client::events::{Recorder, Source};
use coracle_client::{Client, Clock, Ids, Informers, RandomIds, RemoteConfig, Shared, SystemClock, TaskScope};
use coracle_cri::{Endpoint, RuntimeRouter};
use k8s_openapi::api::core::v1::Taint;
use tokio::sync::watch;

use crate::cli::{AgentArgs, NodeArgs};
use crate::paths::Paths;
use crate::shim::{self, ShimConfig};

/// kubelet's port.
const NODE_API_PORT: u16 = 10250;
/// The RuntimeClass handlers of the Wasm runtime: who shares a worker process.
const WASM_HANDLERS: [&str; 3] = ["wasm", "wasm-namespace", "wasm-pod"];

/// What a node needs that its settings do not say.
pub(crate) struct NodeParts {
    pub(crate) client: Client,
    pub(crate) certificates: watch::Receiver<NodeCertificates>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Ids,
    /// What the informers of this process have in common.
    pub(crate) shared: Shared,
    pub(crate) debug: bool,
}

/// `coracle agent`: joins a server and runs until it is told to end. Its pods go on running.
pub(crate) async fn run(args: AgentArgs) -> anyhow::Result<()> {
    let paths = Paths::open(args.common.data_dir.as_deref())?;
    let name = node_name(&args.node)?;
    let clock = SystemClock::shared();
    let server = args.server.trim_end_matches('/').to_owned();
    let config = JoinConfig {
        way: Way::Token { server: server.clone(), token: args.token.clone() },
        node_name: name.to_string(),
        dir: paths.agent().join("tls"),
        clock: clock.clone(),
    };
    let credentials = join::enrol(&config).await?;
    let remote = RemoteConfig::new(server, credentials.server_ca_pem.clone(), credentials.identity());
    let client = Client::remote(remote)?;
    let scope = TaskScope::root();
    let certificates = keep_certificates(config, credentials, Some(client.clone()), &scope);
    let (ids, shared) = (RandomIds::from_os(), Shared::default());
    let parts = NodeParts { client, certificates, clock, ids, shared, debug: args.common.debug };
    let _agent = start(name, &args.node, &paths, parts, &scope).await?;
    crate::control_plane::until_told_to_end(&scope).await?;
    scope.shutdown().await;
    Ok(())
}

/// Renews the node's certificates while `scope` lives; the client, if it is a remote one, gets its own.
pub(crate) fn keep_certificates(
    config: JoinConfig,
    credentials: Credentials,
    client: Option<Client>,
    scope: &TaskScope,
) -> watch::Receiver<NodeCertificates> {
    let (sender, certificates) = watch::channel(credentials.node_certificates());
    join::renew(config, credentials, scope, move |credentials| {
        if let Some(connection) = client.as_ref().and_then(Client::connection)
            && let Err(error) = connection.replace_identity(credentials.identity())
        {
            tracing::error!(%error, "the renewed certificate cannot be used");
        }
        sender.send_replace(credentials.node_certificates());
    });
    certificates
}

/// Starts the agent in `scope`.
pub(crate) async fn start(
    name: NodeName,
    args: &NodeArgs,
    paths: &Paths,
    parts: NodeParts,
    scope: &TaskScope,
) -> anyhow::Result<AgentHandle> {
    let scope = scope.child("node");
    shim::supervise(shim_config(args, paths, parts.debug), &scope);
    let informers = Informers::new(parts.client.clone(), &scope, parts.ids.clone()).sharing(&parts.shared);
    let source = Source { component: "service-proxy".into(), host: name.to_string().into() };
    let recorder = Recorder::new(&parts.client, parts.clock.clone(), parts.ids.clone(), source, &scope);
    let network =
        HostNetwork { informers: informers.clone(), recorder, node_port_addresses: args.node_port_addresses.clone() };
    let config = AgentConfig {
        node_name: name,
        data_dir: paths.agent(),
        node_labels: labels(&args.node_label)?,
        node_taints: args.node_taint.iter().map(|t| taint(t)).collect::<anyhow::Result<_>>()?,
        max_pods: args.max_pods,
        cluster_domain: args.cluster_domain.clone(),
        addressing: Addressing::Loopback,
        host: HostFacts::read()
            .and_then(|host| host.with_storage_of(&paths.agent()))
            .context("this host cannot be read")?,
        node_api: Some(NodeApiConfig { port: NODE_API_PORT, certificates: parts.certificates }),
        resolver: Resolver::of_this_host(),
        disk: Disk::Threaded,
        housekeeping: args.housekeeping.build(),
    };
    let deps = AgentDeps {
        client: parts.client,
        informers,
        runtimes: runtimes(args, paths)?,
        clock: parts.clock,
        ids: parts.ids,
        prober: Arc::new(HostProber::default()),
        gauge: Arc::new(HostGauge),
        network: Some(Arc::new(network)),
    };
    Ok(Agent::start(config, deps, &scope)?)
}

pub(crate) fn shim_config(args: &NodeArgs, paths: &Paths, debug: bool) -> ShimConfig {
    ShimConfig { paths: paths.clone(), images: args.images.clone(), wasm_code_limit: args.wasm_code_limit, debug }
}

/// The node's name: the given one, else the host's, as Kubernetes allows it.
pub(crate) fn node_name(args: &NodeArgs) -> anyhow::Result<NodeName> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
    };
    let wrong = coracle_api::names::dns1123_subdomain(&name);
    if !wrong.is_empty() {
        bail!("{name:?} is no name for a node: {}; choose one with --node-name", wrong.join("; "));
    }
    Ok(NodeName::from(name.as_str()))
}

fn runtimes(args: &NodeArgs, paths: &Paths) -> anyhow::Result<RuntimeRouter> {
    let wasm = Endpoint::unix(paths.wasm_socket()).named("wasm");
    let Some(other) = &args.container_runtime_endpoint else {
        return Ok(with_wasm(RuntimeRouter::new(wasm.clone()), &wasm));
    };
    let path = other.strip_prefix("unix://").unwrap_or(other);
    if !path.starts_with('/') {
        bail!(
            "--container-runtime-endpoint {other:?}: it is a unix socket, such as unix:///run/containerd/containerd.sock"
        );
    }
    // Wasm images need no runtime class, whatever the default is.
    Ok(with_wasm(RuntimeRouter::new(Endpoint::unix(path)), &wasm).with_claimant(WASM_HANDLERS[0]))
}

fn with_wasm(router: RuntimeRouter, wasm: &Endpoint) -> RuntimeRouter {
    WASM_HANDLERS.iter().fold(router, |router, handler| router.with_handler(handler, wasm.clone()))
}

fn labels(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    given
        .iter()
        .map(|label| {
            let (key, value) =
                label.split_once('=').ok_or_else(|| anyhow!("--node-label {label:?}: it is KEY=VALUE"))?;
            // The server would refuse the node, again and again.
            let mut wrong = coracle_api::names::qualified_name(key);
            wrong.extend(coracle_api::names::label_value(value));
            if !wrong.is_empty() {
                bail!("--node-label {label:?}: {}", wrong.join("; "));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// `key=value:Effect` or `key:Effect`.
fn taint(text: &str) -> anyhow::Result<Taint> {
    let wrong =
        || anyhow!("--node-taint {text:?}: it is KEY=VALUE:EFFECT with NoSchedule, PreferNoSchedule or NoExecute");
    let (what, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") || what.is_empty() {
        return Err(wrong());
    }
    let (key, value) = match what.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (what, None),
    };
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read_as_kubelet_reads_them() {
        let taint_of = |text| taint(text).map(|t| format!("{}={}:{}", t.key, t.value.unwrap_or_default(), t.effect));
        assert_eq!(taint_of("a=b:NoSchedule").unwrap(), "a=b:NoSchedule");
        assert_eq!(taint_of("a:NoExecute").unwrap(), "a=:NoExecute");
        for wrong in ["a", "a=b", "a=b:Never", ":NoSchedule"] {
            assert!(taint_of(wrong).unwrap_err().to_string().contains("--node-taint"), "{wrong}");
        }
    }
}
