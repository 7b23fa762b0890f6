//! Owns the cluster's certificates: two authorities (one for servers, one for clients, so that a serving certificate
//! never opens a door), what this server shows, the administrator's kubeconfig, and what nodes are given.
//! They lie in `<data-dir>/server/tls`. Must not know HTTP, tokens or who may ask.

mod addresses;
mod authority;
mod files;
mod kubeconfig;
mod leaf;
mod signing_key;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

pub use addresses::of_this_host;
pub(crate) use authority::believable;
pub use authority::{Authority, Identity, San, Subject, Usage, check_request};
pub use files::PkiError;
pub(crate) use files::{read_secret, write as write_file};
pub use kubeconfig::render as render_kubeconfig;
pub use leaf::Current;
pub use signing_key::SigningKey;

use authority::RENEW_BEFORE;
use leaf::Leaf;

/// What the certificates have to name.
#[derive(Clone, Debug)]
pub struct PkiConfig {
    pub data_dir: PathBuf,
    pub hostname: String,
    /// `--tls-san`: further names and addresses of this server.
    pub tls_san: Vec<String>,
    /// This host's addresses ([`of_this_host`]).
    pub addresses: Vec<IpAddr>,
    /// ClusterIP of the Service `kubernetes`.
    pub service_ip: IpAddr,
    pub cluster_domain: String,
    /// Where the administrator's kubeconfig points, `https://127.0.0.1:6443`.
    pub server_url: String,
}

/// The certificates and keys of a running server.
#[derive(Debug)]
pub struct Pki {
    config: PkiConfig,
    server_ca: Authority,
    client_ca: Authority,
    serving: Leaf,
    kubelet_client: Leaf,
    signing_key: SigningKey,
}

impl Pki {
    /// Loads what there is and makes what is missing. Blocks on the disk.
    pub fn open(config: PkiConfig, now: Timestamp) -> Result<Pki, PkiError> {
        let dir = tls_dir(&config.data_dir);
        files::make_dir(&dir)?;
        let server_ca = Authority::open(&dir, "server-ca", "coracle-server-ca", now)?;
        let client_ca = Authority::open(&dir, "client-ca", "coracle-client-ca", now)?;
        let serving = Subject {
            common_name: "coracle".to_owned(),
            organization: None,
            sans: serving_sans(&config)?,
            usage: Usage::Server,
        };
        let kubelet_client = Subject {
            common_name: "kube-apiserver".to_owned(),
            organization: Some("system:masters".to_owned()),
            sans: Vec::new(),
            usage: Usage::Client,
        };
        let pki = Pki {
            serving: Leaf::open(dir.join("serving"), serving, &server_ca, now)?,
            kubelet_client: Leaf::open(dir.join("kubelet-client"), kubelet_client, &client_ca, now)?,
            signing_key: SigningKey::open(&dir.join("service-account.key"))?,
            server_ca,
            client_ca,
            config,
        };
        pki.ensure_kubeconfig(now)?;
        Ok(pki)
    }

    /// The authority behind this server's and the nodes' serving certificates.
    pub fn server_ca(&self) -> &Authority {
        &self.server_ca
    }

    /// The authority whose certificates are accepted as proof of who a client is.
    pub fn client_ca(&self) -> &Authority {
        &self.client_ca
    }

    /// What this server shows to its clients.
    pub fn serving(&self) -> Arc<Current> {
        self.serving.current()
    }

    /// What this server shows to a node's API.
    pub fn kubelet_client(&self) -> Arc<Current> {
        self.kubelet_client.current()
    }

    pub fn signing_key(&self) -> &SigningKey {
        &self.signing_key
    }

    pub fn config(&self) -> &PkiConfig {
        &self.config
    }

    pub fn kubeconfig_path(&self) -> PathBuf {
        self.config.data_dir.join("kubeconfig.yaml")
    }

    /// How long until the next certificate has to be renewed; at most half a day, because a clock may be set meanwhile.
    pub fn renewal_due(&self, now: Timestamp) -> SignedDuration {
        let next = self.serving.renew_at().min(self.kubelet_client.renew_at());
        now.duration_until(next).clamp(SignedDuration::from_mins(1), SignedDuration::from_hours(12))
    }

