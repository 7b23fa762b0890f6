//! Pulls from a registry: decides what is wanted, in which order it is fetched, and that it is accepted before anything
//! large is.

use std::collections::HashSet;
use std::path::PathBuf;

use futures::{FutureExt, StreamExt, TryStreamExt};

use super::claims::Claim;
use super::layout::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, ImageConfig, Manifest, OCI_INDEX, OCI_MANIFEST,
};
use super::manifest::{self, Anatomy, MAX_DOCUMENT_BYTES, Shape};
use super::registry::{Credentials, Registries, Session, Verb};
use super::rootfs::UNPACKED_BYTES_MAX;
use super::trust::{Policy, cosign, precompiled};
use super::{Digest, Image, ImageError, ImageName, ImageStore, download, rootfs};

/// What a registry may answer with, best first.
const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// Layers of one image that are fetched at once: a registry far away answers several as quickly as one.
const LAYERS_AT_ONCE: usize = 3;

/// What pulls that broke off have fetched is kept as long as together it is no larger than so many of the largest layers: as
/// many as one of them may have been fetching.
const KEPT_LAYERS_MAX: u64 = LAYERS_AT_ONCE as u64;

pub(super) async fn pull(
    store: &ImageStore,
    name: &ImageName,
    credentials: &Credentials,
    registries: &Registries,
    engine: Option<&str>,
) -> Result<Image, ImageError> {
    let full = name.to_string();
    let policy = Policy::read(&registries.policy).map_err(|why| ImageError::Settings { name: full.clone(), why })?;
    let session = Session::open(name, Verb::Pull, credentials, registries)?;
    let pull = Pull { store, session, registries, policy, engine };
    let (text, manifest) = pull.manifest(name).await.map_err(|error| undecided(&full, error))?;
    let mut claim = store.blobs.claim(&Digest::of(&text), [&manifest.config.digest])?;
    let config = pull.config(&manifest).await.map_err(|error| undecided(&full, error))?;
    // Decided before layers are fetched: nobody should wait for 500 MB to hear that it is the wrong kind.
    let anatomy = manifest::anatomy(&full, &manifest, config)?;
    if let Err(error) = pull.layers(&manifest, &anatomy, &mut claim).await {
        if !may_pass(&error) {
            claim.end();
        }
        return Err(error);
    }
    let unpacks = matches!(anatomy.shape, Shape::Rootfs { .. });
    let admitting = move |store: &ImageStore| {
        let _adding = store.blobs.adding()?;
        let admitted = store.admit(&full, &text, &manifest, &anatomy);
        // Here, because this goes on when nobody waits for it any more.
        claim.end();
        admitted
    };
    if unpacks {
        return store.read(admitting).await;
    }
    // It waits for the disk, and others should not.
    let store = store.clone();
    tokio::task::spawn_blocking(move || admitting(&store))
        .await
        .unwrap_or_else(|error| Err(ImageError::io("write", "an image", std::io::Error::other(error))))
}

/// One pull under way.
struct Pull<'a> {
    store: &'a ImageStore,
    session: Session,
    registries: &'a Registries,
    policy: Policy,
    engine: Option<&'a str>,
}

impl Pull<'_> {
    /// The manifest that is wanted, once somebody vouches for it, and its text.
    async fn manifest(&self, name: &ImageName) -> Result<(Vec<u8>, Manifest), ImageError> {
        let full = self.session.name();
        let mut text = fetch_manifest(&self.session, &name.reference()).await?;
        let mut digests = vec![Digest::of(&text)];
        if let Some(wanted) = name.digest() {
            verify(full, &digests[0], &wanted)?;
        }
        if let Ok(Document::Index(index)) = Document::parse(&text) {
            let digest = manifest::choose(full, &index)?;
            text = fetch_manifest(&self.session, &digest.to_string()).await?;
            verify(full, &Digest::of(&text), &digest)?;
            digests.push(digest);
        }
        // Before anything is fetched that nobody vouches for.
        cosign::check(&self.session, name, &digests, &self.policy).await?;
        let manifest = manifest::single(full, &text)?;
        Ok((text, manifest))
    }

    async fn config(&self, manifest: &Manifest) -> Result<ImageConfig, ImageError> {
        self.fetch(&manifest.config, MAX_DOCUMENT_BYTES).await?;
        self.store.image_config(self.session.name(), manifest)
    }

    /// Fetches all that is large.
    async fn layers(&self, manifest: &Manifest, anatomy: &Anatomy, claim: &mut Claim) -> Result<(), ImageError> {
        let full = self.session.name();
        let max_bytes = self.registries.max_layer_bytes;
        let (layers, code) = match &anatomy.shape {
            Shape::Artifact { layer } => {
                let choose = |engine| precompiled::choose(full, manifest, &layer.digest, engine, &self.policy);
                (std::slice::from_ref(layer), self.engine.and_then(choose).map(|code| code.layer))
            }
            Shape::Rootfs { layers, entry: _ } => (layers.as_slice(), None),
        };
        let layers = different(full, layers)?;
        let all: Vec<&Descriptor> = layers.iter().copied().chain(code).collect();
        self.store.blobs.claim_more(claim, all.iter().map(|layer| &layer.digest))?;
        self.store.blobs.keep(claim)?;
        let own = all.iter().map(|layer| (self.partial_path(layer), layer.size)).collect();
        self.store.make_room(KEPT_LAYERS_MAX.saturating_mul(max_bytes), &own)?;
        let fetching: Vec<_> = layers.into_iter().map(|layer| self.fetch(layer, max_bytes).boxed()).collect();
        futures::stream::iter(fetching).buffer_unordered(LAYERS_AT_ONCE).try_collect::<()>().await?;
        // Code that cannot be had is no reason not to run: it is made here then.
        if let Some(code) = code
            && let Err(error) = self.fetch(code, max_bytes).await
        {
            tracing::warn!(image = full, %error, "the machine code in the image cannot be fetched; it is compiled here");
        }
        Ok(())
    }

    fn partial_path(&self, blob: &Descriptor) -> PathBuf {
        self.store.blobs.partial_path(&blob.digest, self.session.registry())
    }

    async fn fetch(&self, wanted: &Descriptor, limit_bytes: u64) -> Result<(), ImageError> {
        let fetching = download::fetch(&self.store.blobs, &self.store.downloads, &self.session, wanted, limit_bytes);
        fetching.await.map_err(|error| missing(self.session.name(), error))
    }
}

