//! Pushes an image as it was taken in: the same blobs, the same manifest, hence the same digest. Machine code and
//! signatures are added on request.

use std::io;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use tokio_util::io::ReaderStream;
use url::Url;

use super::claims::Claim;
use super::layout::{Descriptor, Manifest, OCI_MANIFEST};
use super::manifest::{self, MAX_DOCUMENT_BYTES};
use super::registry::{Body, Credentials, Fault, Place, Registries, Session, Verb, empty, full};
use super::trust::{SigningKey, cosign, precompiled};
use super::{Digest, Image, ImageError, ImageName, ImageStore};

/// What goes along with an image.
#[derive(Debug, Default)]
pub struct PushExtras {
    /// Machine code that was made of it, one for each kind of processor and settings.
    pub code: Vec<MachineCode>,
    /// Signs the image as cosign does, and the machine code.
    pub key: Option<SigningKey>,
}

/// Machine code made of an image's WebAssembly file.
#[derive(Debug)]
pub struct MachineCode {
    pub architecture: String,
    /// The hash of the engine and its settings.
    pub engine: String,
    /// What kind of guest it is, as the compiler says.
    pub kind: String,
    pub content: Vec<u8>,
}

pub(super) async fn push(
    store: &ImageStore,
    image: &Image,
    target: &ImageName,
    credentials: &Credentials,
    registries: &Registries,
    extras: &PushExtras,
) -> Result<Digest, ImageError> {
    let session = Session::open(target, Verb::Push, credentials, registries)?;
    let (text, manifest, mut claim) = prepared(store, image, extras)?;
    for Descriptor { digest, .. } in manifest.layers.iter().chain([&manifest.config]) {
        if !store.blobs.has(digest) {
            let why = format!(
                "blob {digest} is not here (machine code for other processors is not pulled); push it from where it was made"
            );
            return Err(ImageError::Registry { verb: "push", name: target.to_string(), why });
        }
        upload(&session, store, digest).await?;
    }
    let media_type = manifest.media_type.as_deref().unwrap_or(OCI_MANIFEST);
    put_manifest(&session, &target.reference(), media_type, &text).await?;
    let id = Digest::of(&text);
    if let Some(key) = &extras.key {
        let (payload, signed) = signed(store, target, &id, key, &mut claim)?;
        for digest in &payload {
            upload(&session, store, digest).await?;
        }
        put_manifest(&session, &cosign::tag(&id), OCI_MANIFEST, &signed).await?;
    }
    Ok(id)
}

/// The manifest that is pushed, and its text. What it needs is claimed: the registry may take as long as it likes, and must
/// not keep others from collecting.
fn prepared(store: &ImageStore, image: &Image, extras: &PushExtras) -> Result<(Vec<u8>, Manifest, Claim), ImageError> {
    let _adding = store.blobs.adding()?;
    let mut text = store.blobs.read(&image.id, MAX_DOCUMENT_BYTES)?;
    if !extras.code.is_empty() {
        text = precompiled::embed(store, image, &text, extras)?;
    }
    let manifest = manifest::single(&image.name, &text)?;
    let blobs = manifest.layers.iter().chain([&manifest.config]).map(|blob| &blob.digest);
    let claim = store.blobs.claim(&Digest::of(&text), blobs)?;
    Ok((text, manifest, claim))
}

/// What [`cosign::sign`] makes, claimed.
fn signed(
    store: &ImageStore,
    target: &ImageName,
    id: &Digest,
    key: &SigningKey,
    claim: &mut Claim,
) -> Result<(Vec<Digest>, Vec<u8>), ImageError> {
    let _adding = store.blobs.adding()?;
    let (payload, text) = cosign::sign(store, target, id, key)?;
    store.blobs.claim_more(claim, &payload)?;
    Ok((payload, text))
}

/// Sends a blob, unless the registry has it.
async fn upload(session: &Session, store: &ImageStore, digest: &Digest) -> Result<(), ImageError> {
    let mut tries = session.tries();
    while let Some(place) = tries.next().await {
        match try_upload(session, place, store, digest).await {
            Ok(()) => return Ok(()),
            Err(fault) => tries.failed(fault),
        }
    }
    Err(tries.error())
}

async fn try_upload(session: &Session, place: &Place, store: &ImageStore, digest: &Digest) -> Result<(), Fault> {
    let head = || with_method(Method::HEAD, empty());
    let there = session.request(place, place.url(&format!("blobs/{digest}"))?, &head).await?;
    match there.status() {
        StatusCode::NOT_FOUND => {}
        _ => return session.checked(there).await.map(drop),
    }
    let post = || {
        let mut request = with_method(Method::POST, empty());
        request.headers_mut().insert(header::CONTENT_LENGTH, 0.into());
        request
    };
    let started = session.request(place, place.url("blobs/uploads/")?, &post).await?;
    let started = session.checked(started).await?;
    let location = started.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let base = place.url("blobs/uploads/")?;
    let mut url: Url = base.join(location).map_err(|error| Fault::Final(format!("upload to {location:?}: {error}")))?;
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    let path = store.blobs.path(digest);
    let bad = |source: io::Error| Fault::Bad(ImageError::io("read", &path, source));
    let bytes = std::fs::metadata(&path).map_err(bad)?.len();
    let file = parking_lot::Mutex::new(Some(std::fs::File::open(&path).map_err(bad)?));
    let put = || {
        let body = match file.lock().take() {
            Some(file) => stream(file),
            // Only after a refusal of the first request, which the registry made before it read the body.
            None => std::fs::File::open(&path).map_or_else(|_| empty(), stream),
        };
        let mut request = with_method(Method::PUT, body);
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CONTENT_LENGTH, bytes.into());
        request
    };
    let done = session.request(place, url, &put).await?;
    session.checked(done).await.map(drop)
}

async fn put_manifest(session: &Session, reference: &str, media_type: &str, text: &[u8]) -> Result<(), ImageError> {
    let media_type = header::HeaderValue::from_str(media_type)
        .map_err(|error| ImageError::corrupt(format!("the manifest of {}", session.name()), error))?;
    let text = Bytes::copy_from_slice(text);
    let put = || {
        let mut request = with_method(Method::PUT, full(text.clone()));
        request.headers_mut().insert(header::CONTENT_TYPE, media_type.clone());
        request.headers_mut().insert(header::CONTENT_LENGTH, text.len().into());
        request
    };
    let mut tries = session.tries();
    while let Some(place) = tries.next().await {
        let attempt = async {
            let done = session.request(place, place.url(&format!("manifests/{reference}"))?, &put).await?;
            session.checked(done).await.map(drop)
        };
        match attempt.await {
            Ok(()) => return Ok(()),
            Err(fault) => tries.failed(fault),
        }
    }
    Err(tries.error())
}

fn with_method(method: Method, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    request
}

fn stream(file: std::fs::File) -> Body {
    use futures::TryStreamExt;
    let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), 64 << 10);
    BodyExt::boxed(StreamBody::new(pieces.map_ok(http_body::Frame::data)))
}
