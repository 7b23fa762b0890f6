//! Loopback mode: pods, nodes and services have addresses of 127.0.0.0/8, which any process may bind without root.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

/// Where pods and nodes have their addresses; a node has a /20 of it.
pub const POD_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 42, 0, 0), 16);
/// Where services have their cluster addresses.
pub const SERVICE_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 43, 0, 0), 16);

/// The address of a node whose pods have `pod_cidr`: its first host. `None` if the network is too small for pods.
pub fn node_address(pod_cidr: Ipv4Net) -> Option<Ipv4Addr> {
    (pod_cidr.prefix_len() <= 30).then(|| Ipv4Addr::from(u32::from(pod_cidr.network()) + 1))
}

/// Whether pods of this network live on loopback addresses.
pub fn is_loopback(pod_cidr: Ipv4Net) -> bool {
    pod_cidr.network().is_loopback() && pod_cidr.broadcast().is_loopback()
}

/// Where node ports are opened in loopback mode: where a user looks for them, and where other nodes do.
pub fn node_port_addresses(node_address: Ipv4Addr) -> Vec<IpAddr> {
    vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(node_address)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_first_host_of_its_network() {
        let address = |cidr: &str| node_address(cidr.parse().unwrap()).map(|a| a.to_string()).unwrap_or_default();
        let cases = ["127.42.0.0/20", "127.42.16.7/20", "10.0.0.0/30", "10.0.0.0/31"];
        assert_eq!(cases.map(address), ["127.42.0.1", "127.42.16.1", "10.0.0.1", ""]);
        assert!(
            is_loopback(POD_NETWORK) && is_loopback(SERVICE_NETWORK) && !is_loopback("10.42.0.0/16".parse().unwrap())
        );
    }
}
