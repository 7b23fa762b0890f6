//! Owns the listening socket: TLS, who is at the other end, how many may be, how long they may take, and how connections
//! end when the server stops. Must not know what is asked over them.

mod body;
mod idle;
mod plain;
#[cfg(test)]
mod tests;
mod tls;

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use coracle_client::upgrade::Upgrades;
use coracle_client::{Clock, OnExit, TaskScope};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::auth::authn::Peer;
use crate::auth::pki::{Pki, PkiError};
use body::Until;
use idle::{Activity, Sending};
pub use tls::ServerTls;
pub(crate) use tls::Time;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "cannot listen on {address}: the address is in use; stop what listens there (`ss -ltnp` names it), or choose another port with --https-listen-port"
    )]
    InUse { address: SocketAddr },
    #[error(
        "cannot listen on {address}: permission denied; ports below 1024 are for root, choose another with --https-listen-port"
    )]
    Permission { address: SocketAddr },
    #[error("cannot listen on {address}: no interface of this host has that address; check --bind-address")]
    NoSuchAddress { address: SocketAddr },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] PkiError),
}

/// How much a client may ask of the socket.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Further clients wait in the kernel's queue.
    pub connections: usize,
    pub handshake: Duration,
    /// For the headers of a request, and for the next request on a connection of HTTP/1.1.
    pub headers: Duration,
    /// A connection over which nothing is asked for so long is closed.
    pub idle: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// For answers that are being sent when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 20_000,
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(60),
            // As long as upstream waits, and as Go's clients keep a connection that they do not use.
            idle: Duration::from_secs(90),
            streams: 1_000,
            drain: Duration::from_secs(5),
        }
    }
}

/// Binds `address`; an error says what to do about it.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => ServeError::InUse { address },
        ErrorKind::PermissionDenied => ServeError::Permission { address },
        ErrorKind::AddrNotAvailable => ServeError::NoSuchAddress { address },
        _other => ServeError::Listen { address, source },
    })
}

/// Serves `router` over TLS on `listener` until the scope ends, and keeps the certificates fresh meanwhile.
pub fn serve(
    listener: TcpListener,
    router: Router,
    pki: Arc<Pki>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    scope: &TaskScope,
) -> Result<(), ServeError> {
    let tls = ServerTls::new(&pki, clock.clone())?;
    let listener = Arc::new(listener);
    scope.spawn("https", OnExit::restart(), move |cancel| {
        let server = Server { tls: tls.clone(), router: router.clone(), limits: limits.clone() };
        accept(listener.clone(), Arc::new(server), cancel)
    });
    scope.spawn("certificates", OnExit::restart(), move |cancel| renew(pki.clone(), clock.clone(), cancel));
    Ok(())
}

struct Server {
    tls: ServerTls,
    router: Router,
    limits: Limits,
}

async fn accept(listener: Arc<TcpListener>, server: Arc<Server>, cancel: CancellationToken) -> Result<(), Infallible> {
    let mut connections = JoinSet::new();
    loop {
        let has_room = connections.len() < server.limits.connections;
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, peer, server.clone(), cancel.clone()));
                }
                Err(error) if is_of_connection(&error) => tracing::debug!(%error, "a client was gone at once"),
                Err(error) => {
                    // Out of descriptors or memory: some connection has to end first.
                    tracing::warn!(%error, connections = connections.len(), "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    let drain = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(server.limits.drain, drain).await.is_err() {
        tracing::info!("connections that did not end in time are cut");
    }
    Ok(())
}

fn is_of_connection(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

async fn connection(stream: TcpStream, address: SocketAddr, server: Arc<Server>, cancel: CancellationToken) {
    prepare(&stream);
    let handshake = tokio::time::timeout(server.limits.handshake, server.tls.accept(stream));
    let (stream, peer) = tokio::select! {
        biased;
        () = cancel.cancelled() => return,
        result = handshake => match result {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "no TLS connection"),
            Err(_) => return tracing::debug!(%address, "a client did not finish its handshake"),
        },
    };
    let (router, ending, activity) = (server.router.clone(), cancel.clone(), Activity::new());
    let asked = activity.clone();
    let upgrades = Upgrades::default();
    let left = upgrades.clone();
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        let busy = asked.begin();
        request.extensions_mut().insert(left.clone());
        let answer = answer(router.clone(), request, address, peer.clone(), ending.clone());
        async move {
            let response = answer.await?;
            Ok::<_, Infallible>(response.map(|body| Body::new(Sending { body, _busy: busy })))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(server.limits.headers);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(server.limits.streams);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        result = connection.as_mut() => result,
        () = activity.ceased(server.limits.idle) => {
            connection.as_mut().graceful_shutdown();
            // Whoever says nothing need not answer the goodbye either.
            tokio::time::timeout(server.limits.drain, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%address, %error, "a connection ended early");
    }
    // It speaks another protocol now.
    if let Some(session) = upgrades.take() {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = session => {}
        }
    }
}

/// Answers are sent at once, and a peer that has vanished is found out within minutes.
fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(180)).with_interval(Duration::from_secs(30));
    let set = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set a socket's options");
    }
}

async fn answer(
    router: Router,
    request: http::Request<Incoming>,
    address: SocketAddr,
    peer: Option<Peer>,
    ending: CancellationToken,
) -> Result<http::Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(address);
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    let endless = body::is_endless(request.uri());
    let response = router.oneshot(request).await?;
    // A watch would otherwise hold its connection until the drain's time is up.
    Ok(if endless { response.map(|body| Body::new(Until::new(body, ending))) } else { response })
}

async fn renew(pki: Arc<Pki>, clock: Arc<dyn Clock>, cancel: CancellationToken) -> Result<(), PkiError> {
    loop {
        let wait = Duration::try_from(pki.renewal_due(clock.now())).unwrap_or(Duration::from_secs(60));
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => pki.renew(clock.now())?,
        }
    }
}
