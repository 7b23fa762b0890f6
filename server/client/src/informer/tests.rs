use std::sync::Arc;

use coracle_api::ObjectKey;
use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use parking_lot::Mutex;

use super::*;
use crate::{RandomIds, testing::Script};

fn show(object: &ConfigMap) -> String {
    let meta = &object.metadata;
    format!("{}@{}", meta.name.as_deref().unwrap(), meta.resource_version.as_deref().unwrap())
}

fn tell(change: Change<ConfigMap>, informer: &Informer<ConfigMap>) -> String {
    match change {
        Change::Applied { old: Some(old), new } => format!("  applied {} was {}", show(&new), show(&old)),
        Change::Applied { old: None, new } => format!("  applied {}", show(&new)),
        Change::Deleted(last) => format!("  deleted {}", show(&last)),
        Change::Resync => format!("  resync {}", shown(informer)),
    }
}

fn shown(informer: &Informer<ConfigMap>) -> String {
    informer.list().iter().map(|object| show(object)).collect::<Vec<_>>().join(" ")
}

/// Plays the script to an informer; what its subscriber is told stands between the requests.
async fn check_informer(script: &str, expected: Expect) {
    let script = Script::new(script);
    let scope = TaskScope::root();
    let informers = Informers::new(script.client(), &scope, RandomIds::seeded(1));
    let informer = informers.get::<ConfigMap>();
    let changes = Arc::new(Mutex::new(informer.subscribe()));
    let view = informer.clone();
    script.before_each_request(move || {
        std::iter::from_fn(|| changes.lock().try_next()).map(|change| tell(change, &view)).collect()
    });
    script.played().await;
    let synced = if informer.is_synced() { "synced" } else { "not synced" };
    let (shown, revision) = (shown(&informer), informer.revision());
    expected.assert_eq(&format!("{}{synced} up to {revision}: {shown}\n", script.log()));
    scope.shutdown().await;
    assert!(scope.tasks().is_empty());
}

