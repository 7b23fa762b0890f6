//! The certificate the node shows, which can be renewed while it serves, and who its callers are.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use crate::config::NodeCertificates;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the node's {what} is no PEM text: {source}")]
    Pem {
        what: &'static str,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    #[error("the node's certificates do not fit together: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("the cluster's client CA cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The TLS side of the node API: connections made after a renewal see the new certificate.
pub(super) struct NodeTls {
    certificates: watch::Receiver<NodeCertificates>,
    config: Arc<ServerConfig>,
}

impl NodeTls {
    pub(super) fn new(mut certificates: watch::Receiver<NodeCertificates>) -> Result<NodeTls, TlsError> {
        let config = build(&certificates.borrow_and_update())?;
        Ok(NodeTls { certificates, config })
    }

    pub(super) fn server_config(&mut self) -> Arc<ServerConfig> {
        if self.certificates.has_changed().unwrap_or(false) {
            match build(&self.certificates.borrow_and_update()) {
                Ok(config) => self.config = config,
                Err(error) => tracing::error!(%error, "the renewed certificate cannot be used; the old one stays"),
            }
        }
        Arc::clone(&self.config)
    }
}

fn build(credentials: &NodeCertificates) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |what| move |source| TlsError::Pem { what, source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(credentials.client_ca_pem.as_bytes()) {
        roots.add(certificate.map_err(pem("client CA"))?)?;
    }
    let chain = CertificateDer::pem_slice_iter(credentials.serving_cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem("serving certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(credentials.serving_key_pem.as_bytes()).map_err(pem("serving key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The subject of a caller's certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
}

impl Caller {
    /// Of a connection whose client certificate the handshake has verified.
    pub(super) fn of(connection: &ServerConnection) -> Caller {
        let Some(certificate) = connection.peer_certificates().and_then(<[_]>::first) else { return Caller::default() };
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return Caller::default() };
        let text =
            |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
        let subject = certificate.subject();
        Caller {
            name: subject.iter_common_name().find_map(text).unwrap_or_default(),
            groups: subject.iter_organization().filter_map(text).collect(),
        }
    }

    /// Nodes have certificates of the same CA: one node must not read another's logs.
    pub(super) fn may_call(&self) -> bool {
        self.groups.iter().any(|group| group == "system:masters")
    }
}
