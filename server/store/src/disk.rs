//! The SQLite file: its schema, its transactions, and what an opening finds in it. Knows rows, not who waits for them.
//!
//! ```text
//! log       one row per change of a durable object; the newest row of a key is its current state
//! volatile  the volatile tier as of its last flush
//! meta      compacted: history before it is incomplete; reserved: no revision up to it may be given again
//! ```

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use coracle_api::meta::{Revision, Uid};
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params};

use crate::entry::{Entry, Event, EventKind, Key};
use crate::error::OpenError;
use crate::lock::{self, Lock};
use crate::pending::Texts;
use crate::rows;
use crate::state::State;

/// Version of the tables below, kept as SQLite's user_version.
const SCHEMA: i64 = 1;
/// "Cora", so that the file is told from other programs'.
const APPLICATION: i64 = 0x436f_7261;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Pages in the write-ahead log after which it is copied back. It is then written over from its start, so that its file
/// stays near this size.
const WAL_PAGES: i64 = 2000;
const WAL_BYTES_KEPT: i64 = 16 << 20;
/// SQLite's structural check reads the whole file: done while that takes no noticeable time. All rows are read anyway.
const CHECK_BYTES_MOST: u64 = 64 << 20;

const TABLES: &str = "
CREATE TABLE log (
    revision  INTEGER PRIMARY KEY,
    change    INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    resource  TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    uid       TEXT NOT NULL,
    selectors BLOB NOT NULL,
    object    BLOB NOT NULL
) STRICT;
CREATE TABLE volatile (
    id        INTEGER PRIMARY KEY,
    revision  INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    resource  TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    uid       TEXT NOT NULL,
    selectors BLOB NOT NULL,
    object    BLOB NOT NULL,
    UNIQUE (resource, namespace, name)
) STRICT;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

pub(crate) enum DiskError {
    Full,
    Failed(String),
}

impl From<rusqlite::Error> for DiskError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => DiskError::Full,
            Some(_) | None => DiskError::Failed(error.to_string()),
        }
    }
}

pub(crate) struct DiskConfig<'a> {
    pub(crate) path: &'a Path,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) sync: bool,
}

/// What an opening found.
pub(crate) struct Loaded {
    pub(crate) state: State,
    /// The durable events after `compacted`, oldest first.
    pub(crate) events: Vec<Arc<Event>>,
    /// Rows that nothing needs any more.
    pub(crate) garbage: VecDeque<Revision>,
    pub(crate) compacted: Revision,
    pub(crate) reserved: Revision,
}

#[derive(Clone, Copy)]
pub(crate) struct Marks {
    /// No revision up to this one may be given again.
    pub(crate) reserved: Revision,
    /// The history before this revision is incomplete.
    pub(crate) compacted: Revision,
}

pub(crate) struct Disk {
    db: Connection,
    sync: bool,
    buffer: Vec<u8>,
    _lock: Lock,
}

impl Disk {
    pub(crate) fn open(config: &DiskConfig<'_>, texts: &mut Texts) -> Result<(Self, Loaded), OpenError> {
        let path = config.path;
        let at = |error| open_error(path, &error);
        let lock = lock::take(path)?;
        let size = create_or_check_header(path)?;
        // One connection in one thread: no mutex. No URI: a path is a path.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).map_err(at)?;
        set_pragmas(&db, config).map_err(at)?;
        check_version(&db, path)?;
        if size <= CHECK_BYTES_MOST {
            let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(at)?;
            if verdict != "ok" {
                let what = verdict.trim_start_matches("*** in database main ***").trim().replace("\n", "; ");
                return Err(OpenError::Damaged { path: path.to_owned(), what });
            }
        }
        let loaded = load(&db, path, texts)?;
        db.execute_batch("PRAGMA shrink_memory").map_err(at)?;
        Ok((Self { db, sync: config.sync, buffer: Vec::new(), _lock: lock }, loaded))
    }

