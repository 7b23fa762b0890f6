//! Content on disk, by digest. A blob gets its name only after its digest was verified and its bytes were synced.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::{Digest, ImageError, Usage};

#[derive(Debug, Clone)]
pub(super) struct Blobs {
    dir: PathBuf,
    tmp: PathBuf,
    /// Downloads that are not whole, by the digest they are to have and the registry they come from.
    partial: PathBuf,
    claims: PathBuf,
    lock: PathBuf,
}

/// Held while content is added that neither a name nor a claim keeps, and while either is written.
pub(super) struct Adding {
    _lock: File,
}

impl Blobs {
    pub(super) fn open(root: &Path) -> Result<Blobs, ImageError> {
        let blobs = Blobs {
            dir: root.join("blobs/sha256"),
            tmp: root.join("tmp"),
            partial: root.join("partial"),
            claims: root.join("claims"),
            lock: root.join("lock"),
        };
        for dir in [&blobs.dir, &blobs.tmp, &blobs.partial, &blobs.claims] {
            fs::create_dir_all(dir).map_err(|source| ImageError::io("make", dir, source))?;
        }
        Ok(blobs)
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Of a download from the registry of this name: no registry has a hand in what another one sends.
    pub(super) fn partial_path(&self, digest: &Digest, registry: &str) -> PathBuf {
        self.partial.join(format!("{}-{}", digest.hex(), &Digest::of(registry.as_bytes()).hex()[..16]))
    }

    pub(super) fn partials(&self) -> &Path {
        &self.partial
    }

    pub(super) fn claims(&self) -> &Path {
        &self.claims
    }

    /// Gives a downloaded file, whose digest was verified, its name.
    pub(super) fn adopt(&self, file: &File, path: &Path, digest: &Digest) -> Result<(), ImageError> {
        file.sync_all().map_err(|source| ImageError::io("sync", path, source))?;
        set_mode(path, 0o644)?;
        fs::rename(path, self.path(digest)).map_err(|source| ImageError::io("rename", path, source))?;
        sync_dir(&self.dir)
    }

    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// The size of a blob of this name, and nothing of one that is not there.
    pub(super) fn bytes_of(&self, hex: &str) -> u64 {
        fs::metadata(self.dir.join(hex)).map_or(0, |meta| meta.len())
    }

    pub(super) fn adding(&self) -> Result<Adding, ImageError> {
        let lock = self.lock_file()?;
        lock.lock_shared().map_err(|source| ImageError::io("lock", &self.lock, source))?;
        Ok(Adding { _lock: lock })
    }

    pub(super) fn temporary(&self) -> Result<NamedTempFile, ImageError> {
        NamedTempFile::new_in(&self.tmp).map_err(|source| ImageError::io("make a file in", &self.tmp, source))
    }

    /// A writer for content of at most `limit_bytes`.
    pub(super) fn writer(&self, what: impl Into<String>, limit_bytes: u64) -> Result<BlobWriter, ImageError> {
        let file = self.temporary()?;
        Ok(BlobWriter { what: what.into(), file, hasher: Sha256::new(), written: 0, limit_bytes, overflowed: false })
    }

    pub(super) fn put(&self, what: &str, content: &[u8]) -> Result<Digest, ImageError> {
        let mut writer = self.writer(what, u64::MAX)?;
        writer.write_all(content).map_err(|source| ImageError::io("write in", &self.tmp, source))?;
        self.finish(writer, None).map(|(digest, _)| digest)
    }

    /// Verifies what was written against `expected`, syncs it and gives it its name.
    pub(super) fn finish(&self, writer: BlobWriter, expected: Option<&Digest>) -> Result<(Digest, u64), ImageError> {
        let BlobWriter { what, file, hasher, written, limit_bytes, overflowed } = writer;
        if overflowed {
            return Err(ImageError::TooLarge { what, limit_bytes });
        }
        let digest = Digest::from_hasher(hasher);
        if let Some(expected) = expected
            && digest != *expected
        {
            return Err(ImageError::corrupt(what, format!("its digest is {digest}, not {expected}")));
        }
        let path = self.path(&digest);
        file.as_file().sync_all().map_err(|source| ImageError::io("sync", file.path(), source))?;
        // Blobs are read by the compiler process, which may run as another user.
        set_mode(file.path(), 0o644)?;
        file.persist(&path).map_err(|error| ImageError::io("write", path, error.error))?;
        sync_dir(&self.dir)?;
        Ok((digest, written))
    }

    pub(super) fn read(&self, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(|source| ImageError::io("open", &path, source))?;
        let mut content = Vec::new();
        file.take(limit_bytes + 1).read_to_end(&mut content).map_err(|source| ImageError::io("read", &path, source))?;
        if content.len() as u64 > limit_bytes {
            return Err(ImageError::TooLarge { what: format!("blob {digest}"), limit_bytes });
        }
        Ok(content)
    }

    pub(super) fn len(&self, digest: &Digest) -> Result<u64, ImageError> {
        let path = self.path(digest);
        fs::metadata(&path).map(|meta| meta.len()).map_err(|source| ImageError::io("read", path, source))
    }

    /// Replaces the file at `path` at once, whatever happens in between.
    pub(super) fn replace(&self, path: &Path, content: &[u8]) -> Result<(), ImageError> {
        let mut file = self.temporary()?;
        file.write_all(content)
            .and_then(|()| file.as_file().sync_all())
            .map_err(|source| ImageError::io("write", file.path(), source))?;
        file.persist(path).map_err(|error| ImageError::io("write", path, error.error))?;
        path.parent().map_or(Ok(()), sync_dir)
    }

    /// Removes the blobs that are neither claimed nor in what `needed` returns, unless somebody is adding content.
    pub(super) fn collect(
        &self,
        needed: impl FnOnce() -> Result<HashSet<String>, ImageError>,
    ) -> Result<(), ImageError> {
        let lock = self.lock_file()?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(()),
            Err(fs::TryLockError::Error(source)) => return Err(ImageError::io("lock", &self.lock, source)),
        }
        let (needed, claimed) = (needed()?, self.claimed()?);
        for entry in fs::read_dir(&self.dir).map_err(|source| ImageError::io("read", &self.dir, source))? {
            let entry = entry.map_err(|source| ImageError::io("read", &self.dir, source))?;
            if entry.file_name().to_str().is_none_or(|name| !needed.contains(name) && !claimed.contains(name)) {
                let path = entry.path();
                fs::remove_file(&path).map_err(|source| ImageError::io("remove", path, source))?;
            }
        }
        Ok(())
    }

