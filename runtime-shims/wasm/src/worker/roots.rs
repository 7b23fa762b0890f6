//! Whom guests' outgoing TLS trusts: the authorities this node trusts, and the cluster's own.
//!
//! The node's come as one file, a descriptor the front hands over at start; where a node has none, the public ones that
//! are built in take its place. The cluster's is the `ca.crt` that comes with the pod's service account, read from the
//! pod's own volume: so it is trusted by pods of that cluster only. Nothing is read before the first TLS connection.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_rustls::TlsConnector;

/// Where pods find what comes with their service account.
pub(super) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Bundles of systems have some 200 KiB.
const BUNDLE_BYTES: u64 = 8 << 20;

/// The node's authorities; one for all containers.
#[derive(Debug)]
pub(super) struct Roots {
    bundle: Option<File>,
    parsed: OnceLock<Arc<RootCertStore>>,
}

impl Roots {
    pub(super) fn new(bundle: Option<OwnedFd>) -> Roots {
        Roots { bundle: bundle.map(File::from), parsed: OnceLock::new() }
    }

    fn store(&self) -> &Arc<RootCertStore> {
        self.parsed.get_or_init(|| {
            let of_node = self.bundle.as_ref().and_then(|bundle| match read_all(bundle) {
                Ok(pem) => Some(parse(&pem)).filter(|store| !store.is_empty()),
                Err(error) => {
                    tracing::warn!(%error, "the node's certificate authorities cannot be read");
                    None
                }
            });
            Arc::new(of_node.unwrap_or_else(|| RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() }))
        })
    }
}

/// One container's trust.
pub(super) struct Trust {
    roots: Arc<Roots>,
    /// The container's directories, and which of them belongs to its service account.
    dirs: Arc<Vec<Option<OwnedFd>>>,
    service_account: Option<usize>,
    connector: OnceLock<TlsConnector>,
}

impl Trust {
    pub(super) fn new(roots: Arc<Roots>, dirs: Arc<Vec<Option<OwnedFd>>>, service_account: Option<usize>) -> Trust {
        Trust { roots, dirs, service_account, connector: OnceLock::new() }
    }

    /// Made at the first use: most pods never make one.
    pub(super) fn connector(&self) -> TlsConnector {
        self.connector.get_or_init(|| TlsConnector::from(Arc::new(client(self.store())))).clone()
    }

    fn store(&self) -> Arc<RootCertStore> {
        let dir = self.service_account.and_then(|index| self.dirs.get(index)?.as_ref());
        let own = match dir.map(cluster_authority) {
            None => return self.roots.store().clone(),
            Some(Ok(pem)) => parse(&pem),
            Some(Err(error)) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "the cluster's certificate authority cannot be read");
                }
                return self.roots.store().clone();
            }
        };
        let mut both = RootCertStore::clone(self.roots.store());
        both.roots.extend(own.roots);
        Arc::new(both)
    }
}

fn client(roots: Arc<RootCertStore>) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring offers the default versions");
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// Certificates that are no authorities, or that nobody can read, are passed over, as browsers do.
fn parse(pem: &[u8]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
    store
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(BUNDLE_BYTES) as usize;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn cluster_authority(dir: &OwnedFd) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(dir, "ca.crt", flags, Mode::empty(), ResolveFlags::BENEATH)?;
    let mut pem = Vec::new();
    File::from(file).take(BUNDLE_BYTES).read_to_end(&mut pem)?;
    Ok(pem)
}
