//! Opening listening sockets, and saying what is in the way when that fails.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The protocols that are proxied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As Kubernetes spells it; none is TCP. `None` for what is not proxied here (SCTP).
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Why a port cannot be listened on, with what is in the way and what helps.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{address}/{protocol} is in use by {holder}; stop that, or choose another port")]
    InUse { address: SocketAddr, protocol: Protocol, holder: String },
    #[error(
        "{address}/{protocol} may not be opened by this user, whose ports begin at {first}; allow it with `sysctl -w \
         net.ipv4.ip_unprivileged_port_start={}` or give the binary the capability CAP_NET_BIND_SERVICE",
        address.port()
    )]
    NotPermitted { address: SocketAddr, protocol: Protocol, first: String },
    #[error("{} is no address of this host; check the node's address and its pod network", address.ip())]
    NoSuchAddress { address: SocketAddr, protocol: Protocol },
    #[error("{address}/{protocol} cannot be opened: {source}")]
    Other {
        address: SocketAddr,
        protocol: Protocol,
        #[source]
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, protocol: Protocol, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::AddrInUse => {
                let holder = holder(address, protocol).unwrap_or_else(|| "another process".to_owned());
                Self::InUse { address, protocol, holder }
            }
            ErrorKind::PermissionDenied => {
                let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
                let first = start.map_or_else(|_| "1024".to_owned(), |text| text.trim().to_owned());
                Self::NotPermitted { address, protocol, first }
            }
            ErrorKind::AddrNotAvailable => Self::NoSuchAddress { address, protocol },
            _ => Self::Other { address, protocol, source },
        }
    }
}

/// Listens on TCP. With `share`, other sockets of this user may listen on the same address: the kernel gives each its
/// part of the connections, so that several agents on one host serve the same services.
pub(crate) fn listen_tcp(address: SocketAddr, share: bool) -> Result<tokio::net::TcpListener, BindError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(SocketProtocol::TCP))?;
        prepare(&socket, address, share)?;
        socket.listen(BACKLOG)?;
        tokio::net::TcpListener::from_std(socket.into())
    };
    open().map_err(|source| BindError::new(address, Protocol::Tcp, source))
}

/// Listens on UDP; see [`listen_tcp`].
pub(crate) fn listen_udp(address: SocketAddr, share: bool) -> Result<tokio::net::UdpSocket, BindError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(SocketProtocol::UDP))?;
        prepare(&socket, address, share)?;
        tokio::net::UdpSocket::from_std(socket.into())
    };
    open().map_err(|source| BindError::new(address, Protocol::Udp, source))
}

fn prepare(socket: &Socket, address: SocketAddr, share: bool) -> io::Result<()> {
    // On UDP, SO_REUSEADDR would let a stranger take the port.
    if socket.r#type()? == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    if share {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}

/// The process that holds a port, as far as this user may see: `nginx (process 123)`.
fn holder(address: SocketAddr, protocol: Protocol) -> Option<String> {
    let (table, listening) = match (protocol, address.is_ipv4()) {
        (Protocol::Tcp, true) => ("/proc/net/tcp", Some("0A")),
        (Protocol::Tcp, false) => ("/proc/net/tcp6", Some("0A")),
        (Protocol::Udp, true) => ("/proc/net/udp", None),
        (Protocol::Udp, false) => ("/proc/net/udp6", None),
    };
    let inode = find_inode(&fs::read_to_string(table).ok()?, address, listening)?;
    let link = format!("socket:[{inode}]");
    let has_socket = |process: &Path| {
        let descriptors = fs::read_dir(process.join("fd")).ok()?;
        let found = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str().as_bytes() == link.as_bytes())
        });
        found.then_some(())
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        has_socket(&entry.path())?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some(format!("{} (process {id})", name.trim()))
    })
}

/// The inode of the socket that listens on `address`, or on its port on all addresses, in a table of /proc/net.
fn find_inode(table: &str, address: SocketAddr, state: Option<&str>) -> Option<String> {
    let hex = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => format!("{:08X}", u32::from_ne_bytes(ip.octets())),
        IpAddr::V6(ip) => {
            let word = |bytes: &[u8]| format!("{:08X}", u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
            ip.octets().chunks(4).map(word).collect()
        }
    };
    let any = hex(if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) });
    let wanted = [hex(address.ip()), any].map(|ip| format!("{ip}:{:04X}", address.port()));
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, found, inode) = (*fields.get(1)?, *fields.get(3)?, *fields.get(9)?);
        (wanted.iter().any(|w| w == local) && state.is_none_or(|state| state == found)).then(|| inode.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[tokio::test]
    async fn errors_name_the_port_and_what_is_in_the_way() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let error = listen_tcp(address, true).unwrap_err().to_string();
        let id = std::process::id();
        assert!(error.starts_with(&format!("{address}/TCP is in use by ")), "{error}");
        assert!(error.ends_with(&format!("(process {id}); stop that, or choose another port")), "{error}");
        let held = UdpSocket::bind("0.0.0.0:0").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], held.local_addr().unwrap().port()));
        let error = listen_udp(address, true).unwrap_err().to_string();
        assert!(error.contains(&format!("{address}/UDP is in use by ")) && error.contains(&id.to_string()), "{error}");
        let error = listen_tcp("192.0.2.1:80".parse().unwrap(), true).unwrap_err().to_string();
        assert_eq!(error, "192.0.2.1 is no address of this host; check the node's address and its pod network");
        let denied =
            BindError::new("127.43.0.1:443".parse().unwrap(), Protocol::Tcp, ErrorKind::PermissionDenied.into());
        assert!(denied.to_string().contains("net.ipv4.ip_unprivileged_port_start=443"), "{denied}");
    }

    #[tokio::test]
    async fn sockets_of_one_user_share_an_address() {
        let one = listen_tcp("127.0.0.1:0".parse().unwrap(), true).unwrap();
        listen_tcp(one.local_addr().unwrap(), true).unwrap();
        assert!(matches!(listen_tcp(one.local_addr().unwrap(), false), Err(BindError::InUse { .. })));
        let one = listen_udp("127.0.0.1:0".parse().unwrap(), true).unwrap();
        listen_udp(one.local_addr().unwrap(), true).unwrap();
    }
}
