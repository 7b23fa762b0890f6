//! Decides where an image may be had from: the mirrors of its registry in their order, then the registry itself. What k3s
//! makes of `registries.yaml` is followed. No I/O.

use std::net::IpAddr;

use url::{Host, Url};

use super::settings::{Credentials, HostConfig, Mirror, Registries, RegistriesFile};
use crate::images::ImageName;

const DOCKER: &str = "docker.io";
const DOCKER_HOST: &str = "registry-1.docker.io";

/// One place an image may be had from.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// Up to and without the repository, for example `https://registry-1.docker.io/v2`.
    pub(super) base: Url,
    /// The repository as this place calls it.
    pub(super) repository: String,
    /// The registry whose mirror this is; said in each request, because one mirror may serve several.
    pub(super) mirror_of: Option<String>,
    pub(super) config: HostConfig,
}

impl Endpoint {
    /// Host and port, as users write them.
    pub(super) fn host(&self) -> String {
        authority(&self.base)
    }

    /// `path` is what follows the repository, for example `manifests/v1`.
    pub(super) fn url(&self, path: &str) -> Result<Url, String> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{}/{path}", self.base.path().trim_end_matches('/'), self.repository));
        url.set_query((!query.is_empty()).then_some(query));
        if let Some(registry) = &self.mirror_of {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }

    /// The user's own credentials go before the node's, but not to a host they are not meant for.
    pub(super) fn credentials(&self, own: &Credentials) -> Result<Credentials, String> {
        match own {
            Credentials::Anonymous => {}
            Credentials::For { host, credentials } => {
                // Who names the port that goes without saying means the same.
                if is_meant_for(host, &self.host()) || is_meant_for(host, &with_port(&self.base)) {
                    return Ok((**credentials).clone());
                }
            }
            Credentials::Password { .. } | Credentials::IdentityToken(_) | Credentials::Token(_) => {
                return Ok(own.clone());
            }
        }
        self.config.auth.as_ref().map_or(Ok(Credentials::Anonymous), |auth| auth.credentials())
    }
}

/// All places, in the order they are asked.
pub(super) fn endpoints(
    settings: &Registries,
    file: &RegistriesFile,
    name: &ImageName,
) -> Result<Vec<Endpoint>, String> {
    let registry = name.registry();
    let own_config = config_for(file, registry);
    // As in k3s, the wildcard stands in only where nothing else is said of a registry.
    let wild = own_config.is_none() && !file.mirrors.contains_key(registry);
    let mirror: Option<&Mirror> = match wild {
        true => file.mirrors.get("*").and_then(Option::as_ref),
        false => file.mirrors.get(registry).and_then(Option::as_ref),
    };
    let config = own_config.or_else(|| file.configs.get("*").filter(|_| wild)).cloned().unwrap_or_default();
    let default = default_endpoint(settings, name, config)?;
    let mut found: Vec<Endpoint> = Vec::new();
    for text in mirror.map(|mirror| mirror.endpoint.as_slice()).unwrap_or_default() {
        let base = normal(settings, text).map_err(|why| format!("mirror {text:?} of {registry}: {why}"))?;
        if found.iter().any(|other| other.base == base) {
            continue;
        }
        let repository = rewritten(mirror, name.path())?;
        let mirror_of = (base.host_str() != default.base.host_str() || base.port() != default.base.port())
            .then(|| registry.to_owned());
        let config = config_for(file, &authority(&base)).cloned().unwrap_or_default();
        found.push(Endpoint { base, repository, mirror_of, config });
    }
    // Named as its own last mirror, it is asked as that, with its repository rewritten.
    let has_it = found.last().is_some_and(|mirror| mirror.base == default.base);
    let disabled = settings.disable_default_endpoint && mirror.is_some();
    if !has_it && !disabled {
        found.push(default);
    }
    if found.is_empty() {
        return Err(format!(
            "no endpoint is left for {registry}: its default endpoint is disabled and its mirror has none"
        ));
    }
    Ok(found)
}

/// The registry itself, which alone takes what is pushed.
pub(super) fn own(settings: &Registries, file: &RegistriesFile, name: &ImageName) -> Result<Endpoint, String> {
    let config = config_for(file, name.registry()).or_else(|| file.configs.get("*")).cloned().unwrap_or_default();
    default_endpoint(settings, name, config)
}

