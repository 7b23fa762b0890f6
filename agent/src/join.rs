//! How a node comes to its certificates: it shows the server's token once, proves from then on with its own key and
//! password that it is the same node, and renews before its certificates end, in process.
//!
//! The token is `K10<SHA-256 of the CA bundle>::node:<secret>`: the bundle is fetched without trust and believed only if
//! its hash is the token's. What was given lies in the agent's folder, readable to its owner only, so that a node that
//! boots with no server in reach has an identity.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Client, Clock, Identity, OnExit, RemoteConfig, TaskScope, fetch_ca, full_body};
use jiff::{SignedDuration, Timestamp};
use rand::TryRngCore as _;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config::NodeCertificates;

const ENROL_PATH: &str = "/v1-coracle/node-certificate";
/// How long before their end certificates are renewed: a node may be off for a season.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 120);
/// How far ahead the clock is trusted.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(6 * 3600);
/// After a failed renewal; the old certificate is still good for long.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "the token is not of the form K10<hash>::node:<secret>: copy it whole from `coracle token` on the server, or from <data-dir>/server/token"
    )]
    Malformed,
    #[error(
        "node {node} has no certificates yet and no token was given: copy it from `coracle token` on the server to --token"
    )]
    NoToken { node: String },
    #[error("cannot join {server}: {source}")]
    Server {
        server: String,
        #[source]
        source: coracle_client::Error,
    },
    #[error("the server at {server} refuses the token: copy it whole from `coracle token` on that server")]
    TokenRefused { server: String },
    #[error("{path}: {source}; the agent's folder must be writable to the agent")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is damaged ({what}): remove the folder {folder} to join again")]
    Damaged { path: PathBuf, folder: PathBuf, what: String },
    #[error("no key could be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("no randomness from the system: {0}")]
    Randomness(rand::rand_core::OsError),
}

/// How the server is reached by a node that has no certificates yet.
#[derive(Clone)]
pub enum Way {
    /// Over the network, with its token.
    Token {
        /// `https://host:port`.
        server: String,
        token: Option<String>,
    },
    /// In the same process, by a client that is trusted as the process is.
    InProcess(Client),
}

#[derive(Clone)]
pub struct JoinConfig {
    pub way: Way,
    pub node_name: String,
    /// Where keys and certificates are kept.
    pub dir: PathBuf,
    pub clock: Arc<dyn Clock>,
}

/// What a node proves itself with. PEM texts.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub client_cert_pem: String,
    pub client_key_pem: String,
    pub serving_cert_pem: String,
    pub serving_key_pem: String,
    /// Who signs the certificates of those that may call the node API.
    pub client_ca_pem: String,
    /// Who signs the API server's.
    pub server_ca_pem: String,
}

impl Credentials {
    pub fn identity(&self) -> Identity {
        Identity::ClientCert { cert_pem: self.client_cert_pem.clone(), key_pem: self.client_key_pem.clone() }
    }