    /// Half-written files of processes that are gone.
    pub(super) fn empty_tmp_if_unused(&self) -> Result<(), ImageError> {
        let lock = self.lock_file()?;
        if lock.try_lock().is_err() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.tmp).map_err(|source| ImageError::io("read", &self.tmp, source))? {
            let path = entry.map_err(|source| ImageError::io("read", &self.tmp, source))?.path();
            fs::remove_file(&path).map_err(|source| ImageError::io("remove", path, source))?;
        }
        Ok(())
    }

    pub(super) fn usage(&self) -> Result<Usage, ImageError> {
        let mut usage = Usage::default();
        for dir in [&self.dir, &self.partial] {
            for entry in fs::read_dir(dir).map_err(|source| ImageError::io("read", dir, source))? {
                // A blob may be collected while it is counted.
                if let Ok(meta) = entry.and_then(|entry| entry.metadata()) {
                    usage.bytes += meta.len();
                    usage.inodes += 1;
                }
            }
        }
        Ok(usage)
    }

    fn lock_file(&self) -> Result<File, ImageError> {
        fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)
            .map_err(|source| ImageError::io("open", &self.lock, source))
    }
}

/// Writes a blob, hashing as it goes. More than the limit is an error at once, so that a server which lies about sizes
/// cannot fill the disk.
#[derive(Debug)]
pub(super) struct BlobWriter {
    what: String,
    file: NamedTempFile,
    hasher: Sha256,
    written: u64,
    limit_bytes: u64,
    overflowed: bool,
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.written.saturating_add(buf.len() as u64) > self.limit_bytes {
            self.overflowed = true;
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} is larger than the limit of {} bytes", self.what, self.limit_bytes),
            ));
        }
        let wrote = self.file.write(buf)?;
        self.hasher.update(&buf[..wrote]);
        self.written += wrote as u64;
        Ok(wrote)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| ImageError::io("change the mode of", path, source))
}

/// A rename is lasting once its directory is synced.
fn sync_dir(dir: &Path) -> Result<(), ImageError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| ImageError::io("sync", dir, source))
}
