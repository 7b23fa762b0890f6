//! What an opening refuses, and what the user reads; failures of the disk.

use std::fs;
use std::path::Path;

use expect_test::{Expect, expect};

use super::script::draft;
use crate::{CommitError, Key, Mode, Op, OpenError, Store, StoreConfig};

fn config(path: &Path) -> StoreConfig {
    StoreConfig { mode: Mode::Inline, ..StoreConfig::new(path) }
}

/// Prepares a file and opens it as a store; the message must name the file and the cure.
fn check_refusal(prepare: impl FnOnce(&Path), expect: Expect) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    prepare(&path);
    let error = Store::open(config(&path)).map(|_| ()).unwrap_err();
    let message = error.to_string().replace(path.to_str().unwrap(), "STORE");
    expect.assert_eq(&message.replace(&std::process::id().to_string(), "PID"));
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn create(store: &Store, name: &str) -> Result<(), CommitError> {
    let key = Key::new("pods", "default", name);
    store.commit(vec![(key.clone(), Op::Create(draft(&key, "x")))]).await.map(|_| ())
}

fn filled(path: &Path) {
    let store = Store::open(config(path)).unwrap();
    block_on(async {
        for number in 0..200 {
            create(&store, &format!("p{number}")).await.unwrap();
        }
        store.close().await.unwrap();
    });
}

fn sql(path: &Path, text: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(text).unwrap();
}

#[test]
fn a_store_in_use_names_its_holder() {
    let mut held = None;
    check_refusal(
        |path| held = Some(Store::open(config(path)).unwrap()),
        expect!["the state store STORE is in use by process PID: stop that process, or choose another data directory"],
    );
}

#[test]
fn a_file_of_something_else_is_refused_and_left_alone() {
    check_refusal(
        |path| fs::write(path, "hello, this is a text file").unwrap(),
        expect![
            "the state store STORE is damaged (it does not begin as an SQLite file): restore it from a backup, or move it and the files beside it away to start empty"
        ],
    );
    check_refusal(
        |path| sql(path, "CREATE TABLE songs (name TEXT)"),
        expect![
            "the state store STORE is damaged (it belongs to another program): restore it from a backup, or move it and the files beside it away to start empty"
        ],
    );
}

#[test]
fn a_newer_store_is_refused() {
    check_refusal(
        |path| {
            filled(path);
            sql(path, "PRAGMA user_version = 7");
        },
        expect![
            "the state store STORE was written by a newer Coracle (its schema is 7, this one knows 1): run that version or a later one"
        ],
    );
}

#[test]
fn damage_inside_is_found_at_opening() {
    check_refusal(
        |path| {
            filled(path);
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2 / 4096 * 4096;
            bytes[middle..middle + 4096].fill(0xa5);
            fs::write(path, bytes).unwrap();
        },
        expect![
            "the state store STORE is damaged (Tree 2 page 6: btreeInitPage() returns error code 11): restore it from a backup, or move it and the files beside it away to start empty"
        ],
    );
    check_refusal(
        |path| {
            filled(path);
            sql(path, "UPDATE log SET change = 1 WHERE revision = 7");
        },
        expect![
            "the state store STORE is damaged (row 7 of its log does not follow from those before it): restore it from a backup, or move it and the files beside it away to start empty"
        ],
    );
}

#[test]
fn a_path_that_cannot_be_a_file_is_an_io_error() {
    check_refusal(
        |path| fs::create_dir(path).unwrap(),
        expect![
            "cannot open the state store STORE (Is a directory (os error 21)): check that its disk is mounted, works and has free space"
        ],
    );
}

#[test]
fn the_file_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/state.db");
    let _store = Store::open(config(&path)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(directory.path().join("deep/state.db-wal")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    block_on(async {
        let store = Store::open(StoreConfig { max_bytes: Some(256 << 10), ..config(&path) }).unwrap();
        let mut written = Vec::new();
        let error = loop {
            let name = format!("p{:05}", written.len());
            match create(&store, &name).await {
                Ok(()) => written.push(name),
                Err(error) => break error,
            }
        };
        expect!["no space is left on the disk of the state store: free some, nothing was lost"]
            .assert_eq(&error.to_string());
        assert!(written.len() > 100, "{} objects fitted into 256 KiB", written.len());
        let names = |store: &Store| -> Vec<String> {
            let snapshot = store.snapshot();
            snapshot.range(&crate::Prefix::resource("pods"), None).map(|entry| entry.key.name.to_string()).collect()
        };
        assert_eq!(names(&store), written);

        // The volatile tier needs no disk: nodes stay alive.
        let lease = Key::new("leases.coordination.k8s.io", "default", "l");
        store.commit(vec![(lease.clone(), Op::Create(draft(&lease, "x")))]).await.unwrap();

        let left = store.with_writer(|writer| writer.reserved.0) - store.revision().0;
        assert!(left > 500_000, "only {left} renewals until the disk is needed");

        // Space returns while the store runs.
        let larger = "PRAGMA max_page_count = 100000";
        store.with_writer(|writer| writer.disk.sql_for_test(larger));
        create(&store, "p99999").await.unwrap();
        written.push("p99999".into());
        drop(store);
        assert_eq!(names(&Store::open(config(&path)).unwrap()), written);
    });
}

#[test]
fn a_broken_disk_is_fatal_and_said_once_for_all() {
    let directory = tempfile::tempdir().unwrap();
    block_on(async {
        let store = Store::open(config(&directory.path().join("state.db"))).unwrap();
        create(&store, "a").await.unwrap();
        store.with_writer(|writer| writer.disk.sql_for_test("DROP TABLE log"));
        let refused = create(&store, "b").await.unwrap_err();
        assert!(matches!(refused, CommitError::Failed(_)), "{refused}");
        let reason = store.failed().await;
        expect!["no such table: log"].assert_eq(reason.split(" in INSERT").next().unwrap());
        assert!(matches!(create(&store, "c").await, Err(CommitError::Failed(_))));
        assert_eq!(store.snapshot().count(&crate::Prefix::resource("pods")), 1);
        assert!(matches!(store.close().await, Ok(()) | Err(CommitError::Failed(_))));
    });
}

#[test]
fn a_permission_that_is_missing_is_named() {
    // Root may write anywhere, so the refusal is checked on the error itself.
    let error = crate::lock::io_error(Path::new("/data/state.db"), std::io::ErrorKind::PermissionDenied.into());
    assert!(matches!(error, OpenError::Permission { .. }));
    expect!["no permission to open the state store /data/state.db: run as the user who owns it, or choose another data directory"]
        .assert_eq(&error.to_string());
}
