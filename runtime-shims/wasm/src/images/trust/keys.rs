//! Keys in PEM: ECDSA P-256 (what cosign makes), Ed25519 and RSA, in the form `openssl` writes them.

use std::fmt;
use std::path::Path;

use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    P256,
    Ed25519,
    Rsa,
}

/// A key that signatures are checked with.
#[derive(Debug, Clone)]
pub(in crate::images) struct PublicKey {
    /// Where it came from, for messages.
    pub(in crate::images) name: String,
    algorithm: Algorithm,
    content: Vec<u8>,
}

impl PublicKey {
    pub(in crate::images) fn read(path: &Path) -> Result<PublicKey, String> {
        let text = std::fs::read(path).map_err(|error| format!("cannot read the key {}: {error}", path.display()))?;
        PublicKey::parse(&path.display().to_string(), &text)
    }

    pub(super) fn parse(name: &str, pem: &[u8]) -> Result<PublicKey, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|error| format!("{name} is no public key in PEM (-----BEGIN PUBLIC KEY-----): {error}"))?;
        let (algorithm, content) = subject_public_key(&der).ok_or_else(|| {
            format!("{name} is a key of a kind that is not supported; ECDSA P-256, Ed25519 and RSA are")
        })?;
        Ok(PublicKey { name: name.to_owned(), algorithm, content })
    }

    pub(super) fn verifies(&self, message: &[u8], signed: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::P256 => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, &self.content),
            Algorithm::Ed25519 => UnparsedPublicKey::new(&signature::ED25519, &self.content),
            Algorithm::Rsa => UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, &self.content),
        }
        .verify(message, signed)
        .is_ok()
    }
}

/// `SEQUENCE { SEQUENCE { OID, parameters }, BIT STRING }`.
fn subject_public_key(der: &[u8]) -> Option<(Algorithm, Vec<u8>)> {
    let (0x30, outer, _) = element(der)? else { return None };
    let (0x30, algorithm, rest) = element(outer)? else { return None };
    let (0x03, bits, _) = element(rest)? else { return None };
    // The first byte counts unused bits, of which a key has none.
    let (0, key) = bits.split_first().map(|(unused, key)| (*unused, key))? else { return None };
    let (0x06, oid, parameters) = element(algorithm)? else { return None };
    let algorithm = match oid {
        OID_EC => match element(parameters)? {
            (0x06, OID_P256, _) => Algorithm::P256,
            _ => return None,
        },
        OID_ED25519 => Algorithm::Ed25519,
        OID_RSA => Algorithm::Rsa,
        _ => return None,
    };
    Some((algorithm, key.to_vec()))
}

/// Tag and content of the first DER element, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// A key that signs: a PKCS#8 file without a passphrase.
pub struct SigningKey(Pair);

enum Pair {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    pub fn read(path: &Path) -> Result<SigningKey, String> {
        let text = std::fs::read(path).map_err(|error| format!("cannot read the key {}: {error}", path.display()))?;
        SigningKey::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    pub fn parse(pem: &[u8]) -> Result<SigningKey, String> {
        const CURE: &str =
            "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem` makes a key that is taken";
        let shown = String::from_utf8_lossy(pem);
        if shown.contains("ENCRYPTED") {
            return Err(format!("the key has a passphrase, which is not supported; {CURE}"));
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|error| {
            format!("it is no private key in PKCS#8 (-----BEGIN PRIVATE KEY-----): {error}; {CURE}")
        })?;
        let der = der.secret_pkcs8_der();
        if let Ok(pair) =
            EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new())
        {
            return Ok(SigningKey(Pair::P256(pair)));
        }
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map(|pair| SigningKey(Pair::Ed25519(pair)))
            .map_err(|_| format!("the key is neither ECDSA P-256 nor Ed25519; {CURE}"))
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        match &self.0 {
            Pair::P256(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signed| signed.as_ref().to_vec())
                .map_err(|_| "the system has no randomness to sign with".to_owned()),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}
