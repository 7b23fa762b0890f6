//! Names of images and digests of content.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::ImageError;
use crate::clock::hex;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// An image's full name as Docker and containerd spell it: `hello:dev` is `docker.io/library/hello:dev`.
///
/// Parsed by hand: a regular expression for it costs 12 MB of memory once it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageName {
    pub fn parse(text: &str) -> Result<ImageName, ImageError> {
        parse(text).map_err(|why| ImageError::InvalidName { name: text.to_owned(), why: why.to_owned() })
    }

    /// Without tag and digest, for example `docker.io/library/hello`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest.clone()
    }

    /// As the name spells it: `docker.io`, though Docker's registry is at another host.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository without its registry, for example `library/hello`.
    pub fn path(&self) -> &str {
        &self.repository
    }

    /// What a registry is asked for: the digest, else the tag.
    pub(super) fn reference(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The name as users write it: repository and tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<ImageName, &'static str> {
    if text.len() == 64 && is_hex(text) {
        return Err("it is the id of an image, and no name");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse().map_err(|_| "its digest is not sha256: and 64 hexadecimal digits")?))
        }
        None => (text, None),
    };
    // A colon before the last slash belongs to the registry's port.
    let path_at = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match rest[path_at..].split_once(':') {
        Some((last, tag)) => (&rest[..path_at + last.len()], Some(tag.to_owned())),
        None => (rest, None),
    };
    if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
        return Err("its tag is not 1 to 128 letters, digits, dots, dashes and underscores");
    }
    let (registry, repository) = match path.split_once('/') {
        Some((first, repository)) if is_registry(first) => (first, repository),
        Some(_) | None => (DEFAULT_REGISTRY, path),
    };
    if !is_host(registry) {
        return Err("its registry is not a host with an optional port");
    }
    if !is_path(repository) {
        return Err(
            "its repository is not lower-case letters and digits, separated by single dots, dashes, underscores or slashes",
        );
    }
    let registry = spelled(registry);
    let repository = match registry == DEFAULT_REGISTRY && !repository.contains('/') {
        true => format!("library/{repository}"),
        false => repository.to_owned(),
    };
    let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
    Ok(ImageName { registry, repository, tag, digest })
}

/// The beginning of names, `HOST` or `HOST/PATH`, as the registry and the path, which may be empty. None, if no name
/// begins so.
pub(super) fn prefix(text: &str) -> Option<(String, &str)> {
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    let path = path.strip_suffix('/').unwrap_or(path);
    let begins_names = is_registry(host) && is_host(host) && (path.is_empty() || is_path(path));
    begins_names.then(|| (spelled(host), path))
}

/// Is the first part of a name its registry, or of its repository?
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

/// As names say it: hosts mean the same in upper and lower case. A port stays, also the one that goes without saying:
/// without it `host:443` would be no registry any more.
fn spelled(registry: &str) -> String {
    match registry.to_ascii_lowercase() {
        registry if registry == "index.docker.io" => DEFAULT_REGISTRY.to_owned(),
        registry => registry,
    }
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => return address.parse::<std::net::Ipv6Addr>().is_ok() && is_port(port),
            None => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && is_port(port)
}

/// Nothing, or a colon and a port.
fn is_port(text: &str) -> bool {
    let is_number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    text.is_empty() || text.strip_prefix(':').is_some_and(is_number)
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    word(*first)
        && word(*last)
        && separators
            .filter(|run| !run.is_empty())
            .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// `sha256:` and 64 lower-case hexadecimal digits. Other algorithms are not accepted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    pub fn of(content: &[u8]) -> Digest {
        Digest(hex(&Sha256::digest(content)))
    }

    pub(super) fn from_hasher(hasher: Sha256) -> Digest {
        Digest(hex(&hasher.finalize()))
    }

    /// The digits alone.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for Digest {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Digest, ImageError> {
        match text.strip_prefix("sha256:") {
            Some(digits) if digits.len() == 64 && is_hex(digits) => Ok(Digest(digits.to_owned())),
            Some(_) | None => Err(ImageError::corrupt(
                format!("digest {text:?}"),
                "only sha256: and 64 lower-case hexadecimal digits are accepted",
            )),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The digits of an id or of the beginning of one, if `text` can be one. Only all 64 are never a name.
pub(super) fn id_prefix(text: &str) -> Option<String> {
    let (digits, said_so) = match text.strip_prefix("sha256:") {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    let long_enough = if said_so { !digits.is_empty() } else { digits.len() >= 12 };
    (long_enough && digits.len() <= 64 && is_hex(digits)).then(|| digits.to_owned())
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
