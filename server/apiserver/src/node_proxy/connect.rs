//! Owns connections of this server to others: to nodes with TLS both ways, to pods in plain HTTP. Each carries one
//! request, and lives exactly as long as its answer is read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use coracle_client::Clock;
use futures::future::BoxFuture;
use http_body::Frame;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::targets::NodeAddress;
use crate::auth::authn::Peer;
use crate::auth::pki::{Current, Pki};
use crate::serve::Time;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the other side could not be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer within {} seconds", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    #[error("{0:?} is neither an address nor a name")]
    Name(String),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// Opens connections.
pub(super) struct Dialer {
    roots: Arc<RootCertStore>,
    identity: Arc<Current>,
    time: Time,
}

impl Dialer {
    pub(super) fn new(pki: &Pki, clock: Arc<dyn Clock>) -> Dialer {
        let mut roots = RootCertStore::empty();
        if let Err(error) = roots.add(pki.server_ca().der().clone()) {
            // Without it no node is trusted, and each attempt says so.
            tracing::error!(%error, "the server CA is no trust anchor");
        }
        Dialer { roots: Arc::new(roots), identity: pki.kubelet_client(), time: Time::new(clock) }
    }

    /// Sends `request` to a node's API.
    pub(super) async fn to_node(
        &self,
        address: &NodeAddress,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, DialError> {
        exchange(self.node_stream(address).await?, request).await
    }

    /// A connection to a node's API. The node has to show its own certificate.
    pub(super) async fn node_stream(&self, address: &NodeAddress) -> Result<TlsStream<TcpStream>, DialError> {
        let name = ServerName::try_from(address.host.clone()).map_err(|_| DialError::Name(address.host.clone()))?;
        let connector = TlsConnector::from(Arc::new(self.tls(&address.node)?));
        let connecting = async {
            let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
            stream.set_nodelay(true)?;
            Ok::<_, DialError>(connector.connect(name, stream).await?)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| DialError::Timeout)?
    }

    /// Sends `request` in plain HTTP.
    pub(super) async fn plain(
        &self,
        host: &str,
        port: u16,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, DialError> {
        let connecting = TcpStream::connect((host, port));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| DialError::Timeout)??;
        stream.set_nodelay(true)?;
        exchange(stream, request).await
    }

    fn tls(&self, node: &str) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verifier = NodeVerifier { verifier, user: format!("system:node:{node}") };
        let config = ClientConfig::builder_with_details(provider, Arc::new(self.time.clone()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.identity.clone());
        Ok(config)
    }
}

/// Sends one request over `stream` and gives the answer, whose body drives the connection.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, DialError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connection: BoxFuture<'static, Result<(), hyper::Error>> = Box::pin(connection);
    let sending = sender.send_request(request);
    tokio::pin!(sending);
    let mut over = false;
    let response = std::future::poll_fn(|context| {
        if !over {
            // Its end is told by the answer too.
            over = connection.as_mut().poll(context).is_ready();
        }
        sending.as_mut().poll(context)
    })
    .await?;
    let connection = (!over).then_some(connection);
    Ok(response.map(|body| Body::new(Driven { body, connection, _sender: sender })))
}

/// The body of an answer, with the connection it comes over.
struct Driven {
    body: Incoming,
    connection: Option<BoxFuture<'static, Result<(), hyper::Error>>>,
    /// Dropping it would end the connection.
    _sender: http1::SendRequest<Body>,
}

impl http_body::Body for Driven {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(connection) = &mut this.connection
            && connection.as_mut().poll(context).is_ready()
        {
            this.connection = None;
        }
        Pin::new(&mut this.body).poll_frame(context)
    }
}

/// Trusts a certificate that names the node as its subject, whatever addresses it has: a node moves between addresses
/// faster than certificates are made. An address alone proves nothing: a node says itself what its address is, and may
/// lead us to another node, or to this server, which would take our own certificate for an administrator's.
#[derive(Debug)]
struct NodeVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    user: String,
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let named = match verified {
            // The last is said only of a certificate whose chain and times hold.
            Ok(_)
            | Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Peer::of(end_entity).is_some_and(|peer| peer.user.name == self.user),
            Err(error) => return Err(error),
        };
        if named {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!("the certificate shown there is not that of {}", self.user)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
