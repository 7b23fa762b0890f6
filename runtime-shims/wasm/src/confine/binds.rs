//! Directories with files of other mounts in them.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::mounts::{Purpose, clone_mount};

/// A file to be seen where another one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    /// Absolute, and no link.
    pub(crate) file: PathBuf,
    pub(crate) over: PathBuf,
}

/// As [`super::detached`], with `binds` in `dir`. Only root may do this. They are mounts in a namespace that ends with the
/// thread it is made for, so that the host never has them, however this process ends; the descriptor has its own.
pub(crate) fn detached_with(dir: &Path, purpose: Purpose, binds: &[Bind]) -> io::Result<OwnedFd> {
    std::thread::scope(|scope| {
        let binding = || {
            leave_mounts()?;
            for bind in binds {
                mount(&path(&bind.file)?, &path(&bind.over)?, libc::MS_BIND)?;
            }
            clone_mount(dir, purpose)
        };
        let thread = std::thread::Builder::new().name("mounts".to_owned()).spawn_scoped(scope, binding)?;
        thread.join().unwrap_or_else(|_panic| Err(io::Error::other("mounting failed")))
    })
}

fn path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// From here on this thread sees a copy of the mounts there are, and nobody sees what it mounts.
#[allow(unsafe_code)]
fn leave_mounts() -> io::Result<()> {
    // SAFETY: the flag makes no difference to memory or descriptors; what it changes is this thread's alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE)
}

#[allow(unsafe_code)]
fn mount(from: &CStr, to: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    // SAFETY: both are C strings that outlive the call; there is no type and no data, which these flags do without.
    match unsafe { libc::mount(from.as_ptr(), to.as_ptr(), std::ptr::null(), flags, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
