//! Fetches a blob: one download of it at a time however many ask, continued where an earlier one broke off (also one of
//! a process that is gone), verified before it gets its name.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::blobs::Blobs;
use super::layout::Descriptor;
use super::registry::{Fault, Place, Session};
use super::{Digest, ImageError};
use crate::turns::Turns;

/// An attempt that got this far is no failed one.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Who fetches what in this process, by the partial file. Between processes a lock on that does the same. A registry that
/// takes its time holds up nobody who asks another for the same blob.
pub(super) type Downloads = Arc<Turns<PathBuf>>;

/// Makes sure the blob is in the store.
pub(super) async fn fetch(
    blobs: &Blobs,
    downloads: &Downloads,
    session: &Session,
    wanted: &Descriptor,
    limit_bytes: u64,
) -> Result<(), ImageError> {
    let what = format!("blob {} of {}", wanted.digest, session.name());
    if is_there(blobs, wanted, &what)? {
        return Ok(());
    }
    if wanted.size > limit_bytes {
        return Err(ImageError::TooLarge { what, limit_bytes });
    }
    let path = blobs.partial_path(&wanted.digest, session.registry());
    let _turn = downloads.take(path.clone()).await;
    if is_there(blobs, wanted, &what)? {
        return Ok(());
    }
    let mut partial = Partial::open(blobs.clone(), wanted.digest.clone(), path).await?;
    if is_there(blobs, wanted, &what)? {
        return partial.discard();
    }
    if partial.written > wanted.size {
        partial.restart()?;
    }
    let mut tries = session.tries();
    // How far any attempt came. Only what goes further got somewhere: else who sends the same again and again never ends.
    let mut furthest = partial.written;
    // Several may have sent what is there, and it was wrong. From now on a place goes on only with what it sent itself.
    let mut mixed_was_wrong = false;
    while let Some(place) = tries.next().await {
        if mixed_was_wrong && !partial.is_all_from(place) {
            partial.restart()?;
        }
        if let Err(fault) = copy(session, place, &mut partial, wanted, &what).await {
            if partial.written >= furthest + PROGRESS_BYTES {
                furthest = partial.written;
                tries.progressed();
            }
            if matches!(fault, Fault::Bad(_)) {
                partial.restart()?;
            }
            tries.failed(fault);
            continue;
        }
        let digest = partial.digest();
        if digest == wanted.digest {
            let path = partial.path.clone();
            // It waits for the disk, and others should not.
            let finished = tokio::task::spawn_blocking(move || partial.finish()).await;
            return finished.unwrap_or_else(|error| Err(ImageError::io("sync", path, io::Error::other(error))));
        }
        let why = format!("its digest is {digest}, not {}", wanted.digest);
        tries.failed(match partial.is_all_from(place) {
            true => Fault::Bad(ImageError::corrupt(&what, why)),
            // What was there before may be at fault: once more from the beginning.
            false => Fault::Transient(format!("{what}: {why}"), None),
        });
        mixed_was_wrong = true;
        partial.restart()?;
    }
    if partial.written == 0 {
        partial.discard()?;
    }
    Err(tries.error())
}

/// One whose size is not what the manifest says is no more what that wants than if it came now. And what manifests say is
/// what bounds all that their pulls keep.
fn is_there(blobs: &Blobs, wanted: &Descriptor, what: &str) -> Result<bool, ImageError> {
    if !blobs.has(&wanted.digest) {
        return Ok(false);
    }
    match blobs.len(&wanted.digest)? {
        bytes if bytes == wanted.size => Ok(true),
        bytes => Err(ImageError::corrupt(what, format!("it has {bytes} bytes, and its manifest says {}", wanted.size))),
    }
}

