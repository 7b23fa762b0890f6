//! Paths of the host, checked and made as their type wants it. Messages are kubelet's.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

pub(super) fn check(path: &str, kind: &str) -> Result<(), String> {
    let target = Path::new(path);
    let meta = fs::metadata(target).ok();
    let is = |test: fn(&fs::Metadata) -> bool| meta.as_ref().is_some_and(test);
    let wrong = |what: &str| Err(format!("hostPath type check failed: {path} is not {what}"));
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" => match &meta {
            None => make(target, 0o755, |target| fs::create_dir_all(target)),
            Some(meta) if meta.is_dir() => Ok(()),
            Some(_) => wrong("a directory"),
        },
        "FileOrCreate" => match &meta {
            None => make(target, 0o644, |target| fs::File::create(target).map(drop)),
            Some(meta) if meta.is_file() => Ok(()),
            Some(_) => wrong("a file"),
        },
        "Directory" if is(fs::Metadata::is_dir) => Ok(()),
        "Directory" => wrong("a directory"),
        "File" if is(fs::Metadata::is_file) => Ok(()),
        "File" => wrong("a file"),
        "Socket" if is(|meta| meta.file_type().is_socket()) => Ok(()),
        "Socket" => wrong("a socket file"),
        "CharDevice" if is(|meta| meta.file_type().is_char_device()) => Ok(()),
        "CharDevice" => wrong("a character device"),
        "BlockDevice" if is(|meta| meta.file_type().is_block_device()) => Ok(()),
        "BlockDevice" => wrong("a block device"),
        _ => Err(format!("{kind} is an invalid hostPath type")),
    }
}

fn make(target: &Path, mode: u32, create: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), String> {
    create(target)
        .and_then(|()| fs::set_permissions(target, fs::Permissions::from_mode(mode)))
        .map_err(|error| format!("cannot make {}: {error}", target.display()))
}
