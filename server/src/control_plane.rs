//! `coracle server`: the control plane put together, started in order and stopped in order.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, bail};
use coracle_agent::AgentHandle;
use coracle_agent::join::{self, JoinConfig, Way};
use coracle_apiserver::auth::pki::{PkiConfig, of_this_host};
use coracle_apiserver::{ApiServerConfig, Assembly, AssemblyConfig, UserInfo, serve};
use coracle_client::{Client, Clock, Ids, Informers, OnExit, RandomIds, Shared, SystemClock, TaskScope};
use coracle_controllers::{Controller, ControllersConfig};
use coracle_scheduler::SchedulerConfig;
use coracle_store::{Store, StoreConfig};
use ipnet::Ipv4Net;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ServerArgs;
use crate::node::{self, NodeParts};
use crate::paths::{Paths, write_private};
use crate::progress::Progress;
use crate::ranges::{self, Claims};

/// A part that is no controller and can be left out all the same.
const SCHEDULER: &str = "scheduler";

/// A running server.
pub(crate) struct ControlPlane {
    pub(crate) scope: TaskScope,
    pub(crate) paths: Paths,
    assembly: Assembly,
    store: Store,
    /// Scheduler, controllers and agent: what stops first.
    workers: TaskScope,
    /// What the informers of this process have in common.
    pub(crate) shared: Shared,
    clock: Arc<dyn Clock>,
    ids: Ids,
    /// The address ranges of this host that are this cluster's.
    _claims: Claims,
}

/// `coracle server`: runs until it is told to end. The pods of its node go on running.
pub(crate) async fn run(args: ServerArgs) -> anyhow::Result<()> {
    let plane = ControlPlane::start(&args, &Progress::silent()).await?;
    if !args.disable_agent {
        plane.start_node(&args).await?;
    }
    tracing::info!(kubeconfig = %plane.paths.kubeconfig().display(), "the server is up");
    let ended = until_told_to_end(&plane.scope).await;
    plane.stop().await?;
    ended
}

/// Waits for Ctrl-C, SIGTERM, or the end of a task that may not end.
pub(crate) async fn until_told_to_end(scope: &TaskScope) -> anyhow::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        fatal = scope.fatal() => Err(fatal.into()),
    }
}

impl ControlPlane {
    pub(crate) async fn start(args: &ServerArgs, progress: &Progress) -> anyhow::Result<ControlPlane> {
        let disabled = disabled(&args.disable)?;
        let (cluster_cidr, service_cidr) =
            (cidr("cluster-cidr", &args.cluster_cidr)?, cidr("service-cidr", &args.service_cidr)?);
        apart(cluster_cidr, service_cidr)?;
        let paths = Paths::open(args.common.data_dir.as_deref())?;
        let (clock, ids) = (SystemClock::shared(), RandomIds::from_os());
        let scope = TaskScope::root();

        let store = Store::open(StoreConfig::new(paths.database()))?;
        progress.step("store", &format!("{} at revision {}", paths.database().display(), store.revision()));
        fail_with_the_store(&store, &scope);

        let claims = ranges::claim(cluster_cidr, service_cidr, paths.root())?;
        // Bound before anything is made, so that a port in use leaves nothing behind.
        let listener = serve::listen(args.listen()).await?;
        let assembly_config = AssemblyConfig {
            api: ApiServerConfig { service_cidr, ..ApiServerConfig::new(advertised(args)) },
            pki: pki_config(args, &paths, service_cidr),
            token: args.token.clone(),
        };
        let assembly = Assembly::build(assembly_config, store.clone(), clock.clone(), ids.clone()).await?;
        let http = scope.child("http");
        serve::serve(
            listener,
            assembly.api.router(),
            assembly.pki.clone(),
            clock.clone(),
            serve::Limits::default(),
            &http,
        )?;
        assembly.api.spawn_upkeep(&http);
        if let Some(copy) = &args.write_kubeconfig {
            let text = std::fs::read_to_string(paths.kubeconfig()).context("the kubeconfig was just written")?;
            write_private(copy, &text)?;
        }
        progress.step("api", &format!("https://{}", SocketAddr::new(local(args), args.https_listen_port)));

        let workers = scope.child("workers");
        let shared = Shared::default();
        let plane = ControlPlane { scope, paths, assembly, store, workers, shared, clock, ids, _claims: claims };
        plane.start_controllers(cluster_cidr, args.node_cidr_mask_size, disabled)?;
        Ok(plane)
    }

