//! What the network looks like from within a pod: its own address, and names as its cluster resolves them.
//!
//! A pod has no network namespace of its own here. Its address is an address of the host, so binds to "any address" and
//! to loopback are turned into binds to the pod's, and what a guest reaches on 127.0.0.1 is its own pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use hickory_proto::rr::Name;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use wasmtime_wasi::sockets::SocketAddrUse;

use crate::wire::NetSpec;

pub(super) struct PodNet {
    spec: NetSpec,
    /// Made at the first look-up: most pods never make one.
    resolver: OnceLock<TokioResolver>,
}

/// With dots, and one more at the end.
pub(super) const NAME_BYTES: usize = 254;

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NameError {
    #[error("not a name")]
    Invalid,
    #[error("no such name")]
    NotFound,
    #[error("no answer from the cluster's DNS")]
    Unanswered,
}

impl PodNet {
    pub(super) fn new(spec: NetSpec) -> PodNet {
        PodNet { spec, resolver: OnceLock::new() }
    }

    /// Where a bind to `wanted` goes.
    pub(super) fn bind_address(&self, wanted: SocketAddr) -> SocketAddr {
        match self.spec.ip {
            Some(ip) if is_local(wanted.ip(), ip) && ip.is_ipv4() == wanted.is_ipv4() => {
                SocketAddr::new(ip, wanted.port())
            }
            Some(_) | None => wanted,
        }
    }

    /// The same for datagrams: a socket on any port that sends stays where the system puts it if the pod has a loopback
    /// address, from which nothing outside can be reached.
    pub(super) fn datagram_bind_address(&self, wanted: SocketAddr) -> SocketAddr {
        match self.spec.ip {
            Some(ip) if ip.is_loopback() && wanted.ip().is_unspecified() && wanted.port() == 0 => wanted,
            Some(_) | None => self.bind_address(wanted),
        }
    }

    /// Where a connection to `wanted` goes: what is loopback, or no address at all, is the pod itself. The host's own
    /// loopback, on which its services trust whoever calls, is never reached.
    pub(super) fn remote_address(&self, wanted: SocketAddr) -> SocketAddr {
        let canonical = SocketAddr::new(wanted.ip().to_canonical(), wanted.port());
        let wanted = if canonical.is_ipv4() == wanted.is_ipv4() { wanted } else { canonical };
        match self.spec.ip {
            Some(ip) if is_local(wanted.ip(), ip) && ip.is_ipv4() == wanted.is_ipv4() => {
                SocketAddr::new(ip, wanted.port())
            }
            Some(_) | None => wanted,
        }
    }

    /// What a socket that listens is bound to if it is bound to nothing.
    pub(super) fn any_port(&self) -> Option<SocketAddr> {
        self.spec.ip.map(|ip| SocketAddr::new(ip, 0))
    }

    /// Whether something may be sent to `remote`, after the above: a pod speaks from its own address, so only with
    /// addresses of the same family; and not with the host's loopback.
    fn reaches(&self, remote: IpAddr) -> bool {
        match self.spec.ip {
            Some(ip) if ip.is_loopback() => ip.is_ipv4() == remote.is_ipv4() || !is_local(remote, ip),
            Some(ip) => ip.is_ipv4() == remote.is_ipv4() && !remote.is_loopback(),
            None => true,
        }
    }

    /// The address a connection to `remote` comes from, so that the other side sees the pod. None where the system must
    /// choose: from a loopback address nothing outside can be reached.
    pub(super) fn source_for(&self, remote: SocketAddr) -> Option<SocketAddr> {
        let ip = self.spec.ip?;
        let fits = ip.is_ipv4() == remote.is_ipv4() && ip.is_loopback() == remote.ip().is_loopback();
        fits.then(|| SocketAddr::new(ip, 0))
    }

    /// The last word on an address, after the above.
    pub(super) fn allows(&self, address: SocketAddr, what: SocketAddrUse) -> bool {
        match (self.spec.ip, what) {
            (Some(ip), SocketAddrUse::TcpListen) => address.ip() == ip,
            (Some(ip), SocketAddrUse::TcpBind | SocketAddrUse::UdpBind) => {
                // "Any address, any port" is asked about before the system chooses by itself, which it must for a pod
                // with a loopback address that sends to the outside.
                address.ip() == ip || (ip.is_loopback() && address.ip().is_unspecified() && address.port() == 0)
            }
            (Some(_), SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend) => self.reaches(address.ip()),
            (Some(_), SocketAddrUse::TcpAccept | SocketAddrUse::UdpReceive)
            | (
                None,
                SocketAddrUse::TcpBind
                | SocketAddrUse::TcpListen
                | SocketAddrUse::UdpBind
                | SocketAddrUse::TcpAccept
                | SocketAddrUse::TcpConnect
                | SocketAddrUse::UdpSend
                | SocketAddrUse::UdpReceive,
            ) => true,
        }
    }

