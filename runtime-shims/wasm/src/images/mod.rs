//! Images: what they are called, where they lie, how they come and go.
//!
//! The store is a directory that several processes use at once (the front serves from it, `coracle image …` changes
//! it), so all its state is on disk and is read on demand:
//!
//! ```text
//! blobs/sha256/<hex>    content, verified before it got its name; never changes
//! refs/<hex>.json       one image name; <hex> is the SHA-256 of the name
//! uses/<hex>.json       an image that containers were made of, by its id: its content stays though no name needs it
//! archives/<hex>.json   an archive that was taken in already, by its path, size and time
//! partial/<hex>-<hex>   a download that is not whole yet, by digest and registry; locked while somebody fetches
//! claims/<hex>…         what a pull or push needs, by its manifest; locked as long as that lives
//! tmp/                  what is being written; emptied when nobody writes
//! lock                  shared while content is added that has no name and is not claimed, exclusive while such is collected
//! ```
//!
//! What a pull that broke off leaves in `partial` and `claims` is kept for the next one that goes on with it: for a day, or
//! for ten minutes if an image is removed then, as long as all of it together is not too large.
//!
//! Every file appears by rename, so a crash leaves either the old state or the new one. This module knows nothing of
//! CRI, of compilation or of containers.

mod archive;
mod blobs;
mod claims;
mod describe;
mod download;
mod error;
mod layout;
mod manifest;
mod name;
mod overlay;
mod programs;
mod pull;
mod push;
mod readings;
mod registry;
mod remains;
mod rootfs;
#[cfg(test)]
mod tests;
mod trust;
mod untar;
mod uses;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use describe::{Description, Layer};
pub use error::ImageError;
pub use name::{Digest, ImageName};
pub use programs::Programs;
pub use push::{MachineCode, PushExtras};
pub use registry::{ConfigFile, Credentials, DEFAULT_REGISTRIES_FILE, Registries, Timing};
pub use trust::{DEFAULT_POLICY_FILE, SigningKey};
pub(crate) use uses::Released;

use crate::clock::{Clock, UnixNanos};
use blobs::Blobs;
use download::Downloads;
use readings::Readings;
use remains::{KEPT_AT_LEAST_NS, KEPT_NS};

/// An image as it lies in the store, under one of its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Full name, for example `docker.io/library/hello:dev`.
    pub name: String,
    /// The manifest's digest. Two names with the same digest are one image to CRI.
    pub id: Digest,
    /// The WebAssembly file itself.
    pub wasm: Digest,
    pub wasm_bytes: u64,
    /// Everything the image consists of, in bytes.
    pub size_bytes: u64,
    /// All blobs the image needs, the manifest and the Wasm file among them.
    pub blobs: Vec<Digest>,
    /// From the image's configuration; empty for a plain artifact.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub cmd: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub working_dir: String,
    /// Other `.wasm` files that were taken out of the image's file system, by their paths. They are among the blobs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub programs: BTreeMap<String, Digest>,
    pub imported_at: UnixNanos,
}

impl Image {
    /// Repository and digest, for example `docker.io/library/hello@sha256:…`.
    pub fn repo_digest(&self) -> String {
        let repository =
            ImageName::parse(&self.name).map(|name| name.repository()).unwrap_or_else(|_| self.name.clone());
        format!("{repository}@{}", self.id)
    }
}

/// How an image was asked for.
enum By {
    Name,
    Id,
}

/// Space the store takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

/// An archive that was looked at, and what came of it.
#[derive(Debug)]
pub struct Imported {
    pub file: PathBuf,
    pub outcome: Result<Vec<Image>, ImageError>,
}

/// The store of images in one directory. Cheap to clone; several processes may use the same directory.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
    blobs: Blobs,
    downloads: Downloads,
    readings: Readings,
    clock: Clock,
}

impl ImageStore {
    /// Opens the store in `dir`, making it if it is not there.
    pub fn open(dir: impl Into<PathBuf>) -> Result<ImageStore, ImageError> {
        ImageStore::open_with_clock(dir, Clock::system())
    }

    pub fn open_with_clock(dir: impl Into<PathBuf>, clock: Clock) -> Result<ImageStore, ImageError> {
        let root = dir.into();
        for sub in ["refs", "archives", "uses"] {
            let path = root.join(sub);
            std::fs::create_dir_all(&path).map_err(|source| ImageError::io("make", path, source))?;
        }
        let blobs = Blobs::open(&root)?;
        let store = ImageStore { root, blobs, downloads: Downloads::default(), readings: Readings::default(), clock };
        store.blobs.empty_tmp_if_unused()?;
        Ok(store)
    }

    pub fn dir(&self) -> &Path {
        &self.root
    }

    /// Takes in `file`: a bare `.wasm`, an OCI layout or `docker save` archive (tar, gzip allowed). `name` is needed
    /// where the file does not say what it is called; for a bare module without one, the file's stem is used.
    pub fn import(&self, file: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let name = name.map(ImageName::parse).transpose()?;
        let outcome = {
            let _adding = self.blobs.adding()?;
            archive::import(self, file, name.as_ref())
        };
        // What came of a bad file, or lay under the name before, has no name.
        self.collect()?;
        outcome
    }

