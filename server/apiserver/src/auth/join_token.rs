//! Owns the token with which a machine joins the cluster: `K10<SHA-256 of the CA bundle>::node:<secret>`. The hash lets
//! the joining machine check that it talks to the right server before it trusts it; the secret lets it in. The server's
//! own lies in `<data-dir>/server/token`.

use std::fmt::Write as _;
use std::path::Path;

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::pki::{self, PkiError};

const PREFIX: &str = "K10";
const USER: &str = "node";
/// Below this a secret can be guessed.
const LEAST_SECRET: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error(transparent)]
    File(#[from] PkiError),
    #[error(
        "the token {place} is malformed: {what}; expected a secret of at least {LEAST_SECRET} characters, or K10<hash>::node:<secret>"
    )]
    Malformed { place: String, what: &'static str },
    #[error(
        "the token {place} was made for another cluster: it carries the CA hash {theirs}, this server's is {ours}; give the secret after the last ':' alone to use it here"
    )]
    OtherCluster { place: String, theirs: String, ours: String },
    #[error("no randomness from the system: {0}")]
    Randomness(rand::rand_core::OsError),
}

/// The join token of this server.
pub struct JoinToken {
    secret: String,
    ca_hash: String,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("ca_hash", &self.ca_hash).finish_non_exhaustive()
    }
}

impl JoinToken {
    /// `given` (`--token`) if there is one, else what the file holds, else a new one. Leaves it in the file.
    pub fn open(data_dir: &Path, ca_pem: &str, given: Option<&str>) -> Result<JoinToken, TokenError> {
        let path = data_dir.join("server").join("token");
        let ca_hash = hash_of(ca_pem);
        let stored = pki::read_secret(&path)?;
        let secret = match (given, &stored) {
            (Some(given), _) => secret_of(given, "given by --token", &ca_hash)?,
            (None, Some(stored)) => secret_of(stored, &format!("in {}", path.display()), &ca_hash)?,
            (None, None) => random_secret()?,
        };
        let token = JoinToken { secret, ca_hash };
        let text = format!("{}\n", token.text());
        if stored.as_deref() != Some(&text) {
            pki::write_file(&path, &text, 0o600)?;
        }
        Ok(token)
    }

    /// As it is handed to whoever sets up a node.
    pub fn text(&self) -> String {
        format!("{PREFIX}{}::{USER}:{}", self.ca_hash, self.secret)
    }

    /// Whether `presented`, whole or its secret alone, is this token. Takes the same time whatever is wrong with it.
    pub fn accepts(&self, presented: &str) -> bool {
        let presented = presented.trim();
        let secret = match split(presented) {
            Some((hash, secret)) => {
                // A client that kept the hash of an authority since replaced must not get in by its secret.
                if hash != self.ca_hash {
                    return false;
                }
                secret
            }
            None => presented.strip_prefix("node:").unwrap_or(presented),
        };
        // Hashes are of equal length, so that not even the length shows.
        Sha256::digest(secret).ct_eq(&Sha256::digest(&self.secret)).into()
    }
}

/// Splits `K10<hash>::node:<secret>` into hash and secret.
fn split(token: &str) -> Option<(&str, &str)> {
    let (hash, rest) = token.strip_prefix(PREFIX)?.split_once("::")?;
    let (_user, secret) = rest.split_once(':')?;
    Some((hash, secret))
}

fn secret_of(token: &str, place: &str, ca_hash: &str) -> Result<String, TokenError> {
    let malformed = |what| TokenError::Malformed { place: place.to_owned(), what };
    let token = token.trim();
    let secret = match split(token) {
        Some((hash, secret)) => {
            if hash != ca_hash {
                return Err(TokenError::OtherCluster {
                    place: place.to_owned(),
                    theirs: hash.to_owned(),
                    ours: ca_hash.to_owned(),
                });
            }
            secret
        }
        None if token.contains("::") => return Err(malformed("it has a '::' but is not of that form")),
        None => token,
    };
    if secret.len() < LEAST_SECRET {
        return Err(malformed("its secret is too short"));
    }
    if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed("its secret holds spaces or characters that are not ASCII"));
    }
    Ok(secret.to_owned())
}

/// The hash under which tokens name a CA bundle: hexadecimal SHA-256 of its PEM text.
pub fn hash_of(ca_pem: &str) -> String {
    hex(&Sha256::digest(ca_pem))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// A secret does not come from the injected source of chance: a seed must not replay it.
pub(super) fn random_secret() -> Result<String, TokenError> {
    let mut bytes = [0u8; 16];
    OsRng.try_fill_bytes(&mut bytes).map_err(TokenError::Randomness)?;
    Ok(hex(&bytes))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn open(given: Option<&str>) -> (tempfile::TempDir, Result<JoinToken, TokenError>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("server")).unwrap();
        let token = JoinToken::open(dir.path(), "CA", given);
        (dir, token)
    }

    #[test]
    fn the_token_is_kept_and_carries_the_hash_of_the_ca() {
        let (dir, token) = open(None);
        let token = token.unwrap();
        let hash = hash_of("CA");
        assert!(token.text().starts_with(&format!("K10{hash}::node:")));
        let again = JoinToken::open(dir.path(), "CA", None).unwrap();
        assert_eq!(token.text(), again.text());
        let given = JoinToken::open(dir.path(), "CA", Some("0123456789")).unwrap();
        assert_eq!(given.text(), format!("K10{hash}::node:0123456789"));
        assert_eq!(std::fs::read_to_string(dir.path().join("server/token")).unwrap(), format!("{}\n", given.text()));
    }

    #[test]
    fn the_whole_token_or_its_secret_opens_and_nothing_else() {
        let token = open(Some("0123456789")).1.unwrap();
        let whole = token.text();
        let other = whole.replace(&hash_of("CA"), &hash_of("another"));
        let tried: Vec<String> =
            [whole.as_str(), "0123456789", "node:0123456789", &other, "012345678", "", "K10::node:"]
                .into_iter()
                .map(|presented| token.accepts(presented).to_string())
                .collect();
        expect!["true true true false false false false"].assert_eq(&tried.join(" "));
    }

    #[test]
    fn a_wrong_token_is_refused_with_the_cure() {
        let said = |given| open(Some(given)).1.unwrap_err().to_string();
        expect!["the token given by --token is malformed: its secret is too short; expected a secret of at least 8 characters, or K10<hash>::node:<secret>"].assert_eq(&said("short"));
        expect!["the token given by --token is malformed: it has a '::' but is not of that form; expected a secret of at least 8 characters, or K10<hash>::node:<secret>"].assert_eq(&said("K11abc::node:secret"));
        expect!["the token given by --token was made for another cluster: it carries the CA hash abc, this server's is 4b650e5c4785025dee7bd65e3c5c527356717d7a1c0bfef5b4ada8ca1e9cbe17; give the secret after the last ':' alone to use it here"].assert_eq(&said("K10abc::node:0123456789"));
    }
}