    /// Asks the cluster's DNS.
    pub(super) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NameError> {
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(vec![ip]);
        }
        // What a file of hosts says elsewhere; here it comes to the pod itself.
        if name.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
            return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        }
        let name = Name::from_str(name).map_err(|_| NameError::Invalid)?;
        if self.spec.dns_servers.is_empty() {
            return Err(NameError::Unanswered);
        }
        let resolver = match self.resolver.get() {
            Some(resolver) => resolver,
            None => {
                let made = self.make_resolver().map_err(|_| NameError::Unanswered)?;
                self.resolver.get_or_init(|| made)
            }
        };
        match resolver.lookup_ip(name).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => Err(NameError::NotFound),
            Err(error) => {
                tracing::debug!(%error, "look-up failed");
                Err(NameError::Unanswered)
            }
        }
    }

    fn make_resolver(&self) -> Result<TokioResolver, hickory_resolver::net::NetError> {
        let servers = self.spec.dns_servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let searches = self.spec.dns_searches.iter().filter_map(|search| Name::from_str(search).ok()).collect();
        let config = ResolverConfig::from_parts(None, searches, servers.collect());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options: &mut ResolverOpts = builder.options_mut();
        options.ndots = self.spec.dns_ndots;
        options.timeout = Duration::from_secs(2);
        options.attempts = 2;
        options.cache_size = 64;
        options.use_hosts_file = ResolveHosts::Never;
        builder.build()
    }
}

/// "Any address", or a loopback one that is not a pod's: where pods have such addresses, only the usual one is not.
fn is_local(ip: IpAddr, pod: IpAddr) -> bool {
    let usual = ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
    ip.is_unspecified() || usual || (ip.is_loopback() && !pod.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ip: &str) -> PodNet {
        PodNet::new(NetSpec { ip: Some(ip.parse().expect("an address")), ..NetSpec::default() })
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn binds_go_to_the_pods_address() {
        for ip in ["127.42.0.7", "10.42.0.7"] {
            let net = pod(ip);
            for wanted in ["0.0.0.0:80", "127.0.0.1:80", "0.0.0.0:0"] {
                let bound = net.bind_address(at(wanted));
                assert_eq!(bound.to_string(), wanted.replace("0.0.0.0", ip).replace("127.0.0.1", ip));
                assert!(net.allows(bound, SocketAddrUse::TcpBind) && net.allows(bound, SocketAddrUse::TcpListen));
            }
        }
        assert_eq!(pod("127.42.0.7").datagram_bind_address(at("0.0.0.0:0")).to_string(), "0.0.0.0:0");
        assert_eq!(pod("10.42.0.7").datagram_bind_address(at("0.0.0.0:0")).to_string(), "10.42.0.7:0");
    }

    #[test]
    fn nothing_listens_on_all_addresses_of_the_host() {
        for ip in ["127.42.0.7", "10.42.0.7"] {
            for any in ["0.0.0.0:0", "0.0.0.0:80", "[::]:0"] {
                assert!(!pod(ip).allows(at(any), SocketAddrUse::TcpListen), "{ip} {any}");
            }
        }
        assert!(!pod("10.42.0.7").allows(at("0.0.0.0:0"), SocketAddrUse::UdpBind));
        assert!(!pod("10.42.0.7").allows(at("[::]:0"), SocketAddrUse::UdpBind));
    }

    #[test]
    fn the_hosts_loopback_is_out_of_reach() {
        for ip in ["127.42.0.7", "10.42.0.7"] {
            let net = pod(ip);
            for own in ["127.0.0.1:6443", "0.0.0.0:6443", "[::ffff:127.0.0.1]:6443", "[::ffff:0.0.0.0]:6443"] {
                assert_eq!(net.remote_address(at(own)).to_string(), format!("{ip}:6443"), "{own}");
            }
            for hosts in ["[::1]:6443", "[::]:6443"] {
                let remote = net.remote_address(at(hosts));
                assert!(!net.allows(remote, SocketAddrUse::TcpConnect), "{ip} {hosts}");
                assert!(!net.allows(remote, SocketAddrUse::UdpSend), "{ip} {hosts}");
            }
            assert!(net.allows(at("93.184.216.34:443"), SocketAddrUse::TcpConnect));
        }
        let net = pod("10.42.0.7");
        assert_eq!(net.remote_address(at("127.0.0.53:53")).to_string(), "10.42.0.7:53");
        assert!(!net.allows(at("[2001:db8::1]:443"), SocketAddrUse::TcpConnect), "it would not come from the pod");
    }

    #[test]
    fn no_pod_binds_anothers_address() {
        let net = pod("127.42.0.7");
        for other in ["127.42.0.8:80", "192.168.0.1:80", "[::]:80"] {
            let bound = net.bind_address(at(other));
            assert!(!net.allows(bound, SocketAddrUse::TcpBind), "{other}");
        }
    }

    #[test]
    fn loopback_is_the_pod_itself() {
        assert_eq!(pod("10.42.0.7").remote_address(at("127.0.0.1:6443")).to_string(), "10.42.0.7:6443");
        assert_eq!(pod("127.42.0.7").remote_address(at("127.43.0.1:443")).to_string(), "127.43.0.1:443");
    }

    #[test]
    fn connections_come_from_the_pod_where_that_is_possible() {
        assert_eq!(pod("127.42.0.7").source_for(at("127.43.0.1:443")), Some(at("127.42.0.7:0")));
        assert_eq!(pod("127.42.0.7").source_for(at("93.184.216.34:443")), None);
        assert_eq!(pod("10.42.0.7").source_for(at("93.184.216.34:443")), Some(at("10.42.0.7:0")));
    }
}