    /// What the node API serves with.
    pub fn node_certificates(&self) -> NodeCertificates {
        NodeCertificates {
            serving_cert_pem: self.serving_cert_pem.clone(),
            serving_key_pem: self.serving_key_pem.clone(),
            client_ca_pem: self.client_ca_pem.clone(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnrolRequest<'a> {
    node_name: &'a str,
    node_password: &'a str,
    client_csr: String,
    serving_csr: String,
    addresses: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnrolAnswer {
    client_certificate: String,
    serving_certificate: String,
    client_ca: String,
    server_ca: String,
}

/// The node's credentials: those on disk while they last, else new ones from the server.
pub async fn enrol(config: &JoinConfig) -> Result<Credentials, JoinError> {
    let files = Files { dir: &config.dir };
    if let Some(kept) = files.load()? {
        let same_cluster = match &config.way {
            Way::Token { token: Some(token), .. } => split_token(token)?.0 == hash_of(&kept.server_ca_pem),
            Way::Token { token: None, .. } | Way::InProcess(_) => true,
        };
        if same_cluster && names_node(&kept, &files, &config.node_name)? && !ended(&kept, &files, config.clock.now())? {
            return Ok(kept);
        }
    }
    match &config.way {
        Way::InProcess(client) => ask(config, client).await,
        Way::Token { server, token } => {
            let token = token.as_deref().ok_or_else(|| JoinError::NoToken { node: config.node_name.clone() })?;
            let (hash, _) = split_token(token)?;
            let ca = fetch_ca(server, hash).await;
            let ca = ca.map_err(|source| JoinError::Server { server: server.clone(), source })?;
            let client = remote(config, server, ca, Identity::Token(token.to_owned()))?;
            ask(config, &client).await
        }
    }
}

/// Keeps the certificates fresh: well before they end new ones are asked for, and `renewed` gets them.
pub fn renew(
    config: JoinConfig,
    credentials: Credentials,
    scope: &TaskScope,
    renewed: impl Fn(&Credentials) + Send + Sync + 'static,
) {
    let renewed = Arc::new(renewed);
    scope.spawn("node-certificates", OnExit::restart(), move |cancel| {
        renewal(config.clone(), credentials.clone(), Arc::clone(&renewed), cancel)
    });
}

async fn renewal(
    config: JoinConfig,
    mut credentials: Credentials,
    renewed: Arc<impl Fn(&Credentials)>,
    cancel: CancellationToken,
) -> Result<(), JoinError> {
    let mut least = SignedDuration::ZERO;
    loop {
        let until = not_after(&credentials.client_cert_pem, &Files { dir: &config.dir }, "client.crt")?;
        let left = config.clock.now().duration_until(until);
        let wait = Duration::try_from((left - RENEW_BEFORE).max(least)).unwrap_or(Duration::ZERO);
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait.min(LOOK_AT_CLOCK)) => {}
        }
        // The clock may be set after the boot, or jump: what was reckoned by it may be wrong by years.
        if wait > LOOK_AT_CLOCK {
            least = least.saturating_sub(SignedDuration::try_from(LOOK_AT_CLOCK).unwrap_or(SignedDuration::ZERO));
            continue;
        }
        let asked = match &config.way {
            Way::InProcess(client) => ask(&config, client).await,
            Way::Token { server, .. } => {
                let client = remote(&config, server, credentials.server_ca_pem.clone(), credentials.identity())?;
                ask(&config, &client).await
            }
        };
        match asked {
            Ok(new) => {
                tracing::info!(node = config.node_name, "renewed the node's certificates");
                renewed(&new);
                // A server that gives short ones is not asked all the time.
                let until = not_after(&new.client_cert_pem, &Files { dir: &config.dir }, "client.crt")?;
                least = config.clock.now().duration_until(until) / 3;
                credentials = new;
            }
            Err(error) => {
                tracing::warn!(node = config.node_name, %error, until = %until, "cannot renew the node's certificates");
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Ok(()),
                    () = tokio::time::sleep(RENEWAL_RETRY) => {}
                }
            }
        }
    }
}

fn remote(config: &JoinConfig, server: &str, ca_pem: String, identity: Identity) -> Result<Client, JoinError> {
    let remote = RemoteConfig { clock: Arc::clone(&config.clock), ..RemoteConfig::new(server, ca_pem, identity) };
    Client::remote(remote).map_err(|source| JoinError::Server { server: server.to_owned(), source })
}

/// Asks for certificates and keeps them. Keys never leave this host.
async fn ask(config: &JoinConfig, client: &Client) -> Result<Credentials, JoinError> {
    let files = Files { dir: &config.dir };
    let (client_key, serving_key) = (files.key("client.key")?, files.key("serving.key")?);
    let body = EnrolRequest {
        node_name: &config.node_name,
        node_password: &files.password()?,
        client_csr: csr(&client_key, &config.node_name, ExtendedKeyUsagePurpose::ClientAuth)?,
        serving_csr: csr(&serving_key, &config.node_name, ExtendedKeyUsagePurpose::ServerAuth)?,
        addresses: Vec::new(),
    };
    let server = match &config.way {
        Way::Token { server, .. } => server.clone(),
        Way::InProcess(_) => "this process".to_owned(),
    };
    let body = serde_json::to_vec(&body).expect("plain strings can be written as JSON");
    let request = http::Request::post(ENROL_PATH)
        .header("content-type", "application/json")
        .body(full_body(body))
        .expect("a constant path and header make a request");
    let answer: EnrolAnswer = client.json(request).await.map_err(|source| match source.is_unauthorized() {
        true => JoinError::TokenRefused { server: server.clone() },
        false => JoinError::Server { server: server.clone(), source },
    })?;
    let credentials = Credentials {
        client_cert_pem: answer.client_certificate,
        client_key_pem: client_key.serialize_pem(),
        serving_cert_pem: answer.serving_certificate,
        serving_key_pem: serving_key.serialize_pem(),
        client_ca_pem: answer.client_ca,
        server_ca_pem: answer.server_ca,
    };
    files.store(&credentials)?;
    Ok(credentials)
}

/// Hash and secret of a token.
fn split_token(token: &str) -> Result<(&str, &str), JoinError> {
    let (hash, rest) = token.trim().strip_prefix("K10").and_then(|t| t.split_once("::")).ok_or(JoinError::Malformed)?;
    let (_user, secret) = rest.split_once(':').ok_or(JoinError::Malformed)?;
    let hexadecimal = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    (hexadecimal && !secret.is_empty()).then_some((hash, secret)).ok_or(JoinError::Malformed)
}

fn hash_of(ca_pem: &str) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(ca_pem).iter().map(|b| format!("{b:02x}")).collect()
}

