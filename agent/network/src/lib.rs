//! coracle-network: how pods reach services and names on one node.
//!
//! Owns the user-space service proxy, the cluster's DNS and the addresses of loopback mode. What should be is computed
//! by pure functions (`proxy::desired`, `proxy::diff`, `dns::lookup`); tasks only carry it out. It knows Services,
//! EndpointSlices and addresses, and neither pods nor runtimes.

pub mod dns;
pub mod loopback;
pub mod proxy;
mod socket;
#[cfg(test)]
mod testing;

use std::net::{IpAddr, SocketAddr};

use coracle_api::meta::NodeName;
use coracle_client::{Informers, TaskScope, events::Recorder};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

pub use self::{
    dns::{DnsConfig, Upstream},
    proxy::{ProxyConfig, ProxyHandle},
    socket::BindError,
};

/// What a node's network needs to know.
#[derive(Clone)]
pub struct NetworkConfig {
    pub node_name: NodeName,
    /// The node's own address; its DNS listens there.
    pub node_address: IpAddr,
    /// Where node ports are opened.
    pub node_port_addresses: Vec<IpAddr>,
    /// `None`: this node serves no DNS.
    pub dns: Option<DnsConfig>,
    pub proxy: ProxyConfig,
    /// Tells users of ports that cannot be opened.
    pub recorder: Option<Recorder>,
}

impl NetworkConfig {
    /// A node with DNS for `cluster.local` on its address, and node ports on that and on 127.0.0.1.
    pub fn new(node_name: NodeName, node_address: IpAddr) -> Self {
        let mut node_port_addresses = vec![IpAddr::from([127, 0, 0, 1])];
        if !node_port_addresses.contains(&node_address) {
            node_port_addresses.push(node_address);
        }
        Self {
            node_name,
            node_address,
            node_port_addresses,
            dns: Some(DnsConfig::default()),
            proxy: ProxyConfig::default(),
            recorder: None,
        }
    }
}

/// Why the network cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("the cluster's DNS cannot start: {0}")]
    Dns(#[source] BindError),
}

/// Starts a node's network.
#[derive(Debug)]
pub struct Network;

impl Network {
    /// Starts the proxy and the DNS in `scope`. Returns once the DNS listens; services are opened as they become known.
    pub fn start(
        config: NetworkConfig,
        informers: &Informers,
        scope: &TaskScope,
    ) -> Result<NetworkHandle, NetworkError> {
        let scope = scope.child("network");
        let services = informers.get::<Service>();
        let slices = informers.get::<EndpointSlice>();
        let dns_address = match &config.dns {
            None => None,
            Some(dns) => {
                let view = dns::View::new(services.clone(), slices.clone());
                Some(dns::start(dns, config.node_address, view, &scope).map_err(NetworkError::Dns)?)
            }
        };
        let facts = proxy::NodeFacts {
            name: config.node_name.clone(),
            node_port_addresses: config.node_port_addresses.clone(),
        };
        let proxy = proxy::start(config.proxy, facts, services, slices, config.recorder, &scope);
        Ok(NetworkHandle { dns_address, proxy })
    }
}

/// A running network. It ends with the scope it was started in.
#[derive(Debug, Clone)]
pub struct NetworkHandle {
    dns_address: Option<SocketAddr>,
    proxy: ProxyHandle,
}

impl NetworkHandle {
    /// Where the DNS listens; `None` if this node serves none.
    pub fn dns_address(&self) -> Option<SocketAddr> {
        self.dns_address
    }

    pub fn proxy(&self) -> &ProxyHandle {
        &self.proxy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeApi, own_address};
    use hickory_proto::{
        op::{Message, Query},
        rr::{Name, RData, RecordType},
    };
    use tokio::{
        io::AsyncReadExt as _,
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream, UdpSocket},
    };

    #[tokio::test]
    async fn a_name_leads_to_an_endpoint() {
        let endpoint = TcpListener::bind((own_address(), 0)).await.unwrap();
        let (target, service) = (endpoint.local_addr().unwrap(), own_address());
        let world = format!(
            "service a/web ip={service} port=8080/TCP\nslice a/web port={}/TCP ep={}",
            target.port(),
            target.ip()
        );
        let (api, scope) = (FakeApi::new(&world), TaskScope::root());
        let informers = api.informers(&scope);
        let mut config = NetworkConfig::new("n1".into(), own_address().into());
        config.dns = Some(DnsConfig { ports: vec![0], upstream: Upstream::Nobody, ..DnsConfig::default() });
        let network = Network::start(config, &informers, &scope).unwrap();
        network.proxy().wait_for(|status| status.listeners.len() == 1).await.unwrap();

        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii("web.a.svc.cluster.local.").unwrap(), RecordType::A));
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&query.to_vec().unwrap(), network.dns_address().unwrap()).await.unwrap();
        let mut reply = [0; 512];
        let length = socket.recv(&mut reply).await.unwrap();
        let RData::A(address) = Message::from_vec(&reply[..length]).unwrap().answers[0].data else {
            panic!("an address")
        };

        let mut client = TcpStream::connect((address.0, 8080)).await.unwrap();
        let (mut server, _) = endpoint.accept().await.unwrap();
        server.write_all(b"hello").await.unwrap();
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        scope.shutdown().await;
        assert!(scope.tasks().is_empty());
    }
}
