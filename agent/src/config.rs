//! What an agent is built from: its settings, and the things it reaches the world through.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use coracle_api::NodeName;
use coracle_client::{Client, Clock, Ids, Informers, TaskScope};
use coracle_cri::RuntimeRouter;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;
use tokio::sync::watch;

use crate::housekeeping::{Gauge, HousekeepingConfig};
use crate::node::HostFacts;
use crate::probes::Prober;

/// The settings of one node agent.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub node_name: NodeName,
    /// Pods' folders (`pods`), their logs (`logs`) and what a boot without server starts from (`desired`).
    pub data_dir: PathBuf,
    /// Labels and taints the node is registered with, beside those every node has.
    pub node_labels: BTreeMap<String, String>,
    pub node_taints: Vec<Taint>,
    pub max_pods: u32,
    pub cluster_domain: String,
    pub addressing: Addressing,
    /// What the node is and has. [`HostFacts::read`] asks the host.
    pub host: HostFacts,
    /// The node API; `None` serves none.
    pub node_api: Option<NodeApiConfig>,
    /// The host's own resolver, for pods with dnsPolicy Default and for names outside the cluster.
    pub resolver: Resolver,
    pub disk: Disk,
    pub housekeeping: HousekeepingConfig,
}

/// Which addresses the node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// The first host of its pod CIDR, a loopback one: no root is needed, and several agents live on one host.
    Loopback,
    /// These, the main one first.
    Fixed(Vec<IpAddr>),
}

/// How files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Records are synced to disk on threads of their own.
    Threaded,
    /// In the task that writes, without a sync: for simulations, which must be the same every time.
    Inline,
}

/// The host's resolver, as resolv.conf has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    /// What the host's /etc/resolv.conf says; nothing if there is none.
    pub fn of_this_host() -> Self {
        std::fs::read_to_string("/etc/resolv.conf").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next();
            let values = words.map(str::to_owned);
            match keyword {
                Some("nameserver") => resolver.servers.extend(values.take(1)),
                // The last line counts.
                Some("search" | "domain") => resolver.searches = values.collect(),
                Some("options") => resolver.options.extend(values),
                Some(_) | None => {}
            }
        }
        resolver
    }
}

/// The node API: logs and statistics for the API server.
#[derive(Clone, Debug)]
pub struct NodeApiConfig {
    /// On the node's first address; 10250 is kubelet's. With 0 the system chooses.
    pub port: u16,
    /// The newest is used for every new connection, so a renewal needs no restart.
    pub certificates: watch::Receiver<NodeCertificates>,
}

/// What the node API proves who it is with, and whom it lets in.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct NodeCertificates {
    pub serving_cert_pem: String,
    pub serving_key_pem: String,
    /// Clients must hold a certificate of this CA.
    pub client_ca_pem: String,
}

impl std::fmt::Debug for NodeCertificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeCertificates").finish_non_exhaustive()
    }
}

/// The things an agent reaches the world through.
pub struct AgentDeps {
    /// As `system:node:NAME`.
    pub client: Client,
    /// Of the same client; shared with others in the process.
    pub informers: Informers,
    pub runtimes: RuntimeRouter,
    pub clock: Arc<dyn Clock>,
    pub ids: Ids,
    /// [`crate::probes::HostProber`] outside of tests.
    pub prober: Arc<dyn Prober>,
    /// [`crate::housekeeping::HostGauge`] outside of tests.
    pub gauge: Arc<dyn Gauge>,
    /// The node's part of the pod network; `None` runs none, and pods are given no cluster DNS.
    pub network: Option<Arc<dyn NodeNetwork>>,
}

/// What the node's network is told once its pod CIDR is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddressing {
    pub node_name: NodeName,
    pub node_ips: Vec<IpAddr>,
    pub pod_cidr: IpNet,
    pub cluster_domain: String,
}

/// What the network gives back.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NetworkReady {
    /// The cluster's DNS server as pods reach it.
    pub dns: Option<SocketAddr>,
}

/// The service proxy and DNS of a node: started once, when the pod CIDR is known.
pub trait NodeNetwork: Send + Sync + 'static {
    /// Starts its tasks in `scope`. An error is shown in the node's Ready condition and tried again.
    fn start(
        &self,
        node: NodeAddressing,
        scope: TaskScope,
    ) -> Pin<Box<dyn Future<Output = Result<NetworkReady, String>> + Send + '_>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_libc_reads_it() {
        let text = "# a\ndomain old\nnameserver 9.9.9.9\nnameserver 1.1.1.1\nsearch lan shop\noptions edns0 ndots:2\n";
        let resolver = Resolver::parse(text);
        assert_eq!(resolver.servers, ["9.9.9.9", "1.1.1.1"]);
        assert_eq!(resolver.searches, ["lan", "shop"]);
        assert_eq!(resolver.options, ["edns0", "ndots:2"]);
    }
}
