//! Reads tar archives that may mean harm: names of any length are bounded before they are in memory, and content is passed
//! over as it lies. Sparse files and other extensions are nothing that an image needs: their entries are of another kind.

use std::io::{self, Read};
use std::ops::ControlFlow;

use tar::{Archive, EntryType, PaxExtensions};

/// Of the names and attributes of one entry: long paths, access lists, labels.
const ATTRIBUTES_BYTES_MAX: u64 = 1 << 20;

/// A file, a directory or what else an archive has.
pub(super) struct Entry<'a> {
    /// Counted from the archive's beginning.
    pub(super) number: usize,
    pub(super) path: String,
    /// Where a link leads; nothing for others.
    pub(super) target: String,
    pub(super) kind: EntryType,
    pub(super) content: &'a mut dyn Read,
}

/// Hands each entry of an archive to `visit`, until that breaks off. `bad` makes an error of what is wrong with the archive.
pub(super) fn each<E>(
    archive: impl Read,
    bad: impl Fn(io::Error) -> E,
    mut visit: impl FnMut(Entry<'_>) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let mut archive = Archive::new(archive);
    let mut number = 0;
    let mut said = Said::default();
    for entry in archive.entries().map_err(&bad)?.raw(true) {
        let mut entry = entry.map_err(&bad)?;
        let kind = entry.header().entry_type();
        if said.takes(kind, &mut entry).map_err(&bad)? {
            continue;
        }
        let Said { long_path, long_target, path, target, size } = std::mem::take(&mut said);
        let header = entry.header();
        let path = long_path.or(path).unwrap_or_else(|| text(&header.path_bytes()));
        let in_header = || header.link_name_bytes().map(|target| text(&target)).unwrap_or_default();
        let target = long_target.or(target).unwrap_or_else(in_header);
        if size.is_some_and(|size| size != entry.size()) {
            // Another reader would see another archive.
            return Err(bad(io::Error::other(format!("the size of {path:?} is said twice, and not the same"))));
        }
        if visit(Entry { number, path, target, kind, content: &mut entry })?.is_break() {
            break;
        }
        number += 1;
    }
    Ok(())
}

/// What entries before an entry said of it.
#[derive(Default)]
struct Said {
    long_path: Option<String>,
    long_target: Option<String>,
    path: Option<String>,
    target: Option<String>,
    size: Option<u64>,
}

impl Said {
    /// Is it an entry that says something of the next one?
    fn takes(&mut self, kind: EntryType, from: &mut dyn Read) -> io::Result<bool> {
        match kind {
            EntryType::GNULongName => self.long_path = Some(name(&attributes(from)?)),
            EntryType::GNULongLink => self.long_target = Some(name(&attributes(from)?)),
            EntryType::XHeader => {
                // A value with a line break in it is no record here, and none of those that count.
                for record in PaxExtensions::new(&attributes(from)?).flatten() {
                    let value = record.value_bytes();
                    match record.key_bytes() {
                        b"path" => self.path = Some(text(value)),
                        b"linkpath" => self.target = Some(text(value)),
                        b"size" => self.size = text(value).parse().ok(),
                        _ => {}
                    }
                }
            }
            // Of all entries: what producers write there is no name.
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn attributes(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(ATTRIBUTES_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > ATTRIBUTES_BYTES_MAX {
        return Err(io::Error::other(format!(
            "a name or attributes in it are longer than {ATTRIBUTES_BYTES_MAX} bytes"
        )));
    }
    Ok(bytes)
}

/// A name is written as C writes them.
fn name(bytes: &[u8]) -> String {
    text(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use tar::{Builder, Header};

    use super::*;

    fn seen(archive: &[u8]) -> Result<Vec<(String, String, EntryType)>, String> {
        let mut seen = Vec::new();
        each(
            archive,
            |error| error.to_string(),
            |entry| {
                assert_eq!(entry.number, seen.len());
                seen.push((entry.path, entry.target, entry.kind));
                Ok(ControlFlow::Continue(()))
            },
        )
        .map(|()| seen)
    }

    /// As it is, with no check of what the header says.
    fn put(archive: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_path(path).expect("it is short");
        header.set_cksum();
        archive.append(&header, content).expect("it can be written");
    }

    #[test]
    fn names_are_read_however_they_are_written() {
        let (long, longer) = ("d/".repeat(100) + "a.wasm", "e/".repeat(1000) + "b");
        let mut archive = Builder::new(Vec::new());
        let mut file = Header::new_gnu();
        file.set_size(0);
        archive.append_data(&mut file, &long, io::empty()).expect("it can be written");
        let mut link = Header::new_gnu();
        link.set_entry_type(EntryType::Symlink);
        link.set_size(0);
        archive.append_link(&mut link, &long, &longer).expect("it can be written");
        put(&mut archive, EntryType::XGlobalHeader, "g", b"13 comment=x\n");
        archive
            .append_pax_extensions([
                ("path", longer.as_bytes()),
                ("linkpath", long.as_bytes()),
                ("SCHILY.xattr.u", b"a\nb"),
            ])
            .expect("it can be written");
        put(&mut archive, EntryType::Link, "short", b"");
        put(&mut archive, EntryType::Regular, "after", b"content");
        let seen = seen(&archive.into_inner().expect("it can be finished")).expect("it can be read");
        let expected = [
            (long.clone(), String::new(), EntryType::Regular),
            (long.clone(), longer.clone(), EntryType::Symlink),
            (longer, long, EntryType::Link),
            ("after".to_owned(), String::new(), EntryType::Regular),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_name_is_not_taken_into_memory_however_long_it_is() {
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(1 << 40);
            header.set_cksum();
            let endless = header.as_bytes().chain(io::repeat(b'a'));
            let error = each(endless, |error| error.to_string(), |_| Ok(ControlFlow::Continue(())));
            assert_eq!(error.expect_err("too long"), "a name or attributes in it are longer than 1048576 bytes");
        }
    }

    #[test]
    fn what_a_sparse_file_says_of_itself_is_not_believed() {
        let mut archive = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_path("a.wasm").expect("it is short");
        header.set_size(0);
        // As if it were of 8 EiB.
        header.as_gnu_mut().expect("it is").realsize = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff";
        header.set_cksum();
        archive.append(&header, io::empty()).expect("it can be written");
        let mut read = 0;
        let archive = archive.into_inner().expect("it can be finished");
        each(
            &archive[..],
            |error| error.to_string(),
            |entry| {
                read += io::copy(entry.content, &mut io::sink()).expect("it can be read");
                Ok(ControlFlow::Continue(()))
            },
        )
        .expect("it can be read");
        assert_eq!(read, 0);
    }

    #[test]
    fn a_size_that_is_said_twice_is_the_same() {
        let mut archive = Builder::new(Vec::new());
        archive.append_pax_extensions([("size", &b"7"[..])]).expect("it can be written");
        put(&mut archive, EntryType::Regular, "a.wasm", b"content");
        archive.append_pax_extensions([("size", &b"0"[..])]).expect("it can be written");
        put(&mut archive, EntryType::Regular, "b.wasm", b"content");
        let error = seen(&archive.into_inner().expect("it can be finished")).expect_err("they differ");
        assert_eq!(error, "the size of \"b.wasm\" is said twice, and not the same");
    }
}
