//! Forwarding TCP connections.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Listener, balance::Balancer};

/// An endpoint that does not answer within this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For each direction of a connection.
const BUFFER_BYTES: usize = 8 << 10;
/// When the process is out of descriptors, accepting fails at once: this keeps it from spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Tcp {
    pub(super) listener: Listener,
    /// Taken away when the listener is closed; connections go on.
    pub(super) socket: Mutex<Option<Arc<TcpListener>>>,
    pub(super) closed: CancellationToken,
    pub(super) balancer: Arc<Balancer>,
    pub(super) max_connections: usize,
}

/// Accepts until closed, then waits for the connections that are left; ends all of them when cancelled.
pub(super) async fn run(tcp: Arc<Tcp>, cancel: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut socket = tcp.socket.lock().clone();
    let mut full = false;
    loop {
        let listening = socket.as_deref().filter(|_| connections.len() < tcp.max_connections);
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tcp.closed.cancelled(), if socket.is_some() => {
                socket = None;
                *tcp.socket.lock() = None;
            }
            Some(ended) = connections.join_next() => {
                full = false;
                if let Err(error) = ended {
                    warn!(listener = %tcp.listener, %error, "a connection's task failed");
                }
            }
            accepted = accept(listening) => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(forward(stream, peer, tcp.balancer.clone()));
                    if connections.len() >= tcp.max_connections && !full {
                        full = true;
                        warn!(listener = %tcp.listener, max = tcp.max_connections, "no more connections are accepted until one ends");
                    }
                }
                Err(error) => {
                    debug!(listener = %tcp.listener, %error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
        if socket.is_none() && connections.is_empty() {
            return;
        }
    }
}

async fn accept(socket: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match socket {
        Some(socket) => socket.accept().await,
        None => std::future::pending().await,
    }
}

async fn forward(mut client: TcpStream, peer: SocketAddr, balancer: Arc<Balancer>) {
    let Some(mut endpoint) = connect(peer, &balancer).await else {
        reset(&client);
        return;
    };
    for stream in [&client, &endpoint] {
        // A stream that is gone already says so in the copy.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(stream).set_keepalive(true);
    }
    // Each direction is shut down by itself, when its sender is done.
    if copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER_BYTES, BUFFER_BYTES).await.is_err() {
        reset(&client);
        reset(&endpoint);
    }
}

async fn connect(peer: SocketAddr, balancer: &Balancer) -> Option<TcpStream> {
    for endpoint in balancer.candidates(peer.ip(), Instant::now()) {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await {
            Ok(Ok(stream)) => {
                balancer.connected(peer.ip(), endpoint, Instant::now());
                return Some(stream);
            }
            Ok(Err(error)) => debug!(%endpoint, %error, "the endpoint does not take the connection"),
            Err(_) => debug!(%endpoint, "the endpoint does not answer"),
        }
        balancer.refused(peer.ip(), endpoint);
    }
    None
}

/// Lets the other side see a reset instead of an orderly end.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
