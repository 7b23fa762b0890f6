//! Ports that pods have on the node's own addresses (`hostPort`): listens there, and carries connections and datagrams to
//! the pod. What was open is opened again from the sandboxes' records when a front follows another.
//!
//! Listens on each of the node's addresses by itself: "all addresses" would take the port from the pods too, whose
//! addresses are the node's as far as the kernel knows.

mod carry;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use coracle_cri::v1::{NamespaceMode, PodSandboxConfig, PortMapping, Protocol};
use ipnet::Ipv4Net;
use parking_lot::Mutex;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One port, as a pod asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    transport: Transport,
    /// None: all of the node's.
    address: Option<IpAddr>,
    port: u16,
    container_port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

/// Why a port cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoPort {
    #[error("hostPort {0}: {1} is in use by another pod or process: stop that, or choose another hostPort")]
    Taken(u16, SocketAddr),
    #[error("hostPort {0}: cannot listen on {1}: {2}")]
    Io(u16, SocketAddr, #[source] io::Error),
}

/// A socket on one of the node's addresses, and the pod's port that it stands for.
#[derive(Debug)]
pub(super) struct Opened {
    socket: Socket,
    container_port: u16,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// In the host's network a pod has all ports itself.
pub(super) fn in_host_network(config: &PodSandboxConfig) -> bool {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = context.and_then(|context| context.namespace_options.as_ref());
    options.is_some_and(|options| options.network() == NamespaceMode::Node)
}

/// The ports a pod asks for. Mappings without a host port only say what containers listen on.
pub(super) fn wanted(config: &PodSandboxConfig) -> Result<Vec<HostPort>, String> {
    if in_host_network(config) {
        return Ok(Vec::new());
    }
    config.port_mappings.iter().filter(|mapping| mapping.host_port != 0).map(host_port).collect()
}

fn host_port(mapping: &PortMapping) -> Result<HostPort, String> {
    let number = |what: &str, port: i32| {
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        port.ok_or_else(|| format!("{what} of hostPort {}: must be between 1 and 65535", mapping.host_port))
    };
    let transport = match mapping.protocol() {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => {
            return Err(format!("hostPort {}: SCTP is not carried to Wasm pods, only TCP and UDP", mapping.host_port));
        }
    };
    let address = match mapping.host_ip.as_str() {
        "" => None,
        text => {
            let address: IpAddr = text
                .parse()
                .map_err(|_| format!("hostIP {text:?} of hostPort {}: not an address", mapping.host_port))?;
            Some(address).filter(|address| !address.is_unspecified())
        }
    };
    let container_port = number("containerPort", mapping.container_port)?;
    Ok(HostPort { transport, address, port: number("number", mapping.host_port)?, container_port })
}

/// All of them or none. `pods` is where pods have their addresses. To be called within a tokio runtime.
pub(super) fn open(wanted: &[HostPort], pods: Option<Ipv4Net>) -> Result<Vec<Opened>, NoPort> {
    let everywhere = if wanted.iter().any(|port| port.address.is_none()) { node_addresses(pods) } else { Vec::new() };
    let mut opened = Vec::new();
    for port in wanted {
        let addresses = port.address.as_ref().map_or(everywhere.as_slice(), std::slice::from_ref);
        for address in addresses {
            let at = SocketAddr::new(*address, port.port);
            match listen(port.transport, at) {
                Ok(socket) => opened.push(Opened { socket, container_port: port.container_port }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(NoPort::Taken(port.port, at)),
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && port.address.is_none() => {}
                Err(error) => return Err(NoPort::Io(port.port, at, error)),
            }
        }
    }
    Ok(opened)
}

fn listen(transport: Transport, at: SocketAddr) -> io::Result<Socket> {
    match transport {
        Transport::Tcp => {
            let listener = std::net::TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener).map(Socket::Tcp)
        }
        Transport::Udp => {
            let socket = std::net::UdpSocket::bind(at)?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket).map(Socket::Udp)
        }
    }
}

/// As the kernel lists them now, without those of pods.
fn node_addresses(pods: Option<Ipv4Net>) -> Vec<IpAddr> {
    let read = |path: &str| {
        // Without the newer protocol its file is not there.
        fs::read_to_string(path).unwrap_or_default()
    };
    let four = listed_v4(&read("/proc/net/fib_trie"));
    let four = four.into_iter().filter(|address| !pods.is_some_and(|pods| pods.contains(address))).map(IpAddr::V4);
    let six = listed_v6(&read("/proc/net/if_inet6"));
    let all: Vec<IpAddr> = four.chain(six.into_iter().map(IpAddr::V6)).collect();
    if all.is_empty() { vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)] } else { all }
}

