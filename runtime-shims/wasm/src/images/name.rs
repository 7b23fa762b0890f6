//! Names of images and digests of content.

use std::fmt;
use std::str::FromStr;

use oci_client::Reference;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::ImageError;
use crate::clock::hex;

/// An image's full name as Docker and containerd spell it: `hello:dev` is `docker.io/library/hello:dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName(Reference);

impl ImageName {
    pub fn parse(text: &str) -> Result<ImageName, ImageError> {
        Reference::from_str(text)
            .map(ImageName)
            .map_err(|error| ImageError::InvalidName { name: text.to_owned(), why: error.to_string() })
    }

    /// Without tag and digest, for example `docker.io/library/hello`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.0.registry(), self.0.repository())
    }

    /// Host and, where given, port.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    pub fn digest(&self) -> Option<Digest> {
        self.0.digest().and_then(|digest| digest.parse().ok())
    }

    pub(super) fn reference(&self) -> &Reference {
        &self.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.whole())
    }
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

/// The digits of an id or of the beginning of one, if `text` is not a name.
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
