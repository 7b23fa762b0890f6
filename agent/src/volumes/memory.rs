//! Volumes that lie in memory: a tmpfs, where this process may mount one.
//!
//! Without that right the volume is a folder on disk all the same, so that the pod runs; whoever asked is told.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether the folder is a mount of its own already.
fn is_mounted(path: &Path, mountinfo: &str) -> bool {
    mount_points(mountinfo).any(|point| point == path)
}

/// The fifth word of each line, in which blanks are written as octal numbers.
fn mount_points(mountinfo: &str) -> impl Iterator<Item = PathBuf> + '_ {
    mountinfo.lines().filter_map(|line| {
        let mut bytes = Vec::new();
        let mut rest = line.split_whitespace().nth(4)?.as_bytes();
        while let [first, tail @ ..] = rest {
            let octal = (*first == b'\\' && tail.len() >= 3).then(|| std::str::from_utf8(&tail[..3]).ok()).flatten();
            match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &tail[3..];
                }
                None => {
                    bytes.push(*first);
                    rest = tail;
                }
            }
        }
        Some(std::ffi::OsString::from_vec(bytes).into())
    })
}

/// Makes the folder a tmpfs of at most so many bytes. False if this process may not.
pub(super) fn mount(path: &Path, limit_bytes: Option<u64>) -> io::Result<bool> {
    let path = path.canonicalize()?;
    if is_mounted(&path, &fs::read_to_string("/proc/self/mountinfo")?) {
        return Ok(true);
    }
    if !rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    let size = limit_bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", &format!("mode=0777{size}"), "tmpfs"]).arg(&path);
    // Root of a container, most often, without the right to mount.
    run(command).map(|()| true).or_else(|error| {
        tracing::debug!(path = %path.display(), %error, "no memory can be mounted");
        Ok(false)
    })
}

/// Ends every mount below a folder, the deepest first, so that it can be removed.
pub(super) fn unmount_below(root: &Path) -> io::Result<()> {
    let Ok(root) = root.canonicalize() else { return Ok(()) };
    let mut points: Vec<PathBuf> =
        mount_points(&fs::read_to_string("/proc/self/mountinfo")?).filter(|point| point.starts_with(&root)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().as_bytes().len()));
    points.iter().try_for_each(|point| {
        let mut command = Command::new("umount");
        command.arg(point);
        run(command)
    })
}

fn run(mut command: Command) -> io::Result<()> {
    let done = command.output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&done.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read() {
        let table = "22 1 0:20 / /proc rw - proc proc rw\n40 1 0:33 / /data/a\\040b rw - tmpfs tmpfs rw\n";
        assert!(is_mounted(Path::new("/data/a b"), table) && is_mounted(Path::new("/proc"), table));
        assert!(!is_mounted(Path::new("/data"), table));
    }

    #[test]
    fn what_is_mounted_can_be_ended() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("a volume");
        fs::create_dir(&volume).unwrap();
        let is = mount(&volume, Some(1 << 20)).unwrap();
        fs::write(volume.join("file"), "x").unwrap();
        let root = dir.path().canonicalize().unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(is_mounted(&root.join("a volume"), &table), is);
        assert_eq!(mount(&volume, Some(1 << 20)).unwrap(), is, "a second time changes nothing");
        unmount_below(dir.path()).unwrap();
        assert_eq!(volume.join("file").exists(), !is, "memory forgets");
    }
}
