use expect_test::{Expect, expect};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::{WatchParams, testing::Script};

async fn check_watch(script: &str, expected: Expect) {
    let script = Script::new(script);
    let mut stream = script.client().all::<ConfigMap>().watch(&WatchParams::default()).await.unwrap();
    let mut told = String::new();
    while let Some(event) = stream.next().await {
        let name = |o: &ConfigMap| format!("{} {:?}", o.metadata.name.as_deref().unwrap(), o.data.as_ref().unwrap());
        told += &match event {
            Ok(WatchEvent::Added(o)) => format!("added {}\n", name(&o)),
            Ok(WatchEvent::Modified(o)) => format!("modified {}\n", name(&o)),
            Ok(WatchEvent::Deleted(o)) => format!("deleted {}\n", name(&o)),
            Ok(WatchEvent::Bookmark { resource_version, initial_end }) => {
                format!("bookmark {resource_version} {initial_end}\n")
            }
            Ok(WatchEvent::Unreadable(o)) => format!("unreadable {o:?}\n"),
            Err(error) => format!("error {error} (expired: {})\n", error.is_expired()),
        };
    }
    expected.assert_eq(&told);
}

#[tokio::test]
async fn events_however_they_are_cut() {
    for size in [1, 7, 100, 100_000] {
        check_watch(
            &format!("bytes {size}\n + a 1\n ~ a 2\n line \n mark 3\n - a 4\n end 5\n error 410 Expired\n + b 6"),
            expect![[r#"
                added a {"rv": "1"}
                modified a {"rv": "2"}
                bookmark 3 false
                deleted a {"rv": "4"}
                bookmark 5 true
                error no (expired: true)
            "#]],
        )
        .await;
    }
}

#[tokio::test]
async fn ends_that_are_no_ends() {
    check_watch(
        "+ a 1\n half\n + b 2",
        expect![[r#"
            added a {"rv": "1"}
            error watch /api/v1/configmaps: the watch was cut in the middle of an event (expired: false)
        "#]],
    )
    .await;
    check_watch(
        "cut",
        expect![[r#"
        error watch /api/v1/configmaps: connection reset (expired: false)
    "#]],
    )
    .await;
    check_watch(
        "line {\"type\":\"GONE\",\"object\":{}}\n + a 1",
        expect![[r#"
            error watch /api/v1/configmaps: the answer cannot be read: unknown watch event type "GONE", known are ["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"] (expired: false)
        "#]],
    )
    .await;
}

#[test]
fn a_line_without_an_end_is_an_error() {
    let mut lines = Lines::default();
    for _ in 0..=16 {
        lines.push(Bytes::from(vec![b'x'; 1 << 20]));
    }
    assert!(lines.next().is_err());
}