    /// One transaction for a group of changes: on disk when this returns.
    pub(crate) fn append<'e>(
        &mut self,
        events: impl Iterator<Item = &'e Event>,
        marks: Option<Marks>,
    ) -> Result<(), DiskError> {
        let transaction = self.db.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO log (revision, change, created, resource, namespace, name, uid, selectors, object)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?;
            for event in events {
                let entry = &event.entry;
                let key = &entry.key;
                rows::encode(&entry.labels, &entry.fields, &mut self.buffer);
                insert.execute(params![
                    number(entry.revision),
                    change_number(event.kind),
                    number(entry.created),
                    &*key.resource,
                    &*key.namespace,
                    &*key.name,
                    entry.uid.as_str(),
                    &self.buffer,
                    &*entry.json,
                ])?;
            }
        }
        if let Some(marks) = marks {
            set_meta(&transaction, "reserved", marks.reserved)?;
            set_meta(&transaction, "compacted", marks.compacted)?;
        }
        Ok(transaction.commit()?)
    }

    /// Deletes rows. Needs no sync of its own: whatever is acknowledged later carries it along, and doing it twice is
    /// harmless.
    pub(crate) fn compact(&mut self, garbage: &[Revision], compacted: Revision) -> Result<(), DiskError> {
        self.lazily(|disk| {
            let transaction = disk.db.transaction()?;
            {
                let mut delete = transaction.prepare_cached("DELETE FROM log WHERE revision = ?")?;
                for revision in garbage {
                    delete.execute([number(*revision)])?;
                }
            }
            set_meta(&transaction, "compacted", compacted)?;
            Ok(transaction.commit()?)
        })
    }

    /// Writes volatile objects as they are now; `None` for those that are gone.
    pub(crate) fn flush(&mut self, changed: &[(Key, Option<Arc<Entry>>)]) -> Result<(), DiskError> {
        self.lazily(|disk| {
            let transaction = disk.db.transaction()?;
            {
                let mut upsert = transaction.prepare_cached(
                    "INSERT INTO volatile (revision, created, resource, namespace, name, uid, selectors, object)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                     ON CONFLICT (resource, namespace, name) DO UPDATE SET revision = excluded.revision,
                     created = excluded.created, uid = excluded.uid, selectors = excluded.selectors,
                     object = excluded.object",
                )?;
                let mut delete = transaction
                    .prepare_cached("DELETE FROM volatile WHERE resource = ? AND namespace = ? AND name = ?")?;
                for (key, entry) in changed {
                    let Some(entry) = entry else {
                        delete.execute(params![&*key.resource, &*key.namespace, &*key.name])?;
                        continue;
                    };
                    rows::encode(&entry.labels, &entry.fields, &mut disk.buffer);
                    upsert.execute(params![
                        number(entry.revision),
                        number(entry.created),
                        &*key.resource,
                        &*key.namespace,
                        &*key.name,
                        entry.uid.as_str(),
                        &disk.buffer,
                        &*entry.json,
                    ])?;
                }
            }
            Ok(transaction.commit()?)
        })
    }

    /// Everything is written: the next opening goes on from `marks`.
    pub(crate) fn close(mut self, marks: Marks) -> Result<(), DiskError> {
        self.append(std::iter::empty(), Some(marks))?;
        self.db.close().map_err(|(_, error)| error.into())
    }

    /// Runs a transaction whose loss in a power cut would matter to nobody without waiting for the disk.
    fn lazily(&mut self, transaction: impl FnOnce(&mut Self) -> Result<(), DiskError>) -> Result<(), DiskError> {
        if self.sync {
            self.db.execute_batch("PRAGMA synchronous = NORMAL")?;
        }
        let result = transaction(self);
        if self.sync {
            self.db.execute_batch("PRAGMA synchronous = FULL")?;
        }
        result
    }

    #[cfg(test)]
    pub(crate) fn sql_for_test(&self, text: &str) {
        let mut statement = self.db.prepare(text).expect("SQL of a test");
        let mut rows = statement.raw_query();
        while rows.next().expect("SQL of a test").is_some() {}
    }

    #[cfg(test)]
    pub(crate) fn rows_for_test(&self) -> u64 {
        self.db.query_row("SELECT count(*) FROM log", [], |row| row.get::<_, i64>(0)).expect("a count").unsigned_abs()
    }
}

