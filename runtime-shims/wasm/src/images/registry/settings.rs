//! What the user says about registries. `registries.yaml` is spelled as k3s spells it, and read at each pull, so that a
//! change needs no restart.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};

/// Where `registries.yaml` is looked for when nobody says where it is.
pub const DEFAULT_REGISTRIES_FILE: &str = "/etc/coracle/registries.yaml";

/// How to reach registries, and what to accept from them.
#[derive(Debug, Clone)]
pub struct Registries {
    /// Hosts (with their port, if any) that are spoken to without TLS. Loopback ones with a port always are, unless
    /// `registries.yaml` has TLS settings for them.
    pub insecure: Vec<String>,
    /// `registries.yaml`.
    pub file: ConfigFile,
    /// `policy.yaml`: whose signatures images need.
    pub policy: ConfigFile,
    /// Where a mirror is named for a registry, the registry itself is not asked.
    pub disable_default_endpoint: bool,
    /// The largest layer that is fetched.
    pub max_layer_bytes: u64,
    pub timing: Timing,
}

impl Default for Registries {
    fn default() -> Registries {
        Registries {
            insecure: Vec::new(),
            file: ConfigFile::none(),
            policy: ConfigFile::none(),
            disable_default_endpoint: false,
            max_layer_bytes: 1 << 30,
            timing: Timing::default(),
        }
    }
}

/// A file of settings that may be absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    path: Option<PathBuf>,
    required: bool,
}

impl ConfigFile {
    pub fn none() -> ConfigFile {
        ConfigFile { path: None, required: false }
    }

    /// The file somebody named, which must be there; else the one at `default`, if it is there.
    pub fn named_or(named: Option<PathBuf>, default: &str) -> ConfigFile {
        let required = named.is_some();
        ConfigFile { path: Some(named.unwrap_or_else(|| default.into())), required }
    }

    pub fn at(path: impl Into<PathBuf>) -> ConfigFile {
        ConfigFile { path: Some(path.into()), required: true }
    }

    /// Its text and where it lies, or nothing if it is not there and need not be.
    pub(in crate::images) fn read(&self) -> Result<Option<(&Path, String)>, String> {
        let Some(path) = &self.path else { return Ok(None) };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.required => Ok(None),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }
}

/// How patient a pull is.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// Without a byte from the registry.
    pub stall: Duration,
    /// Before the second attempt; doubled before each further one.
    pub first_pause: Duration,
    /// How often each endpoint is tried.
    pub attempts: u32,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            first_pause: Duration::from_millis(500),
            attempts: 5,
        }
    }
}

/// Who we are to a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    #[default]
    Anonymous,
    Password {
        user: String,
        password: String,
    },
    /// Exchanged for an access token at the registry's token server.
    IdentityToken(String),
    /// Sent as it is.
    Token(String),
    /// Credentials that are meant for one host, and not for a mirror elsewhere.
    For {
        host: String,
        credentials: Box<Credentials>,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Anonymous => f.write_str("Anonymous"),
            Credentials::Password { user, .. } => write!(f, "Password({user})"),
            Credentials::IdentityToken(_) => f.write_str("IdentityToken"),
            Credentials::Token(_) => f.write_str("Token"),
            Credentials::For { host, credentials } => write!(f, "{credentials:?} for {host}"),
        }
    }
}

impl Credentials {
    /// From `auth`, the base64 of `USER:PASSWORD`.
    pub fn from_basic(auth: &str) -> Result<Credentials, String> {
        let decoded = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let (user, password) = decoded
            .as_deref()
            .and_then(|text| text.split_once(':'))
            .ok_or("auth: is not the base64 of USER:PASSWORD")?;
        // Some tools pad the password with zeros.
        Ok(Credentials::Password { user: user.to_owned(), password: password.trim_matches('\0').to_owned() })
    }
}

/// `registries.yaml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistriesFile {
    #[serde(default, deserialize_with = "by_host")]
    pub(super) mirrors: BTreeMap<String, Option<Mirror>>,
    #[serde(default, deserialize_with = "by_host")]
    pub(super) configs: BTreeMap<String, HostConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mirror {
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) endpoint: Vec<String>,
    /// Patterns and what replaces them in the repository's name, in the order of the file.
    #[serde(default)]
    pub(super) rewrite: serde_norway::Mapping,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostConfig {
    pub(super) auth: Option<HostAuth>,
    pub(super) tls: Option<HostTls>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostAuth {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identity_token: Option<String>,
}

/// Logs must not have passwords.
impl fmt::Debug for HostAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostAuth")
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostTls {
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) insecure_skip_verify: bool,
}

impl HostAuth {
    pub(super) fn credentials(&self) -> Result<Credentials, String> {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        match (said(&self.identity_token), said(&self.username), said(&self.auth)) {
            (Some(token), _, _) => Ok(Credentials::IdentityToken(token)),
            (None, Some(user), _) => {
                Ok(Credentials::Password { user, password: self.password.clone().unwrap_or_default() })
            }
            (None, None, Some(auth)) => Credentials::from_basic(&auth),
            (None, None, None) => Ok(Credentials::Anonymous),
        }
    }
}

impl Registries {
    pub(super) fn read_file(&self) -> Result<RegistriesFile, String> {
        let Some((path, text)) = self.file.read()? else { return Ok(RegistriesFile::default()) };
        if text.lines().all(|line| line.trim_start().starts_with('#') || line.trim().is_empty()) {
            return Ok(RegistriesFile::default());
        }
        serde_norway::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Hosts are looked up as names of images have them, in lower case.
fn by_host<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<BTreeMap<String, T>, D::Error> {
    let written: BTreeMap<String, T> = null_is_default(deserializer)?;
    Ok(written.into_iter().map(|(host, about)| (host.to_ascii_lowercase(), about)).collect())
}

/// `mirrors:` with nothing behind it is an empty list.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
