//! Takes images in from files: a bare `.wasm`, an OCI layout in a tar, or what `docker save` writes.
//!
//! Archives are hostile input. Files get the names of their digests, never their own; documents, content, and the paths
//! that are remembered are bounded; links lead from name to name in the archive, and devices are passed over.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tar::EntryType;

use super::layout::{Descriptor, Document, Manifest, OCI_CONFIG, OCI_MANIFEST, WASM_CONFIG, WASM_LAYER};
use super::manifest::{self, MAX_DOCUMENT_BYTES, MAX_WASM_BYTES, Magic, Shape};
use super::{Digest, Image, ImageError, ImageName, ImageStore, Imported, rootfs, untar};

/// In an archive of images, in which each is a layer or says something of an image. Each costs a file that is written and
/// synced, also if all have the same name.
const FILES_MAX: usize = 10_000;
const FILE_BYTES_MAX: u64 = 1 << 30;
/// As long as Linux takes paths. Those of all files are in memory at once.
const PATH_BYTES_MAX: usize = 4096;
/// Of all entries of an archive, also those that are passed over. One that unpacks to more is a bomb.
const UNPACKED_BYTES_MAX: u64 = 4 << 30;
/// Of all images in an archive.
const NAMES_MAX: usize = 100;

pub(super) fn import(store: &ImageStore, file: &Path, name: Option<&ImageName>) -> Result<Vec<Image>, ImageError> {
    let mut open = File::open(file).map_err(|source| ImageError::io("open", file, source))?;
    let mut head = [0; 4];
    let got = open.read(&mut head).map_err(|source| ImageError::io("read", file, source))?;
    let mut claims = Claims { what: file.display().to_string(), all: Vec::new() };
    if head[..got] == *b"\0asm" || file.extension().is_some_and(|extension| extension == "wasm") {
        bare(store, file, name, &mut claims)?;
        return claims.admit(store);
    }
    let contents = Contents::read(store, file)?;
    match (contents.documents.get("index.json"), contents.documents.get("manifest.json")) {
        (Some(index), _) => oci_layout(store, file, index, name, &mut claims)?,
        (None, Some(list)) => docker_archive(store, file, list, &contents, name, &mut claims)?,
        (None, None) => {
            return Err(ImageError::corrupt(
                claims.what,
                "neither WebAssembly, nor a tar with an index.json (OCI layout) or a manifest.json (docker save)",
            ));
        }
    }
    claims.admit(store)
}

/// The names that an archive gives to its images, and the manifests of those.
struct Claims {
    what: String,
    all: Vec<(ImageName, Digest)>,
}

impl Claims {
    /// `listed` is the digest by which the archive has the image, where it is not the manifest's but that of a list of
    /// platforms.
    fn add(&mut self, name: ImageName, manifest: Digest, listed: Option<&Digest>) -> Result<(), ImageError> {
        if let Some(said) = name.digest()
            && said != manifest
            && Some(&said) != listed
        {
            let why = format!("it has {name} as a name of another image, {manifest}");
            return Err(ImageError::corrupt(&self.what, why));
        }
        if self.all.len() == NAMES_MAX {
            return Err(ImageError::corrupt(&self.what, format!("it has more than {NAMES_MAX} names of images")));
        }
        self.all.push((name, manifest));
        Ok(())
    }

    fn admit(self, store: &ImageStore) -> Result<Vec<Image>, ImageError> {
        let mut images: Vec<Image> = Vec::new();
        for (name, manifest) in self.all {
            // To take it in unpacks its layers.
            let image = match images.iter().find(|image| image.id == manifest) {
                Some(image) => store.give_name(image, &name)?,
                None => admit(store, &name.to_string(), &manifest)?,
            };
            images.push(image);
        }
        Ok(images)
    }
}

/// What was taken in, so that an archive is not read again at each start.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    bytes: u64,
    modified_ns: i128,
    names: Vec<String>,
}

