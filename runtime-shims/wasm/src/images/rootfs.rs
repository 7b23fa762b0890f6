//! Finds the WebAssembly file in the layers of a root filesystem. Layers are hostile input: nothing is written under a name
//! from the archive, links lead nowhere but within it, and sizes are bounded.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;

use flate2::read::MultiGzDecoder;
use tar::EntryType;

use super::blobs::{BlobWriter, Blobs};
use super::layout::Descriptor;
use super::manifest::MAX_WASM_BYTES;
use super::overlay::{Entry, Overlay, Source};
use super::{Digest, ImageError, untar};
use crate::listed::{listed, short};

/// More than anybody wants to choose from.
const PROGRAMS_MAX: usize = 1000;
/// How often layers are read for files of other names that `.wasm` links lead to.
const READS_MAX: usize = 4;
/// Of all layers of an image. One that unpacks to more is a bomb.
pub(super) const UNPACKED_BYTES_MAX: u64 = 4 << 30;

/// Copies the file out of the layers into a blob of its own.
pub(super) fn extract(
    blobs: &Blobs,
    name: &str,
    layers: &[Descriptor],
    entry: Option<&str>,
) -> Result<Digest, ImageError> {
    let mut copied: Option<(Source, Digest)> = None;
    // A layer takes long to read: what is most likely wanted is copied as it comes by.
    let overlay = overlay(blobs, name, layers, &mut |source, path, file| {
        let is_likely = match entry {
            Some(entry) => plain(path) == plain(entry),
            None => copied.is_none() && path.ends_with(".wasm"),
        };
        if is_likely {
            copied = match copy(blobs, &what(name, &layers[source.layer]), path, file) {
                Ok(digest) => Some((source, digest)),
                // Something else may lie above it.
                Err(ImageError::TooLarge { .. }) => None,
                Err(error) => return Err(error),
            };
        }
        Ok(())
    })?;
    let source = match entry {
        Some(entry) => overlay.file(entry),
        None => only(name, &overlay)?,
    };
    let source = source.ok_or_else(|| absent(name, entry))?;
    match copied {
        Some((from, digest)) if from == source => Ok(digest),
        Some(_) | None => copy_again(blobs, name, layers, source),
    }
}

fn copy_again(blobs: &Blobs, name: &str, layers: &[Descriptor], source: Source) -> Result<Digest, ImageError> {
    let layer = &layers[source.layer];
    let what = what(name, layer);
    let mut copied = None;
    let bad = |error| ImageError::corrupt(&what, error);
    untar::each(open(blobs, layer, &what)?, bad, |entry| {
        if entry.number < source.entry {
            return Ok(ControlFlow::Continue(()));
        }
        copied = Some(copy(blobs, &what, &entry.path, entry.content)?);
        Ok(ControlFlow::Break(()))
    })?;
    copied.ok_or_else(|| ImageError::corrupt(&what, "it is another than a moment ago"))
}

/// Paths of the `.wasm` files that are left when all layers lie on each other, and how many files they are.
pub(super) fn list(blobs: &Blobs, name: &str, layers: &[Descriptor]) -> Result<(Vec<String>, usize), ImageError> {
    let overlay = overlay(blobs, name, layers, &mut |_, _, _| Ok(()))?;
    let paths = overlay.programs().map(|(path, _)| path.to_owned()).take(PROGRAMS_MAX).collect();
    let files: HashSet<Source> = overlay.programs().map(|(_, file)| file).collect();
    Ok((paths, files.len()))
}

/// The one file there is, under however many names.
fn only(name: &str, overlay: &Overlay) -> Result<Option<Source>, ImageError> {
    let mut programs = overlay.programs();
    let Some((_, first)) = programs.next() else { return Ok(None) };
    if programs.all(|(_, other)| other == first) {
        return Ok(Some(first));
    }
    let names: Vec<&str> = overlay.programs().map(|(path, _)| path).collect();
    Err(ImageError::NotWasm {
        name: name.to_owned(),
        why: format!("it has several .wasm files ({}) and no entrypoint that names one", listed(&names)),
    })
}

/// What is done with a file as it comes by.
type Pass<'a> = dyn FnMut(Source, &str, &mut dyn Read) -> Result<(), ImageError> + 'a;

fn overlay(blobs: &Blobs, name: &str, layers: &[Descriptor], pass: &mut Pass<'_>) -> Result<Overlay, ImageError> {
    let mut overlay = Overlay::default();
    let mut reads = 1;
    loop {
        let mut left_bytes = UNPACKED_BYTES_MAX;
        for (number, layer) in layers.iter().enumerate() {
            let what = what(name, layer);
            let mut archive = open(blobs, layer, &what)?.take(left_bytes);
            let outcome = add(&mut overlay, &mut archive, number, &what, pass);
            left_bytes = archive.limit();
            if left_bytes == 0 {
                let what = format!("the content of {name}");
                return Err(ImageError::TooLarge { what, limit_bytes: UNPACKED_BYTES_MAX });
            }
            outcome?;
        }
        if reads == READS_MAX || !overlay.wants_more() {
            return Ok(overlay);
        }
        reads += 1;
    }
}

fn add(
    overlay: &mut Overlay,
    archive: &mut dyn Read,
    number: usize,
    what: &str,
    pass: &mut Pass<'_>,
) -> Result<(), ImageError> {
    untar::each(
        archive,
        |error| ImageError::corrupt(what, error),
        |from| {
            let entry = match from.kind {
                // As the first archivers wrote directories.
                EntryType::Regular if from.path.ends_with('/') => Entry::Dir,
                EntryType::Regular => Entry::File,
                EntryType::Directory => Entry::Dir,
                EntryType::Symlink => Entry::Symlink(&from.target),
                EntryType::Link => Entry::HardLink(&from.target),
                _ => Entry::Other,
            };
            let source = Source { layer: number, entry: from.number };
            overlay.add(source, &from.path, entry).map_err(|why| ImageError::corrupt(what, why))?;
            if matches!(entry, Entry::File) {
                pass(source, &from.path, from.content)?;
            }
            Ok(ControlFlow::Continue(()))
        },
    )
}

fn what(name: &str, layer: &Descriptor) -> String {
    format!("layer {} of {name}", layer.digest)
}

/// Without the usual ways to begin a path from the root.
fn plain(path: &str) -> &str {
    path.trim_start_matches("./").trim_start_matches('/')
}

fn copy(blobs: &Blobs, what: &str, path: &str, from: &mut dyn Read) -> Result<Digest, ImageError> {
    let mut writer: BlobWriter = blobs.writer(format!("{path} in {what}"), MAX_WASM_BYTES)?;
    match io::copy(from, &mut writer) {
        Ok(_) => {}
        // The writer remembers that it overflowed and says so better than its I/O error can.
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {}
        Err(error) => return Err(ImageError::corrupt(what, error)),
    }
    blobs.finish(writer, None).map(|(digest, _)| digest)
}

fn open(blobs: &Blobs, layer: &Descriptor, what: &str) -> Result<Box<dyn Read>, ImageError> {
    let path = blobs.path(&layer.digest);
    let file = File::open(&path).map_err(|source| ImageError::io("open", path, source))?;
    decompressed(file).map_err(|error| ImageError::corrupt(what, error))
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

fn absent(name: &str, entry: Option<&str>) -> ImageError {
    ImageError::NotWasm {
        name: name.to_owned(),
        why: match entry {
            Some(entry) => format!("no layer has its entrypoint {:?}", short(entry)),
            None => "no layer has a .wasm file".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests;