/// The host and port that a registry's images are asked for, for example `ghcr.io:443`: the same however the registry is
/// spelled.
pub(in crate::images) fn home(registry: &str) -> Result<String, String> {
    normal(&Registries::default(), registry).map(|url| with_port(&url))
}

fn default_endpoint(settings: &Registries, name: &ImageName, config: HostConfig) -> Result<Endpoint, String> {
    let host = host_of(name.registry());
    let is_named = |other: &String| [host, name.registry()].iter().any(|own| other.eq_ignore_ascii_case(own));
    let plain = settings.insecure.iter().any(is_named);
    let text = match (plain, config.tls.is_some()) {
        (true, _) => format!("http://{host}"),
        (false, true) => format!("https://{host}"),
        (false, false) => host.to_owned(),
    };
    let base = normal(settings, &text)?;
    Ok(Endpoint { base, repository: name.path().to_owned(), mirror_of: None, config })
}

/// An endpoint with scheme and path: HTTPS but for loopback, `/v2` but where a path is given.
fn normal(settings: &Registries, text: &str) -> Result<Url, String> {
    let text = text.trim();
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = Url::parse(&with_scheme).map_err(|error| error.to_string())?;
    if url.host().is_none() || !matches!(url.scheme(), "http" | "https") {
        return Err("it is no HTTP or HTTPS address".to_owned());
    }
    if !text.contains("://") {
        let insecure = settings.insecure.iter().any(|other| other.eq_ignore_ascii_case(&authority(&url)));
        // On a loopback interface nobody listens in, and certificates are rare there.
        if (is_loopback(&url) && url.port().is_some()) || insecure {
            url.set_scheme("http").map_err(|()| "it has no host")?;
        }
    }
    if url.host_str() == Some(DOCKER) || url.host_str() == Some("index.docker.io") {
        url.set_host(Some(DOCKER_HOST)).map_err(|error| error.to_string())?;
    }
    if matches!(url.path(), "" | "/" | "/v2" | "/v2/") {
        url.set_path("/v2");
    }
    Ok(url)
}

fn rewritten(mirror: Option<&Mirror>, repository: &str) -> Result<String, String> {
    let Some(mirror) = mirror else { return Ok(repository.to_owned()) };
    for (pattern, replacement) in &mirror.rewrite {
        let (Some(pattern), Some(replacement)) = (pattern.as_str(), replacement.as_str()) else {
            return Err("rewrite: it maps patterns to replacements, both text".to_owned());
        };
        let regex =
            regex_lite::Regex::new(pattern).map_err(|error| format!("rewrite: pattern {pattern:?}: {error}"))?;
        if regex.is_match(repository) {
            return Ok(regex.replace_all(repository, replacement).into_owned());
        }
    }
    Ok(repository.to_owned())
}

/// `docker.io` is known by the name of its host, too.
fn config_for<'a>(file: &'a RegistriesFile, host: &str) -> Option<&'a HostConfig> {
    let other = match host {
        DOCKER => DOCKER_HOST,
        DOCKER_HOST => DOCKER,
        same => same,
    };
    file.configs.get(host_of(host)).or_else(|| file.configs.get(host)).or_else(|| file.configs.get(other))
}

fn host_of(registry: &str) -> &str {
    if registry == DOCKER { DOCKER_HOST } else { registry }
}

pub(super) fn authority(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => String::new(),
    }
}

fn with_port(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// `server` is what a pull secret calls the registry: a host or a URL, with `*` for single parts of the name.
fn is_meant_for(server: &str, host: &str) -> bool {
    let server = server.to_ascii_lowercase();
    let server = server.split_once("://").map_or(server.as_str(), |(_, rest)| rest);
    let server = server.split('/').next().unwrap_or(server);
    let docker = |name: &str| matches!(name, DOCKER | DOCKER_HOST | "index.docker.io");
    if server.is_empty() || (docker(server) && docker(host)) {
        return true;
    }
    let (wanted, own): (Vec<&str>, Vec<&str>) = (server.split('.').collect(), host.split('.').collect());
    wanted.len() == own.len() && wanted.iter().zip(&own).all(|(wanted, own)| *wanted == "*" || wanted == own)
}