/// Leaves of the routing table that are this host's own addresses, each of them followed by what it is.
fn listed_v4(trie: &str) -> BTreeSet<Ipv4Addr> {
    let mut found = BTreeSet::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in trie.lines().map(str::trim) {
        match line.strip_prefix("|-- ") {
            Some(address) => leaf = address.parse().ok(),
            None if line == "/32 host LOCAL" => found.extend(leaf),
            None => {}
        }
    }
    found
}

/// Addresses of a link alone are left out: they mean nothing without the link.
fn listed_v6(table: &str) -> BTreeSet<Ipv6Addr> {
    let first = |line: &str| line.split(' ').next().and_then(|word| u128::from_str_radix(word, 16).ok());
    let all = table.lines().filter_map(first).map(Ipv6Addr::from_bits);
    all.filter(|address| !address.is_unicast_link_local()).collect()
}

/// What is open now, by sandbox.
#[derive(Debug, Default)]
pub(super) struct HostPorts(Mutex<HashMap<String, Forwarding>>);

#[derive(Debug)]
struct Forwarding {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl HostPorts {
    /// Carries what comes to `pod` until the sandbox's ports are ended, or the front is.
    pub(super) fn begin(
        &self,
        sandbox: &str,
        opened: Vec<Opened>,
        pod: Ipv4Addr,
        node: Option<Ipv4Addr>,
        stop: &CancellationToken,
    ) {
        if opened.is_empty() {
            return;
        }
        let forwarding = Forwarding { stop: stop.child_token(), tasks: TaskTracker::new() };
        for Opened { socket, container_port } in opened {
            let to = SocketAddr::new(IpAddr::V4(pod), container_port);
            let (stop, tasks) = (forwarding.stop.clone(), forwarding.tasks.clone());
            match socket {
                Socket::Tcp(listener) => drop(forwarding.tasks.spawn(carry::connections(listener, to, stop, tasks))),
                Socket::Udp(socket) => {
                    // A pod takes 127.0.0.1 for itself and could not answer it.
                    let from = node.filter(|_| pod.is_loopback()).unwrap_or(Ipv4Addr::UNSPECIFIED);
                    drop(forwarding.tasks.spawn(carry::datagrams(socket, to, from, stop, tasks)));
                }
            }
        }
        self.0.lock().insert(sandbox.to_owned(), forwarding);
    }

    /// When this returns, others can have the ports.
    pub(super) async fn end(&self, sandbox: &str) {
        let Some(forwarding) = self.0.lock().remove(sandbox) else { return };
        forwarding.stop.cancel();
        forwarding.tasks.close();
        forwarding.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_told_from_networks() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.0.0.9\n        /32 \
                    link UNICAST\nLocal:\n     |-- 127.0.0.0\n        /8 host LOCAL\n     |-- 127.0.0.1\n        /32 host \
                    LOCAL\n     |-- 127.255.255.255\n        /32 link BROADCAST\n     |-- 192.0.2.7\n        /32 host LOCAL\n";
        let found: Vec<String> = listed_v4(trie).iter().map(Ipv4Addr::to_string).collect();
        assert_eq!(found, ["127.0.0.1", "192.0.2.7"]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     20010db8000000000000000000000007 02 40 00 80     eth0\n\
                     fe80000000000000000000fffe000001 02 40 20 80     eth0\n";
        let found: Vec<String> = listed_v6(table).iter().map(Ipv6Addr::to_string).collect();
        assert_eq!(found, ["::1", "2001:db8::7"]);
    }

    #[test]
    fn what_cannot_be_is_said_so() {
        let ask = |protocol: Protocol, host_port, container_port, host_ip: &str| {
            let mapping =
                PortMapping { protocol: protocol.into(), host_port, container_port, host_ip: host_ip.to_owned() };
            let config = PodSandboxConfig { port_mappings: vec![mapping], ..PodSandboxConfig::default() };
            wanted(&config).map(|ports| ports.len())
        };
        assert_eq!(ask(Protocol::Tcp, 0, 80, ""), Ok(0), "it is not on the node");
        assert_eq!(ask(Protocol::Udp, 8080, 80, "::"), Ok(1));
        let refused = [
            ask(Protocol::Sctp, 8080, 80, ""),
            ask(Protocol::Tcp, 8080, 0, ""),
            ask(Protocol::Tcp, 70000, 80, ""),
            ask(Protocol::Tcp, 8080, 80, "here"),
        ]
        .map(|refused| refused.expect_err("it cannot be"));
        expect_test::expect![[r#"
            hostPort 8080: SCTP is not carried to Wasm pods, only TCP and UDP
            containerPort of hostPort 8080: must be between 1 and 65535
            number of hostPort 70000: must be between 1 and 65535
            hostIP "here" of hostPort 8080: not an address"#]]
        .assert_eq(&refused.join("\n"));
    }
}
