//! Pulls from a registry. Every byte is verified against its digest before it gets a name in the store.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};

use super::blobs::Blobs;
use super::error::chain;
use super::layout::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, OCI_INDEX, OCI_MANIFEST};
use super::manifest::{self, MAX_DOCUMENT_BYTES, Shape};
use super::{Digest, Image, ImageError, ImageName, ImageStore, rootfs};

/// How to reach registries.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Hosts (with their port, if any) that are spoken to without TLS. Loopback ones always are.
    pub insecure: Vec<String>,
}

/// Who we are to a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    #[default]
    Anonymous,
    Password {
        user: String,
        password: String,
    },
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Anonymous => f.write_str("Anonymous"),
            Credentials::Password { user, .. } => write!(f, "Password({user})"),
            Credentials::Token(_) => f.write_str("Token"),
        }
    }
}

impl Credentials {
    pub(super) fn auth(&self) -> RegistryAuth {
        match self {
            Credentials::Anonymous => RegistryAuth::Anonymous,
            Credentials::Password { user, password } => RegistryAuth::Basic(user.clone(), password.clone()),
            Credentials::Token(token) => RegistryAuth::Bearer(token.clone()),
        }
    }
}

pub(super) async fn pull(
    store: &ImageStore,
    name: &ImageName,
    credentials: &Credentials,
    registries: &Registries,
) -> Result<Image, ImageError> {
    let client = client(name, registries)?;
    let auth = credentials.auth();
    let full = name.to_string();
    let mut text = fetch_manifest(&client, name, &name.reference(), &auth).await?;
    if let Some(expected) = name.digest() {
        verify(&full, &text, &expected)?;
    }
    if let Ok(Document::Index(index)) = Document::parse(&text) {
        let digest = manifest::choose(&full, &index)?;
        let reference = name.reference().clone_with_digest(digest.to_string());
        text = fetch_manifest(&client, name, &reference, &auth).await?;
        verify(&full, &text, &digest)?;
    }
    let manifest = manifest::single(&full, &text)?;
    let config = if manifest::has_image_config(&manifest) {
        fetch_blob(&client, &store.blobs, name, &manifest.config, MAX_DOCUMENT_BYTES).await?;
        Some(store.blobs.read(&manifest.config.digest, MAX_DOCUMENT_BYTES)?)
    } else {
        None
    };
    // Decided before layers are fetched: nobody should wait for 500 MB to hear that it is the wrong kind.
    let anatomy = manifest::anatomy(&full, &manifest, config.as_deref())?;
    if config.is_none() {
        fetch_blob(&client, &store.blobs, name, &manifest.config, MAX_DOCUMENT_BYTES).await?;
    }
    let layers = match &anatomy.shape {
        Shape::Artifact { layer } => std::slice::from_ref(layer),
        Shape::Rootfs { layers, entry: _ } => layers.as_slice(),
    };
    for layer in layers {
        fetch_blob(&client, &store.blobs, name, layer, layer.size).await?;
    }
    store.admit(&full, &text, &manifest, &anatomy)
}

impl ImageStore {
    /// Gives an image whose blobs are all there its name.
    pub(super) fn admit(
        &self,
        name: &str,
        manifest_text: &[u8],
        manifest: &super::layout::Manifest,
        anatomy: &manifest::Anatomy,
    ) -> Result<Image, ImageError> {
        let (wasm, mut blobs) = match &anatomy.shape {
            Shape::Artifact { layer } => (layer.digest.clone(), vec![layer.digest.clone()]),
            Shape::Rootfs { layers, entry } => {
                let wasm = rootfs::extract(&self.blobs, name, layers, entry.as_deref())?;
                (wasm.clone(), layers.iter().map(|layer| layer.digest.clone()).chain([wasm]).collect())
            }
        };
        let wasm_bytes = self.blobs.len(&wasm)?;
        let mut head = [0; 8];
        let got = read_head(self, &wasm, &mut head)?;
        manifest::magic(&format!("the Wasm file of {name}"), &head[..got])?;
        let id = self.blobs.put("manifest", manifest_text)?;
        blobs.extend([id.clone(), manifest.config.digest.clone()]);
        blobs.sort();
        blobs.dedup();
        let mut size_bytes = 0;
        for blob in &blobs {
            size_bytes += self.blobs.len(blob)?;
        }
        let run = anatomy.config.config.clone().unwrap_or_default();
        let image = Image {
            name: name.to_owned(),
            id,
            wasm,
            wasm_bytes,
            size_bytes,
            blobs,
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            imported_at: self.clock.now(),
        };
        self.write_ref(&image)?;
        Ok(image)
    }
}

