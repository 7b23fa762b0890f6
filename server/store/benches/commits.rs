//! `cargo bench -p coracle-store`: commits per second with every answer on disk, beside what the disk itself can do.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coracle_api::meta::Uid;
use coracle_store::{Draft, Fields, Key, Op, Prefix, Store, StoreConfig};
use tokio::task::JoinSet;
use tokio::time::Instant;

const SPAN: Duration = Duration::from_secs(3);
const OBJECT_BYTES: usize = 1024;

fn draft(key: &Key) -> Draft {
    const HEAD: &str = r#"{"metadata":{"#;
    let padding = "x".repeat(OBJECT_BYTES);
    Draft {
        uid: Uid::from("11111111-2222-3333-4444-555555555555"),
        labels: Default::default(),
        fields: Fields::default(),
        json: format!(r#"{HEAD}"name":"{}"}},"data":{{"x":"{padding}"}}}}"#, key.name).into_bytes(),
        revision_at: HEAD.len(),
    }
}

/// Writes a page over and over, each time waiting for the disk.
fn raw(directory: &Path) -> f64 {
    let path = directory.join("raw");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path).expect("a file");
    file.write_all(&vec![0; 4 << 20]).and_then(|()| file.sync_all()).expect("room for 4 MiB");
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < SPAN {
        let at = u64::from(count % 1024) * 4096;
        file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&[1; 4096])).expect("a write");
        file.sync_data().expect("a sync");
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// Commits per second of `writers` that each wait for their answer, and commits per transaction.
async fn commits(directory: &Path, writers: usize, watchers: usize) -> (f64, f64) {
    let path = directory.join(format!("state-{writers}-{watchers}.db"));
    let store = Store::open(StoreConfig::new(path)).expect("a new store");
    let delivered = Arc::new(AtomicU64::new(0));
    let mut watching = JoinSet::new();
    for _ in 0..watchers {
        let (_, mut watch) = store.snapshot_and_watch(Prefix::resource("configmaps"));
        let delivered = delivered.clone();
        watching.spawn(async move {
            while let Some(Ok(_)) = watch.next().await {
                delivered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let store = store.clone();
        tasks.spawn(async move {
            let mut number = 0;
            while start.elapsed() < SPAN {
                let key = Key::new("configmaps", "default", format!("c-{writer}-{number}"));
                let draft = draft(&key);
                store.commit(vec![(key, Op::Create(draft))]).await.expect("a commit");
                number += 1;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let span = start.elapsed().as_secs_f64();
    let stats = store.stats();
    store.close().await.expect("an orderly end");
    while watching.join_next().await.is_some() {}
    (stats.requests as f64 / span, stats.requests as f64 / stats.transactions as f64)
}

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut out = std::io::stdout().lock();
    writeln!(out, "fdatasync of a page: {:.0}/s", raw(directory.path())).expect("stdout");
    for (writers, watchers) in [(1, 0), (32, 0), (256, 0), (32, 50)] {
        let (rate, group) = runtime.block_on(commits(directory.path(), writers, watchers));
        writeln!(
            out,
            "{writers} writers, {watchers} watchers: {rate:.0} commits/s of {OBJECT_BYTES} bytes, {group:.1} in a transaction"
        )
        .expect("stdout");
    }
}
