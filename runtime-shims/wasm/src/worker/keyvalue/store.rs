//! A durable store of keys and values in one directory, shared by all processes that have the directory open.
//!
//! ```text
//! lock   held (flock) shared by readers, alone by a writer
//! log    records, appended; replaced by rename when most of it is outdated
//! cut-…  what was behind the last whole record when a writer found it damaged
//! ```
//!
//! Each process keeps in memory which keys there are and where in the log their values lie, and reads on from where it
//! was whenever it holds the lock: so it sees what others wrote. A record is whole or it does not count, which its
//! checksum says; it holds all changes of one call. A change is synced before the call returns.
//!
//! It is an own format, because a database such as SQLite opens its files by path, which a process without a root
//! directory cannot, and because the front, which could, does not work for guests.
//!
//! All calls block: they belong on a thread for that. This module knows nothing of WebAssembly.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use super::record::{self, Change, HEADER_BYTES};

/// What an entry counts besides its words: about what it takes in memory.
const ENTRY_BYTES: u64 = 256;
/// Outdated bytes are let be up to here, and up to as many as there are current ones.
const SLACK_BYTES: u64 = 1 << 20;
const NAME_BYTES: usize = 1024;
pub(super) const VALUE_BYTES: usize = 8 << 20;
/// All values of one call together: they lie in this process's memory before they lie in the guest's.
const READ_BYTES: usize = 16 << 20;
/// Keys of one page of a listing.
const PAGE: usize = 1000;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("the store of namespace {namespace:?} is full: {limit} bytes are allowed; delete something")]
    Full { namespace: String, limit: u64 },
    #[error("a {what} may have {limit} bytes, this one has {bytes}")]
    TooLong { what: &'static str, bytes: usize, limit: usize },
    #[error("the value of {key:?} is no number that can be incremented by {delta}")]
    NoNumber { key: String, delta: u64 },
    #[error("the store cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// Where a value lies. `id` grows with every new key and stays with it.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    bytes: u32,
    id: u64,
}

type Bucket = BTreeMap<Box<str>, Place>;

/// The store of one namespace.
#[derive(Debug)]
pub(super) struct Store {
    namespace: String,
    limit_bytes: u64,
    dir: OwnedFd,
    lock: File,
    view: Mutex<View>,
}

/// What this process knows of the log.
#[derive(Debug)]
struct View {
    log: File,
    /// Up to here it has been read.
    end: u64,
    buckets: BTreeMap<Box<str>, Bucket>,
    /// What the current entries count.
    live_bytes: u64,
    next_id: u64,
}

/// A page of keys, and where to go on.
pub(super) type Page = (Vec<String>, Option<u64>);

