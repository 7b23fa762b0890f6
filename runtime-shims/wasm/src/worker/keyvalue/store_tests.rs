use std::path::Path;

use super::*;

const LIMIT: u64 = 64 << 20;

fn store(dir: &Path) -> Store {
    limited(dir, LIMIT)
}

fn limited(dir: &Path, limit_bytes: u64) -> Store {
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    Store::open("shop".to_owned(), dir.expect("it is there"), limit_bytes).expect("it opens")
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

fn set(store: &Store, key: &str, value: &str) {
    store.set("b", &[(key.to_owned(), value.as_bytes().to_vec())]).expect("it is set");
}

fn get(store: &Store, key: &str) -> Option<String> {
    let value = store.get("b", &[key.to_owned()]).expect("it can be read").remove(0);
    value.map(|value| String::from_utf8(value).expect("text"))
}

#[test]
fn what_was_set_is_there_after_a_restart_and_what_was_deleted_is_not() {
    let dir = dir();
    {
        let store = store(dir.path());
        set(&store, "a", "1");
        set(&store, "a", "2");
        set(&store, "gone", "x");
        store.set("other", &[("a".to_owned(), b"elsewhere".to_vec())]).expect("it is set");
        store.delete("b", &["gone".to_owned(), "never".to_owned()]).expect("it is deleted");
    }
    let store = store(dir.path());
    assert_eq!(get(&store, "a").as_deref(), Some("2"));
    assert_eq!(get(&store, "gone"), None);
    assert!(
        store.exists("other", "a").expect("it can be asked") && !store.exists("b", "gone").expect("it can be asked")
    );
}

#[test]
fn two_processes_see_each_other_and_count_together() {
    let dir = dir();
    let stores = [store(dir.path()), store(dir.path())];
    set(&stores[0], "a", "first");
    assert_eq!(get(&stores[1], "a").as_deref(), Some("first"));
    // More than the slack, so that both rewrite the log under the other's hands.
    let filler = "x".repeat(64 << 10);
    std::thread::scope(|scope| {
        for store in &stores {
            let filler = &filler;
            scope.spawn(move || {
                for _ in 0..100 {
                    store.increment("b", "count", 1).expect("it is counted");
                    set(store, "filler", filler);
                }
            });
        }
    });
    assert_eq!(get(&stores[0], "count").as_deref(), Some("200"));
    assert_eq!(get(&stores[1], "count").as_deref(), Some("200"));
    let length = std::fs::metadata(dir.path().join("log")).expect("it is there").len();
    assert!(length < 3 << 20, "outdated values are cleared away: {length}");
    assert_eq!(get(&store(dir.path()), "a").as_deref(), Some("first"));
}

/// Every way a crash can cut the last write short, and then some damage.
#[test]
fn a_write_that_was_cut_short_is_as_if_it_had_not_been() {
    let dir = dir();
    let log = dir.path().join("log");
    set(&store(dir.path()), "a", "kept");
    let whole = std::fs::metadata(&log).expect("it is there").len();
    set(&store(dir.path()), "a", "lost");
    let bytes = std::fs::read(&log).expect("it can be read");
    let mut endings: Vec<Vec<u8>> = (whole as usize..bytes.len()).map(|end| bytes[..end].to_vec()).collect();
    let mut damaged = bytes.clone();
    *damaged.last_mut().expect("it is not empty") ^= 1;
    endings.extend([damaged, [&bytes[..whole as usize], &[0; 5000]].concat()]);
    for ending in endings {
        std::fs::write(&log, &ending).expect("it can be written");
        let reader = store(dir.path());
        assert_eq!(get(&reader, "a").as_deref(), Some("kept"), "{} bytes", ending.len());
        set(&reader, "b", "new");
        let again = store(dir.path());
        assert_eq!((get(&again, "a").as_deref(), get(&again, "b").as_deref()), (Some("kept"), Some("new")));
    }
    let cut = std::fs::read_dir(dir.path()).expect("it is there").flatten();
    assert!(cut.filter(|entry| entry.file_name().to_string_lossy().starts_with("cut-")).count() > 0);
}

#[test]
fn a_full_store_refuses_and_room_can_be_made() {
    let dir = dir();
    let store = limited(dir.path(), 10_000);
    let value = vec![0; 3000];
    for key in ["a", "b", "c"] {
        store.set("b", &[(key.to_owned(), value.clone())]).expect("there is room");
    }
    let refused = store.set("b", &[("d".to_owned(), value.clone())]).expect_err("it is full");
    assert_eq!(
        refused.to_string(),
        "the store of namespace \"shop\" is full: 10000 bytes are allowed; delete something"
    );
    store.set("b", &[("a".to_owned(), value[..2000].to_vec())]).expect("it gets smaller");
    store.delete("b", &["b".to_owned()]).expect("it is deleted");
    store.set("b", &[("d".to_owned(), value)]).expect("there is room");
}

#[test]
fn what_is_too_long_or_no_number_is_refused() {
    let dir = dir();
    let store = store(dir.path());
    set(&store, "text", "seven");
    let long = "k".repeat(2000);
    let refusals = [
        store.increment("b", "text", 1).map(drop).expect_err("no number"),
        store.set("b", &[(long.clone(), vec![])]).expect_err("a long key"),
        store.set(&long, &[("a".to_owned(), vec![])]).expect_err("a long bucket"),
        store.set("b", &[("a".to_owned(), vec![0; VALUE_BYTES + 1])]).expect_err("a long value"),
    ]
    .map(|refusal| refusal.to_string());
    expect_test::expect![[r#"
        the value of "text" is no number that can be incremented by 1
        a key may have 1024 bytes, this one has 2000
        a bucket name may have 1024 bytes, this one has 2000
        a value may have 8388608 bytes, this one has 8388609"#]]
    .assert_eq(&refusals.join("\n"));
    assert_eq!(store.increment("b", "new", 7).expect("it is counted"), 7);
    store.increment("b", "new", u64::MAX).map(drop).expect_err("it would overflow");
}

#[test]
fn a_listing_that_deletes_as_it_goes_misses_nothing() {
    let dir = dir();
    let store = store(dir.path());
    let entries: Vec<_> = (0..2500).map(|number| (format!("key-{number}"), vec![0; 600])).collect();
    for some in entries.chunks(500) {
        store.set("b", some).expect("it is set");
    }
    let mut cursor = None;
    let mut seen = 0;
    loop {
        let (keys, next) = store.keys("b", cursor).expect("it can be listed");
        seen += keys.len();
        store.delete("b", &keys).expect("it is deleted");
        match next {
            Some(_) => cursor = next,
            None => break,
        }
    }
    assert_eq!(seen, 2500);
    assert_eq!(store.keys("b", None).expect("it can be listed"), (Vec::new(), None));
    // Ids go on where they were, also for who comes later.
    let later = self::store(dir.path());
    set(&later, "late", "");
    let (keys, _) = later.keys("b", cursor).expect("it can be listed");
    assert_eq!(keys, ["late"]);
}
