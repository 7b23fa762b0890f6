//! The prober that opens sockets of this host.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::grpc;
use super::{Check, HttpCheck, Outcome, Prober};

/// Body bytes that are read, so that the connection ends in good order.
const BODY_MAX: usize = 10 * 1024;

/// Probes over real sockets.
pub struct HostProber {
    tls: TlsConnector,
}

impl Default for HostProber {
    fn default() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring speaks the default protocol versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Self { tls: TlsConnector::from(Arc::new(config)) }
    }
}

impl Prober for HostProber {
    fn try_once<'a>(&'a self, check: &'a Check) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move {
            match check {
                Check::Tcp { host, port } => dial(host, *port).await.map(drop),
                Check::Http(http) => self.http(http).await,
                Check::Grpc { host, port, service } => grpc::check(dial(host, *port).await?, service).await,
                Check::Exec { .. } => Err("this runs in the container, not over the network".to_owned()),
            }
        })
    }
}

impl HostProber {
    async fn http(&self, check: &HttpCheck) -> Outcome {
        let failed = |error: String| format!("Get \"{}\": {error}", check.url());
        let stream = dial(&check.host, check.port).await.map_err(failed)?;
        let status = if check.scheme == "https" {
            let name = ServerName::try_from(check.host.trim_matches(['[', ']']).to_owned());
            let name = name.map_err(|error| failed(error.to_string()))?;
            let stream = self.tls.connect(name, stream).await.map_err(|error| failed(error.to_string()))?;
            get(stream, check).await
        } else {
            get(stream, check).await
        };
        let status = status.map_err(|error| failed(error.to_string()))?;
        if (200..400).contains(&status) { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {status}")) }
    }
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let address = format!("{host}:{port}");
    TcpStream::connect(&address).await.map_err(|error| {
        let text = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {address}: {text}")
    })
}

async fn get<S>(stream: S, check: &HttpCheck) -> Result<u16, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let default_port = (check.scheme == "http" && check.port == 80) || (check.scheme == "https" && check.port == 443);
    let authority = if default_port { check.host.clone() } else { format!("{}:{}", check.host, check.port) };
    let has = |name: &str| check.headers.keys().any(|known| known.eq_ignore_ascii_case(name));
    let mut request = http::Request::get(&check.path);
    for (name, value) in [("host", &*authority), ("user-agent", "kube-probe/1.36"), ("accept", "*/*")] {
        if !has(name) {
            request = request.header(name, value);
        }
    }
    for (name, value) in check.headers.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(name, value);
    }
    // A path or header that HTTP does not allow is refused by the API; such a probe asks for the root instead.
    let request = request.header("connection", "close").body(Empty::<Bytes>::new()).unwrap_or_default();
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let mut body = http_body_util::Limited::new(response.into_body(), BODY_MAX);
        while let Some(Ok(_)) = body.frame().await {}
        Ok(status)
    };
    // The connection is driven by this task: there is no other for the one request.
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        biased;
        status = &mut exchange => status,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}

/// Probes ask whether something answers, not who: kubelet checks no certificates either.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