    /// Imports every archive in `dir` that is new or changed since it was last taken in. One bad file does not keep
    /// the others out: it is returned with what is wrong with it.
    pub fn import_dir(&self, dir: &Path) -> Result<Vec<Imported>, ImageError> {
        let outcomes = archive::import_dir(self, dir)?;
        if !outcomes.is_empty() {
            self.collect()?;
        }
        Ok(outcomes)
    }

    /// All names, sorted.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        self.read_refs("refs")
    }

    fn read_refs(&self, dir: &str) -> Result<Vec<Image>, ImageError> {
        let dir = self.root.join(dir);
        let entries = std::fs::read_dir(&dir).map_err(|source| ImageError::io("read", &dir, source))?;
        let mut images = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| ImageError::io("read", &dir, source))?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(image) = self.read_ref(&path)?
            {
                images.push(image);
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// Finds an image by its name in any spelling (`hello:dev`, `docker.io/library/hello:dev`, `hello@sha256:…`) or by
    /// its id (`sha256:…`, or the digits alone, or at least 12 first ones of them). What is a name of one and the beginning
    /// of another's id is the name. An error, if several ids begin so.
    pub fn get(&self, name_or_id: &str) -> Result<Option<Image>, ImageError> {
        Ok(self.find(name_or_id)?.map(|(image, _)| image))
    }

    fn find(&self, name_or_id: &str) -> Result<Option<(Image, By)>, ImageError> {
        let id = name::id_prefix(name_or_id);
        let is_whole = id.as_ref().is_some_and(|digits| digits.len() == 64);
        if !is_whole && let Some(image) = self.named(&ImageName::parse(name_or_id)?)? {
            return Ok(Some((image, By::Name)));
        }
        let Some(digits) = id else { return Ok(None) };
        let mut found = self.list()?;
        found.retain(|image| image.id.hex().starts_with(&digits));
        if found.windows(2).any(|pair| pair[0].id != pair[1].id) {
            let why = "the ids of several images begin so".to_owned();
            return Err(ImageError::InvalidName { name: name_or_id.to_owned(), why });
        }
        Ok(found.into_iter().next().map(|image| (image, By::Id)))
    }

    fn named(&self, name: &ImageName) -> Result<Option<Image>, ImageError> {
        if let Some(image) = self.read_ref(&self.ref_path(&name.to_string()))? {
            return Ok(Some(image));
        }
        // `repository@digest` names whatever tag of that repository has the digest.
        let Some(digest) = name.digest() else { return Ok(None) };
        let repository = name.repository();
        Ok(self.list()?.into_iter().find(|image| {
            image.id == digest && ImageName::parse(&image.name).is_ok_and(|other| other.repository() == repository)
        }))
    }

    /// Removes a name; by id, every name of that image. Content that no name needs any more goes too. Returns the
    /// names removed.
    pub fn remove(&self, name_or_id: &str) -> Result<Vec<String>, ImageError> {
        let doomed: Vec<String> = match self.find(name_or_id)? {
            None => return Ok(Vec::new()),
            Some((image, By::Name)) => vec![image.name],
            Some((image, By::Id)) => {
                self.list()?.into_iter().filter(|other| other.id == image.id).map(|other| other.name).collect()
            }
        };
        for name in &doomed {
            let path = self.ref_path(name);
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(ImageError::io("remove", path, source)),
            }
        }
        // Who removes an image wants its room.
        self.blobs.expire_remains(self.clock.now(), KEPT_AT_LEAST_NS)?;
        self.collect()?;
        Ok(doomed)
    }

    /// Pulls `name` from its registry or a mirror of it, verifying every digest and the signatures that the policy wants,
    /// and gives it its name in the store. Machine code in the image is fetched if it is for `engine` and trusted.
    pub async fn pull(
        &self,
        name: &str,
        credentials: &Credentials,
        registries: &Registries,
        engine: Option<&str>,
    ) -> Result<Image, ImageError> {
        let name = ImageName::parse(name)?;
        let outcome = pull::pull(self, &name, credentials, registries, engine).await;
        // What came of a pull that failed for good, or lay under the name before, has no name.
        self.collect()?;
        outcome
    }

    /// Pushes `name` to the registry it names, or as `target` if one is given. Returns the manifest's digest.
    pub async fn push(
        &self,
        name: &str,
        target: Option<&str>,
        credentials: &Credentials,
        registries: &Registries,
        extras: &PushExtras,
    ) -> Result<Digest, ImageError> {
        let image = self.get(name)?.ok_or_else(|| ImageError::Unknown { name: name.to_owned() })?;
        let target = ImageName::parse(target.unwrap_or(&image.name))?;
        let outcome = push::push(self, &image, &target, credentials, registries, extras).await;
        // Signatures and machine code are the registry's now.
        self.collect()?;
        outcome
    }

    /// Machine code for `engine` that came with the image and that a key of the policy has signed, open for reading, and
    /// what kind of guest it is.
    pub(crate) fn machine_code(
        &self,
        image: &Image,
        engine: &str,
        policy: &ConfigFile,
    ) -> Result<Option<(File, String)>, ImageError> {
        let text = self.blobs.read(&image.id, manifest::MAX_DOCUMENT_BYTES)?;
        let manifest = manifest::single(&image.name, &text)?;
        if trust::precompiled::layers(&manifest).next().is_none() {
            return Ok(None);
        }
        let policy =
            trust::Policy::read(policy).map_err(|why| ImageError::Untrusted { name: image.name.clone(), why })?;
        let chosen = trust::precompiled::choose(&image.name, &manifest, &image.wasm, engine, &policy);
        let Some(code) = chosen.filter(|code| self.blobs.has(&code.layer.digest)) else { return Ok(None) };
        let path = self.blobs.path(&code.layer.digest);
        File::open(&path).map(|file| Some((file, code.kind))).map_err(|source| ImageError::io("open", path, source))
    }

    /// Has the image machine code in it, for whatever processor?
    pub(crate) fn has_machine_code(&self, image: &Image) -> bool {
        self.blobs
            .read(&image.id, manifest::MAX_DOCUMENT_BYTES)
            .and_then(|text| manifest::single(&image.name, &text))
            .is_ok_and(|manifest| trust::precompiled::layers(&manifest).next().is_some())
    }

    /// Names that come from archives which still lie in their directory: removing them would only bring them back.
    pub fn pinned(&self) -> Result<HashSet<String>, ImageError> {
        archive::pinned(self)
    }

    fn put_blob(&self, what: &str, content: &[u8]) -> Result<Digest, ImageError> {
        self.blobs.put(what, content)
    }

    /// Gives an image that is there another name. One with a digest must have the image's.
    pub fn tag(&self, name: &str, new_name: &str) -> Result<Image, ImageError> {
        let new = ImageName::parse(new_name)?;
        // Nobody collects while this is held.
        let _adding = self.blobs.adding()?;
        let image = self.get(name)?.ok_or_else(|| ImageError::Unknown { name: name.to_owned() })?;
        if new.digest().is_some_and(|digest| digest != image.id) {
            let why = format!("its digest is not that of {name}, {}", image.id);
            return Err(ImageError::InvalidName { name: new_name.to_owned(), why });
        }
        self.give_name(&image, &new)
    }

    fn give_name(&self, image: &Image, name: &ImageName) -> Result<Image, ImageError> {
        let image = Image { name: name.to_string(), ..image.clone() };
        self.write_ref(&image)?;
        Ok(image)
    }

    /// The WebAssembly file, open for reading.
    pub fn open_wasm(&self, image: &Image) -> Result<File, ImageError> {
        let path = self.blobs.path(&image.wasm);
        File::open(&path).map_err(|source| ImageError::io("open", path, source))
    }

    pub fn usage(&self) -> Result<Usage, ImageError> {
        self.blobs.usage()
    }

    /// Removes blobs that no name needs, nor a container, nor a claim. Skipped while some process adds content, because that
    /// content has no name yet; whoever changes the store next collects.
    fn collect(&self) -> Result<(), ImageError> {
        self.blobs.expire_remains(self.clock.now(), KEPT_NS)?;
        self.blobs.collect(|| self.needed())
    }

    /// What names and containers need.
    fn needed(&self) -> Result<HashSet<String>, ImageError> {
        let needed = self.list()?.into_iter().chain(self.in_use()?);
        Ok(needed.flat_map(|image| image.blobs).map(|digest| digest.hex().to_owned()).collect())
    }

    /// Of what pulls that broke off left, no more than this stays, beside the downloads in `own` up to these sizes.
    fn make_room(&self, max_bytes: u64, own: &HashMap<PathBuf, u64>) -> Result<(), ImageError> {
        if self.blobs.limit_remains(max_bytes, own, self.needed()?)? {
            self.collect()?;
        }
        Ok(())
    }

    fn ref_path(&self, name: &str) -> PathBuf {
        self.root.join("refs").join(format!("{}.json", Digest::of(name.as_bytes()).hex()))
    }

    /// A record that cannot be read as one (cut short by a power loss) counts as absent: the image is pulled again.
    fn read_ref(&self, path: &Path) -> Result<Option<Image>, ImageError> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ImageError::io("read", path, source)),
        };
        match serde_json::from_slice::<Image>(&text) {
            Ok(image) if image.blobs.iter().all(|digest| self.blobs.has(digest)) => Ok(Some(image)),
            Ok(image) => {
                tracing::warn!(image = image.name, "content of the image is missing; the name is ignored");
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "unreadable image record is ignored");
                Ok(None)
            }
        }
    }

    fn write_ref(&self, image: &Image) -> Result<(), ImageError> {
        let text = serde_json::to_vec_pretty(image)
            .map_err(|error| ImageError::Corrupt { what: image.name.clone(), why: error.to_string() })?;
        self.blobs.replace(&self.ref_path(&image.name), &text)
    }
}
