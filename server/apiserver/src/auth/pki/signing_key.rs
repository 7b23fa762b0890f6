//! Owns the key that signs service-account tokens (ES256).

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData};
use sha2::{Digest, Sha256};

use super::files::{self, PkiError};

const CURE: &str = "restore it from a backup, or remove it to make a new one (all service-account tokens then end)";

/// An ECDSA P-256 key with the id under which tokens name it.
pub struct SigningKey {
    /// PKCS #8, PEM.
    pub pem: String,
    /// As upstream: the hash of the public key's DER, base64url.
    pub id: String,
    /// The point's coordinates, base64url, as a JSON Web Key has them.
    pub x: String,
    pub y: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    pub(super) fn open(path: &Path) -> Result<SigningKey, PkiError> {
        let pem = match files::read_secret(path)? {
            Some(pem) => pem,
            None => {
                let subject = || "service accounts".to_owned();
                let key = KeyPair::generate().map_err(|source| PkiError::Issue { subject: subject(), source })?;
                let pem = key.serialize_pem();
                files::write(path, &pem, 0o600)?;
                pem
            }
        };
        SigningKey::from_pem(pem).map_err(|what| PkiError::Damaged { path: path.to_owned(), what, cure: CURE })
    }

    pub(crate) fn from_pem(pem: String) -> Result<SigningKey, String> {
        let key = KeyPair::from_pem(&pem).map_err(|error| format!("no private key in PEM in it ({error})"))?;
        // An uncompressed point: 4, then 32 bytes each of x and y.
        let point = key.public_key_raw();
        if point.len() != 65 || point[0] != 4 {
            return Err("it is no ECDSA P-256 key".to_owned());
        }
        Ok(SigningKey {
            id: URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info())),
            x: URL_SAFE_NO_PAD.encode(&point[1..33]),
            y: URL_SAFE_NO_PAD.encode(&point[33..]),
            pem,
        })
    }
}