fn read_head(store: &ImageStore, wasm: &Digest, head: &mut [u8; 8]) -> Result<usize, ImageError> {
    use std::io::Read;
    let path = store.blobs.path(wasm);
    let file = std::fs::File::open(&path).map_err(|source| ImageError::io("open", &path, source))?;
    let mut bytes = Vec::with_capacity(8);
    file.take(8).read_to_end(&mut bytes).map_err(|source| ImageError::io("read", &path, source))?;
    head[..bytes.len()].copy_from_slice(&bytes);
    Ok(bytes.len())
}

async fn fetch_manifest(
    client: &Client,
    name: &ImageName,
    reference: &Reference,
    auth: &RegistryAuth,
) -> Result<Vec<u8>, ImageError> {
    let accepted = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
    let (text, _) =
        client.pull_manifest_raw(reference, auth, &accepted).await.map_err(|error| failed("pull", name, error))?;
    if text.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(ImageError::TooLarge { what: format!("the manifest of {name}"), limit_bytes: MAX_DOCUMENT_BYTES });
    }
    Ok(text.to_vec())
}

async fn fetch_blob(
    client: &Client,
    blobs: &Blobs,
    name: &ImageName,
    descriptor: &Descriptor,
    limit_bytes: u64,
) -> Result<(), ImageError> {
    if blobs.has(&descriptor.digest) {
        return Ok(());
    }
    let what = format!("blob {} of {name}", descriptor.digest);
    let mut writer = blobs.writer(what, limit_bytes.min(descriptor.size))?;
    let wanted = OciDescriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    };
    match client.pull_blob(&name.reference(), &wanted, &mut writer).await {
        Ok(()) => {}
        // The writer remembers why it refused; `finish` says it.
        Err(OciDistributionError::IoError(error)) if error.kind() == std::io::ErrorKind::FileTooLarge => {}
        Err(error) => return Err(failed("pull", name, error)),
    }
    blobs.finish(writer, Some(&descriptor.digest)).map(drop)
}

fn verify(name: &str, text: &[u8], expected: &Digest) -> Result<(), ImageError> {
    let digest = Digest::of(text);
    if digest != *expected {
        return Err(ImageError::corrupt(
            format!("the manifest of {name}"),
            format!("its digest is {digest}, not {expected}"),
        ));
    }
    Ok(())
}

pub(super) fn client(name: &ImageName, registries: &Registries) -> Result<Client, ImageError> {
    // Installing it twice is refused and harmless: whoever came first chose the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let host = name.host();
    let protocol = if is_loopback(host) || registries.insecure.iter().any(|other| other == host) {
        ClientProtocol::Http
    } else {
        ClientProtocol::Https
    };
    let config = ClientConfig {
        protocol,
        connect_timeout: Some(Duration::from_secs(10)),
        read_timeout: Some(Duration::from_secs(60)),
        user_agent: concat!("coracle/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config).map_err(|error| failed("reach the registry of", name, error))
}

/// `localhost:5000`, `127.0.0.1:5000`, `[::1]:5000`.
fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    bare == "localhost" || bare.ends_with(".localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

pub(super) fn failed(verb: &'static str, name: &ImageName, error: OciDistributionError) -> ImageError {
    let name = name.to_string();
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => ImageError::NotFound { name },
        OciDistributionError::ServerError { code: 404, .. } => ImageError::NotFound { name },
        OciDistributionError::RegistryError { envelope, url } => {
            let code = envelope.errors.first().map(|error| &error.code);
            match code {
                Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound) => {
                    ImageError::NotFound { name }
                }
                Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => {
                    ImageError::Unauthorized { name, why: format!("the registry refused access: {envelope}") }
                }
                Some(_) | None => ImageError::Registry { verb, name, why: format!("{url}: {envelope}") },
            }
        }
        OciDistributionError::UnauthorizedError { url } => {
            ImageError::Unauthorized { name, why: format!("the registry refused access to {url}") }
        }
        OciDistributionError::AuthenticationFailure(why) => {
            ImageError::Unauthorized { name, why: format!("authentication failed: {}", why.trim()) }
        }
        OciDistributionError::DigestError(error) => ImageError::corrupt(name, error),
        other => ImageError::Registry { verb, name, why: chain(&other) },
    }
}
