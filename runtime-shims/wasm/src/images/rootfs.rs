//! Finds the WebAssembly file in the layers of a root filesystem. Layers are hostile input: only regular files are
//! looked at, nothing is written under a name from the archive, and sizes are bounded.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;

use super::blobs::{BlobWriter, Blobs};
use super::layout::Descriptor;
use super::manifest::{MAX_LAYER_BYTES, MAX_WASM_BYTES};
use super::{Digest, ImageError};

/// The name of a file that says that nothing of its directory in lower layers is left.
const OPAQUE: &str = ".wh..wh..opq";
/// More than anybody wants to choose from.
const PROGRAMS_MAX: usize = 1000;

/// Copies the file out of the layers into a blob of its own.
pub(super) fn extract(
    blobs: &Blobs,
    name: &str,
    layers: &[Descriptor],
    entry: Option<&str>,
) -> Result<Digest, ImageError> {
    let wanted = entry.map(normal);
    let mut candidates: Vec<(String, Digest)> = Vec::new();
    // The last layer is the uppermost: what it has, or has deleted, hides what lies below.
    for layer in layers.iter().rev() {
        let what = format!("layer {} of {name}", layer.digest);
        let mut archive = open(blobs, layer, &what)?;
        let entries = archive.entries().map_err(|error| ImageError::corrupt(&what, error))?;
        for file in entries {
            let mut file = file.map_err(|error| ImageError::corrupt(&what, error))?;
            let path = normal(&String::from_utf8_lossy(&file.path_bytes()));
            if wanted.as_ref().is_some_and(|wanted| path == whiteout(wanted)) {
                return Err(absent(name, entry));
            }
            let is_wanted = match &wanted {
                Some(wanted) => path == *wanted,
                None => path.ends_with(".wasm") && !candidates.iter().any(|(known, _)| *known == path),
            };
            if !is_wanted || !file.header().entry_type().is_file() {
                continue;
            }
            let digest = copy(blobs, &what, &path, &mut file)?;
            if wanted.is_some() {
                return Ok(digest);
            }
            candidates.push((path, digest));
        }
    }
    match candidates.as_slice() {
        [(_, digest)] => Ok(digest.clone()),
        [] => Err(absent(name, entry)),
        several => {
            let names: Vec<&str> = several.iter().map(|(path, _)| path.as_str()).collect();
            Err(ImageError::NotWasm {
                name: name.to_owned(),
                why: format!("it has several .wasm files ({}) and no entrypoint that names one", names.join(", ")),
            })
        }
    }
}

/// Paths of the `.wasm` files that are left when all layers lie on each other.
pub(super) fn list(blobs: &Blobs, name: &str, layers: &[Descriptor]) -> Result<Vec<String>, ImageError> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    // What upper layers have deleted: files, and directories with all in them.
    let mut gone: Vec<String> = Vec::new();
    for layer in layers.iter().rev() {
        let what = format!("layer {} of {name}", layer.digest);
        let mut archive = open(blobs, layer, &what)?;
        let entries = archive.entries().map_err(|error| ImageError::corrupt(&what, error))?;
        let mut deleted = Vec::new();
        for file in entries {
            let file = file.map_err(|error| ImageError::corrupt(&what, error))?;
            let path = normal(&String::from_utf8_lossy(&file.path_bytes()));
            let (dir, base) = path.rsplit_once('/').unwrap_or(("", &path));
            if base == OPAQUE {
                deleted.push(dir.to_owned());
            } else if let Some(base) = base.strip_prefix(".wh.") {
                deleted.push(if dir.is_empty() { base.to_owned() } else { format!("{dir}/{base}") });
            } else if path.ends_with(".wasm")
                && file.header().entry_type().is_file()
                && !gone.iter().any(|gone| is_below(&path, gone))
                && found.len() < PROGRAMS_MAX
            {
                found.insert(path);
            }
        }
        // Of the layers below only.
        gone.extend(deleted);
    }
    Ok(found.into_iter().collect())
}

fn is_below(path: &str, dir: &str) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn copy(blobs: &Blobs, what: &str, path: &str, from: &mut impl Read) -> Result<Digest, ImageError> {
    let mut writer: BlobWriter = blobs.writer(format!("{path} in {what}"), MAX_WASM_BYTES)?;
    match io::copy(from, &mut writer) {
        Ok(_) => {}
        // The writer remembers that it overflowed and says so better than its I/O error can.
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {}
        Err(error) => return Err(ImageError::corrupt(what, error)),
    }
    blobs.finish(writer, None).map(|(digest, _)| digest)
}

fn open(blobs: &Blobs, layer: &Descriptor, what: &str) -> Result<tar::Archive<Box<dyn Read>>, ImageError> {
    let path = blobs.path(&layer.digest);
    let file = File::open(&path).map_err(|source| ImageError::io("open", path, source))?;
    let reader = decompressed(file).map_err(|error| ImageError::corrupt(what, error))?;
    // An archive that unpacks to more than this is a bomb.
    Ok(tar::Archive::new(Box::new(reader.take(4 * MAX_LAYER_BYTES))))
}

/// The content, uncompressed; told by its first bytes, because media types are often wrong.
pub(super) fn decompressed(mut file: File) -> io::Result<Box<dyn Read>> {
    use std::io::{Seek, SeekFrom};
    let mut head = [0; 4];
    let mut filled = 0;
    while filled < head.len() {
        match file.read(&mut head[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    file.seek(SeekFrom::Start(0))?;
    match head {
        [0x1f, 0x8b, ..] => Ok(Box::new(MultiGzDecoder::new(BufReader::new(file)))),
        [0x28, 0xb5, 0x2f, 0xfd] => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "it is compressed with zstd, which is not supported; use gzip",
        )),
        _ => Ok(Box::new(BufReader::new(file))),
    }
}

/// A path in an image without the ways to write it differently. `..` is kept, so that it matches nothing.
fn normal(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// How an upper layer says that a file of a lower one is gone.
fn whiteout(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((dir, file)) => format!("{dir}/.wh.{file}"),
        None => format!(".wh.{path}"),
    }
}

fn absent(name: &str, entry: Option<&str>) -> ImageError {
    ImageError::NotWasm {
        name: name.to_owned(),
        why: match entry {
            Some(entry) => format!("no layer has its entrypoint {entry:?}"),
            None => "no layer has a .wasm file".to_owned(),
        },
    }
}