fn csr(key: &KeyPair, node: &str, usage: ExtendedKeyUsagePurpose) -> Result<String, JoinError> {
    let mut params = CertificateParams::new(vec![node.to_owned()])?;
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    params.extended_key_usages = vec![usage];
    Ok(params.serialize_request(key)?.pem()?)
}

fn names_node(credentials: &Credentials, files: &Files<'_>, node: &str) -> Result<bool, JoinError> {
    with_certificate(&credentials.client_cert_pem, files, "client.crt", |certificate| {
        let wanted = format!("system:node:{node}");
        certificate.subject().iter_common_name().any(|name| name.as_str().is_ok_and(|name| name == wanted))
    })
}

fn ended(credentials: &Credentials, files: &Files<'_>, now: Timestamp) -> Result<bool, JoinError> {
    Ok(not_after(&credentials.client_cert_pem, files, "client.crt")? <= now)
}

fn not_after(pem: &str, files: &Files<'_>, name: &str) -> Result<Timestamp, JoinError> {
    with_certificate(pem, files, name, |certificate| {
        Timestamp::from_second(certificate.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX)
    })
}

fn with_certificate<T>(
    pem: &str,
    files: &Files<'_>,
    name: &str,
    look: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T,
) -> Result<T, JoinError> {
    let damaged = |what: String| files.damaged(name, what);
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| damaged(e.to_string()))?;
    let certificate = block.parse_x509().map_err(|e| damaged(e.to_string()))?;
    Ok(look(&certificate))
}

/// The folder with the node's keys and certificates.
struct Files<'a> {
    dir: &'a Path,
}

const CERTIFICATES: [&str; 4] = ["client.crt", "serving.crt", "client-ca.crt", "server-ca.crt"];