    /// Renews what nears its end. Connections made from now on see the new certificates.
    pub fn renew(&self, now: Timestamp) -> Result<(), PkiError> {
        if self.serving.renew(&self.server_ca, now)? {
            tracing::info!("renewed the serving certificate");
        }
        if self.kubelet_client.renew(&self.client_ca, now)? {
            tracing::info!("renewed the certificate shown to nodes");
        }
        self.ensure_kubeconfig(now)
    }

    /// A certificate of the client authority for a user of the given name and group.
    pub fn issue_client(&self, user: &str, group: Option<&str>, now: Timestamp) -> Result<Identity, PkiError> {
        let subject = Subject {
            common_name: user.to_owned(),
            organization: group.map(str::to_owned),
            sans: Vec::new(),
            usage: Usage::Client,
        };
        self.client_ca.issue(&subject, now)
    }

    /// The client certificate of node `name` for the key of `request_pem`.
    pub fn sign_node_client(&self, name: &str, request_pem: &str, now: Timestamp) -> Result<String, PkiError> {
        let subject = Subject {
            common_name: format!("system:node:{name}"),
            organization: Some("system:nodes".to_owned()),
            sans: Vec::new(),
            usage: Usage::Client,
        };
        self.client_ca.sign_request(request_pem, &subject, now)
    }

    /// The serving certificate of node `name` for the key of `request_pem`.
    pub fn sign_node_serving(
        &self,
        name: &str,
        sans: Vec<San>,
        request_pem: &str,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let subject = Subject {
            common_name: format!("system:node:{name}"),
            organization: Some("system:nodes".to_owned()),
            sans,
            usage: Usage::Server,
        };
        self.server_ca.sign_request(request_pem, &subject, now)
    }

    /// Writes the administrator's kubeconfig unless there is a good one.
    fn ensure_kubeconfig(&self, now: Timestamp) -> Result<(), PkiError> {
        let path = self.kubeconfig_path();
        if let Some(text) = files::read_secret(&path)?
            && self.kubeconfig_is_good(&text, now)
        {
            return Ok(());
        }
        let identity = self.issue_client("system:admin", Some("system:masters"), now)?;
        let text = kubeconfig::render(&self.config.server_url, self.server_ca.pem(), "admin", &identity);
        files::write(&path, &text, 0o600)
    }

    fn kubeconfig_is_good(&self, text: &str, now: Timestamp) -> bool {
        let Some(embedded) = kubeconfig::parse(text) else { return false };
        let Ok(key) = leaf::certified_key(&embedded.identity) else { return false };
        let Ok(certificate) = key.end_entity_cert() else { return false };
        let Ok(facts) = authority::facts(certificate) else { return false };
        embedded.server == self.config.server_url
            && embedded.ca_pem == self.server_ca.pem()
            && authority::signed_by(certificate, &self.client_ca)
            && now < facts.not_after - RENEW_BEFORE
    }

    /// The names under which clients reach this server.
    pub fn serving_names(&self) -> &[San] {
        self.serving.names()
    }

    /// Where the keys lie.
    pub fn dir(&self) -> PathBuf {
        tls_dir(&self.config.data_dir)
    }
}

fn tls_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("server").join("tls")
}

/// The names under which a client may reach this server.
fn serving_sans(config: &PkiConfig) -> Result<Vec<San>, PkiError> {
    let mut sans = vec![
        San::Dns("localhost".to_owned()),
        San::Dns("kubernetes".to_owned()),
        San::Dns("kubernetes.default".to_owned()),
        San::Dns("kubernetes.default.svc".to_owned()),
        San::parse(&format!("kubernetes.default.svc.{}", config.cluster_domain))?,
        San::Ip(IpAddr::from([127, 0, 0, 1])),
        San::Ip(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)),
        San::Ip(config.service_ip),
    ];
    // A host's name may hold characters that no certificate takes; the host is then reached by its other names.
    sans.extend(San::parse(&config.hostname).ok());
    sans.extend(config.addresses.iter().copied().map(San::Ip));
    for extra in &config.tls_san {
        sans.push(San::parse(extra)?);
    }
    sans.sort();
    sans.dedup();
    Ok(sans)
}