pub(super) fn import_dir(store: &ImageStore, dir: &Path) -> Result<Vec<Imported>, ImageError> {
    use std::os::unix::fs::MetadataExt;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ImageError::io("read", dir, source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| ImageError::io("read", dir, source))?.path();
        let Ok(meta) = fs::metadata(&path) else { continue };
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if meta.is_file() && !hidden {
            let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
            files.push(Seen { path, bytes: meta.len(), modified_ns, names: Vec::new() });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut outcomes = Vec::new();
    for file in files {
        let record = store
            .root
            .join("archives")
            .join(format!("{}.json", Digest::of(file.path.as_os_str().as_encoded_bytes()).hex()));
        let known: Option<Seen> = fs::read(&record).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let unchanged = known.is_some_and(|known| {
            known.bytes == file.bytes
                && known.modified_ns == file.modified_ns
                && known.names.iter().all(|name| store.get(name).is_ok_and(|image| image.is_some()))
        });
        if unchanged {
            continue;
        }
        // Until the record is whole: who opens the store removes what is half written and nobody's.
        let _adding = store.blobs.adding()?;
        let outcome = import(store, &file.path, None);
        // A bad archive is remembered too: it is tried again when it changes, not at every look.
        let names = outcome.iter().flatten().map(|image| image.name.clone()).collect();
        let seen = serde_json::to_vec(&Seen { names, path: file.path.clone(), ..file })
            .map_err(|error| ImageError::corrupt(record.display().to_string(), error))?;
        store.blobs.replace(&record, &seen)?;
        outcomes.push(Imported { file: file.path, outcome });
    }
    Ok(outcomes)
}

/// The names of archives that still lie where they were found.
pub(super) fn pinned(store: &ImageStore) -> Result<HashSet<String>, ImageError> {
    let dir = store.root.join("archives");
    let mut names = HashSet::new();
    for entry in fs::read_dir(&dir).map_err(|source| ImageError::io("read", &dir, source))? {
        let path = entry.map_err(|source| ImageError::io("read", &dir, source))?.path();
        let seen: Option<Seen> = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(seen) = seen.filter(|seen| seen.path.exists()) {
            names.extend(seen.names);
        }
    }
    Ok(names)
}

/// A `.wasm` file becomes the CNCF artifact that `oras` or `wkg` would make of it, so that it can be pushed.
fn bare(store: &ImageStore, file: &Path, name: Option<&ImageName>, claims: &mut Claims) -> Result<(), ImageError> {
    let what = file.display().to_string();
    let name = match name {
        Some(name) => name.clone(),
        None => ImageName::parse(&stem(file))?,
    };
    let meta = fs::metadata(file).map_err(|source| ImageError::io("read", file, source))?;
    if meta.len() > MAX_WASM_BYTES {
        return Err(ImageError::TooLarge { what, limit_bytes: MAX_WASM_BYTES });
    }
    let content = fs::read(file).map_err(|source| ImageError::io("read", file, source))?;
    let os = match manifest::magic(&what, &content)? {
        Magic::Module => "wasip1",
        Magic::Component => "wasip2",
    };
    let layer = store.blobs.put(&what, &content)?;
    let config = WasmConfig { architecture: "wasm", os, layer_digests: vec![layer.clone()] };
    let config = to_json(&config)?;
    let config_digest = store.blobs.put("configuration", &config)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config: descriptor(WASM_CONFIG, config_digest, config.len() as u64),
        layers: vec![descriptor(WASM_LAYER, layer, content.len() as u64)],
    };
    claims.add(name, store.blobs.put("manifest", &to_json(&manifest)?)?, None)
}

/// `application/vnd.wasm.config.v0+json` without the optional `component`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WasmConfig {
    architecture: &'static str,
    os: &'static str,
    layer_digests: Vec<Digest>,
}

