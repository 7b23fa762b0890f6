//! Owns a certificate authority: its key, and issuing certificates from a key of ours or from a signing request.
//! ECDSA P-256 throughout. Must not know who asks or whether they may.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::files::{self, PkiError};

/// Every certificate is valid from here on, so that a host whose clock is hours off, or a day behind after a power cut,
/// does not find it "not yet valid".
pub(super) const NOT_BEFORE: Timestamp = Timestamp::constant(1_577_836_800, 0); // 2020-01-01
/// No clock that shows less than this tells the truth: this software did not exist then.
const EARLIEST_NOW: Timestamp = Timestamp::constant(1_767_225_600, 0); // 2026-01-01
const CA_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 3650);
/// Of leaf certificates; they are renewed while the server runs, when a third of this is left.
pub(super) const LEAF_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 365);
pub(super) const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 120);

const CA_CURE: &str = "restore both files from a backup, or remove both to make a new authority (nodes and kubeconfigs must then be enrolled again)";

/// What `now` may be believed to be on a host that has no clock at boot.
pub(crate) fn believable(now: Timestamp) -> Timestamp {
    now.max(EARLIEST_NOW)
}

/// What a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
}

/// Whom a leaf certificate names.
#[derive(Clone, Debug)]
pub struct Subject {
    pub common_name: String,
    pub organization: Option<String>,
    pub sans: Vec<San>,
    pub usage: Usage,
}

/// A name a server answers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum San {
    Dns(String),
    Ip(IpAddr),
}

impl std::fmt::Display for San {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            San::Dns(name) => name.fmt(f),
            San::Ip(ip) => ip.fmt(f),
        }
    }
}

impl San {
    /// An address if it reads as one, else a DNS name.
    pub fn parse(text: &str) -> Result<San, PkiError> {
        if let Ok(ip) = text.parse() {
            return Ok(San::Ip(ip));
        }
        let valid = !text.is_empty()
            && text.len() <= 253
            && text.split('.').enumerate().all(|(at, label)| {
                (label == "*" && at == 0)
                    || (!label.is_empty()
                        && label.len() <= 63
                        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
            });
        if valid { Ok(San::Dns(text.to_ascii_lowercase())) } else { Err(PkiError::San(text.to_owned())) }
    }

    fn to_rcgen(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            San::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            San::Ip(ip) => SanType::IpAddress(*ip),
        })
    }
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// A certificate authority of the cluster.
pub struct Authority {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    not_after: Timestamp,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Authority {
    /// Loads `<dir>/<name>.crt` and `.key`, or makes them when neither exists.
    pub(super) fn open(dir: &Path, name: &str, common_name: &str, now: Timestamp) -> Result<Authority, PkiError> {
        let certificate_path = dir.join(format!("{name}.crt"));
        let key_path = dir.join(format!("{name}.key"));
        let certificate = files::read(&certificate_path)?;
        let key = files::read_secret(&key_path)?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => load(certificate, certificate_path, &key, key_path),
            (Some(_), None) => Err(PkiError::Missing { missing: key_path, present: certificate_path, cure: CA_CURE }),
            (None, Some(_)) => Err(PkiError::Missing { missing: certificate_path, present: key_path, cure: CA_CURE }),
            (None, None) => {
                let made = generate(common_name, now)
                    .map_err(|source| PkiError::Issue { subject: common_name.to_owned(), source })?;
                // The key first: a certificate without its key would stop the next start.
                files::write(&key_path, &made.key_pem, 0o600)?;
                files::write(&certificate_path, &made.certificate_pem, 0o644)?;
                load(made.certificate_pem, certificate_path, &made.key_pem, key_path)
            }
        }
    }

