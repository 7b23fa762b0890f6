//! The cluster's DNS on one node: names of services and pods straight from the informers, the rest from the host's
//! resolvers.
//!
//! What is known locally is answered in the receiving task itself; only forwarded questions cost a task. It must not know
//! who asks.

mod answer;
mod forward;
mod lookup;
mod view;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use coracle_client::{OnExit, TaskScope};
use hickory_proto::{op::ResponseCode, rr::Name};
use ipnet::IpNet;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{
    answer::{Reply, Step, answer},
    forward::Forwarder,
};
pub use self::{
    forward::Upstream,
    lookup::{Answer, Records, TTL, Zone, lookup},
    view::View,
};
use crate::{
    loopback::{POD_NETWORK, SERVICE_NETWORK},
    socket::{BindError, listen_tcp, listen_udp},
};

/// Questions that wait for the host's resolvers; more are answered with SERVFAIL at once.
const MAX_FORWARDED: usize = 256;
const MAX_CONNECTIONS: usize = 128;
/// A TCP connection without a question ends after this time.
const IDLE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// What the DNS serves and where.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// `cluster.local`
    pub domain: String,
    /// Tried in turn until one may be opened.
    pub ports: Vec<u16>,
    pub upstream: Upstream,
    /// The networks of pods and services.
    pub networks: Vec<IpNet>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            domain: "cluster.local".to_owned(),
            // The last is any free one: two clusters on one host share the range of addresses.
            ports: vec![53, 1053, 0],
            upstream: Upstream::File(PathBuf::from("/etc/resolv.conf")),
            networks: vec![POD_NETWORK.into(), SERVICE_NETWORK.into()],
        }
    }
}

struct Dns {
    zone: Zone,
    view: View,
    forwarder: Forwarder,
    turn: AtomicUsize,
}

/// Starts the DNS on `address` and says with which port.
pub fn start(config: &DnsConfig, address: IpAddr, view: View, scope: &TaskScope) -> Result<SocketAddr, BindError> {
    let (udp, tcp, bound) = bind(address, &config.ports)?;
    let mut domain = Name::from_ascii(&config.domain)
        .map_err(|error| BindError::Other {
            address: bound,
            protocol: crate::socket::Protocol::Udp,
            source: io::Error::new(io::ErrorKind::InvalidInput, format!("the domain {:?}: {error}", config.domain)),
        })?
        .to_lowercase();
    domain.set_fqdn(true);
    info!(address = %bound, domain = config.domain, "the cluster's DNS is listening");
    let dns = Arc::new(Dns {
        zone: Zone { domain, networks: config.networks.clone(), address },
        view,
        forwarder: Forwarder::new(config.upstream.clone(), address),
        turn: AtomicUsize::new(0),
    });
    let (udp, tcp) = (Arc::new(udp), Arc::new(tcp));
    let scope = scope.child("dns");
    let shared = dns.clone();
    scope.spawn("udp", OnExit::restart(), move |cancel| serve_udp(shared.clone(), udp.clone(), cancel));
    scope.spawn("tcp", OnExit::restart(), move |cancel| serve_tcp(dns.clone(), tcp.clone(), cancel));
    Ok(bound)
}

fn bind(address: IpAddr, ports: &[u16]) -> Result<(UdpSocket, TcpListener, SocketAddr), BindError> {
    let both = |port| {
        let udp = listen_udp(SocketAddr::new(address, port), false)?;
        // Port 0 is any; TCP takes the one that UDP got.
        let bound = udp.local_addr().unwrap_or(SocketAddr::new(address, port));
        Ok((udp, listen_tcp(bound, false)?, bound))
    };
    let mut ports = ports.iter().copied();
    let mut result = both(ports.next().unwrap_or(53));
    for next in ports {
        match &result {
            Err(error @ (BindError::NotPermitted { .. } | BindError::InUse { .. })) => {
                warn!(%error, next, "the cluster's DNS cannot have this port and takes the next");
                result = both(next);
            }
            Ok(_) | Err(BindError::NoSuchAddress { .. } | BindError::Other { .. }) => break,
        }
    }
    result
}

impl Dns {
    fn answer(&self, query: &[u8]) -> Step {
        answer(&self.zone, self.view.is_complete().then_some(&self.view), &self.turn, query)
    }
}

async fn serve_udp(dns: Arc<Dns>, socket: Arc<UdpSocket>, cancel: CancellationToken) {
    let mut forwarded = JoinSet::new();
    let mut query = vec![0; 4096];
    loop {
        let received = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            Some(ended) = forwarded.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a forwarded question's task failed");
                }
                continue;
            }
            received = socket.recv_from(&mut query) => received,
        };
        let (length, client) = match received {
            Ok(received) => received,
            Err(error) => {
                // A client that is gone already may be reported here; anything lasting must not spin.
                debug!(%error, "a question could not be received");
                sleep(PAUSE).await;
                continue;
            }
        };
        match dns.answer(&query[..length]) {
            Step::Silence => {}
            Step::Reply(reply) => send(&socket, client, &reply).await,
            Step::Forward { mut reply, .. } if forwarded.len() >= MAX_FORWARDED => {
                reply.refuse(ResponseCode::ServFail);
                send(&socket, client, &reply).await;
            }
            Step::Forward { name, kind, mut reply } => {
                let (dns, socket) = (dns.clone(), socket.clone());
                forwarded.spawn(async move {
                    reply.complete(dns.forwarder.ask(&name, kind).await);
                    send(&socket, client, &reply).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, client: SocketAddr, reply: &Reply) {
    if let Some(bytes) = reply.bytes(true)
        && let Err(error) = socket.send_to(&bytes, client).await
    {
        debug!(%client, %error, "a reply could not be sent");
    }
}

async fn serve_tcp(dns: Arc<Dns>, listener: Arc<TcpListener>, cancel: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < MAX_CONNECTIONS;
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            Some(ended) = connections.join_next() => if let Err(error) = ended {
                warn!(%error, "a connection's task failed");
            },
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, _)) => drop(connections.spawn(converse(dns.clone(), stream))),
                Err(error) => {
                    debug!(%error, "a connection could not be accepted");
                    sleep(PAUSE).await;
                }
            },
        }
    }
}

/// One question after another, until the client ends or falls silent.
async fn converse(dns: Arc<Dns>, mut stream: TcpStream) {
    while let Ok(Ok(query)) = timeout(IDLE, read(&mut stream)).await {
        let reply = match dns.answer(&query) {
            Step::Silence => return,
            Step::Reply(reply) => reply,
            Step::Forward { name, kind, mut reply } => {
                reply.complete(dns.forwarder.ask(&name, kind).await);
                reply
            }
        };
        let Some(bytes) = reply.bytes(false) else { return };
        let Ok(length) = u16::try_from(bytes.len()) else { return };
        let framed = [&length.to_be_bytes(), &bytes[..]].concat();
        if !matches!(timeout(IDLE, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut query = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut query).await?;
    Ok(query)
}

#[cfg(test)]
mod tests;
