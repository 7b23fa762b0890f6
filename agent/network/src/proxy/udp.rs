//! Forwarding UDP: each client address is a flow with a socket of its own towards one endpoint.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    net::UdpSocket,
    sync::Notify,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Listener, ProxyConfig, balance::Balancer};

/// Datagrams of one listener that are forwarded in one go.
const AT_ONCE: usize = 64;

/// A buffer for one datagram, shared by everything that forwards: it is held for one system call at a time.
pub(super) type Datagram = Arc<Mutex<Box<[u8]>>>;

pub(super) fn datagram() -> Datagram {
    Arc::new(Mutex::new(vec![0; 64 << 10].into()))
}

pub(super) struct Udp {
    pub(super) listener: Listener,
    pub(super) socket: UdpSocket,
    pub(super) closed: CancellationToken,
    /// Endpoints changed: flows to those that are gone end.
    pub(super) changed: Notify,
    pub(super) balancer: Arc<Balancer>,
    pub(super) config: ProxyConfig,
    pub(super) datagram: Datagram,
}

struct Flow {
    endpoint: SocketAddr,
    socket: Arc<UdpSocket>,
    activity: Arc<Mutex<Activity>>,
    task: AbortHandle,
}

struct Activity {
    last: Instant,
    replied: bool,
    /// The client sent again after a reply: this is a conversation, which may pause for longer.
    lasting: bool,
}

impl Activity {
    fn deadline(&self, config: &ProxyConfig) -> Instant {
        self.last + if self.lasting { config.udp_idle_lasting } else { config.udp_idle }
    }
}

/// Forwards until closed or cancelled; then every flow ends.
pub(super) async fn run(udp: Arc<Udp>, cancel: CancellationToken) {
    let mut flows: BTreeMap<SocketAddr, Flow> = BTreeMap::new();
    let mut tasks: JoinSet<SocketAddr> = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = udp.closed.cancelled() => return,
            () = udp.changed.notified() => flows.retain(|_, flow| {
                let stays = udp.balancer.has(flow.endpoint);
                if !stays {
                    flow.task.abort();
                }
                stays
            }),
            Some(ended) = tasks.join_next() => if let Ok(client) = ended
                // The client may have begun another flow by now.
                && flows.get(&client).is_some_and(|flow| flow.task.is_finished())
            {
                flows.remove(&client);
            },
            ready = udp.socket.readable() => {
                if ready.is_ok() {
                    receive(&udp, &mut flows, &mut tasks);
                }
            }
        }
    }
}

/// Takes the datagrams that wait, but no more at once than lets others have their turn.
fn receive(udp: &Arc<Udp>, flows: &mut BTreeMap<SocketAddr, Flow>, tasks: &mut JoinSet<SocketAddr>) {
    for _ in 0..AT_ONCE {
        let mut datagram = udp.datagram.lock();
        let (length, client) = match udp.socket.try_recv_from(&mut datagram) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                debug!(listener = %udp.listener, %error, "a datagram could not be received");
                continue;
            }
        };
        if flows.get(&client).is_none_or(|flow| flow.task.is_finished()) {
            if flows.len() >= udp.config.max_udp_flows {
                forget_oldest(udp, flows);
            }
            match open(udp, client, tasks) {
                Ok(Some(flow)) => drop(flows.insert(client, flow)),
                Ok(None) => continue,
                Err(error) => {
                    warn!(listener = %udp.listener, %error, "no socket for another flow, its datagram is dropped");
                    continue;
                }
            }
        }
        let flow = &flows[&client];
        {
            let mut activity = flow.activity.lock();
            activity.last = Instant::now();
            activity.lasting |= activity.replied;
        }
        // A full send buffer drops the datagram, as a router would; a refusal ends the flow in its own task too.
        // Sent at once, past tokio: a new socket would not be known to be writable yet.
        if let Err(error) = SockRef::from(&*flow.socket).send(&datagram[..length])
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            udp.balancer.refused(client.ip(), flow.endpoint);
            flow.task.abort();
            flows.remove(&client);
        }
    }
}

fn forget_oldest(udp: &Udp, flows: &mut BTreeMap<SocketAddr, Flow>) {
    let oldest = flows.iter().min_by_key(|(_, flow)| flow.activity.lock().last).map(|(client, _)| *client);
    if let Some(flow) = oldest.and_then(|client| flows.remove(&client)) {
        debug!(listener = %udp.listener, max = udp.config.max_udp_flows, "the flow that was idle longest gives way");
        flow.task.abort();
    }
}

fn open(udp: &Arc<Udp>, client: SocketAddr, tasks: &mut JoinSet<SocketAddr>) -> io::Result<Option<Flow>> {
    let now = Instant::now();
    let Some(endpoint) = udp.balancer.candidates(client.ip(), now).first().copied() else {
        return Ok(None);
    };
    let any = if endpoint.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(endpoint)?;
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    udp.balancer.connected(client.ip(), endpoint, now);
    let activity = Arc::new(Mutex::new(Activity { last: now, replied: false, lasting: false }));
    let task = tasks.spawn(replies(udp.clone(), client, endpoint, socket.clone(), activity.clone()));
    Ok(Some(Flow { endpoint, socket, activity, task }))
}

/// Carries an endpoint's answers back until the flow has been idle for long enough.
async fn replies(
    udp: Arc<Udp>,
    client: SocketAddr,
    endpoint: SocketAddr,
    socket: Arc<UdpSocket>,
    activity: Arc<Mutex<Activity>>,
) -> SocketAddr {
    loop {
        let deadline = activity.lock().deadline(&udp.config);
        tokio::select! {
            biased;
            ready = socket.readable() => if ready.is_err() { return client },
            () = sleep_until(deadline) => {
                if activity.lock().deadline(&udp.config) <= Instant::now() {
                    return client;
                }
                continue;
            }
        }
        let mut datagram = udp.datagram.lock();
        match socket.try_recv(&mut datagram) {
            Ok(length) => {
                {
                    let mut activity = activity.lock();
                    (activity.last, activity.replied) = (Instant::now(), true);
                }
                // A full send buffer drops the datagram, as a router would.
                let _ = SockRef::from(&udp.socket).send_to(&datagram[..length], &client.into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Nobody listens there: the client's next datagram tries another endpoint.
                debug!(%endpoint, %error, "the endpoint does not take datagrams");
                udp.balancer.refused(client.ip(), endpoint);
                return client;
            }
        }
    }
}
