//! Owns how certificates and keys lie on the disk: who may read them, how they are replaced so that a power cut leaves
//! either the old or the new file, and what is said when one cannot be used. Knows nothing of what they certify.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why the keys of the cluster cannot be used. Each message names the file and the cure.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read {}: {source}; run the server as the user that owns its data directory", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}: {source}; check the owner, the free space and that the file system is writable", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{} is damaged: {what}; {cure}", path.display())]
    Damaged { path: PathBuf, what: String, cure: &'static str },
    #[error("{} is missing while {} exists; {cure}", missing.display(), present.display())]
    Missing { missing: PathBuf, present: PathBuf, cure: &'static str },
    #[error("cannot issue a certificate for {subject}: {source}")]
    Issue { subject: String, source: rcgen::Error },
    #[error("the certificate signing request is refused: {0}")]
    Request(String),
    #[error("--tls-san {0:?} is neither an IP address nor a DNS name")]
    San(String),
    #[error("TLS cannot be set up with the certificates of {}: {source}", dir.display())]
    Tls { dir: PathBuf, source: rustls::Error },
}

/// Makes `dir` and its parents, readable by the owner only.
pub(super) fn make_dir(dir: &Path) -> Result<(), PkiError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(|source| PkiError::Write { path: dir.to_owned(), source })
}

/// The text of `path`, or `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.to_owned(), source }),
    }
}

/// The text of a file that holds a secret. One that others may read is closed to them, and that is said.
pub(crate) fn read_secret(path: &Path) -> Result<Option<String>, PkiError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let failed = |source| PkiError::Read { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "a secret file was open to others; it is closed now");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    }
    Ok(Some(text))
}

/// Puts `text` at `path` in one step, durable when this returns.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    put(path, text, mode).map_err(|source| PkiError::Write { path: path.to_owned(), source })
}

fn put(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let draft = PathBuf::from(name);
    // A draft that a power cut left behind may have another mode: `mode` holds for new files only.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}