    /// The authority's own certificate, which others trust.
    pub fn pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// A new key and its certificate.
    pub fn issue(&self, subject: &Subject, now: Timestamp) -> Result<Identity, PkiError> {
        let failed = |source| PkiError::Issue { subject: subject.common_name.clone(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let params = self.params(subject, &key.subject_public_key_info(), now).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A certificate for the key of a signing request. Only the request's key is taken from it: what the certificate
    /// says is `subject`, which the caller has checked.
    pub fn sign_request(&self, request_pem: &str, subject: &Subject, now: Timestamp) -> Result<String, PkiError> {
        let failed = |source| PkiError::Issue { subject: subject.common_name.clone(), source };
        let mut request = parse_request(request_pem)?;
        let key_info = request.public_key.subject_public_key_info();
        request.params = self.params(subject, &key_info, now).map_err(failed)?;
        Ok(request.signed_by(&self.issuer).map_err(failed)?.pem())
    }

    fn params(&self, subject: &Subject, key_info: &[u8], now: Timestamp) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&subject.common_name, subject.organization.as_deref());
        params.subject_alt_names = subject.sans.iter().map(San::to_rcgen).collect::<Result<_, _>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![match subject.usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let not_after = (believable(now) + LEAF_LIFETIME).min(self.not_after);
        params.not_before = instant(NOT_BEFORE)?;
        params.not_after = instant(not_after)?;
        params.serial_number = Some(serial(key_info, subject.usage, not_after));
        Ok(params)
    }
}

fn generate(common_name: &str, now: Timestamp) -> Result<Identity, rcgen::Error> {
    let now = believable(now);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    // The time makes the name unique: a second authority made later must not be taken for the first one.
    params.distinguished_name = name(&format!("{common_name}@{}", now.as_second()), None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = instant(NOT_BEFORE)?;
    params.not_after = instant(now + CA_LIFETIME)?;
    Ok(Identity { certificate_pem: params.self_signed(&key)?.pem(), key_pem: key.serialize_pem() })
}

fn load(
    certificate_pem: String,
    certificate_path: PathBuf,
    key_pem: &str,
    key_path: PathBuf,
) -> Result<Authority, PkiError> {
    let damaged = |path: &Path, what: String| PkiError::Damaged { path: path.to_owned(), what, cure: CA_CURE };
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
        .map_err(|error| damaged(&certificate_path, format!("no PEM certificate in it ({error})")))?;
    let key = KeyPair::from_pem(key_pem)
        .map_err(|error| damaged(&key_path, format!("no ECDSA private key in PEM in it ({error})")))?;
    let facts = facts(&certificate).map_err(|what| damaged(&certificate_path, what))?;
    if facts.public_key != key.subject_public_key_info() {
        return Err(damaged(&key_path, format!("it is not the key of {}", certificate_path.display())));
    }
    let issuer =
        Issuer::from_ca_cert_der(&certificate, key).map_err(|error| damaged(&certificate_path, error.to_string()))?;
    Ok(Authority { certificate_pem, certificate, not_after: facts.not_after, issuer })
}

/// What is read back from a certificate of ours.
pub(super) struct Facts {
    pub(super) not_after: Timestamp,
    pub(super) sans: Vec<San>,
    /// Subject public key info, DER.
    pub(super) public_key: Vec<u8>,
}

pub(super) fn facts(certificate: &[u8]) -> Result<Facts, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    let not_after = Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|e| e.to_string())?;
    let mut sans = Vec::new();
    if let Ok(Some(extension)) = parsed.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                x509_parser::extensions::GeneralName::DNSName(name) => sans.push(San::Dns((*name).to_owned())),
                x509_parser::extensions::GeneralName::IPAddress(bytes) => sans.extend(address(bytes).map(San::Ip)),
                // We put no other kind of name into certificates.
                _other => {}
            }
        }
    }
    Ok(Facts { not_after, sans, public_key: parsed.public_key().raw.to_vec() })
}

/// Whether `certificate` was signed by `authority`.
pub(super) fn signed_by(certificate: &[u8], authority: &Authority) -> bool {
    let Ok((_, leaf)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let Ok((_, root)) = x509_parser::parse_x509_certificate(authority.der()) else { return false };
    leaf.verify_signature(Some(root.public_key())).is_ok()
}

fn parse_request(pem: &str) -> Result<CertificateSigningRequestParams, PkiError> {
    CertificateSigningRequestParams::from_pem(pem).map_err(|error| PkiError::Request(error.to_string()))
}

/// Checks that `pem` is a signing request that its key signed.
pub fn check_request(pem: &str) -> Result<(), PkiError> {
    parse_request(pem).map(|_| ())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn instant(at: Timestamp) -> Result<OffsetDateTime, rcgen::Error> {
    OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| rcgen::Error::Time)
}

/// A serial number that differs for every certificate of one authority: a key is certified once per use and instant.
fn serial(key_info: &[u8], usage: Usage, not_after: Timestamp) -> SerialNumber {
    let mut hash = Sha256::new();
    hash.update(key_info);
    hash.update([match usage {
        Usage::Client => 0u8,
        Usage::Server => 1,
    }]);
    hash.update(not_after.as_second().to_be_bytes());
    let mut bytes = hash.finalize()[..16].to_vec();
    // Positive and of fixed length in DER.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from(bytes)
}