impl Files<'_> {
    fn damaged(&self, name: &str, what: String) -> JoinError {
        JoinError::Damaged { path: self.dir.join(name), folder: self.dir.to_path_buf(), what }
    }

    fn read(&self, name: &str) -> Result<Option<String>, JoinError> {
        let path = self.dir.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(JoinError::File { path, source }),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), JoinError> {
        let path = self.dir.join(name);
        let new = self.dir.join(format!("{name}.new"));
        let written = fs::create_dir_all(self.dir)
            .and_then(|()| fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new))
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&new, &path))
            // A password that a power cut takes back would lock the node out: the server has seen it by then.
            .and_then(|()| fs::File::open(self.dir)?.sync_all());
        written.map_err(|source| JoinError::File { path, source })
    }

    /// All of it, or nothing if some part is missing: a join that was cut short is made again.
    fn load(&self) -> Result<Option<Credentials>, JoinError> {
        let mut texts = Vec::new();
        for name in CERTIFICATES.into_iter().chain(["client.key", "serving.key"]) {
            match self.read(name)? {
                Some(text) => texts.push(text),
                None => return Ok(None),
            }
        }
        let [client_cert_pem, serving_cert_pem, client_ca_pem, server_ca_pem, client_key_pem, serving_key_pem] =
            texts.try_into().expect("as many files as names");
        Ok(Some(Credentials {
            client_cert_pem,
            client_key_pem,
            serving_cert_pem,
            serving_key_pem,
            client_ca_pem,
            server_ca_pem,
        }))
    }

    fn store(&self, credentials: &Credentials) -> Result<(), JoinError> {
        let texts = [
            &credentials.client_cert_pem,
            &credentials.serving_cert_pem,
            &credentials.client_ca_pem,
            &credentials.server_ca_pem,
        ];
        CERTIFICATES.into_iter().zip(texts).try_for_each(|(name, text)| self.write(name, text))
    }

    /// The key of this name, made when it is missing: a renewal keeps the key.
    fn key(&self, name: &str) -> Result<KeyPair, JoinError> {
        match self.read(name)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|error| self.damaged(name, error.to_string())),
            None => {
                let key = KeyPair::generate()?;
                self.write(name, &key.serialize_pem())?;
                Ok(key)
            }
        }
    }

    /// What only this machine knows: the server lets nobody else take the node's name.
    fn password(&self) -> Result<String, JoinError> {
        if let Some(password) = self.read("password")? {
            return Ok(password);
        }
        let mut bytes = [0u8; 16];
        // A secret does not come from the injected source of chance: a seed must not replay it.
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(JoinError::Randomness)?;
        let password: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        self.write("password", &password)?;
        Ok(password)
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::TokioClock;
    use expect_test::expect;

    use super::*;

    fn config(dir: &Path, token: Option<&str>) -> JoinConfig {
        JoinConfig {
            way: Way::Token { server: "https://127.0.0.1:1".to_owned(), token: token.map(str::to_owned) },
            node_name: "pi".to_owned(),
            dir: dir.to_path_buf(),
            clock: TokioClock::shared("2026-01-01T00:00:00Z".parse().unwrap()),
        }
    }

    /// Credentials whose client certificate is valid through 2026, signed by itself.
    fn credentials(node: &str) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![node.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        params.not_before = rcgen::date_time_ymd(2025, 12, 1);
        params.not_after = rcgen::date_time_ymd(2026, 12, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        Credentials {
            client_cert_pem: pem.clone(),
            client_key_pem: key.serialize_pem(),
            serving_cert_pem: pem.clone(),
            serving_key_pem: key.serialize_pem(),
            client_ca_pem: pem.clone(),
            server_ca_pem: pem,
        }
    }

    #[tokio::test]
    async fn kept_credentials_need_no_server() {
        let dir = tempfile::tempdir().unwrap();
        let kept = credentials("pi");
        let files = Files { dir: dir.path() };
        files.store(&kept).unwrap();
        files.write("client.key", &kept.client_key_pem).unwrap();
        files.write("serving.key", &kept.serving_key_pem).unwrap();
        assert!(enrol(&config(dir.path(), None)).await.unwrap() == kept);
        let token = format!("K10{}::node:secret", hash_of(&kept.server_ca_pem));
        assert!(enrol(&config(dir.path(), Some(&token))).await.unwrap() == kept);
        // Another name, another cluster or a certificate that has ended: the server must be asked.
        let other = JoinConfig { node_name: "other".to_owned(), ..config(dir.path(), Some(&token)) };
        assert!(matches!(enrol(&other).await, Err(JoinError::Server { .. })));
        let late = TokioClock::shared("2027-01-01T00:00:00Z".parse().unwrap());
        let late = JoinConfig { clock: late, ..config(dir.path(), None) };
        assert!(matches!(enrol(&late).await, Err(JoinError::NoToken { .. })));
    }

    #[tokio::test]
    async fn a_token_that_is_none_is_refused_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        for token in ["", "secret", "K10abc::node:x", "K10::node:"] {
            let error = enrol(&config(dir.path(), Some(token))).await.err().unwrap();
            assert!(matches!(error, JoinError::Malformed), "{token}: {error}");
        }
        let error = enrol(&config(dir.path(), None)).await.err().unwrap();
        expect!["node pi has no certificates yet and no token was given: copy it from `coracle token` on the server to --token"]
            .assert_eq(&error.to_string());
    }

    #[tokio::test]
    async fn damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { dir: dir.path() };
        files.store(&Credentials { client_cert_pem: "rubbish".to_owned(), ..credentials("pi") }).unwrap();
        files.key("client.key").unwrap();
        files.key("serving.key").unwrap();
        let error = enrol(&config(dir.path(), None)).await.err().unwrap().to_string();
        assert!(error.contains("client.crt is damaged") && error.contains("remove the folder"), "{error}");
    }

    #[test]
    fn secrets_are_readable_to_their_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let files = Files { dir: dir.path() };
        assert_eq!(files.password().unwrap(), files.password().unwrap());
        files.key("client.key").unwrap();
        for name in ["password", "client.key"] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    /// A clock that is set by hand.
    struct SetClock(parking_lot::Mutex<Timestamp>);

    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            *self.0.lock()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_after_the_boot_does_not_miss_the_renewal() {
        let dir = tempfile::tempdir().unwrap();
        let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = asked.clone();
        let client = Client::new(tower::service_fn(move |_: http::Request<coracle_client::Body>| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let answer = http::Response::builder().status(400).body(coracle_client::empty_body()).unwrap();
            async move { Ok::<_, std::io::Error>(answer) }
        }));
        let clock = Arc::new(SetClock(parking_lot::Mutex::new("1970-01-01T00:00:00Z".parse().unwrap())));
        let config = JoinConfig { way: Way::InProcess(client), clock: clock.clone(), ..config(dir.path(), None) };
        let scope = TaskScope::root();
        renew(config, credentials("pi"), &scope, |_| {});
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 0);
        *clock.0.lock() = "2026-11-01T00:00:00Z".parse().unwrap();
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        assert!(asked.load(std::sync::atomic::Ordering::Relaxed) > 0);
        scope.abort().await;
    }
}