fn oci_layout(
    store: &ImageStore,
    file: &Path,
    index: &[u8],
    name: Option<&ImageName>,
    claims: &mut Claims,
) -> Result<(), ImageError> {
    let Ok(Document::Index(index)) = Document::parse(index) else {
        return Err(ImageError::corrupt(&claims.what, "its index.json is not an OCI index"));
    };
    if index.manifests.is_empty() {
        return Err(ImageError::corrupt(&claims.what, "its index.json names no image"));
    }
    for entry in &index.manifests {
        let said = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .find_map(|key| entry.annotations.get(*key));
        let name = match (name, said) {
            (Some(name), _) => name.clone(),
            (None, Some(said)) => ImageName::parse(said)?,
            (None, None) => ImageName::parse(&stem(file))?,
        };
        let text = store.blobs.read(&entry.digest, MAX_DOCUMENT_BYTES)?;
        let manifest = match Document::parse(&text) {
            Ok(Document::Index(platforms)) => manifest::choose(&name.to_string(), &platforms)?,
            Ok(Document::Manifest(_)) | Err(_) => entry.digest.clone(),
        };
        claims.add(name, manifest, Some(&entry.digest))?;
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn docker_archive(
    store: &ImageStore,
    file: &Path,
    list: &[u8],
    contents: &Contents,
    name: Option<&ImageName>,
    claims: &mut Claims,
) -> Result<(), ImageError> {
    let what = file.display().to_string();
    let list: Vec<DockerImage> = serde_json::from_slice(list).map_err(|error| ImageError::corrupt(&what, error))?;
    let find =
        |path: &str| contents.find(path).ok_or_else(|| ImageError::corrupt(&what, format!("it has no file {path:?}")));
    for image in list {
        // Before a manifest is made of them that is as large as whoever wrote the list likes.
        manifest::check_layers(&format!("an image in {what}"), image.layers.len())?;
        let (config, config_bytes) = find(&image.config)?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let (digest, bytes) = find(layer)?;
            layers.push(descriptor("application/vnd.oci.image.layer.v1.tar", digest, bytes));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            config: descriptor(OCI_CONFIG, config, config_bytes),
            layers,
        };
        let manifest = store.blobs.put("manifest", &to_json(&manifest)?)?;
        let mut names = match name {
            Some(name) => vec![name.to_string()],
            None => image.repo_tags.unwrap_or_default(),
        };
        if names.is_empty() {
            names.push(stem(file));
        }
        for name in names {
            claims.add(ImageName::parse(&name)?, manifest.clone(), None)?;
        }
    }
    Ok(())
}

/// The blobs are in the store; what the manifest says must be true of them.
fn admit(store: &ImageStore, name: &str, manifest: &Digest) -> Result<Image, ImageError> {
    let text = store.blobs.read(manifest, MAX_DOCUMENT_BYTES)?;
    let manifest = manifest::single(name, &text)?;
    let anatomy = manifest::anatomy(name, &manifest, store.image_config(name, &manifest)?)?;
    let layers = match &anatomy.shape {
        Shape::Artifact { layer } => std::slice::from_ref(layer),
        Shape::Rootfs { layers, entry: _ } => layers.as_slice(),
    };
    for Descriptor { digest, .. } in layers.iter().chain([&manifest.config]) {
        if !store.blobs.has(digest) {
            return Err(ImageError::corrupt(name, format!("blob {digest} is missing from the archive")));
        }
    }
    store.admit(name, &text, &manifest, &anatomy)
}

/// What a tar held: small documents in memory, every file of some size as a blob.
#[derive(Default)]
struct Contents {
    documents: BTreeMap<String, Vec<u8>>,
    files: BTreeMap<String, (Digest, u64)>,
    /// Where symbolic links lead, in the archive: older versions of Docker write a layer that images share once.
    links: BTreeMap<String, String>,
    /// Files and links so far.
    taken: usize,
}

impl Contents {
    fn read(store: &ImageStore, file: &Path) -> Result<Contents, ImageError> {
        let what = file.display().to_string();
        let open = File::open(file).map_err(|source| ImageError::io("open", file, source))?;
        let reader = rootfs::decompressed(open).map_err(|error| ImageError::corrupt(&what, error))?;
        let mut reader = reader.take(UNPACKED_BYTES_MAX);
        let mut contents = Contents::default();
        let bad =
            |error| ImageError::corrupt(&what, format!("neither WebAssembly nor a readable tar archive: {error}"));
        let outcome = untar::each(&mut reader, bad, |entry| {
            if matches!(entry.kind, EntryType::Regular | EntryType::Symlink) {
                contents.take(store, &what, entry)?;
            }
            Ok(ControlFlow::Continue(()))
        });
        if reader.limit() == 0 {
            let what = format!("the content of {what}");
            return Err(ImageError::TooLarge { what, limit_bytes: UNPACKED_BYTES_MAX });
        }
        outcome.map(|()| contents)
    }

    fn take(&mut self, store: &ImageStore, what: &str, entry: untar::Entry<'_>) -> Result<(), ImageError> {
        self.taken += 1;
        if self.taken > FILES_MAX {
            return Err(ImageError::corrupt(what, format!("it has more than {FILES_MAX} files")));
        }
        if entry.path.len().max(entry.target.len()) > PATH_BYTES_MAX {
            return Err(ImageError::corrupt(what, format!("a path in it is longer than {PATH_BYTES_MAX} bytes")));
        }
        let path = entry.path.trim_start_matches("./").to_owned();
        if entry.kind == EntryType::Symlink {
            self.files.remove(&path);
            if let Some(target) = linked(&path, &entry.target) {
                self.links.insert(path, target);
            }
            return Ok(());
        }
        if ["index.json", "manifest.json"].contains(&path.as_str()) {
            let mut text = Vec::new();
            let mut content = entry.content.take(MAX_DOCUMENT_BYTES);
            content.read_to_end(&mut text).map_err(|error| ImageError::corrupt(what, error))?;
            self.documents.insert(path, text);
            return Ok(());
        }
        let expected = path.strip_prefix("blobs/sha256/").and_then(|hex| format!("sha256:{hex}").parse().ok());
        let mut writer = store.blobs.writer(format!("{path} in {what}"), FILE_BYTES_MAX)?;
        match io::copy(entry.content, &mut writer) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {}
            Err(error) => return Err(ImageError::corrupt(what, error)),
        }
        let blob = store.blobs.finish(writer, expected.as_ref())?;
        self.files.insert(path, blob);
        Ok(())
    }

    /// The file of this name, or the one that it is a link to. Links to links are nothing that anybody writes.
    fn find(&self, path: &str) -> Option<(Digest, u64)> {
        self.files.get(path).or_else(|| self.files.get(self.links.get(path)?)).cloned()
    }
}

/// Where a link at `path` leads in its archive; nothing, if that is outside of it.
fn linked(path: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), digest, size, platform: None, annotations: BTreeMap::new() }
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|error| ImageError::corrupt("a new manifest", error))
}

/// `hello.wasm` is called `hello`, `hello-1.2.tar.gz` is called `hello-1.2`.
fn stem(file: &Path) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    [".tar.gz", ".tgz", ".tar", ".wasm"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(&name)
        .to_lowercase()
}