/// Returns the file's size; a new file is created for its owner only, as it will hold secrets.
fn create_or_check_header(path: &Path) -> Result<u64, OpenError> {
    let at = |error| lock::io_error(path, error);
    let new = !path.try_exists().map_err(at)?;
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(at)?;
    if new && let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        // Or a power cut could leave acknowledged writes in a file without a name.
        File::open(parent).and_then(|directory| directory.sync_all()).map_err(at)?;
    }
    let size = file.metadata().map_err(at)?.len();
    if size > 0 {
        let mut head = [0; 16];
        let whole = file.read_exact(&mut head).is_ok();
        if !whole || head != *MAGIC {
            return Err(OpenError::Damaged {
                path: path.to_owned(),
                what: "it does not begin as an SQLite file".into(),
            });
        }
    }
    Ok(size)
}

fn set_pragmas(db: &Connection, config: &DiskConfig<'_>) -> rusqlite::Result<()> {
    // No other process reads the file while we run: no shared-memory file and no file locks per transaction.
    db.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))?;
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    db.execute_batch(if config.sync { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = OFF" })?;
    db.query_row(&format!("PRAGMA wal_autocheckpoint = {WAL_PAGES}"), [], |_| Ok(()))?;
    db.query_row(&format!("PRAGMA journal_size_limit = {WAL_BYTES_KEPT}"), [], |_| Ok(()))?;
    // Reads come from memory: SQLite needs only the pages it is changing.
    db.execute_batch("PRAGMA cache_size = -1024")?;
    if let Some(bytes) = config.max_bytes {
        let page: i64 = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let pages = i64::try_from(bytes).unwrap_or(i64::MAX) / page;
        db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
    }
    Ok(())
}

fn check_version(db: &Connection, path: &Path) -> Result<(), OpenError> {
    let at = |error| open_error(path, &error);
    let read = |pragma: &str| db.query_row(pragma, [], |row| row.get::<_, i64>(0)).map_err(at);
    let application = read("PRAGMA application_id")?;
    let found = read("PRAGMA user_version")?;
    let tables = read("SELECT count(*) FROM sqlite_schema")?;
    match (application, found) {
        (0, 0) if tables == 0 => db
            .execute_batch(&format!(
                "BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; COMMIT;"
            ))
            .map_err(at),
        (APPLICATION, SCHEMA) => Ok(()),
        (APPLICATION, found) if found > SCHEMA => Err(OpenError::Newer { path: path.to_owned(), found, known: SCHEMA }),
        (APPLICATION, found) => {
            Err(OpenError::Damaged { path: path.to_owned(), what: format!("its schema is {found}") })
        }
        _ => Err(OpenError::Damaged { path: path.to_owned(), what: "it belongs to another program".into() }),
    }
}

fn load(db: &Connection, path: &Path, texts: &mut Texts) -> Result<Loaded, OpenError> {
    let at = |error| open_error(path, &error);
    let damaged = |what: String| OpenError::Damaged { path: path.to_owned(), what };
    let compacted = meta(db, "compacted").map_err(at)?;
    let reserved = meta(db, "reserved").map_err(at)?;
    let mut loaded =
        Loaded { state: State::new(reserved), events: Vec::new(), garbage: VecDeque::new(), compacted, reserved };

    let mut statement = db
        .prepare(
            "SELECT revision, created, resource, namespace, name, uid, selectors, object, change
             FROM log ORDER BY revision",
        )
        .map_err(at)?;
    let mut rows = statement.query([]).map_err(at)?;
    while let Some(row) = rows.next().map_err(at)? {
        let change: i64 = row.get(8).map_err(at)?;
        let entry = read_entry(row, &loaded.state, texts).map_err(at)?;
        let revision = entry.as_ref().map(|entry| entry.revision);
        let replayed = entry.and_then(|entry| replay(&mut loaded, change, entry));
        if replayed.is_none() {
            let revision = revision.unwrap_or_default();
            return Err(damaged(format!("row {revision} of its log does not follow from those before it")));
        }
    }

    let mut statement = db
        .prepare("SELECT revision, created, resource, namespace, name, uid, selectors, object FROM volatile")
        .map_err(at)?;
    let mut rows = statement.query([]).map_err(at)?;
    while let Some(row) = rows.next().map_err(at)? {
        let entry = read_entry(row, &loaded.state, texts).map_err(at)?;
        let entry = entry.ok_or_else(|| damaged("a row of its volatile objects cannot be read".into()))?;
        loaded.state.revision = loaded.state.revision.max(entry.revision);
        loaded.state.put(Arc::new(entry));
    }
    Ok(loaded)
}

/// `None` when the row's selectors are not what we write.
fn read_entry(row: &Row<'_>, state: &State, texts: &mut Texts) -> rusqlite::Result<Option<Entry>> {
    let text = |index: usize| row.get_ref(index).and_then(|value| value.as_str().map_err(Into::into));
    let key = Key { resource: texts.share_str(text(2)?), namespace: texts.share_str(text(3)?), name: text(4)?.into() };
    let previous = state.get(&key).map(|entry| &**entry);
    let Some((labels, fields)) = rows::decode(row.get_ref(6)?.as_blob()?, texts) else { return Ok(None) };
    Ok(Some(Entry {
        revision: revision(row.get(0)?),
        created: revision(row.get(1)?),
        uid: Uid::from(text(5)?),
        labels: texts.labels(labels, previous),
        fields,
        json: Bytes::from(row.get::<_, Vec<u8>>(7)?),
        key: previous.map_or(key, |previous| previous.key.clone()),
    }))
}

/// Takes one row of the log into the state. `None` when it contradicts the rows before it.
fn replay(loaded: &mut Loaded, change: i64, entry: Entry) -> Option<()> {
    let kind = change_of(change)?;
    let previous = loaded.state.get(&entry.key).cloned();
    let entry = Arc::new(entry);
    let kept = entry.revision > loaded.compacted;
    match (kind, &previous) {
        (EventKind::Added, Some(_)) => return None,
        // Rows before the compacted revision have lost their predecessors.
        (EventKind::Modified | EventKind::Deleted, None) if kept => return None,
        (EventKind::Added | EventKind::Modified | EventKind::Deleted, _) => {}
    }
    loaded.state.revision = loaded.state.revision.max(entry.revision);
    match kind {
        EventKind::Added | EventKind::Modified => loaded.state.put(entry.clone()),
        EventKind::Deleted => loaded.state.remove(&entry.key),
    }
    match kept {
        true => loaded.events.push(Arc::new(Event::new(kind, entry, previous))),
        false => loaded.garbage.extend(superseded(kind, &entry, previous.as_deref())),
    }
    Some(())
}

/// The rows that an event leaves without a use once nobody can ask for the time before it.
pub(crate) fn superseded(
    kind: EventKind,
    entry: &Entry,
    previous: Option<&Entry>,
) -> impl Iterator<Item = Revision> + use<> {
    let tombstone = (kind == EventKind::Deleted).then_some(entry.revision);
    previous.map(|previous| previous.revision).into_iter().chain(tombstone)
}

fn change_number(kind: EventKind) -> i64 {
    match kind {
        EventKind::Added => 0,
        EventKind::Modified => 1,
        EventKind::Deleted => 2,
    }
}

fn change_of(number: i64) -> Option<EventKind> {
    match number {
        0 => Some(EventKind::Added),
        1 => Some(EventKind::Modified),
        2 => Some(EventKind::Deleted),
        _ => None,
    }
}

fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).expect("revisions are counted up from 1 and do not reach 2^63")
}

fn revision(number: i64) -> Revision {
    Revision(number.unsigned_abs())
}

fn meta(db: &Connection, name: &str) -> rusqlite::Result<Revision> {
    let found = db.query_row("SELECT value FROM meta WHERE name = ?", [name], |row| row.get(0));
    match found {
        Ok(value) => Ok(revision(value)),
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(Revision(0)),
        Err(error) => Err(error),
    }
}

fn set_meta(db: &Connection, name: &str, value: Revision) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(
        "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )?;
    statement.execute(params![name, number(value)]).map(|_| ())
}

fn open_error(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path: PathBuf = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            OpenError::Damaged { path, what: error.to_string() }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::InUse { path, pid: None },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            let source = std::io::Error::new(std::io::ErrorKind::PermissionDenied, error.to_string());
            OpenError::Permission { path, source }
        }
        _ => OpenError::Io { path, what: error.to_string() },
    }
}
