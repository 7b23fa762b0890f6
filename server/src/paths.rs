//! Where things lie below the data directory. The only place that spells these names.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// A unix socket's path may have at most this many bytes.
const SOCKET_PATH_BYTES: usize = 107;

#[derive(Debug, Clone)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The data directory if it is there; for commands that only look.
    pub(crate) fn if_there(given: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
        let root = match given {
            Some(path) => path.to_path_buf(),
            None => default_data_dir()?,
        };
        Ok(root.is_dir().then_some(root))
    }

    /// The given data directory, or the user's own; made if it is missing, and readable to its owner only.
    pub(crate) fn open(given: Option<&Path>) -> anyhow::Result<Paths> {
        let root = match given {
            Some(path) => path.to_path_buf(),
            None => default_data_dir()?,
        };
        if root.exists() && !root.is_dir() {
            bail!("the data directory {} is a file: name a folder with --data-dir", root.display());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&root).with_context(|| {
            format!("cannot make the data directory {}: choose one that you may write with --data-dir", root.display())
        })?;
        let root = root.canonicalize().with_context(|| format!("data directory {}", root.display()))?;
        let paths = Paths { root };
        for dir in [paths.server(), paths.agent(), paths.image_archives(), paths.run()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).with_context(|| {
                format!(
                    "cannot write to the data directory: {} (is it yours? --data-dir chooses another)",
                    dir.display()
                )
            })?;
        }
        let socket = paths.wasm_socket();
        if socket.as_os_str().len() > SOCKET_PATH_BYTES {
            bail!(
                "the data directory's path is too long: {} is a unix socket and may have {SOCKET_PATH_BYTES} bytes; choose a shorter --data-dir",
                socket.display()
            );
        }
        Ok(paths)
    }

    /// The data directory of a server that has run here: nothing is made.
    pub(crate) fn existing(given: Option<&Path>) -> anyhow::Result<Paths> {
        let root = match given {
            Some(path) => path.to_path_buf(),
            None => default_data_dir()?,
        };
        if !root.is_dir() {
            bail!(
                "there is no data directory {}: this asks the server of this host; --data-dir names that server's",
                root.display()
            );
        }
        Ok(Paths { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn server(&self) -> PathBuf {
        self.root.join("server")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.server().join("state.db")
    }

    pub(crate) fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// Image archives put here are imported at start.
    pub(crate) fn image_archives(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(crate) fn wasm_socket(&self) -> PathBuf {
        self.run().join("wasm.sock")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig.yaml")
    }
}

#[expect(clippy::disallowed_methods, reason = "this is main's side of the program: the user's own folder is asked for")]
fn default_data_dir() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/coracle"));
    }
    let home = std::env::var("HOME").context("HOME is not set: name a folder with --data-dir")?;
    Ok(Path::new(&home).join(".local/share/coracle"))
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, "").with_context(|| format!("cannot write {}", new.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_too_long_is_refused_with_its_cure() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(120));
        let error = Paths::open(Some(&long)).unwrap_err().to_string();
        assert!(error.contains("too long") && error.contains("--data-dir"), "{error}");
    }

    #[test]
    fn asking_makes_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none");
        let error = Paths::existing(Some(&missing)).unwrap_err().to_string();
        assert!(error.contains("there is no data directory") && error.contains("--data-dir"), "{error}");
        assert!(!missing.exists());
    }

    #[test]
    fn a_private_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write_private(&path, "x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