    fn start_controllers(&self, cluster_cidr: Ipv4Net, node_mask: u8, disabled: Disabled) -> anyhow::Result<()> {
        let client = self.client("system:kube-controller-manager");
        let informers = Informers::new(client.clone(), &self.workers, self.ids.clone()).sharing(&self.shared);
        if !disabled.scheduler {
            let scheduler = self.client("system:kube-scheduler");
            let config = SchedulerConfig::default();
            coracle_scheduler::start(config, &scheduler, &informers, &self.clock, &self.ids, &self.workers);
        }
        let ca_pem = self.assembly.pki.server_ca().pem().to_owned();
        let config = ControllersConfig { cluster_cidr, node_mask, ca_pem, disable: disabled.controllers };
        let (clock, ids) = (self.clock.clone(), self.ids.clone());
        coracle_controllers::start(config, client, informers, clock, ids, &self.workers)
            .with_context(|| format!("--node-cidr-mask-size {node_mask}"))
    }

    /// Starts the agent of this host, as the node it will be.
    pub(crate) async fn start_node(&self, args: &ServerArgs) -> anyhow::Result<AgentHandle> {
        let name = node::node_name(&args.node)?;
        let config = JoinConfig {
            way: Way::InProcess(self.client("system:apiserver")),
            node_name: name.to_string(),
            dir: self.paths.agent().join("tls"),
            clock: self.clock.clone(),
        };
        let credentials = join::enrol(&config).await?;
        let user = UserInfo::new(&format!("system:node:{name}"), &["system:nodes", "system:authenticated"]);
        let parts = NodeParts {
            client: self.assembly.api.client(user),
            certificates: node::keep_certificates(config, credentials, None, &self.workers),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            shared: self.shared.clone(),
            debug: args.common.debug,
        };
        node::start(name, &args.node, &self.paths, parts, &self.workers).await
    }

    /// A client in this process that may do everything.
    pub(crate) fn client(&self, name: &str) -> Client {
        self.assembly.api.client(UserInfo::system(name))
    }

    /// Ends watches, then the parts that use the API, then HTTP, and flushes the store.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.workers.shutdown().await;
        self.assembly.stop();
        self.scope.shutdown().await;
        self.store.close().await.context("the store could not be flushed")
    }
}

/// A server over a broken store would lie to everybody: restarting is better.
fn fail_with_the_store(store: &Store, scope: &TaskScope) {
    let store = store.clone();
    scope.spawn("store", OnExit::Fatal, move |cancel| {
        let store = store.clone();
        async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Ok(()),
                why = store.failed() => Err(why),
            }
        }
    });
}

struct Disabled {
    scheduler: bool,
    controllers: BTreeSet<Controller>,
}

fn disabled(names: &[String]) -> anyhow::Result<Disabled> {
    let mut disabled = Disabled { scheduler: false, controllers: BTreeSet::new() };
    for name in names {
        match name.as_str() {
            SCHEDULER => disabled.scheduler = true,
            name => {
                let controller =
                    name.parse().with_context(|| format!("--disable {name}: it is no part of the server"))?;
                disabled.controllers.insert(controller);
            }
        }
    }
    Ok(disabled)
}

fn cidr(flag: &str, text: &str) -> anyhow::Result<Ipv4Net> {
    let net: Ipv4Net =
        text.parse().with_context(|| format!("--{flag} {text:?}: it is an IPv4 range such as 127.42.0.0/16"))?;
    if !net.network().is_loopback() {
        bail!("--{flag} {text}: only ranges within 127.0.0.0/8 work yet: pods and services have loopback addresses");
    }
    Ok(net.trunc())
}

/// Pods and services must not have the same addresses, nor those of the host's own programs.
fn apart(pods: Ipv4Net, services: Ipv4Net) -> anyhow::Result<()> {
    if pods.contains(&services) || services.contains(&pods) {
        bail!(
            "--cluster-cidr {pods} and --service-cidr {services} overlap: pods and services need ranges of their own"
        );
    }
    for (flag, net) in [("cluster-cidr", pods), ("service-cidr", services)] {
        if net.contains(&Ipv4Addr::LOCALHOST) {
            bail!(
                "--{flag} {net}: 127.0.0.1 is in it, where the host's own programs listen; 127.42.0.0/16 is a better one"
            );
        }
    }
    Ok(())
}

/// Where clients on this host reach the API.
fn local(args: &ServerArgs) -> IpAddr {
    match args.bind_address {
        address if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        address => address,
    }
}

fn advertised(args: &ServerArgs) -> SocketAddr {
    SocketAddr::new(args.advertise_address.unwrap_or_else(|| local(args)), args.https_listen_port)
}

fn pki_config(args: &ServerArgs, paths: &Paths, service_cidr: Ipv4Net) -> PkiConfig {
    let first = u32::from(service_cidr.network()) + 1;
    let mut tls_san = args.tls_san.clone();
    tls_san.extend(args.advertise_address.map(|a| a.to_string()));
    PkiConfig {
        data_dir: paths.root().to_path_buf(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        tls_san,
        addresses: of_this_host(),
        service_ip: Ipv4Addr::from(first).into(),
        cluster_domain: args.node.cluster_domain.clone(),
        server_url: format!("https://{}", SocketAddr::new(local(args), args.https_listen_port)),
    }
}
