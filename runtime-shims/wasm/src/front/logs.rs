//! Where containers' logs lie.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use coracle_cri::v1::{ContainerConfig, PodSandboxConfig};

/// None where CRI gives no path: the log is wanted by nobody.
pub(super) fn path(sandbox: &PodSandboxConfig, config: &ContainerConfig) -> Option<PathBuf> {
    (!sandbox.log_directory.is_empty() && !config.log_path.is_empty())
        .then(|| Path::new(&sandbox.log_directory).join(&config.log_path))
}

/// Opens a log to append to it. After a rotation this makes the new file.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}
