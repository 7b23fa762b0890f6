//! A child process writes and is killed at a random moment, again and again, on the same file. Every write whose answer
//! it printed must be there, and no revision may ever be given twice, those of the volatile tier included.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::drafts::{draft, lease, pod};
use coracle_api::meta::Revision;
use coracle_store::{Op, Store, StoreConfig};

const FILE: &str = "CORACLE_STORE_CRASH_TEST_FILE";

/// The child: four writers, each updating its own pod and lease for ever and printing what was acknowledged.
#[test]
#[ignore = "is the child of the test below"]
#[allow(clippy::disallowed_methods)]
fn child() {
    let path = std::env::var(FILE).expect("the parent names the file");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(StoreConfig::new(path)).unwrap();
        let writers = (0..4).map(|writer| write_for_ever(store.clone(), writer));
        futures::future::join_all(writers).await;
    });
}

async fn write_for_ever(store: Store, writer: u64) {
    let keys = [pod(&format!("w{writer}")), lease(&format!("w{writer}"))];
    for value in 1.. {
        for key in &keys {
            let current = store.snapshot().get(key).map(|entry| entry.revision);
            let op = match current {
                None => Op::Create(draft(key, value)),
                Some(expect) => Op::Update { expect, draft: draft(key, value) },
            };
            let entry = store.commit(vec![(key.clone(), op)]).await.unwrap().remove(0);
            let line = format!("ack {} {} {} {value}\n", entry.revision, key.resource, key.name);
            std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        }
    }
}

struct Ack {
    revision: Revision,
    resource: String,
    name: String,
    value: u64,
}

fn parse(line: &str) -> Option<Ack> {
    let mut words = line.split("ack ").nth(1)?.split(' ');
    Some(Ack {
        revision: words.next()?.parse().ok()?,
        resource: words.next()?.to_owned(),
        name: words.next()?.to_owned(),
        value: words.next()?.parse().ok()?,
    })
}

/// Runs the child until it has acknowledged `many` writes, kills it, and returns all it acknowledged.
fn run_and_kill(path: &Path, many: usize) -> Vec<Ack> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
    let mut acks = Vec::new();
    let mut next = || lines.next().map(|line| String::from_utf8_lossy(&line.unwrap()).into_owned());
    while acks.len() < many {
        acks.extend(parse(&next().expect("the child writes until it is killed")));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What was already in the pipe was acknowledged too; the last line may be half a line.
    let mut rest: Vec<String> = std::iter::from_fn(next).collect();
    rest.pop();
    acks.extend(rest.iter().filter_map(|line| parse(line)));
    acks
}

#[test]
fn a_kill_loses_no_acknowledged_write_and_repeats_no_revision() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let mut highest = Revision(0);
    let mut latest: HashMap<String, u64> = HashMap::new();
    for round in 0..8_usize {
        let acks = run_and_kill(&path, 40 + round * 97);
        let lowest = acks.iter().map(|ack| ack.revision).min().unwrap();
        assert!(lowest > highest, "round {round}: revision {lowest} was given again after {highest}");
        let mut revisions: Vec<Revision> = acks.iter().map(|ack| ack.revision).collect();
        revisions.sort_unstable();
        assert!(revisions.is_sorted_by(|a, b| a < b), "round {round}: a revision was given twice");
        highest = *revisions.last().unwrap();
        latest.clear();
        for ack in acks.iter().filter(|ack| ack.resource == "pods") {
            latest.insert(ack.name.clone(), ack.value);
        }

        let store = Store::open(StoreConfig::new(&path)).unwrap();
        assert!(store.revision() >= highest, "round {round}");
        let snapshot = store.snapshot();
        for (name, value) in &latest {
            let stored: u64 = snapshot.get(&pod(name)).unwrap().field("v").unwrap().parse().unwrap();
            // The child may have been killed between a commit and its line.
            assert!(stored == *value || stored == *value + 1, "round {round}: {name} has {stored}, not {value}");
        }
        highest = highest.max(store.revision());
    }
}
