//! The past: snapshots at earlier revisions, how long they last, compaction, restarts and the volatile tier.

use std::time::Duration;

use expect_test::expect;

use super::script::{check, draft};
use crate::{Key, Mode, Op, Prefix, Store, StoreConfig};

#[test]
fn pages_are_consistent_at_an_earlier_revision() {
    check(
        "create pods default/a v=1
         create pods default/b v=1
         delete pods default/a expect=1
         update pods default/b expect=2 v=2
         create pods default/c v=1
         list pods at=2
         list pods at=2 after=default/a
         list pods at=3
         list pods at=5
         list pods at=0
         list pods at=6",
        expect![[r#"
            ok 1
            ok 2
            ok 3
            ok 4
            ok 5
            at 2 of 2: [default/a@1 v=1, default/b@2 v=1]
            at 2 of 2: [default/b@2 v=1]
            at 3 of 1: [default/b@2 v=1]
            at 5 of 2: [default/b@4 v=2, default/c@5 v=1]
            at 0 of 0: []
            revision 6 is in the future, the current one is 5
        "#]],
    );
}

#[test]
fn the_past_is_forgotten_after_five_minutes_and_its_rows_deleted() {
    check(
        "create pods default/a v=1
         update pods default/a expect=1 v=2
         create pods default/b
         delete pods default/b expect=3
         rows
         pass 301
         create nodes /n1
         list pods at=2
         watch w pods from=3
         watch w pods from=4
         rows
         pass 301
         create nodes /n2
         rows
         get pods default/a
         crash
         get pods default/a
         get pods default/b
         list nodes",
        expect![[r#"
            ok 1
            ok 2
            ok 3
            ok 4
            4 rows
            ok 5
            the state at revision 2 is no longer kept, the oldest is 4
            the events after revision 3 are no longer kept, the oldest start is 4
            5 rows
            ok 6
            3 rows
            default/a@2 v=2
            opened at 1048577
            default/a@2 v=2
            none
            at 1048577 of 2: [/n1@5 v=0, /n2@6 v=0]
        "#]],
    );
}

#[test]
fn a_watch_of_a_quiet_resource_outlives_the_history_of_others() {
    check(
        "create pods default/a
         watch w pods from=1
         churn 5000 nodes
         drain w
         create pods default/b
         drain w
         watch again pods from=1
         drain again",
        expect![[r#"
            ok 1
            nothing
            ok 5002
            +default/b@5002 v=0
            +default/b@5002 v=0
        "#]],
    );
}

#[test]
fn a_slow_watcher_loses_its_place_and_holds_up_nobody() {
    check(
        "watch slow nodes
         churn 2500 nodes
         drain slow
         drain slow
         list nodes at=400
         list nodes at=1000",
        expect![[r#"
            the watch fell behind the events that are kept
            nothing
            the state at revision 400 is no longer kept, the oldest is 500
            at 1000 of 1: [default/churned@1000 v=999]
        "#]],
    );
}

#[test]
fn pages_that_were_promised_outlive_history_but_not_five_minutes() {
    check(
        "create pods default/a v=1
         churn 100 nodes
         keep
         churn 5000 nodes
         list pods at=101
         list nodes at=101
         list nodes at=102
         pass 301
         create pods default/b
         list nodes at=101",
        expect![[r#"
            ok 1
            kept 101
            at 101 of 1: [default/a@1 v=1]
            at 101 of 1: [default/churned@101 v=99]
            the state at revision 102 is no longer kept, the oldest is 3101
            ok 5102
            the state at revision 101 is no longer kept, the oldest is 5101
        "#]],
    );
}

#[test]
fn what_is_kept_for_pages_is_bounded_in_memory_and_number() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let config = StoreConfig { mode: Mode::Inline, sync: false, history_bytes: 1 << 20, ..StoreConfig::new(path) };
    runtime.block_on(async {
        let store = Store::open(config).unwrap();
        let big = "x".repeat(10_000);
        let write = async |number: usize| {
            let key = Key::new("pods", "default", format!("p{}", number % 20));
            let found = store.snapshot().get(&key).map(|entry| entry.revision);
            let op = match found {
                None => Op::Create(draft(&key, &big)),
                Some(expect) => Op::Update { expect, draft: draft(&key, &big) },
            };
            store.commit(vec![(key, op)]).await.unwrap();
        };
        for number in 0..20 {
            write(number).await;
        }
        // Each is kept at another revision, and holds one version that the next does not.
        let mut promised = Vec::new();
        for number in 20..520 {
            promised.push(store.revision());
            store.keep(&store.snapshot());
            write(number).await;
        }
        let served = promised.iter().filter(|revision| store.snapshot_at(**revision).is_ok()).count();
        assert_eq!(served, 99, "history of a megabyte reaches so far back, at ten kilobytes and a half an event");
        let last = *promised.last().unwrap();
        // All they share is replaced: 200 KB. The one that is left is within the bound, and stays.
        for number in 520..1000 {
            write(number).await;
        }
        assert!(store.snapshot_at(last).is_ok(), "its pages can still be had");
        assert!(store.snapshot_at(promised[437]).is_err(), "an earlier one had to go");
    });
}

#[test]
fn watches_resume_over_a_restart_but_not_of_volatile_objects() {
    check(
        "create pods default/a v=1
         update pods default/a expect=1 v=2
         create leases.coordination.k8s.io default/l
         close
         reopen
         watch w pods from=1
         drain w
         watch v leases.coordination.k8s.io from=1
         watch v leases.coordination.k8s.io from=3
         list pods at=2
         list pods at=3",
        expect![[r#"
            ok 1
            ok 2
            ok 3
            ~default/a@2 v=2 was 1
            the events after revision 1 are no longer kept, the oldest start is 3
            the state at revision 2 is no longer kept, the oldest is 3
            at 3 of 1: [default/a@2 v=2]
        "#]],
    );
}

#[test]
fn a_crash_loses_recent_volatile_objects_and_no_revision_is_given_twice() {
    check(
        "create pods default/a
         create leases.coordination.k8s.io default/l v=1
         pass 301
         update leases.coordination.k8s.io default/l expect=2 v=2
         crash
         get leases.coordination.k8s.io default/l
         update leases.coordination.k8s.io default/l expect=3 v=3
         crash
         get leases.coordination.k8s.io default/l
         create pods default/b
         list pods",
        expect![[r#"
            ok 1
            ok 2
            ok 3
            opened at 1048577
            default/l@3 v=2
            ok 1048578
            opened at 2097154
            default/l@3 v=2
            ok 2097155
            at 2097155 of 2: [default/a@1 v=0, default/b@2097155 v=0]
        "#]],
    );
}

#[test]
fn volatile_writes_alone_touch_the_disk_once_for_a_block_of_revisions() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = StoreConfig { mode: Mode::Inline, ..StoreConfig::new(directory.path().join("state.db")) };
    runtime.block_on(async {
        let store = Store::open(config).unwrap();
        for number in 0..1000 {
            let key = Key::new("events", "default", format!("e{number}"));
            store.commit(vec![(key.clone(), Op::Create(draft(&key, "x")))]).await.unwrap();
        }
        assert_eq!((store.stats().requests, store.stats().transactions), (1000, 1));
        // The flush is due once, and brings them all.
        tokio::time::advance(Duration::from_secs(301)).await;
        store.commit(vec![]).await.unwrap();
        while store.with_writer(|writer| {
            writer.tend(tokio::time::Instant::now()).is_some_and(|at| at.elapsed() > Duration::ZERO)
        }) {}
        assert_eq!(store.snapshot().count(&Prefix::resource("events")), 1000);
    });
}
