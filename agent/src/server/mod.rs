//! The node API: what the API server asks a node for. TLS both ways; only a member of `system:masters` of the cluster's
//! client CA, which is the API server itself, is answered.
//!
//! Owns the connection, who may call, and the routes. Knows pods only through [`PodSource`].

mod routes;
mod streams;
#[cfg(test)]
mod tests;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::upgrade::Upgrades;
use coracle_client::{Clock, OnExit, Pod, TaskScope};
use futures::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::NodeCertificates;
use crate::logs::Stop;
pub use streams::{NoStream, Streams, Wanted};
use tls::NodeTls;
pub use tls::TlsError;

/// Connections at one time; the API server pools its own, so this is far more than it opens.
const MAX_CONNECTIONS: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the node API has to know of the pods here.
pub trait PodSource: Send + Sync + 'static {
    /// The pods of this node with their statuses as the agent knows them.
    fn pods(&self) -> Vec<Arc<Pod>>;

    /// Where a container writes its log, or why there is none.
    fn container_log(&self, namespace: &str, pod: &str, container: &str, previous: bool)
    -> Result<ContainerLog, NoLog>;

    /// Where a pod's runtime takes the connection for what is wanted, as a URL that is good once.
    fn stream<'a>(
        &'a self,
        namespace: &'a str,
        pod: &'a str,
        wanted: Wanted,
    ) -> BoxFuture<'a, Result<String, NoStream>>;
}

/// A log file, and when its container has ended.
#[derive(Debug, Clone)]
pub struct ContainerLog {
    pub path: PathBuf,
    pub ended: Stop,
}

/// Why there is no log, in kubelet's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLog {
    #[error("pod {pod:?} does not exist")]
    Pod { pod: String },
    #[error("container {container:?} not found in pod {pod:?}")]
    Container { pod: String, container: String },
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    Waiting { pod: String, container: String, reason: String },
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious { pod: String, container: String },
    #[error("container {container:?} in pod {pod:?} has never run: {why}")]
    NeverRan { pod: String, container: String, why: String },
    #[error("container {container:?} in pod {pod:?} is not available")]
    NotAvailable { pod: String, container: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the node API cannot listen on {address}: {source}; another agent or kubelet may use the port")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The node API, not yet listening.
#[derive(Clone)]
pub struct NodeApi {
    /// The newest is shown to every new caller, so a renewal needs no restart.
    pub certificates: watch::Receiver<NodeCertificates>,
    pub pods: Arc<dyn PodSource>,
    pub clock: Arc<dyn Clock>,
    /// What is used here.
    pub stats: axum::Router,
}

impl NodeApi {
    /// Listens until the scope is cancelled. Gives the address, whose port is the system's choice if 0 was asked for.
    pub async fn serve(self, address: SocketAddr, scope: &TaskScope) -> Result<SocketAddr, ServeError> {
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let bound = listener.local_addr().map_err(listen)?;
        let listener = Arc::new(listener);
        let routes = routes::router(self.pods, self.clock, self.stats);
        let certificates = self.certificates;
        NodeTls::new(certificates.clone())?;
        scope.spawn("node-api", OnExit::restart(), move |cancel| {
            accept(Arc::clone(&listener), certificates.clone(), routes.clone(), cancel)
        });
        Ok(bound)
    }
}

async fn accept(
    listener: Arc<TcpListener>,
    certificates: watch::Receiver<NodeCertificates>,
    routes: axum::Router,
    cancel: CancellationToken,
) -> Result<(), TlsError> {
    let mut tls = NodeTls::new(certificates)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, peer, tls.server_config(), routes.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: others must end first.
                    tracing::warn!(%error, "the node API cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, tls: Arc<ServerConfig>, routes: axum::Router) {
    let acceptor = TlsAcceptor::from(tls);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS with a caller of the node API"),
        Err(_) => return tracing::debug!(%peer, "a caller of the node API did not finish its handshake"),
    };
    let caller = tls::Caller::of(stream.get_ref().1);
    let upgrades = Upgrades::default();
    let left = upgrades.clone();
    let service = tower::ServiceBuilder::new()
        .map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(caller.clone());
            request.extensions_mut().insert(left.clone());
            request
        })
        .service(routes);
    let served = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a connection to the node API broke");
    }
    if let Some(session) = upgrades.take() {
        session.await;
    }
}
