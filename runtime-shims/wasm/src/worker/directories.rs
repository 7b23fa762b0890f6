//! Lists directories for guests of WASI 0.2, a piece at a time. A list of wasmtime-wasi's holds the whole directory in the
//! host's memory, where it counts as one object however long it is; this one holds a descriptor, which is counted, and some
//! names.

use std::collections::VecDeque;
use std::fs::File;
use std::io;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::bindings::filesystem::types::{Descriptor, DescriptorType, DirectoryEntry, ErrorCode};

use super::allowance::{Held, Kind};
use super::guest::Instance;

/// Entries that are read at once.
const PIECE: usize = 64;

type Entry = Result<DirectoryEntry, ErrorCode>;

/// A list under way.
struct Entries {
    /// None at the end, and while somebody reads.
    dir: Option<Dir>,
    ahead: VecDeque<Entry>,
    _held: Held,
}

/// `types` is `wasi:filesystem/types`, in which what is there already may be replaced.
pub(super) fn add_to(types: &mut LinkerInstance<'_, Instance>) -> wasmtime::Result<()> {
    types.resource("directory-entry-stream", ResourceType::host::<Entries>(), |mut store, rep| {
        let instance: &mut Instance = store.data_mut();
        instance.ctx().table.delete(Resource::<Entries>::new_own(rep))?;
        Ok(())
    })?;
    types.func_wrap_async(
        "[method]descriptor.read-directory",
        |mut store: StoreContextMut<'_, Instance>, (dir,): (Resource<Descriptor>,)| {
            Box::new(async move {
                let instance = store.data_mut();
                let dir = match instance.ctx().table.get(&dir)? {
                    Descriptor::Dir(dir) => dir.dir.clone(),
                    Descriptor::File(_) => return Ok((Err(ErrorCode::NotDirectory),)),
                };
                let Ok(held) = instance.allowance.take(Kind::File) else { return Ok((Err(ErrorCode::Quota),)) };
                // A disk may be slow.
                let opened = tokio::task::spawn_blocking(move || open(&dir)).await?;
                let entries = match opened {
                    Ok(dir) => Entries { dir: Some(dir), ahead: VecDeque::new(), _held: held },
                    Err(error) => return Ok((Err(error.into()),)),
                };
                Ok((Ok(store.data_mut().ctx().table.push(entries)?),))
            })
        },
    )?;
    types.func_wrap_async(
        "[method]directory-entry-stream.read-directory-entry",
        |mut store: StoreContextMut<'_, Instance>, (stream,): (Resource<Entries>,)| {
            Box::new(async move {
                let entries = store.data_mut().ctx().table.get_mut(&stream)?;
                if entries.ahead.is_empty()
                    && let Some(dir) = entries.dir.take()
                {
                    let (dir, piece) = tokio::task::spawn_blocking(move || read(dir)).await?;
                    let entries = store.data_mut().ctx().table.get_mut(&stream)?;
                    (entries.dir, entries.ahead) = (dir, piece);
                }
                let entries = store.data_mut().ctx().table.get_mut(&stream)?;
                Ok((entries.ahead.pop_front().transpose(),))
            })
        },
    )?;
    Ok(())
}

/// Directories that guests have open are good for paths only; this one is good for reading.
fn open(dir: &File) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Dir::new(rustix::fs::openat(dir, ".", flags, Mode::empty())?)?)
}

/// The next entries, and the directory unless that was all.
fn read(mut dir: Dir) -> (Option<Dir>, VecDeque<Entry>) {
    let mut piece = VecDeque::new();
    while piece.len() < PIECE {
        let entry = match dir.read() {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                piece.push_back(Err(io::Error::from(error).into()));
                return (None, piece);
            }
            None => return (None, piece),
        };
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            // Some file systems say it only when they are asked again.
            FileType::Unknown => {
                let stat = dir.fd().and_then(|fd| rustix::fs::statat(fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW));
                stat.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
            }
            kind => kind,
        };
        piece.push_back(match entry.file_name().to_str() {
            Ok(name) => Ok(DirectoryEntry { type_: named(kind), name: name.to_owned() }),
            Err(_) => Err(ErrorCode::IllegalByteSequence),
        });
    }
    (Some(dir), piece)
}

fn named(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::Unknown => DescriptorType::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    /// As a guest has it.
    fn opened(path: &Path) -> Dir {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).expect("it is there");
        open(&File::from(dir)).expect("it can be read")
    }

    #[test]
    fn a_directory_is_read_whole_in_pieces() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let mut expected = BTreeMap::new();
        for number in 0..3 * PIECE {
            let name = format!("{number:0>200}");
            File::create(dir.path().join(&name)).expect("a file can be made");
            expected.insert(name, DescriptorType::RegularFile);
        }
        std::fs::create_dir(dir.path().join("below")).expect("a directory can be made");
        expected.insert("below".to_owned(), DescriptorType::Directory);
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).expect("a link can be made");
        expected.insert("link".to_owned(), DescriptorType::SymbolicLink);

        let mut open = Some(opened(dir.path()));
        let mut found = BTreeMap::new();
        while let Some(dir) = open {
            let (rest, piece) = read(dir);
            assert!(piece.len() <= PIECE);
            found.extend(
                piece.into_iter().map(|entry| entry.expect("it is text")).map(|entry| (entry.name, entry.type_)),
            );
            open = rest;
        }
        assert!(found == expected, "{found:?}");
    }

    #[test]
    fn a_name_that_is_no_text_is_told_in_its_place() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().expect("a directory can be made");
        File::create(dir.path().join(std::ffi::OsStr::from_bytes(b"\xff"))).expect("a file can be made");
        let (rest, piece) = read(opened(dir.path()));
        assert!(rest.is_none());
        assert!(matches!(piece.into_iter().next(), Some(Err(ErrorCode::IllegalByteSequence))));
    }
}