#[tokio::test(start_paused = true)]
async fn lists_by_watch_and_follows() {
    check_informer(
        "+ a 1\n + b 2\n end 5\n ~ a 6\n - b 7\n + c 8\n mark 9",
        expect![[r#"
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              resync a@6 c@8
            GET /api/v1/configmaps watch=1&resourceVersion=9
            synced up to 9: a@6 c@8
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn resumes_after_a_cut_with_what_it_has() {
    check_informer(
        "+ a 1\n end 5\n cut\n---\n ~ a 6\n half\n + b 7\n---\n + b 7\n + c 8\n cut\n---\n mark 12",
        expect![[r#"
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              resync a@1
            GET /api/v1/configmaps watch=1&resourceVersion=5
              applied a@6 was a@1
            GET /api/v1/configmaps watch=1&resourceVersion=6
              applied b@7
              applied c@8
            GET /api/v1/configmaps watch=1&resourceVersion=8
            GET /api/v1/configmaps watch=1&resourceVersion=12
            synced up to 12: a@6 b@7 c@8
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_listed_again_without_losing_deletions() {
    // By an ERROR event and by the answer's status; `a` is gone, `b` was deleted and made anew, `c` did not change.
    check_informer(
        "+ a 1\n + b 2\n + c 3\n end 5\n cut\n---\n error 410 Expired\n---\n + b 20 other\n + c 3\n + d 21\n end 22\n cut\n\
         ---\n status 410 Expired\n---\n + c 3\n end 30",
        expect![[r#"
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              resync a@1 b@2 c@3
            GET /api/v1/configmaps watch=1&resourceVersion=5
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              deleted a@1
              deleted b@2
              applied b@20
              applied d@21
            GET /api/v1/configmaps watch=1&resourceVersion=22
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              deleted b@20
              deleted d@21
            GET /api/v1/configmaps watch=1&resourceVersion=30
            synced up to 30: c@3
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_listing_changes_nothing() {
    check_informer(
        "+ a 1\n end 5\n cut\n---\n error 410 Expired\n---\n + b 7\n cut\n---\n + a 1\n - a 8\n + b 7\n end 9",
        expect![[r#"
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              resync a@1
            GET /api/v1/configmaps watch=1&resourceVersion=5
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              deleted a@1
              applied b@7
            GET /api/v1/configmaps watch=1&resourceVersion=9
            synced up to 9: b@7
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_given_up_and_a_lost_bookmark_too() {
    check_informer(
        "+ a 1\n hang\n---\n + a 1\n end 5\n wait 100\n mark 6\n wait 149\n ~ a 7\n hang",
        expect![[r#"
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              resync a@7
            GET /api/v1/configmaps watch=1&resourceVersion=7
            synced up to 7: a@7
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_with_an_older_past_is_listed_again() {
    check_informer(
        "+ a 100\n end 100\n cut\n---\n error 504 Timeout\n---\n + a 3\n end 4",
        expect![[r#"
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              resync a@100
            GET /api/v1/configmaps watch=1&resourceVersion=100
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              applied a@3 was a@100
            GET /api/v1/configmaps watch=1&resourceVersion=4
            synced up to 100: a@3
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_is_no_deletion() {
    check_informer(
        "+ a 1\n end 5\n line {\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"name\":[]}}}\n---\n status 500 InternalError\n---\n mark 9",
        expect![[r#"
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              resync a@1
            GET /api/v1/configmaps watch=1&resourceVersion=5
            GET /api/v1/configmaps watch=1&resourceVersion=5
            GET /api/v1/configmaps watch=1&resourceVersion=9
            synced up to 9: a@1
        "#]],
    )
    .await;
}

/// A script's line with a change of an object whose data no ConfigMap has.
fn unreadable(kind: &str, name: &str, rv: u32) -> String {
    let object = serde_json::json!({"metadata": {"name": name, "resourceVersion": rv.to_string()}, "data": [1]});
    format!("line {}", serde_json::json!({"type": kind, "object": object}))
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_is_passed_over_and_holds_up_nobody() {
    let (changed, made) = (unreadable("MODIFIED", "a", 6), unreadable("ADDED", "x", 7));
    let (again, gone) = (unreadable("ADDED", "a", 6), unreadable("DELETED", "a", 12));
    check_informer(
        &format!(
            "+ a 1\n {made}\n + b 2\n end 5\n {changed}\n {made}\n ~ b 8\n---\n mark 9\n error 410 Expired\n---\n {again}\n + b 8\n end 10\n ~ b 11\n {gone}"
        ),
        expect![[r#"
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              resync a@1 b@8
            GET /api/v1/configmaps watch=1&resourceVersion=8
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              deleted a@1
              applied b@11 was b@8
            GET /api/v1/configmaps watch=1&resourceVersion=12
            synced up to 12: b@11
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_lags_is_resynced() {
    let lines: Vec<_> = (10..10 + 5000).map(|rv| format!("~ a {rv}")).collect();
    check_informer(
        &format!("+ a 1\n end 5\n---\n mark 6\n---\n {}\n---\n ~ a 9000", lines.join("\n")),
        expect![[r#"
            GET /api/v1/configmaps watch=1&sendInitialEvents=true
              resync a@1
            GET /api/v1/configmaps watch=1&resourceVersion=5
            GET /api/v1/configmaps watch=1&resourceVersion=6
              resync a@5009
            GET /api/v1/configmaps watch=1&resourceVersion=5009
              applied a@9000 was a@5009
            GET /api/v1/configmaps watch=1&resourceVersion=9000
            synced up to 9000: a@9000
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn reflectors_are_shared_and_objects_with_them() {
    let script = Script::new("+ x/a 1\n + y/b 2\n + x/c 3\n end 5\n hang\n---\n + x/a 1\n end 5\n hang");
    let scope = TaskScope::root();
    let informers = Informers::new(script.client(), &scope, RandomIds::seeded(1));
    let (one, two) = (informers.get::<ConfigMap>(), informers.get::<ConfigMap>());
    let by_rv = one.index("rv", |object| object.data.iter().flat_map(|data| data.values().cloned()).collect());
    informers.synced().await;
    assert!(Arc::ptr_eq(&one.list()[0], &two.get(&ObjectKey::new("x", "a")).unwrap()));
    assert!(one.list().iter().all(|object| object.metadata.managed_fields.is_none()));
    let names = |list: Vec<Arc<ConfigMap>>| list.iter().map(|o| show(o)).collect::<Vec<_>>().join(" ");
    assert_eq!(names(one.in_namespace("x")), "a@1 c@3");
    assert_eq!(names(by_rv.get("2")), "b@2");
    assert_eq!(names(by_rv.get("4")), "");
    // Another selector is another view.
    let some = informers.get_with::<ConfigMap>(&ListParams::default().labels("app=web"));
    some.synced().await;
    assert_eq!(names(some.list()), "a@1");
    expect![[r#"
        GET /api/v1/configmaps watch=1&sendInitialEvents=true
        GET /api/v1/configmaps watch=1&labelSelector=app%3Dweb&sendInitialEvents=true
    "#]]
    .assert_eq(&script.log());
    expect!["informers/configmaps informers/configmaps[app=web]"]
        .assert_eq(&scope.tasks().iter().map(|task| &*task.name).collect::<Vec<_>>().join(" "));
    scope.shutdown().await;
    let mut changes = some.subscribe();
    assert!(matches!(changes.next().await, Some(Change::Resync)));
    assert!(changes.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn metadata_of_any_resource_until_it_is_forgotten() {
    let script = Script::new("+ a 1\n end 5\n hang\n---\n + b 1\n end 5\n hang");
    let scope = TaskScope::root();
    let informers = Informers::new(script.client(), &scope, RandomIds::seeded(1));
    let widgets = ResourceRef::new("example.com", "v1", "widgets", "Widget", true);
    let informer = informers.metadata(&widgets);
    let mut changes = informer.subscribe();
    assert!(matches!(changes.next().await, Some(Change::Resync)));
    assert_eq!(informer.list()[0].key().to_string(), "default/a");
    informers.forget_metadata(&widgets);
    assert!(changes.next().await.is_none());
    informers.metadata(&widgets).synced().await;
    informers.forget_metadata(&widgets);
    let _ = informers.get::<Namespace>();
    script.played().await;
    expect![[r#"
        GET /apis/example.com/v1/widgets watch=1&sendInitialEvents=true
        GET /apis/example.com/v1/widgets watch=1&sendInitialEvents=true
        GET /api/v1/namespaces watch=1&sendInitialEvents=true
    "#]]
    .assert_eq(&script.log());
    scope.shutdown().await;
}
