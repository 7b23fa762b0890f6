//! Owns the server's side of TLS: what it shows, and what becomes of a client's certificate. One that does not hold is
//! no reason to cut the connection: the client gets a 401 that it can show to its user.

use std::sync::Arc;

use coracle_client::Clock;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::plain;
use crate::auth::authn::Peer;
use crate::auth::pki::{Pki, PkiError, believable};

/// Accepts TLS connections.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    verifier: Arc<dyn ClientCertVerifier>,
    time: Time,
}

impl ServerTls {
    pub fn new(pki: &Pki, clock: Arc<dyn Clock>) -> Result<ServerTls, PkiError> {
        let failed = |source| PkiError::Tls { dir: pki.dir(), source };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(pki.client_ca().der().clone()).map_err(failed)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| failed(rustls::Error::General(error.to_string())))?;
        let time = Time::new(clock);
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(time.clone()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_client_cert_verifier(Arc::new(Possession(verifier.clone())))
            .with_cert_resolver(pki.serving());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ServerTls { acceptor: TlsAcceptor::from(Arc::new(config)), verifier, time })
    }

    /// Shakes hands, and says whom the client's certificate names if it showed one that holds.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, Option<Peer>)> {
        if !plain::begins_tls(&stream).await? {
            return Err(plain::refuse(stream).await);
        }
        let stream = self.acceptor.accept(stream).await?;
        let peer = stream.get_ref().1.peer_certificates().and_then(|chain| self.peer(chain));
        Ok((stream, peer))
    }

    fn peer(&self, chain: &[CertificateDer<'_>]) -> Option<Peer> {
        let (certificate, others) = chain.split_first()?;
        let now = self.time.current_time()?;
        match self.verifier.verify_client_cert(certificate, others, now) {
            Ok(_) => Peer::of(certificate),
            Err(error) => {
                tracing::debug!(%error, "a client's certificate does not hold");
                None
            }
        }
    }
}

/// The injected clock, never before this software was made.
#[derive(Clone)]
pub(crate) struct Time(Arc<dyn Clock>);

impl Time {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Time {
        Time(clock)
    }
}

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = believable(self.0.now()).as_second();
        let since_epoch = std::time::Duration::from_secs(u64::try_from(seconds).ok()?);
        Some(UnixTime::since_unix_epoch(since_epoch))
    }
}

/// Checks that the client has the key of the certificate it shows, and leaves whether that certificate counts to
/// [`ServerTls::peer`].
#[derive(Debug)]
struct Possession(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Possession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
