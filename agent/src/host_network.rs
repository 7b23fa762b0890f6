//! The node's user-space network as the agent starts it: service proxy and cluster DNS of `coracle-network`.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use coracle_client::Informers;
use coracle_client::events::Recorder;
use coracle_network::{DnsConfig, Network, NetworkConfig};

use crate::config::{NetworkReady, NodeAddressing, NodeNetwork};

/// Proxies services and serves DNS in this process.
pub struct HostNetwork {
    pub informers: Informers,
    /// Tells users of ports that cannot be opened.
    pub recorder: Recorder,
    /// Where node ports are opened, beside the node's own address.
    pub node_port_addresses: Vec<IpAddr>,
}

impl NodeNetwork for HostNetwork {
    fn start(
        &self,
        node: NodeAddressing,
        scope: coracle_client::TaskScope,
    ) -> Pin<Box<dyn Future<Output = Result<NetworkReady, String>> + Send + '_>> {
        Box::pin(async move {
            let address = *node.node_ips.first().ok_or("the node has no address")?;
            let mut config = NetworkConfig::new(node.node_name, address);
            config.node_port_addresses.clone_from(&self.node_port_addresses);
            if !config.node_port_addresses.contains(&address) {
                config.node_port_addresses.push(address);
            }
            config.dns = Some(DnsConfig { domain: node.cluster_domain, ..DnsConfig::default() });
            config.recorder = Some(self.recorder.clone());
            let handle = Network::start(config, &self.informers, &scope).map_err(|error| error.to_string())?;
            Ok(NetworkReady { dns: handle.dns_address() })
        })
    }
}
