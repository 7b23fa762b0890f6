use std::sync::{Arc, atomic::AtomicU32};

use expect_test::expect;
use tokio::sync::mpsc;

use super::*;

fn names(scope: &TaskScope) -> String {
    scope.tasks().iter().map(|t| format!("{} {} {}", t.name, t.state, t.restarts)).collect::<Vec<_>>().join("; ")
}

#[tokio::test(start_paused = true)]
async fn a_panicking_task_is_restarted_with_growing_waits() {
    let scope = TaskScope::root();
    let (told, mut runs) = mpsc::unbounded_channel();
    let backoff =
        Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(4), reset_after: Duration::from_secs(60) };
    let run = Arc::new(AtomicU32::new(0));
    let start = Instant::now();
    scope.child("agent").spawn("pods", OnExit::Restart(backoff), move |cancel| {
        let (told, run) = (told.clone(), run.fetch_add(1, Ordering::Relaxed));
        async move {
            told.send(start.elapsed().as_secs()).unwrap();
            match run {
                0 | 1 | 4 => panic!("at the disco {run}"),
                2 => Err("no luck"),
                // A healthy run resets the waits.
                3 => {
                    sleep(Duration::from_secs(100)).await;
                    Ok(())
                }
                _ => {
                    cancel.cancelled().await;
                    Ok(())
                }
            }
        }
    });
    let mut times = Vec::new();
    for _ in 0..6 {
        times.push(runs.recv().await.unwrap());
    }
    // 1 s, 2 s, 4 s, then 1 s after the healthy run, then 1 s.
    assert_eq!(times, [0, 1, 3, 7, 108, 109]);
    let info = &scope.tasks()[0];
    assert_eq!((&*info.name, info.restarts), ("agent/pods", 5));
    assert_eq!(info.last_failure.as_deref(), Some("panicked: at the disco 4"));
    scope.shutdown().await;
    assert_eq!(names(&scope), "");
}

#[tokio::test(start_paused = true)]
async fn a_fatal_end_ends_the_tree_and_says_why() {
    let scope = TaskScope::root();
    let child = scope.child("store");
    scope.spawn("other", OnExit::Finish, |cancel| async move { cancel.cancelled().await });
    expect!["other running 0"].assert_eq(&names(&scope));
    child.spawn("writer", OnExit::Fatal, |_| async { Err("disk is gone") });
    expect!["task store/writer ended: disk is gone"].assert_eq(&scope.fatal().await.to_string());
    scope.cancelled().await;
    scope.shutdown().await;
    scope.spawn("late", OnExit::Finish, |_| std::future::pending::<()>());
    expect![""].assert_eq(&names(&scope));
}

#[tokio::test(start_paused = true)]
async fn shutdown_of_a_child_joins_what_is_below_and_nothing_else() {
    let scope = TaskScope::root();
    let (a, b) = (scope.child("a"), scope.child("ab"));
    let below = a.child("below");
    for scope in [&scope, &a, &b, &below] {
        scope.spawn("t", OnExit::restart(), |cancel| async move { cancel.cancelled().await });
    }
    // It does not listen, and is ended by force.
    below.spawn("deaf", OnExit::Finish, |_| std::future::pending::<()>());
    expect!["a/t running 0; a/below/t running 0; a/below/deaf running 0"].assert_eq(&names(&a));
    a.shutdown().await;
    expect!["t running 0; ab/t running 0"].assert_eq(&names(&scope));
    scope.abort().await;
    expect![""].assert_eq(&names(&scope));
}