impl Store {
    /// `dir` may be a descriptor that only names the directory.
    pub(super) fn open(namespace: String, dir: OwnedFd, limit_bytes: u64) -> io::Result<Store> {
        let dir = rustix::fs::openat(&dir, ".", OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let lock = open(&dir, "lock")?;
        let view = View::new(open(&dir, "log")?);
        Ok(Store { namespace, limit_bytes, dir, lock, view: Mutex::new(view) })
    }

    pub(super) fn get(&self, bucket: &str, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.read(|view| {
            let places = keys.iter().filter_map(|key| view.place(bucket, key));
            let bytes: u64 = places.map(|place| u64::from(place.bytes)).sum();
            check("batch of values to be read", usize::try_from(bytes).unwrap_or(usize::MAX), READ_BYTES)?;
            keys.iter().map(|key| view.value(bucket, key)).collect()
        })
    }

    pub(super) fn exists(&self, bucket: &str, key: &str) -> Result<bool, StoreError> {
        self.read(|view| Ok(view.place(bucket, key).is_some()))
    }

    /// Keys in the order they came to be.
    pub(super) fn keys(&self, bucket: &str, cursor: Option<u64>) -> Result<Page, StoreError> {
        self.read(|view| {
            let after = cursor.unwrap_or(0);
            let all = view.buckets.get(bucket).into_iter().flatten();
            let mut rest: Vec<(u64, &str)> =
                all.filter(|(_, place)| place.id > after).map(|(key, place)| (place.id, &**key)).collect();
            rest.sort_unstable();
            let next = (rest.len() > PAGE).then(|| rest[PAGE - 1].0);
            Ok((rest.iter().take(PAGE).map(|(_, key)| (*key).to_owned()).collect(), next))
        })
    }

    /// All or nothing.
    pub(super) fn set(&self, bucket: &str, entries: &[(String, Vec<u8>)]) -> Result<(), StoreError> {
        check_bucket(bucket)?;
        for (key, value) in entries {
            check("key", key.len(), NAME_BYTES)?;
            check("value", value.len(), VALUE_BYTES)?;
        }
        check("batch", record::payload_bytes(bucket, entries), record::BYTES_MAX)?;
        self.write(|view| {
            let changes = entries.iter().map(|(key, value)| (key.as_str(), Some(value.as_slice())));
            Ok(((), view.changes(bucket, changes)))
        })
    }

    /// All or nothing; keys that are not there are passed over.
    pub(super) fn delete(&self, bucket: &str, keys: &[String]) -> Result<(), StoreError> {
        self.write(|view| {
            let there = keys.iter().filter(|key| view.place(bucket, key).is_some());
            Ok(((), view.changes(bucket, there.map(|key| (key.as_str(), None)))))
        })
    }

    /// Numbers are kept as decimal text, so that `get` shows them.
    pub(super) fn increment(&self, bucket: &str, key: &str, delta: u64) -> Result<u64, StoreError> {
        check_bucket(bucket)?;
        check("key", key.len(), NAME_BYTES)?;
        self.write(|view| {
            let old = match view.value(bucket, key)? {
                None => Some(0),
                Some(text) => std::str::from_utf8(&text).ok().and_then(|text| text.parse::<u64>().ok()),
            };
            let new = old
                .and_then(|old| old.checked_add(delta))
                .ok_or_else(|| StoreError::NoNumber { key: key.to_owned(), delta })?;
            let text = new.to_string();
            Ok((new, view.changes(bucket, [(key, Some(text.as_bytes()))].into_iter())))
        })
    }

    fn read<T>(&self, what: impl FnOnce(&View) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut view = self.view.lock();
        self.lock.lock_shared()?;
        let outcome = self.catch_up(&mut view).map_err(StoreError::Io).and_then(|_end| what(&view));
        self.lock.unlock()?;
        outcome
    }

    /// Decides with the current state in view, then appends. What others may read is not yet synced; what the caller is
    /// told is.
    fn write<T>(&self, decide: impl FnOnce(&View) -> Result<(T, Vec<Change>), StoreError>) -> Result<T, StoreError> {
        let mut view = self.view.lock();
        self.lock.lock()?;
        let outcome = self.write_alone(&mut view, decide);
        let log = view.log.try_clone();
        self.lock.unlock()?;
        drop(view);
        let (told, changed) = outcome?;
        if changed {
            log?.sync_data()?;
        }
        Ok(told)
    }

    fn write_alone<T>(
        &self,
        view: &mut View,
        decide: impl FnOnce(&View) -> Result<(T, Vec<Change>), StoreError>,
    ) -> Result<(T, bool), StoreError> {
        let length = self.catch_up(view)?;
        if length > view.end {
            self.cut(view, length)?;
        }
        let (told, changes) = decide(view)?;
        if changes.is_empty() {
            return Ok((told, false));
        }
        let after = view.live_bytes_after(&changes);
        if after > self.limit_bytes && after > view.live_bytes {
            return Err(StoreError::Full { namespace: self.namespace.clone(), limit: self.limit_bytes });
        }
        let bytes = record::encode(&changes);
        view.log.write_all_at(&bytes, view.end).inspect_err(|_| {
            // A full disk: what was written of it must not be taken for a beginning.
            let _ = view.log.set_len(view.end);
        })?;
        view.take_in(&bytes[HEADER_BYTES..], view.end + HEADER_BYTES as u64)?;
        view.end += bytes.len() as u64;
        if view.end > 2 * view.live_bytes + SLACK_BYTES {
            self.compact(view)?;
        }
        Ok((told, true))
    }

    /// Reads what others have written. Gives the length of the log, which is more than `view.end` when it is damaged.
    fn catch_up(&self, view: &mut View) -> io::Result<u64> {
        let current = rustix::fs::statat(&self.dir, "log", rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let known = view.log.metadata()?;
        #[allow(clippy::useless_conversion, reason = "the fields are of other types on other machines")]
        let same = u64::from(current.st_ino) == known.ino() && u64::from(current.st_dev) == known.dev();
        if !same {
            *view = View::new(open(&self.dir, "log")?);
        }
        let length = view.log.metadata()?.len();
        if length < view.end {
            return Err(io::Error::other("its log has been cut short by somebody"));
        }
        while let Some(payload) = record::read(&view.log, view.end, length)? {
            let at = view.end + HEADER_BYTES as u64;
            if view.take_in(&payload, at).is_err() {
                break;
            }
            view.end = at + payload.len() as u64;
        }
        Ok(length)
    }

    /// Takes away what is behind the last whole record: the rest of a write that a crash interrupted, or damage. It is
    /// kept beside, for somebody may want to look at it.
    fn cut(&self, view: &mut View, length: u64) -> io::Result<()> {
        let name = format!("cut-{}-{length}", view.end);
        tracing::warn!(namespace = self.namespace, from = view.end, length, name, "a damaged key-value log is cut");
        let mut rest = open(&self.dir, &name)?;
        let mut at = view.end;
        let mut piece = vec![0; 64 << 10];
        while at < length {
            let got = view.log.read_at(&mut piece, at)?;
            if got == 0 {
                break;
            }
            rest.write_all(&piece[..got])?;
            at += got as u64;
        }
        rest.sync_data()?;
        view.log.set_len(view.end)?;
        view.log.sync_data()
    }

    /// Writes a log of what is current, and puts it in place of the old one.
    fn compact(&self, view: &mut View) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, "log.new", rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let mut new = View::new(open(&self.dir, "log.new")?);
        for (bucket, entries) in &view.buckets {
            for (key, place) in entries {
                let value = view.read_place(place)?;
                let change =
                    Change { bucket: bucket.to_string(), key: key.to_string(), id: place.id, value: Some(value) };
                let bytes = record::encode(&[change]);
                new.log.write_all_at(&bytes, new.end)?;
                new.take_in(&bytes[HEADER_BYTES..], new.end + HEADER_BYTES as u64)?;
                new.end += bytes.len() as u64;
            }
        }
        // Ids of keys that are gone are not given again: a listing that is under way would miss the new key.
        new.next_id = view.next_id;
        let mark =
            record::encode(&[Change { bucket: String::new(), key: String::new(), id: view.next_id, value: None }]);
        new.log.write_all_at(&mark, new.end)?;
        new.end += mark.len() as u64;
        new.log.sync_all()?;
        rustix::fs::renameat(&self.dir, "log.new", &self.dir, "log")?;
        rustix::fs::fsync(self.dir.as_fd())?;
        *view = new;
        Ok(())
    }
}

impl View {
    fn new(log: File) -> View {
        View { log, end: 0, buckets: BTreeMap::new(), live_bytes: 0, next_id: 1 }
    }