async fn copy(
    session: &Session,
    place: &Place,
    partial: &mut Partial,
    wanted: &Descriptor,
    what: &str,
) -> Result<(), Fault> {
    if partial.written == wanted.size {
        return Ok(());
    }
    let stream = session.blob(place, &wanted.digest, partial.written).await?;
    if stream.from != partial.written {
        partial.restart().map_err(Fault::Bad)?;
    }
    if stream.from != partial.written {
        return Err(Fault::Final("the registry sent another part of the blob than was asked for".to_owned()));
    }
    partial.comes_from(place);
    let bad = |why: String| Fault::Bad(ImageError::corrupt(what, why));
    if let Some(rest) = stream.rest
        && partial.written.saturating_add(rest) != wanted.size
    {
        let offered = partial.written.saturating_add(rest);
        return Err(bad(format!("the registry has {offered} bytes of it, and its manifest says {}", wanted.size)));
    }
    let mut flow = session.transport().flow(stream.body);
    while let Some(piece) = session.transport().next(&mut flow).await? {
        if partial.written + piece.len() as u64 > wanted.size {
            return Err(bad(format!("the registry sends more than the {} bytes its manifest says", wanted.size)));
        }
        partial.write(&piece).map_err(Fault::Bad)?;
    }
    if partial.written < wanted.size {
        return Err(bad(format!("it ends after {} bytes, and its manifest says {}", partial.written, wanted.size)));
    }
    Ok(())
}

/// A blob that is not whole yet. Locked as long as this lives.
struct Partial {
    blobs: Blobs,
    wanted: Digest,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    written: u64,
    /// The place that sent all of it, by its number.
    only_from: Option<usize>,
}

impl Partial {
    async fn open(blobs: Blobs, wanted: Digest, path: PathBuf) -> Result<Partial, ImageError> {
        let shown = path.clone();
        // Another process may hold the lock for as long as its download takes, and hashing what is there takes time, too.
        tokio::task::spawn_blocking(move || Partial::lock(blobs, wanted, path))
            .await
            .unwrap_or_else(|error| Err(ImageError::io("open", shown, io::Error::other(error))))
    }

    fn lock(blobs: Blobs, wanted: Digest, path: PathBuf) -> Result<Partial, ImageError> {
        use std::os::unix::fs::MetadataExt;
        let failed = |source: io::Error| ImageError::io("open", &path, source);
        loop {
            let mut file = fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(failed)?;
            file.lock().map_err(failed)?;
            // Whoever held the lock may have finished the blob, and its file has another name now.
            let (own, there) = (file.metadata().map_err(failed)?, fs::metadata(&path));
            if !there.is_ok_and(|there| there.ino() == own.ino() && there.dev() == own.dev()) {
                continue;
            }
            let mut hasher = Sha256::new();
            let mut written = 0;
            let mut buffer = vec![0; 64 << 10];
            loop {
                let got = file.read(&mut buffer).map_err(failed)?;
                if got == 0 {
                    break;
                }
                hasher.update(&buffer[..got]);
                written += got as u64;
            }
            return Ok(Partial { blobs, wanted, path, file, hasher, written, only_from: None });
        }
    }

    /// Pieces from the network are small and go to the page cache, so the write is not worth a thread.
    fn write(&mut self, piece: &[u8]) -> Result<(), ImageError> {
        self.file.write_all(piece).map_err(|source| ImageError::io("write", &self.path, source))?;
        self.hasher.update(piece);
        self.written += piece.len() as u64;
        Ok(())
    }

    /// What is written next is from this place.
    fn comes_from(&mut self, place: &Place) {
        if self.written == 0 {
            self.only_from = Some(place.number());
        } else if !self.is_all_from(place) {
            self.only_from = None;
        }
    }

    fn is_all_from(&self, place: &Place) -> bool {
        self.only_from == Some(place.number())
    }

    fn digest(&self) -> Digest {
        Digest::from_hasher(self.hasher.clone())
    }

    fn restart(&mut self) -> Result<(), ImageError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|source| ImageError::io("empty", &self.path, source))?;
        self.hasher = Sha256::new();
        self.written = 0;
        self.only_from = None;
        Ok(())
    }

    fn finish(self) -> Result<(), ImageError> {
        self.blobs.adopt(&self.file, &self.path, &self.wanted)
    }

    fn discard(self) -> Result<(), ImageError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", self.path, error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
