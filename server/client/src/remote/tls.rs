//! TLS for the client: its configuration, what to do about its errors, and how a newcomer gets the CA it was told to
//! trust by hash.

use std::{io, sync::Arc, time::Duration};

use http::{Method, Request};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, RootCertStore,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    time_provider::TimeProvider,
};
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{Identity, Server};
use crate::{Clock, Error, body};

/// A CA bundle is a few KiB.
const MAX_CA_BYTES: usize = 1 << 20;
const FETCH_DEADLINE: Duration = Duration::from_secs(15);

pub(super) fn client_config(ca_pem: &str, identity: &Identity, clock: &Arc<dyn Clock>) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|e| Error::Config(format!("the CA is not PEM: {e}")))?;
        roots
            .add(certificate)
            .map_err(|e| Error::Config(format!("the CA has a certificate that cannot be read: {e}")))?;
    }
    let builder = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(Time(clock.clone())))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Config(format!("TLS cannot be set up: {e}")))?
        .with_root_certificates(roots);
    let mut config = match identity {
        Identity::ClientCert { cert_pem, key_pem } => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(cert_pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|e| Error::Config(format!("the client certificate is not PEM: {e}")))?;
            let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
                .map_err(|e| Error::Config(format!("the client's key is not PEM: {e}")))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| Error::Config(format!("the client certificate and its key do not fit: {e}")))?
        }
        Identity::Token(_) | Identity::Anonymous => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[derive(Clone)]
struct Time(Arc<dyn Clock>);

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let since = Duration::try_from(self.0.now().as_duration()).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// The TLS fault inside an I/O error.
pub(super) fn rustls_error(error: &io::Error) -> Option<rustls::Error> {
    error.get_ref()?.downcast_ref::<rustls::Error>().cloned()
}

/// What somebody can do about a TLS error.
pub(super) fn cure(error: &rustls::Error, host: &str, now: Timestamp) -> String {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(certificate) => certificate_cure(certificate, host, now),
        E::AlertReceived(AlertDescription::CertificateExpired) => format!(
            "the server finds this client's certificate expired: renew it, and see that both clocks are right (here it is {now:.0})"
        ),
        E::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => "the server does not accept this client's certificate: it is of another cluster or of an earlier one; \
              take the kubeconfig or token that this server has written"
            .to_owned(),
        E::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure)
        | E::PeerIncompatible(_) => {
            "the two sides have no TLS version or cipher in common: TLS 1.2 or 1.3 is needed".to_owned()
        }
        E::AlertReceived(AlertDescription::NoApplicationProtocol) | E::NoApplicationProtocol => {
            "the server does not speak HTTP/2: check that the address is an API server's".to_owned()
        }
        E::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            "the server does not speak TLS on this port: check the port, or use http:// for a server without TLS"
                .to_owned()
        }
        // rustls' enum is open; the error itself is shown before this text.
        _ => "check that the address is an API server's and that nothing in between changes the traffic".to_owned(),
    }
}

fn certificate_cure(error: &CertificateError, host: &str, now: Timestamp) -> String {
    use CertificateError as C;
    match error {
        C::UnknownIssuer | C::BadSignature => {
            "the server's certificate is not signed by the CA this client trusts: it is \
             another cluster, or its data directory was made anew; take its new kubeconfig or token"
                .to_owned()
        }
        C::NotValidForName | C::NotValidForNameContext { .. } => format!(
            "the server's certificate is not for {host:?}: start the server with --tls-san {host}, or use a name or \
             address that it has"
        ),
        C::NotValidYet | C::NotValidYetContext { .. } => {
            format!("the server's certificate is not valid yet: here it is {now:.0}; set this host's clock")
        }
        C::Expired | C::ExpiredContext { .. } => format!(
            "the server's certificate has expired: here it is {now:.0}; if that is right restart the server, which renews \
             it, else set this host's clock"
        ),
        // rustls' enum is open; the error itself is shown before this text.
        _ => "take the kubeconfig or token that this server has written".to_owned(),
    }
}

/// Asks a server for its CA bundle at `/cacerts` without trusting it, and gives the bundle (PEM) if its SHA-256 is the
/// expected one (64 hexadecimal digits): this is how a node that has only a token learns whom to trust.
pub async fn fetch_ca(server: &str, sha256: &str) -> Result<String, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Config(format!("cannot get the CA from {server}: {e}"));
    let parsed = Server::parse(server)?;
    if !parsed.tls {
        return Err(failed(&"its URL must begin with https://"));
    }
    let bundle = match timeout(FETCH_DEADLINE, download(&parsed)).await {
        Ok(result) => result.map_err(|e| failed(&e))?,
        Err(_) => return Err(failed(&format_args!("no answer within {FETCH_DEADLINE:?}"))),
    };
    let found = hex(&Sha256::digest(&bundle));
    if !found.eq_ignore_ascii_case(sha256) {
        return Err(Error::Config(format!(
            "{server} is not the server this token was made by: its CA has the hash {found}, the token says {sha256}; \
             take a new token from that server, or correct the address"
        )));
    }
    String::from_utf8(bundle.to_vec()).map_err(|e| failed(&e))
}

async fn download(server: &Server) -> Result<bytes::Bytes, crate::BoxError> {
    let mut config = tls_without_trust();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = TcpStream::connect((&*server.host, server.port)).await?;
    let name = ServerName::try_from(server.host.clone())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder().method(Method::GET).uri("/cacerts").header(http::header::HOST, &server.authority);
    let answer = async {
        let response = sender.send_request(request.body(body::empty())?).await?;
        if !response.status().is_success() {
            return Err(crate::BoxError::from(format!("it answers {}", response.status())));
        }
        Ok(Limited::new(response.into_body(), MAX_CA_BYTES).collect().await?.to_bytes())
    };
    // The connection is driven by this task, for as long as the one request takes.
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        result = &mut answer => result,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

/// TLS towards a server whose certificate is not looked at: for what is proven in another way, and for probes, which ask
/// whether something answers and not who. Nothing secret may be sent over it.
pub fn tls_without_trust() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        .with_no_client_auth()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing into a String cannot fail");
        text
    })
}

/// Accepts any certificate.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
