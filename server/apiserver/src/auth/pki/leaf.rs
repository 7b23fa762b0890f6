//! Owns the certificates this server shows: to its clients, and to the nodes it calls. Each lies in two files, is made
//! again when it is missing, damaged, from another authority, lacks a name or nears its end, and can be changed while
//! connections use it.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::RwLock;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::authority::{self, Authority, Identity, RENEW_BEFORE, San, Subject};
use super::files::{self, PkiError};

/// A certificate in use, that can be exchanged.
#[derive(Debug)]
pub struct Current {
    key: RwLock<Arc<CertifiedKey>>,
}

impl Current {
    pub fn get(&self) -> Arc<CertifiedKey> {
        self.key.read().clone()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// One leaf certificate of this server: where it lies and whom it names.
#[derive(Debug)]
pub(super) struct Leaf {
    certificate_path: PathBuf,
    key_path: PathBuf,
    subject: Subject,
    state: RwLock<State>,
    current: Arc<Current>,
}

#[derive(Debug)]
struct State {
    not_after: Timestamp,
}

/// A leaf read from the disk or made.
struct Loaded {
    key: CertifiedKey,
    not_after: Timestamp,
}

impl Leaf {
    pub(super) fn open(
        base: PathBuf,
        subject: Subject,
        authority: &Authority,
        now: Timestamp,
    ) -> Result<Leaf, PkiError> {
        let certificate_path = base.with_extension("crt");
        let key_path = base.with_extension("key");
        let stored = match (files::read(&certificate_path)?, files::read_secret(&key_path)?) {
            (Some(certificate_pem), Some(key_pem)) => Some(Identity { certificate_pem, key_pem }),
            (Some(_), None) | (None, Some(_)) | (None, None) => None,
        };
        let usable = stored.and_then(|stored| match usable(&stored, &subject.sans, authority, now) {
            Ok(loaded) => Some(loaded),
            Err(why) => {
                tracing::info!(path = %certificate_path.display(), why, "the certificate is made again");
                None
            }
        });
        let loaded = match usable {
            Some(loaded) => loaded,
            None => make(&certificate_path, &key_path, &subject, authority, now)?,
        };
        Ok(Leaf {
            certificate_path,
            key_path,
            subject,
            state: RwLock::new(State { not_after: loaded.not_after }),
            current: Arc::new(Current { key: RwLock::new(Arc::new(loaded.key)) }),
        })
    }

    pub(super) fn current(&self) -> Arc<Current> {
        self.current.clone()
    }

    pub(super) fn names(&self) -> &[San] {
        &self.subject.sans
    }

    /// When this certificate has to be renewed.
    pub(super) fn renew_at(&self) -> Timestamp {
        self.state.read().not_after - RENEW_BEFORE
    }

    /// Exchanges the certificate if it is time; says whether it was.
    pub(super) fn renew(&self, authority: &Authority, now: Timestamp) -> Result<bool, PkiError> {
        if now < self.renew_at() {
            return Ok(false);
        }
        let loaded = make(&self.certificate_path, &self.key_path, &self.subject, authority, now)?;
        self.state.write().not_after = loaded.not_after;
        *self.current.key.write() = Arc::new(loaded.key);
        Ok(true)
    }
}

fn make(
    certificate_path: &std::path::Path,
    key_path: &std::path::Path,
    subject: &Subject,
    authority: &Authority,
    now: Timestamp,
) -> Result<Loaded, PkiError> {
    let identity = authority.issue(subject, now)?;
    files::write(key_path, &identity.key_pem, 0o600)?;
    files::write(certificate_path, &identity.certificate_pem, 0o644)?;
    parse(&identity).map_err(|what| PkiError::Damaged {
        path: certificate_path.to_owned(),
        what,
        cure: "remove it and start again",
    })
}

/// The stored certificate if it can still be used as it is, else why not.
fn usable(stored: &Identity, sans: &[San], authority: &Authority, now: Timestamp) -> Result<Loaded, String> {
    let loaded = parse(stored)?;
    let leaf = loaded.key.end_entity_cert().map_err(|error| error.to_string())?;
    let facts = authority::facts(leaf)?;
    if !authority::signed_by(leaf, authority) {
        return Err("the authority is another one".to_owned());
    }
    if let Some(missing) = sans.iter().find(|san| !facts.sans.contains(san)) {
        return Err(format!("it does not name {missing:?}"));
    }
    if now >= facts.not_after - RENEW_BEFORE {
        return Err(format!("it ends at {}", facts.not_after));
    }
    loaded.key.keys_match().map_err(|_| "its key is another one".to_owned())?;
    Ok(loaded)
}

fn parse(identity: &Identity) -> Result<Loaded, String> {
    let key = certified_key(identity)?;
    let leaf = key.end_entity_cert().map_err(|error| error.to_string())?;
    let not_after = authority::facts(leaf)?.not_after;
    Ok(Loaded { key, not_after })
}

/// The form in which rustls takes a certificate and its key.
pub(super) fn certified_key(identity: &Identity) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("no PEM certificate in it ({error})"))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
        .map_err(|error| format!("no PEM private key in its key file ({error})"))?;
    let key = rustls::crypto::ring::sign::any_ecdsa_type(&key).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(chain, key))
}
