use std::{collections::BTreeMap, sync::Arc};

use expect_test::{Expect, expect};
use tokio::sync::mpsc;

use super::*;

/// Runs `drive` over a queue of numbers; `answer(key, nth run)` says how a run ends. What ran when is the outcome.
async fn check_drive(
    workers: usize,
    add: impl Fn(&WorkQueue<u32>),
    answer: impl Fn(u32, u32) -> Result<Outcome, &'static str> + Send + Sync + 'static,
    runs: usize,
    expected: Expect,
) {
    let scope = TaskScope::root();
    let queue = WorkQueue::new();
    let (told, mut log) = mpsc::unbounded_channel();
    let start = Instant::now();
    let nth = Arc::new(Mutex::new(BTreeMap::new()));
    drive(&scope, "test", &queue, workers, move |key: u32| {
        let count = {
            let mut nth = nth.lock();
            let count = nth.entry(key).or_insert(0);
            *count += 1;
            *count
        };
        told.send(format!("{key} at {:?}", start.elapsed())).unwrap();
        let result = answer(key, count);
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            result
        }
    });
    add(&queue);
    let mut lines = Vec::new();
    for _ in 0..runs {
        lines.push(log.recv().await.unwrap());
    }
    expected.assert_eq(&(lines.join("\n") + "\n"));
    scope.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn keys_come_once_and_in_order() {
    check_drive(
        1,
        |queue| [3, 1, 3, 2, 1].into_iter().for_each(|key| queue.add(key)),
        |_, _| Ok(Outcome::Done),
        3,
        expect![[r#"
            3 at 0ns
            1 at 1ms
            2 at 2ms
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn failures_wait_longer_each_time_and_a_success_forgets_them() {
    check_drive(
        1,
        |queue| queue.add(7),
        |_, run| match run {
            1..=3 => Err("not yet"),
            4 => Ok(Outcome::RequeueAfter(Duration::from_secs(10))),
            5 => panic!("in a reconciliation"),
            _ => Ok(Outcome::Done),
        },
        6,
        expect![[r#"
            7 at 0ns
            7 at 6ms
            7 at 17ms
            7 at 38ms
            7 at 10.039s
            7 at 10.044s
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn workers_share_the_keys() {
    check_drive(
        2,
        |queue| (0..4).for_each(|key| queue.add(key)),
        |_, _| Ok(Outcome::Done),
        4,
        expect![[r#"
            0 at 0ns
            1 at 0ns
            2 at 1ms
            3 at 1ms
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_added_while_it_is_worked_on_comes_again_afterwards() {
    let queue = WorkQueue::new();
    queue.add("a");
    assert_eq!(queue.next().await, "a");
    queue.add("a");
    queue.add("a");
    assert!(queue.is_empty(), "it is not handed to a second worker");
    queue.done(&"a");
    assert_eq!((queue.len(), queue.next().await), (1, "a"));
    queue.done(&"a");
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_earliest_deadline_holds() {
    let queue = WorkQueue::new();
    let start = Instant::now();
    for (key, seconds) in [("late", 60), ("a", 20), ("a", 5), ("a", 30)] {
        queue.add_after(key, Duration::from_secs(seconds));
    }
    let waiting = queue.clone();
    for expected in [("a", 5), ("late", 60)] {
        let key = waiting.next().await;
        assert_eq!((key, start.elapsed().as_secs()), expected);
        waiting.done(&key);
    }
    assert_eq!(queue.retries(&"a"), 0);
}
