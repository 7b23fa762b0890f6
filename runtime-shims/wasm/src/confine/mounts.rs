//! Directories as descriptors that cannot be climbed out of.

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// What a directory is handed over for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Machine code, to be mapped and run.
    Code,
    /// Files to be read.
    Read,
    /// Files to be read and written.
    Write,
}

/// Opens `dir` for somebody who is not trusted. As root on Linux 5.12 or later the descriptor is a mount of its own:
/// `..` leads nowhere, even for native code, and the purpose is the kernel's business. Elsewhere it is a plain directory.
pub(crate) fn detached(dir: &Path, purpose: Purpose) -> io::Result<OwnedFd> {
    match clone_mount(dir, purpose) {
        Ok(fd) => Ok(fd),
        Err(error) => match error.raw_os_error() {
            // Not root; not this kernel; a filter in the way; a place that may not be cloned (in a user namespace).
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EINVAL) => plain(dir),
            Some(_) | None => Err(error),
        },
    }
}

fn plain(dir: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

#[allow(unsafe_code)]
pub(super) fn clone_mount(dir: &Path, purpose: Purpose) -> io::Result<OwnedFd> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    let flags = OPEN_TREE_CLONE | (libc::AT_RECURSIVE as libc::c_uint) | (libc::O_CLOEXEC as libc::c_uint);
    // SAFETY: the path is a C string that outlives the call; the other arguments are plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if !rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode).is_dir() {
        return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
    }
    let attr_set = MOUNT_ATTR_NOSUID
        | MOUNT_ATTR_NODEV
        | match purpose {
            Purpose::Code => MOUNT_ATTR_RDONLY,
            Purpose::Read => MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC,
            Purpose::Write => MOUNT_ATTR_NOEXEC,
        };
    let mut attr = MountAttr { attr_set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as libc::c_uint;
    // SAFETY: the empty path means the descriptor itself; the struct is as the kernel declares it, and its size given.
    let set = unsafe {
        use std::os::fd::AsRawFd;
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw mut attr,
            size_of::<MountAttr>(),
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}