    fn place(&self, bucket: &str, key: &str) -> Option<&Place> {
        self.buckets.get(bucket)?.get(key)
    }

    fn value(&self, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.place(bucket, key).map(|place| self.read_place(place).map_err(StoreError::Io)).transpose()
    }

    fn read_place(&self, place: &Place) -> io::Result<Vec<u8>> {
        let mut value = vec![0; place.bytes as usize];
        self.log.read_exact_at(&mut value, place.offset)?;
        Ok(value)
    }

    fn changes<'a>(&self, bucket: &str, wanted: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> Vec<Change> {
        let mut next_id = self.next_id;
        // Of a key that comes twice the last value counts.
        let mut last: BTreeMap<&str, Change> = BTreeMap::new();
        for (key, value) in wanted {
            let id = match (self.place(bucket, key), last.get(key)) {
                (Some(place), _) => place.id,
                (None, Some(earlier)) => earlier.id,
                (None, None) => {
                    next_id += 1;
                    next_id - 1
                }
            };
            let value = value.map(<[u8]>::to_vec);
            last.insert(key, Change { bucket: bucket.to_owned(), key: key.to_owned(), id, value });
        }
        last.into_values().collect()
    }

    fn live_bytes_after(&self, changes: &[Change]) -> u64 {
        changes.iter().fold(self.live_bytes, |live, change| {
            let old = self
                .place(&change.bucket, &change.key)
                .map_or(0, |place| counted(&change.bucket, &change.key, u64::from(place.bytes)));
            let new = change.value.as_ref().map_or(0, |value| counted(&change.bucket, &change.key, value.len() as u64));
            live - old + new
        })
    }

    /// Follows one record, whose payload lies at `at`.
    fn take_in(&mut self, payload: &[u8], at: u64) -> io::Result<()> {
        for (change, value_at) in record::decode(payload)? {
            self.next_id = self.next_id.max(change.id + 1);
            let bucket = self.buckets.entry(change.bucket.into()).or_default();
            let old = match change.value_bytes {
                Some(bytes) => {
                    let place = Place { offset: at + value_at as u64, bytes, id: change.id };
                    self.live_bytes += counted(change.bucket, change.key, u64::from(bytes));
                    bucket.insert(change.key.into(), place)
                }
                None => bucket.remove(change.key),
            };
            if let Some(old) = old {
                self.live_bytes -= counted(change.bucket, change.key, u64::from(old.bytes));
            }
            if bucket.is_empty() {
                self.buckets.remove(change.bucket);
            }
        }
        Ok(())
    }
}

fn counted(bucket: &str, key: &str, value_bytes: u64) -> u64 {
    ENTRY_BYTES + (bucket.len() + key.len()) as u64 + value_bytes
}

/// Whether a bucket may be called so.
pub(super) fn check_bucket(name: &str) -> Result<(), StoreError> {
    check("bucket name", name.len(), NAME_BYTES)
}

fn check(what: &'static str, bytes: usize, limit: usize) -> Result<(), StoreError> {
    if bytes > limit { Err(StoreError::TooLong { what, bytes, limit }) } else { Ok(()) }
}

/// Other workers may have another user.
fn open(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o666))?))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