/// Whoever was given the manifest may have what it names: a registry that has not is at fault, and may have it later.
fn missing(name: &str, error: ImageError) -> ImageError {
    let why = match error {
        ImageError::NotFound { .. } => "something that its manifest names is not in the registry".to_owned(),
        ImageError::Unauthorized { why, .. } => why,
        other => return other,
    };
    ImageError::Registry { verb: "pull", name: name.to_owned(), why }
}

/// What is wrong with an image before it is known of what kind that is, is no fault of one of this kind: the registry, or
/// what answers in its place, may have sent something else than the image.
fn undecided(name: &str, error: ImageError) -> ImageError {
    match error {
        ImageError::Corrupt { .. } | ImageError::TooLarge { .. } => {
            ImageError::Registry { verb: "pull", name: name.to_owned(), why: error.to_string() }
        }
        ImageError::InvalidName { .. }
        | ImageError::Unknown { .. }
        | ImageError::NotFound { .. }
        | ImageError::Unauthorized { .. }
        | ImageError::Registry { .. }
        | ImageError::Settings { .. }
        | ImageError::Untrusted { .. }
        | ImageError::NotWasm { .. }
        | ImageError::Io { .. } => error,
    }
}

/// May the same pull come further another time, so that what it has is of use to it?
fn may_pass(error: &ImageError) -> bool {
    match error {
        ImageError::NotFound { .. } | ImageError::Unauthorized { .. } | ImageError::Registry { .. } => true,
        // Of these, some could. But on a full disk the room is worth more.
        ImageError::Io { .. }
        | ImageError::InvalidName { .. }
        | ImageError::Unknown { .. }
        | ImageError::Settings { .. }
        | ImageError::Untrusted { .. }
        | ImageError::NotWasm { .. }
        | ImageError::Corrupt { .. }
        | ImageError::TooLarge { .. } => false,
    }
}

impl ImageStore {
    /// What the image's configuration says, as far as that is looked at.
    pub(super) fn image_config(&self, name: &str, manifest: &Manifest) -> Result<ImageConfig, ImageError> {
        if !manifest::has_image_config(manifest) {
            return Ok(ImageConfig::default());
        }
        manifest::config(name, &self.blobs.read(&manifest.config.digest, MAX_DOCUMENT_BYTES)?)
    }

    /// Gives an image whose blobs are all there its name.
    pub(super) fn admit(
        &self,
        name: &str,
        manifest_text: &[u8],
        manifest: &Manifest,
        anatomy: &Anatomy,
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
        // Machine code for other processors was left where it is.
        blobs.extend(
            precompiled::layers(manifest).map(|layer| layer.digest.clone()).filter(|code| self.blobs.has(code)),
        );
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
            programs: Default::default(),
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

/// One that is named twice would wait for itself, in a place that another could have.
fn different<'a>(name: &str, layers: &'a [Descriptor]) -> Result<Vec<&'a Descriptor>, ImageError> {
    let mut seen = HashSet::new();
    let different: Vec<_> = layers.iter().filter(|layer| seen.insert(&layer.digest)).collect();
    // What has more than it may unpack to is never run, and would only fill the disk.
    if different.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size)) > UNPACKED_BYTES_MAX {
        return Err(ImageError::TooLarge { what: format!("the content of {name}"), limit_bytes: UNPACKED_BYTES_MAX });
    }
    Ok(different)
}

async fn fetch_manifest(session: &Session, reference: &str) -> Result<Vec<u8>, ImageError> {
    let text = session.manifest(reference, &ACCEPTED).await?;
    text.ok_or_else(|| ImageError::NotFound { verb: "pull", name: session.name().to_owned() })
}

fn verify(name: &str, digest: &Digest, expected: &Digest) -> Result<(), ImageError> {
    if digest != expected {
        return Err(ImageError::corrupt(
            format!("the manifest of {name}"),
            format!("its digest is {digest}, not {expected}"),
        ));
    }
    Ok(())
}
