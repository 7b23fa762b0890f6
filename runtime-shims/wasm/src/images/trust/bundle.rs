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
use crate::images::{Digest, ImageError};

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

/// `artifact_type` is what the list says it is. Under the tag, cosign 3 says that everything is
/// `application/vnd.oci.empty.v1+json`: what it is, only its manifest knows.
///
/// <https://github.com/sigstore/cosign/issues/4641>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    #[serde(default)]
    artifact_type: String,
    digest: String,
}

/// As much of a referrer's manifest as tells a bundle.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referring {
    #[serde(default)]
    artifact_type: String,
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
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
    let listed = match session.referrers(digest).await? {
        Some(text) => Some(text),
        None => session.manifest(&format!("sha256-{}", digest.hex()), &[OCI_INDEX]).await?,
    };
    let Some(listed) = listed else { return Ok(Err(Vec::new())) };
    let mut referrers: Referrers = serde_json::from_slice(&listed)
        .map_err(|error| ImageError::corrupt(format!("the list of what refers to {}", session.name()), error))?;
    // What is said to be a bundle comes first: others may be many.
    referrers.manifests.sort_by_key(|referrer| !referrer.artifact_type.starts_with(BUNDLE));
    let mut found = Vec::new();
    for referrer in referrers.manifests.iter().take(MAX_SIGNATURES) {
        let Some(bundle) = bundle(session, referrer).await? else { continue };
        match bundle.and_then(|bundle| verify(digest, &bundle, keys)) {
            Ok(key) => return Ok(Ok(key)),
            Err(why) => found.push(why),
        }
    }
    Ok(Err(found))
}

/// The bundle that refers to the image, or why it cannot be read. Nothing, if the referrer is none: that others refer to an
/// image (lists of its parts, what somebody says of it) is no fault of it.
async fn bundle(session: &Session, referrer: &Referrer) -> Result<Option<Result<Vec<u8>, String>>, ImageError> {
    let Ok(digest) = referrer.digest.parse::<Digest>() else { return Ok(None) };
    let text = match session.manifest(&digest.to_string(), &[OCI_MANIFEST, OCI_INDEX]).await {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => return unreadable(error).map(|why| Some(Err(why))),
    };
    let Ok(Referring { artifact_type, layers }) = serde_json::from_slice(&text) else { return Ok(None) };
    let Some(layer) = layers.first() else { return Ok(None) };
    if !artifact_type.starts_with(BUNDLE) && !layer.media_type.starts_with(BUNDLE) {
        return Ok(None);
    }
    match session.small_blob(&layer.digest, MAX_BUNDLE_BYTES).await {
        Ok(bundle) => Ok(Some(Ok(bundle))),
        Err(error) => unreadable(error).map(|why| Some(Err(why))),
    }
}

/// What is wrong with one referrer says nothing of the others; a fault of the registry does.
fn unreadable(error: ImageError) -> Result<String, ImageError> {
    match error {
        ImageError::NotFound { .. } => Ok("one has lost its content".to_owned()),
        ImageError::TooLarge { .. } | ImageError::Corrupt { .. } => Ok(format!("one cannot be read: {error}")),
        other => Err(other),
    }
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
