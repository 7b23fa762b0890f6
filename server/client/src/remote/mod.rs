//! The way to a server over the network: one HTTP/2 connection under TLS, opened when needed, given up when silent.
//!
//! Every request and watch of a client shares the connection. It is opened again after it broke, after the identity was
//! replaced, and when nothing came over it for longer than a deadline allowed; several servers are tried in turn, the
//! last good one first. It must not know what the requests mean.

mod io;
mod tls;

use std::{
    fmt,
    future::Future,
    io::ErrorKind,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, Response, Uri, Version, header};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tracing::{debug, info};

pub use self::tls::{fetch_ca, tls_without_trust};
use self::{
    io::{Observed, Observer},
    tls::{cure, rustls_error},
};
use crate::{
    Clock, Error, SystemClock,
    body::{Body, BoxError},
};

/// What a client proves to the server.
#[derive(Clone, PartialEq, Eq)]
pub enum Identity {
    ClientCert {
        cert_pem: String,
        key_pem: String,
    },
    /// A bearer token.
    Token(String),
    Anonymous,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientCert { .. } => "ClientCert",
            Self::Token(_) => "Token",
            Self::Anonymous => "Anonymous",
        })
    }
}

/// Where the servers are and how both sides prove who they are.
#[derive(Clone)]
pub struct RemoteConfig {
    /// `https://host:port`, at least one; `http://` is spoken without TLS.
    pub servers: Vec<String>,
    /// The certificates that may sign a server's.
    pub ca_pem: String,
    pub identity: Identity,
    /// For one attempt to one server: name, TCP and TLS.
    pub connect_timeout: Duration,
    /// Judges whether certificates are valid now.
    pub clock: Arc<dyn Clock>,
}

impl RemoteConfig {
    pub fn new(server: impl Into<String>, ca_pem: impl Into<String>, identity: Identity) -> Self {
        Self {
            servers: vec![server.into()],
            ca_pem: ca_pem.into(),
            identity,
            connect_timeout: Duration::from_secs(10),
            clock: SystemClock::shared(),
        }
    }
}

/// Why no connection could be made. Each message names the server and a cure.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect to {server}: {source}; is the server running there, and is the address right?")]
    Unreachable {
        server: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot connect to {server}: no answer within {after:?}; is a firewall in between?")]
    TimedOut { server: String, after: Duration },
    #[error("no trust between this client and {server}: {source}; {cure}")]
    Tls {
        server: String,
        #[source]
        source: rustls::Error,
        cure: String,
    },
    #[error(
        "{server} does not speak HTTP/2; an address of an API server is needed, without a proxy that speaks HTTP/1 only"
    )]
    NotHttp2 { server: String },
    #[error("{server} ended the handshake: {source}")]
    Handshake {
        server: String,
        #[source]
        source: hyper::Error,
    },
}

/// The connection of a remote client.
pub struct Remote {
    servers: Vec<Server>,
    settings: RwLock<Settings>,
    /// Raised when the settings change: connections of an older epoch take no new requests.
    epoch: AtomicU64,
    /// The server that answered last.
    preferred: AtomicUsize,
    current: Mutex<Option<Connection>>,
    /// Held while connecting, so that many requests open one connection.
    connecting: tokio::sync::Mutex<()>,
    /// The tasks that drive connections; they end with this client.
    tasks: Arc<Mutex<JoinSet<()>>>,
    connect_timeout: Duration,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Clone)]
struct Server {
    url: String,
    tls: bool,
    host: String,
    port: u16,
    authority: String,
}

struct Settings {
    ca_pem: String,
    identity: Identity,
    tls: Arc<ClientConfig>,
    authorization: Option<HeaderValue>,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Body>,
    server: usize,
    epoch: u64,
    observer: Arc<Observer>,
    driver: AbortHandle,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<_> = self.servers().collect();
        f.debug_struct("Remote").field("servers", &servers).finish_non_exhaustive()
    }
}

impl Remote {
    pub(crate) fn new(config: RemoteConfig) -> Result<Self, Error> {
        let servers: Vec<_> = config.servers.iter().map(|url| Server::parse(url)).collect::<Result<_, _>>()?;
        if servers.is_empty() {
            return Err(Error::Config("no server given; one like https://host:6443 is needed".to_owned()));
        }
        let settings = Settings::new(config.ca_pem, config.identity, &config.clock)?;
        Ok(Self {
            servers,
            settings: RwLock::new(settings),
            epoch: AtomicU64::new(0),
            preferred: AtomicUsize::new(0),
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            tasks: Arc::default(),
            connect_timeout: config.connect_timeout,
            clock: config.clock,
        })
    }

