//! Signatures as cosign 2 stores them, and 3 with `--new-bundle-format=false`: beside the image, under the tag `sha256-DIGEST.sig`, a manifest whose
//! layers are statements about the image and whose annotations are the signatures of those.
//!
//! <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Policy, PublicKey, SigningKey, Verdict, bundle};
use crate::images::layout::{Descriptor, Manifest, OCI_CONFIG, OCI_MANIFEST};
use crate::images::registry::{Fault, Session, home};
use crate::images::{Digest, ImageError, ImageName, ImageStore, manifest};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const KIND: &str = "cosign container image signature";

const MAX_PAYLOAD_BYTES: u64 = 64 << 10;
/// Of one image; more are not looked at.
pub(super) const MAX_SIGNATURES: usize = 64;

/// What is signed.
#[derive(Debug, Serialize, Deserialize)]
struct Payload {
    critical: Critical,
    #[serde(default)]
    optional: Option<serde_json::Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Critical {
    identity: Identity,
    image: Signed,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Identity {
    docker_reference: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Signed {
    docker_manifest_digest: Digest,
}

/// The tag under which the signatures of an image lie.
pub(in crate::images) fn tag(digest: &Digest) -> String {
    format!("sha256-{}.sig", digest.hex())
}

/// Refuses the image unless the policy accepts it. `digests` are those of its index, if it has one, and its manifest: a
/// signature of either is one of the image.
pub(in crate::images) async fn check(
    session: &Session,
    name: &ImageName,
    digests: &[Digest],
    policy: &Policy,
) -> Result<(), ImageError> {
    let refused = |why: String| ImageError::Untrusted { name: name.to_string(), why };
    let keys = match policy.verdict(name) {
        Verdict::Accept => return Ok(()),
        Verdict::Reject(why) => return Err(refused(why)),
        Verdict::Signed(keys) => keys,
    };
    let mut found = Vec::new();
    for digest in digests {
        let outcome = match stored(session, name, digest, &keys).await? {
            Ok(key) => Ok(key),
            Err(mut why) => bundle::check(session, digest, &keys).await?.map_err(|more| {
                why.extend(more);
                why
            }),
        };
        match outcome {
            Ok(key) => {
                tracing::info!(image = %name, %digest, key, "signature verified");
                return Ok(());
            }
            Err(why) => found.extend(why),
        }
    }
    found.dedup();
    let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    Err(refused(match found.as_slice() {
        [] => format!("it has no signature, and one by {} is required", names.join(" or ")),
        why => format!("no signature by {} is valid: {}", names.join(" or "), why.join("; ")),
    }))
}

/// The name of the key that made one of the signatures under the image's tag, or what is wrong with all of them.
async fn stored(
    session: &Session,
    name: &ImageName,
    digest: &Digest,
    keys: &[PublicKey],
) -> Result<Result<String, Vec<String>>, ImageError> {
    let Some(text) = session.manifest(&tag(digest), &[OCI_MANIFEST]).await? else { return Ok(Err(Vec::new())) };
    let signatures = manifest::single(&format!("the signatures of {name}"), &text)?;
    let mut found = Vec::new();
    for layer in signatures.layers.iter().take(MAX_SIGNATURES) {
        match one(session, name, digest, layer, keys).await? {
            Ok(key) => return Ok(Ok(key)),
            Err(why) => found.push(why),
        }
    }
    Ok(Err(found))
}

/// The name of the key that made this signature, or what is wrong with it.
async fn one(
    session: &Session,
    name: &ImageName,
    digest: &Digest,
    layer: &Descriptor,
    keys: &[PublicKey],
) -> Result<Result<String, String>, ImageError> {
    if layer.media_type != PAYLOAD {
        return Ok(Err(format!("{} is no signature", layer.media_type)));
    }
    let Some(signed) = layer.annotations.get(SIGNATURE).and_then(|text| STANDARD.decode(text.trim()).ok()) else {
        return Ok(Err(format!("one has no annotation {SIGNATURE}")));
    };
    let payload = session.small_blob(&layer.digest, MAX_PAYLOAD_BYTES).await?;
    Ok(verify(name, digest, &payload, &signed, keys))
}

pub(super) fn verify(
    name: &ImageName,
    digest: &Digest,
    payload: &[u8],
    signed: &[u8],
    keys: &[PublicKey],
) -> Result<String, String> {
    let key = keys.iter().find(|key| key.verifies(payload, signed)).ok_or("one is by another key")?;
    let payload: Payload =
        serde_json::from_slice(payload).map_err(|error| format!("one is of something else: {error}"))?;
    let critical = payload.critical;
    if critical.kind != KIND {
        return Err(format!("one is a {:?}", critical.kind));
    }
    if critical.image.docker_manifest_digest != *digest {
        return Err(format!("one is of another image, {}", critical.image.docker_manifest_digest));
    }
    let said = &critical.identity.docker_reference;
    let place = |name: &ImageName| (home(name.registry()), name.path().to_owned());
    let same = ImageName::parse(said).is_ok_and(|said| place(&said) == place(name));
    if !same {
        return Err(format!(
            "one is of this image as {said}, not as {} (`cosign sign --sign-container-identity` says otherwise)",
            name.repository()
        ));
    }
    Ok(key.name.clone())
}

/// The statement and the manifest that say that `key` vouches for the image. Gives the blobs it needs and its text.
pub(in crate::images) fn sign(
    store: &ImageStore,
    name: &ImageName,
    digest: &Digest,
    key: &SigningKey,
) -> Result<(Vec<Digest>, Vec<u8>), ImageError> {
    let failed = |why: String| ImageError::corrupt(format!("the signature of {name}"), why);
    let payload = Payload {
        critical: Critical {
            identity: Identity { docker_reference: name.repository() },
            image: Signed { docker_manifest_digest: digest.clone() },
            kind: KIND.to_owned(),
        },
        optional: None,
    };
    let payload = serde_json::to_vec(&payload).map_err(|error| failed(error.to_string()))?;
    let signed = STANDARD.encode(key.sign(&payload).map_err(failed)?);
    let layer = store.put_blob("signature", &payload)?;
    let config =
        format!(r#"{{"architecture":"","os":"","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#);
    let config_digest = store.put_blob("signature", config.as_bytes())?;
    let descriptor = |media_type: &str, digest: &Digest, size: usize| Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.clone(),
        size: size as u64,
        platform: None,
        annotations: Default::default(),
    };
    let mut statement = descriptor(PAYLOAD, &layer, payload.len());
    statement.annotations.insert(SIGNATURE.to_owned(), signed);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config: descriptor(OCI_CONFIG, &config_digest, config.len()),
        layers: vec![statement],
    };
    let text = serde_json::to_vec(&manifest).map_err(|error| failed(error.to_string()))?;
    Ok((vec![layer, config_digest], text))
}

impl Session {
    /// A blob of at most `limit` bytes, verified.
    pub(super) async fn small_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let what = || format!("blob {digest} of {}", self.name());
        let mut tries = self.tries();
        while let Some(place) = tries.next().await {
            let attempt = async {
                let stream = self.blob(place, digest, 0).await?;
                let content = self.transport().read(stream.body, limit).await?;
                let content =
                    content.ok_or_else(|| Fault::Bad(ImageError::TooLarge { what: what(), limit_bytes: limit }))?;
                let found = Digest::of(&content);
                if found != *digest {
                    let why = format!("its digest is {found}, not {digest}");
                    return Err(Fault::Bad(ImageError::corrupt(what(), why)));
                }
                Ok(content)
            };
            match attempt.await {
                Ok(content) => return Ok(content),
                Err(fault) => tries.failed(fault),
            }
        }
        Err(tries.error())
    }
}
