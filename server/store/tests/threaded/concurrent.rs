//! Many writers and watchers at once against the writer's thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::drafts::{draft, lease, pod};
use coracle_api::meta::Revision;
use coracle_store::{CommitError, Event, EventKind, Key, Op, Prefix, Store, StoreConfig, Watch};
use futures::future::join_all;

fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(StoreConfig::new(directory.path().join("state.db"))).unwrap()
}

/// What an informer holds: rebuilt from a list and the events after it.
fn follow(copy: &mut BTreeMap<Key, Revision>, last: &mut Revision, event: &Event) {
    assert!(event.revision() > *last, "revisions only grow");
    *last = event.revision();
    let key = event.entry.key.clone();
    let before = match event.kind {
        EventKind::Added | EventKind::Modified => copy.insert(key, event.revision()),
        EventKind::Deleted => copy.remove(&key),
    };
    assert_eq!(before, event.previous.as_ref().map(|entry| entry.revision), "no event of this object was missed");
}

/// Follows until an object named `stop` is seen.
async fn watch_all(store: Store, mut watch: Watch, mut copy: BTreeMap<Key, Revision>, from: Revision) {
    let mut last = from;
    loop {
        let event = watch.next().await.unwrap().unwrap();
        follow(&mut copy, &mut last, &event);
        assert!(watch.progress() >= last);
        if &*event.entry.key.name == "stop" {
            break;
        }
    }
    let snapshot = store.snapshot();
    let stored: BTreeMap<Key, Revision> =
        snapshot.range(&Prefix::resource("pods"), None).map(|entry| (entry.key.clone(), entry.revision)).collect();
    assert_eq!(copy, stored);
}

/// Creates, updates and deletes its own pods; a later read must always see the answer before it.
async fn write(store: Store, writer: u64) {
    for round in 0..20 {
        let key = pod(&format!("w{writer}-{}", round % 3));
        let current = store.snapshot().get(&key).map(|entry| entry.revision);
        let op = match current {
            None => Op::Create(draft(&key, round)),
            Some(expect) if round % 7 == 6 => Op::Delete { expect, last: draft(&key, round) },
            Some(expect) => Op::Update { expect, draft: draft(&key, round) },
        };
        let entry = store.commit(vec![(key, op)]).await.unwrap().remove(0);
        assert!(store.revision() >= entry.revision, "whoever has an answer reads what it wrote");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watchers_that_begin_at_any_time_see_every_event_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let (mut writers, mut watchers) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    for number in 0..24 {
        writers.spawn(write(store.clone(), number));
        let (snapshot, watch) = store.snapshot_and_watch(Prefix::resource("pods"));
        let listed =
            snapshot.range(&Prefix::resource("pods"), None).map(|entry| (entry.key.clone(), entry.revision)).collect();
        watchers.spawn(watch_all(store.clone(), watch, listed, snapshot.revision()));
        let from_the_start = store.watch(Prefix::resource("pods"), Revision(0)).unwrap();
        watchers.spawn(watch_all(store.clone(), from_the_start, BTreeMap::new(), Revision(0)));
        tokio::task::yield_now().await;
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let stop = pod("stop");
    store.commit(vec![(stop.clone(), Op::Create(draft(&stop, 0)))]).await.unwrap();
    while let Some(ended) = watchers.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_the_disk_is_committed_together() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let commits = (0..500).map(|number| {
        let key = pod(&format!("p{number}"));
        store.commit(vec![(key.clone(), Op::Create(draft(&key, number)))])
    });
    for answer in join_all(commits).await {
        answer.unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.requests, stats.objects), (500, 500));
    assert!(stats.transactions < 50, "500 commits asked for at once took {} transactions", stats.transactions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_updates_of_one_revision_one_wins_even_in_one_group() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let key = pod("p");
    let created = store.commit(vec![(key.clone(), Op::Create(draft(&key, 0)))]).await.unwrap().remove(0);
    let commits = (0..64).map(|number| {
        let update = Op::Update { expect: created.revision, draft: draft(&key, number) };
        store.commit(vec![(key.clone(), update)])
    });
    let (won, lost): (Vec<_>, Vec<_>) = join_all(commits).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 63));
    let now = store.snapshot().get(&key).unwrap().revision;
    for answer in lost {
        let Err(CommitError::Conflict { current: Some(current) }) = answer else { panic!("{answer:?}") };
        assert_eq!(current.revision, now);
    }
}

