//! Files of a volume that change all at once.
//!
//! The files lie in a folder of their own; `..data` is a link to it, and each file is seen through a link into
//! `..data`. An update makes a new folder and turns the one link, so that a reader never sees half of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Relative paths and what is in them.
pub(super) type Payload = BTreeMap<String, File>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
}

/// Makes the folder hold exactly this payload.
pub(super) fn write(target: &Path, payload: &Payload, now: Timestamp) -> io::Result<()> {
    if let Some(bad) = payload.keys().find(|path| !is_inside(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {bad:?} in the volume")));
    }
    let old = fs::read_link(target.join(DATA)).ok();
    if let Some(old) = &old
        && holds(&target.join(old), payload)?
    {
        return link(target, payload);
    }
    let name = fresh_name(target, now);
    let dir = target.join(&name);
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        write_file(&dir.join(path), file)?;
    }
    let temporary = target.join(NEW_DATA);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    symlink(&name, &temporary)?;
    fs::rename(&temporary, target.join(DATA))?;
    link(target, payload)?;
    if let Some(old) = old.filter(|old| old.as_os_str() != name.as_str()) {
        super::remove_tree(&target.join(old))?;
    }
    Ok(())
}

fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with('/')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !path.starts_with("..")
}

fn fresh_name(target: &Path, now: Timestamp) -> String {
    let stem = now.strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let names = std::iter::once(stem.clone()).chain((1..).map(|n: u64| format!("{stem}.{n}")));
    names.into_iter().find(|name| !target.join(name).exists()).expect("there is no end of numbers")
}

/// Whether a folder holds this payload and nothing else.
fn holds(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    files(dir, &mut PathBuf::new(), &mut found)?;
    if found != payload.keys().cloned().collect() {
        return Ok(false);
    }
    for (path, file) in payload {
        let path = dir.join(path);
        let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
        if mode != file.mode || fs::read(&path)? != file.content {
            return Ok(false);
        }
    }
    Ok(true)
}

fn files(dir: &Path, below: &mut PathBuf, found: &mut BTreeSet<String>) -> io::Result<()> {
    let entries = match fs::read_dir(dir.join(&below)) {
        Ok(entries) => entries,
        // The link survived and the folder did not, as after a power cut: it is made again.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        below.push(entry.file_name());
        if entry.file_type()?.is_dir() {
            files(dir, below, found)?;
        } else {
            found.insert(below.to_string_lossy().into_owned());
        }
        below.pop();
    }
    Ok(())
}

fn write_file(path: &Path, file: &File) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut out = fs::File::create(path)?;
    out.write_all(&file.content)?;
    out.set_permissions(fs::Permissions::from_mode(file.mode))
}

/// The links through which the files are seen: one for each first part of a path.
fn link(target: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(target)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(&*name) {
            fs::remove_file(target.join(&*name))?;
        }
    }
    for name in wanted {
        let path = target.join(name);
        if fs::symlink_metadata(&path).is_err() {
            symlink(Path::new(DATA).join(name), &path)?;
        }
    }
    Ok(())
}