    /// The URLs this client knows.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| &*server.url)
    }

    /// Uses another identity from the next request on, as after a renewal. Watches that are open go on as they are.
    pub fn replace_identity(&self, identity: Identity) -> Result<(), Error> {
        let ca_pem = self.settings.read().ca_pem.clone();
        self.replace(Settings::new(ca_pem, identity, &self.clock)?);
        Ok(())
    }

    /// Trusts other certificates from the next connection on.
    pub fn replace_ca(&self, ca_pem: impl Into<String>) -> Result<(), Error> {
        let identity = self.settings.read().identity.clone();
        self.replace(Settings::new(ca_pem.into(), identity, &self.clock)?);
        Ok(())
    }

    fn replace(&self, settings: Settings) {
        *self.settings.write() = settings;
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends the connection if nothing was read from it for `silence`: everything that waits on it fails at once and
    /// finds another.
    pub(crate) fn distrust(&self, silence: Duration) {
        let mut current = self.current.lock();
        if let Some(silent) = current.take_if(|connection| connection.observer.silent_for() >= silence) {
            info!(server = self.servers[silent.server].url, ?silence, "the connection is silent and is given up");
            silent.driver.abort();
        }
    }

    pub(crate) async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut connection = self.connection().await?;
            self.address(&mut request, &connection)?;
            let server = &self.servers[connection.server];
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync())),
                Err(mut failed) => {
                    if let Some(fault) = connection.observer.fault() {
                        return Err(Box::new(self.tls_error(server, fault)));
                    }
                    match failed.take_message() {
                        // It was not sent: the connection ended between two requests.
                        Some(unsent) if attempts < 3 => request = unsent,
                        Some(_) | None => return Err(failed.into_error().into()),
                    }
                }
            }
        }
    }

    /// Makes the path absolute, as HTTP/2 wants it, and says who asks.
    fn address(&self, request: &mut Request<Body>, connection: &Connection) -> Result<(), BoxError> {
        let server = &self.servers[connection.server];
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let scheme = if server.tls { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(&*server.authority).path_and_query(path).build()?;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        if let Some(value) = &self.settings.read().authorization {
            request.headers_mut().insert(header::AUTHORIZATION, value.clone());
        }
        Ok(())
    }

    async fn connection(&self) -> Result<Connection, ConnectError> {
        if let Some(usable) = self.usable() {
            return Ok(usable);
        }
        let _one = self.connecting.lock().await;
        if let Some(usable) = self.usable() {
            return Ok(usable);
        }
        let mut last = None;
        let first = self.preferred.load(Ordering::Relaxed);
        for offset in 0..self.servers.len() {
            let index = (first + offset) % self.servers.len();
            match self.connect(index).await {
                Ok(connection) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    *self.current.lock() = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => {
                    debug!(server = self.servers[index].url, %error, "cannot connect");
                    last = Some(error);
                }
            }
        }
        Err(last.expect("there is at least one server"))
    }

    fn usable(&self) -> Option<Connection> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let current = self.current.lock();
        current.as_ref().filter(|found| found.epoch == epoch && !found.sender.is_closed()).cloned()
    }

    async fn connect(&self, index: usize) -> Result<Connection, ConnectError> {
        let server = &self.servers[index];
        let timed_out = |_| ConnectError::TimedOut { server: server.url.clone(), after: self.connect_timeout };
        timeout(self.connect_timeout, self.open(index, server)).await.map_err(timed_out)?
    }

    async fn open(&self, index: usize, server: &Server) -> Result<Connection, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { server: server.url.clone(), source };
        // The epoch is read before the settings: if they change in between, this connection is replaced.
        let epoch = self.epoch.load(Ordering::Acquire);
        let tls = self.settings.read().tls.clone();
        let tcp = TcpStream::connect((&*server.host, server.port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        if !server.tls {
            return self.handshake(index, epoch, tcp).await;
        }
        let name = ServerName::try_from(server.host.clone())
            .map_err(|_| unreachable(std::io::Error::new(ErrorKind::InvalidInput, "not a host name")))?;
        let stream = TlsConnector::from(tls).connect(name, tcp).await.map_err(|error| match rustls_error(&error) {
            Some(fault) => self.tls_error(server, fault),
            None => unreachable(error),
        })?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ConnectError::NotHttp2 { server: server.url.clone() });
        }
        self.handshake(index, epoch, stream).await
    }

    async fn handshake<S>(&self, index: usize, epoch: u64, stream: S) -> Result<Connection, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let server = &self.servers[index];
        let observer = Arc::new(Observer::new());
        let stream = TokioIo::new(Observed::new(stream, observer.clone()));
        let (sender, connection) = http2::Builder::new(Tasks(Arc::downgrade(&self.tasks)))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake::<_, Body>(stream)
            .await
            .map_err(|source| ConnectError::Handshake { server: server.url.clone(), source })?;
        let url = server.url.clone();
        let driver = spawn(&self.tasks, async move {
            match connection.await {
                Ok(()) => debug!(server = url, "connection closed"),
                Err(error) => debug!(server = url, %error, "connection lost"),
            }
        });
        debug!(server = server.url, "connected");
        Ok(Connection { sender, server: index, epoch, observer, driver })
    }

    fn tls_error(&self, server: &Server, source: rustls::Error) -> ConnectError {
        let cure = cure(&source, &server.host, self.clock.now());
        ConnectError::Tls { server: server.url.clone(), source, cure }
    }
}

impl Server {
    fn parse(url: &str) -> Result<Self, Error> {
        let wrong = || Error::Config(format!("the server {url:?} is not a URL like https://host:6443"));
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        if host.is_empty() || !matches!(uri.path(), "" | "/") {
            return Err(wrong());
        }
        Ok(Self { url: url.to_owned(), tls, host, port, authority: authority.to_string() })
    }
}

impl Settings {
    fn new(ca_pem: String, identity: Identity, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        let tls = Arc::new(tls::client_config(&ca_pem, &identity, clock)?);
        let authorization = match &identity {
            Identity::Token(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|_| Error::Config("the token has characters that no token has".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
            Identity::ClientCert { .. } | Identity::Anonymous => None,
        };
        Ok(Self { ca_pem, identity, tls, authorization })
    }
}

/// Hyper's own tasks, owned by the client and ended with it.
#[derive(Clone)]
struct Tasks(Weak<Mutex<JoinSet<()>>>);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        if let Some(tasks) = self.0.upgrade() {
            spawn(&tasks, future);
        }
    }
}

fn spawn(tasks: &Mutex<JoinSet<()>>, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    let mut tasks = tasks.lock();
    while tasks.try_join_next().is_some() {}
    tasks.spawn(future)
}

#[cfg(test)]
mod tests;
