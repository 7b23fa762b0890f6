//! Where the key-value stores of namespaces lie. Workers read and write them; the front makes and opens directories.
//!
//! ```text
//! keyvalue/<namespace>/   outlives its pods, and the namespace: what is in it is for its users to delete
//! ```

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::scratch::make_private;
use crate::confine::{self, Purpose};

/// Opens the store's directory for a worker; makes it first if need be.
pub(super) fn open(root: &Path, namespace: &str) -> io::Result<OwnedFd> {
    if namespace.is_empty() || namespace.starts_with('.') || namespace.contains(['/', '\0']) {
        let why = format!("{namespace:?} is no name of a namespace");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let all = root.join("keyvalue");
    make_private(&all)?;
    let dir = all.join(namespace);
    match fs::create_dir(&dir) {
        Ok(()) => fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    confine::detached(&dir, Purpose::Write)
}
