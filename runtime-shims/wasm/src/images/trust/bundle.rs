//! Signatures as cosign 3 stores them: a Sigstore bundle that refers to the image. It is found by the registry's list of
//! referrers, or under the tag `sha256-DIGEST` where a registry has no such list. The image's digest is what is signed; its
//! name is not.
//!
//! <https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::PublicKey;
use super::cosign::MAX_SIGNATURES;
use crate::images::layout::{OCI_INDEX, OCI_MANIFEST};
use crate::images::registry::Session;
use crate::images::{Digest, ImageError, manifest};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
const STATEMENT: &str = "application/vnd.in-toto+json";
/// What a statement must say: others, such as that of a list of parts, are no signature of the image.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

const MAX_BUNDLE_BYTES: u64 = 256 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrers {
    #[serde(default)]
    manifests: Vec<Referrer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    #[serde(default)]
    artifact_type: String,
    digest: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: SubjectDigest,
}

#[derive(Deserialize)]
struct SubjectDigest {
    #[serde(default)]
    sha256: String,
}

/// The name of the key that signed `digest`, or what is wrong with the bundles there are.
pub(super) async fn check(
    session: &Session,
    digest: &Digest,
    keys: &[PublicKey],
) -> Result<Result<String, Vec<String>>, ImageError> {
    let listed = match session.document_at(&format!("referrers/{digest}"), &[OCI_INDEX]).await? {
        Some(text) => Some(text),
        None => session.manifest(&format!("sha256-{}", digest.hex()), &[OCI_INDEX]).await?,
    };
    let Some(listed) = listed else { return Ok(Err(Vec::new())) };
    let referrers: Referrers = serde_json::from_slice(&listed)
        .map_err(|error| ImageError::corrupt(format!("the list of what refers to {}", session.name()), error))?;
    let mut found = Vec::new();
    let bundles = referrers.manifests.iter().filter(|referrer| referrer.artifact_type.starts_with(BUNDLE));
    for referrer in bundles.take(MAX_SIGNATURES) {
        let what = format!("a signature of {}", session.name());
        let Some(text) = session.manifest(&referrer.digest.to_string(), &[OCI_MANIFEST]).await? else { continue };
        for layer in manifest::single(&what, &text)?.layers.iter().take(1) {
            let bundle = session.small_blob(&layer.digest, MAX_BUNDLE_BYTES).await?;
            match verify(digest, &bundle, keys) {
                Ok(key) => return Ok(Ok(key)),
                Err(why) => found.push(why),
            }
        }
    }
    Ok(Err(found))
}

pub(super) fn verify(digest: &Digest, bundle: &[u8], keys: &[PublicKey]) -> Result<String, String> {
    let bundle: Bundle =
        serde_json::from_slice(bundle).map_err(|error| format!("one is a bundle of another kind: {error}"))?;
    let Envelope { payload, payload_type, signatures } = bundle.dsse_envelope;
    let payload = STANDARD.decode(payload).map_err(|_| "one has a payload that is not base64")?;
    let signed = encoded(&payload_type, &payload);
    let key = signatures
        .iter()
        .filter_map(|signature| STANDARD.decode(&signature.sig).ok())
        .find_map(|signature| keys.iter().find(|key| key.verifies(&signed, &signature)))
        .ok_or("one is by another key")?;
    if payload_type != STATEMENT {
        return Err(format!("one is of a {payload_type:?}"));
    }
    let statement: Statement =
        serde_json::from_slice(&payload).map_err(|error| format!("one is of something else: {error}"))?;
    if statement.predicate_type != SIGNED {
        return Err(format!("one is a statement of another kind, {:?}", statement.predicate_type));
    }
    if !statement.subject.iter().any(|subject| subject.digest.sha256 == digest.hex()) {
        return Err("one is of another image".to_owned());
    }
    Ok(key.name.clone())
}

/// What DSSE signs: type and content with their lengths, so that neither can pass for a part of the other.
fn encoded(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}