/// Says when it is dropped.
struct Claim(std::sync::mpsc::Sender<u64>, Store);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.send(self.1.revision().0).unwrap();
    }
}

#[tokio::test]
async fn what_a_commit_holds_is_held_until_it_can_be_seen_even_if_nobody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let (sender, dropped) = std::sync::mpsc::channel();
    let mut asked = 0;
    // A future that is dropped after its first poll has either not asked for the commit or asked for it.
    for number in 0..50 {
        let held: coracle_store::Held = Box::new(Claim(sender.clone(), store.clone()));
        let ops = vec![(pod(&format!("p{number}")), Op::Create(draft(&pod(&format!("p{number}")), number)))];
        let _gone = futures::FutureExt::now_or_never(store.commit_holding(ops, Some(held)));
        asked += 1;
        assert_eq!(dropped.recv().unwrap(), asked, "let go of before the commit could be seen");
    }
}

#[tokio::test]
async fn closing_ends_waiting_watches_and_refuses_later_commits() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut watch = store.watch(Prefix::resource("pods"), Revision(0)).unwrap();
    let waiting = async { watch.next().await.is_none() };
    let closing = async {
        let key = lease("l");
        store.commit(vec![(key.clone(), Op::Create(draft(&key, 7)))]).await.unwrap();
        store.close().await.unwrap();
        store.close().await.unwrap();
        let refused = store.commit(vec![(key.clone(), Op::Create(draft(&key, 7)))]).await.unwrap_err();
        assert_eq!(refused.to_string(), "the state store failed: it is closed");
    };
    let (ended, ()) = tokio::join!(waiting, closing);
    assert!(ended);

    let again = open(&directory);
    assert_eq!(again.snapshot().get(&lease("l")).unwrap().field("v"), Some("7"), "closing wrote the volatile tier");
    assert_eq!(again.revision(), Revision(1), "an orderly end skips no revisions");
}

#[tokio::test]
async fn dropping_the_last_handle_frees_the_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let store = open(&directory);
        let key = pod(&format!("p{round}"));
        store.commit(vec![(key.clone(), Op::Create(draft(&key, round)))]).await.unwrap();
        assert_eq!(store.stats().objects, usize::try_from(round).unwrap() + 1);
    }
}

#[tokio::test]
async fn snapshots_do_not_move() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut snapshots = Vec::new();
    for number in 0..3000 {
        let key = pod(&format!("p{}", number % 50));
        let current = store.snapshot().get(&key).map(|entry| entry.revision);
        let op = match current {
            None => Op::Create(draft(&key, number)),
            Some(expect) => Op::Update { expect, draft: draft(&key, number) },
        };
        store.commit(vec![(key, op)]).await.unwrap();
        if number % 100 == 0 {
            snapshots.push(store.snapshot());
        }
    }
    let contents = |snapshot: &coracle_store::Snapshot| -> Vec<Arc<coracle_store::Entry>> {
        snapshot.range(&Prefix::resource("pods"), None).cloned().collect()
    };
    for snapshot in snapshots {
        let again = store.snapshot_at(snapshot.revision()).unwrap();
        let (kept, rebuilt) = (contents(&snapshot), contents(&again));
        assert_eq!(kept.len(), rebuilt.len());
        for (kept, rebuilt) in kept.iter().zip(&rebuilt) {
            assert!(Arc::ptr_eq(kept, rebuilt), "{} at {}", kept.key, snapshot.revision());
        }
    }
}
