//! `wasi:config`: each file of a directory is a value, named by the file.
//!
//! The directory is a volume of the pod, which the node agent keeps up to date; a value is read when it is asked for, so a
//! guest sees changes as it would in a mounted volume. Values are small, and the kernel has them in memory.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use wasmtime::component::{HasData, Linker};

use super::guest::Instance;
use super::interfaces::config::store::{self, Error};

/// A config map or secret holds at most 1 MiB.
const VALUE_BYTES: u64 = 1 << 20;
/// Of all values together, when they are asked for together.
const TOTAL_BYTES: usize = 8 << 20;

/// One container's configuration.
#[derive(Debug)]
pub(super) struct Config {
    dir: OwnedFd,
}

impl Config {
    /// `dir` may be a descriptor that only names the directory.
    pub(super) fn new(dir: OwnedFd) -> Config {
        Config { dir }
    }

    fn get(&self, key: &str) -> Result<Option<String>, Error> {
        if !is_key(key) {
            return Ok(None);
        }
        let failed = |error: io::Error| Error::Io(format!("reading {key:?}: {error}"));
        // Links lead to where the current version is; they must not lead out of the volume.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat2(&self.dir, key, flags, Mode::empty(), ResolveFlags::BENEATH) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NAMETOOLONG) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Ok(None);
        }
        let mut value = Vec::new();
        file.take(VALUE_BYTES + 1).read_to_end(&mut value).map_err(failed)?;
        if value.len() as u64 > VALUE_BYTES {
            return Err(Error::Upstream(format!("the value of {key:?} is longer than {VALUE_BYTES} bytes")));
        }
        String::from_utf8(value)
            .map(Some)
            .map_err(|_| Error::Upstream(format!("the value of {key:?} is no text, which wasi:config cannot carry")))
    }

    /// Without values that are no text.
    fn get_all(&self) -> Result<Vec<(String, String)>, Error> {
        let failed = |error: Errno| Error::Io(format!("listing the configuration: {error}"));
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, ".", flags, Mode::empty()).map_err(failed)?;
        let mut all = Vec::new();
        let mut bytes = 0;
        for entry in rustix::fs::Dir::new(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(key) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let value = match self.get(&key) {
                Ok(Some(value)) => value,
                Ok(None) | Err(Error::Upstream(_)) => continue,
                Err(error @ Error::Io(_)) => return Err(error),
            };
            bytes += key.len() + value.len();
            if bytes > TOTAL_BYTES {
                return Err(Error::Upstream(format!("all values together are longer than {TOTAL_BYTES} bytes")));
            }
            all.push((key, value));
        }
        all.sort();
        Ok(all)
    }
}

/// Names that begin with two dots are the volume's own.
fn is_key(name: &str) -> bool {
    !name.is_empty() && name != "." && !name.starts_with("..") && !name.contains(['/', '\0'])
}

/// The interface, as an instance of the container sees it. Without a volume it is empty.
pub(super) struct View(Option<Arc<Config>>);

struct Has;

impl HasData for Has {
    type Data<'a> = View;
}

impl store::Host for View {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, Error>> {
        Ok(self.0.as_ref().map_or(Ok(None), |config| config.get(&key)))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Error>> {
        Ok(self.0.as_ref().map_or_else(|| Ok(Vec::new()), |config| config.get_all()))
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    store::add_to_linker::<Instance, Has>(linker, |instance| View(instance.config.clone()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn values_are_files_and_nothing_else_is() {
        let outer = tempfile::tempdir().expect("a directory can be made");
        fs::write(outer.path().join("secret"), "not yours").expect("it can be written");
        let dir = outer.path().join("volume");
        fs::create_dir_all(dir.join("..2026/sub")).expect("it can be made");
        fs::write(dir.join("..2026/colour"), "blue").expect("it can be written");
        fs::write(dir.join("..2026/raw"), [0xff]).expect("it can be written");
        fs::write(dir.join("..2026/long"), vec![b'x'; VALUE_BYTES as usize + 1]).expect("it can be written");
        symlink("..2026", dir.join("..data")).expect("it can be linked");
        for name in ["colour", "raw", "long", "sub"] {
            symlink(format!("..data/{name}"), dir.join(name)).expect("it can be linked");
        }
        symlink("../secret", dir.join("climber")).expect("it can be linked");
        symlink(outer.path().join("secret"), dir.join("leaper")).expect("it can be linked");
        let fd = rustix::fs::open(&dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let config = Config::new(fd.expect("it is there"));
        let keys =
            ["colour", "nothing", "sub", "..data", "..data/colour", "../secret", "raw", "long", "climber", "leaper"];
        let mut shown = String::new();
        for key in keys {
            shown.push_str(&format!("{key}: {:?}\n", config.get(key)));
        }
        let outer = outer.path().display().to_string();
        expect_test::expect![[r#"
            colour: Ok(Some("blue"))
            nothing: Ok(None)
            sub: Ok(None)
            ..data: Ok(None)
            ..data/colour: Ok(None)
            ../secret: Ok(None)
            raw: Err(Error::Upstream("the value of \"raw\" is no text, which wasi:config cannot carry"))
            long: Err(Error::Upstream("the value of \"long\" is longer than 1048576 bytes"))
            climber: Err(Error::Io("reading \"climber\": Invalid cross-device link (os error 18)"))
            leaper: Err(Error::Io("reading \"leaper\": Invalid cross-device link (os error 18)"))
        "#]]
        .assert_eq(&shown.replace(&outer, "OUTER"));
        for name in ["climber", "leaper"] {
            fs::remove_file(dir.join(name)).expect("it is there");
        }
        assert_eq!(config.get_all().expect("it can be listed"), [("colour".to_owned(), "blue".to_owned())]);
    }
}
