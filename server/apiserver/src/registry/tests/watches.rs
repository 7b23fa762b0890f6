use expect_test::expect;

use crate::http::Limits;
use crate::testing::{World, check_script};

#[tokio::test(start_paused = true)]
async fn a_selecting_watch_sees_objects_enter_and_leave() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"}} | metadata.resourceVersion
        watch w /api/v1/namespaces/default/configmaps?watch=1&labelSelector=on%3Dyes&resourceVersion=$rv
        PATCH /api/v1/namespaces/default/configmaps/a {"metadata":{"labels":{"on":"yes"}}} | metadata.resourceVersion
        next w
        PATCH /api/v1/namespaces/default/configmaps/a {"data":{"k":"v"}} | metadata.resourceVersion
        next w
        PATCH /api/v1/namespaces/default/configmaps/a {"metadata":{"labels":{"on":"no"}}} | metadata.resourceVersion
        next w
        PATCH /api/v1/namespaces/default/configmaps/a {"data":{"k":"w"}} | metadata.resourceVersion
        DELETE /api/v1/namespaces/default/configmaps/a | status
        next w
        "#,
        expect![[r#"
            201 metadata.resourceVersion="r1"
            200 metadata.resourceVersion="r2"
            w: ADDED {"apiVersion":"v1","kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","labels":{"on":"yes"},"name":"a","namespace":"default","resourceVersion":"r2","uid":"<uid>"}}
            200 metadata.resourceVersion="r3"
            w: MODIFIED {"apiVersion":"v1","data":{"k":"v"},"kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","labels":{"on":"yes"},"name":"a","namespace":"default","resourceVersion":"r3","uid":"<uid>"}}
            200 metadata.resourceVersion="r4"
            w: DELETED {"apiVersion":"v1","data":{"k":"v"},"kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","labels":{"on":"yes"},"name":"a","namespace":"default","resourceVersion":"r4","uid":"<uid>"}}
            200 metadata.resourceVersion="r5"
            200 status="Success"
            w: nothing
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn starts_of_watches() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"}} | metadata.resourceVersion
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"b"}} | metadata.resourceVersion
        watch unset /api/v1/namespaces/default/configmaps?watch=true
        next unset
        next unset
        next unset
        watch any /api/v1/namespaces/default/configmaps?watch=true&resourceVersion=0&fieldSelector=metadata.name%3Db
        next any
        next any
        watch at /api/v1/watch/namespaces/default/configmaps/b?resourceVersion=$start
        next at
        next at
        watch future /api/v1/configmaps?watch=1&resourceVersion=$future
        watch wrong /api/v1/configmaps?watch=1&resourceVersionMatch=NotOlderThan
        watch wrong /api/v1/configmaps?watch=1&sendInitialEvents=true
        "#,
        expect![[r#"
            201 metadata.resourceVersion="r1"
            201 metadata.resourceVersion="r2"
            unset: ADDED {"apiVersion":"v1","kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r1","uid":"<uid>"}}
            unset: ADDED {"apiVersion":"v1","kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"b","namespace":"default","resourceVersion":"r2","uid":"<uid>"}}
            unset: nothing
            any: ADDED {"apiVersion":"v1","kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"b","namespace":"default","resourceVersion":"r2","uid":"<uid>"}}
            any: nothing
            at: ADDED {"apiVersion":"v1","kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"b","namespace":"default","resourceVersion":"r2","uid":"<uid>"}}
            at: nothing
            watch future: 504 {"apiVersion":"v1","code":504,"details":{"causes":[{"message":"Too large resource version","reason":"ResourceVersionTooLarge"}],"retryAfterSeconds":1},"kind":"Status","message":"Timeout: Too large resource version: 1000012, current: 14","metadata":{},"reason":"Timeout","status":"Failure"}
            watch wrong: 422 {"apiVersion":"v1","code":422,"details":{"causes":[{"field":"resourceVersionMatch","message":"Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided","reason":"FieldValueForbidden"}],"group":"meta.k8s.io","kind":"ListOptions"},"kind":"Status","message":"ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided","metadata":{},"reason":"Invalid","status":"Failure"}
            watch wrong: 422 {"apiVersion":"v1","code":422,"details":{"causes":[{"field":"resourceVersionMatch","message":"Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan","reason":"FieldValueForbidden"}],"group":"meta.k8s.io","kind":"ListOptions"},"kind":"Status","message":"ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan","metadata":{},"reason":"Invalid","status":"Failure"}
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_list_ends_its_initial_events_with_a_bookmark() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"}} | metadata.resourceVersion
        watch w /api/v1/namespaces/default/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true
        next w
        next w
        next w
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"b"}} | metadata.resourceVersion
        next w
        POST /api/v1/namespaces/default/secrets {"metadata":{"name":"s"}} | metadata.resourceVersion
        sleep 71
        next w
        sleep 71
        next w
        "#,
        expect![[r#"
            201 metadata.resourceVersion="r1"
            w: ADDED {"apiVersion":"v1","kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r1","uid":"<uid>"}}
            w: BOOKMARK {"apiVersion":"v1","kind":"ConfigMap","metadata":{"annotations":{"k8s.io/initial-events-end":"true"},"resourceVersion":"r1"}}
            w: nothing
            201 metadata.resourceVersion="r2"
            w: ADDED {"apiVersion":"v1","kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:01Z","name":"b","namespace":"default","resourceVersion":"r2","uid":"<uid>"}}
            201 metadata.resourceVersion="r3"
            w: BOOKMARK {"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"r3"}}
            w: nothing
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_too_old_is_told_in_the_stream() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"}} | metadata.resourceVersion
        sleep 400
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"b"}} | metadata.resourceVersion
        watch w /api/v1/namespaces/default/configmaps?watch=1&resourceVersion=$start
        next w
        next w
        "#,
        expect![[r#"
            201 metadata.resourceVersion="r1"
            201 metadata.resourceVersion="r2"
            w: ERROR {"apiVersion":"v1","code":410,"kind":"Status","message":"too old resource version: 12 (13)","metadata":{},"reason":"Expired","status":"Failure"}
            w: the end
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn watches_end_in_time_and_at_shutdown() {
    let mut world = World::new().await;
    let outcome = world
        .run(
            r#"
            watch short /api/v1/configmaps?watch=1&timeoutSeconds=5&allowWatchBookmarks=true&resourceVersion=$start
            watch long /api/v1/configmaps?watch=1&resourceVersion=$start
            POST /api/v1/namespaces/default/secrets {"metadata":{"name":"s"}} | metadata.resourceVersion
            sleep 6
            next short
            next short
            next long
            "#,
        )
        .await;
    world.server.stopping.cancel();
    let after = world.run("next long").await;
    expect![[r#"
        201 metadata.resourceVersion="r1"
        short: BOOKMARK {"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"r1"}}
        short: the end
        long: nothing
        long: the end
    "#]]
    .assert_eq(&format!("{outcome}{after}"));
}

#[tokio::test(start_paused = true)]
async fn watches_in_other_forms() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"},"data":{"k":"v"}} | metadata.resourceVersion
        watch table /api/v1/namespaces/default/configmaps?watch=1 [Accept: application/json;as=Table;v=v1;g=meta.k8s.io]
        PATCH /api/v1/namespaces/default/configmaps/a {"data":{"k":"w"}} | metadata.resourceVersion
        next table
        next table
        watch partial /api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0 [Accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io]
        next partial
        watch v1 /apis/events.k8s.io/v1/events?watch=1
        POST /api/v1/namespaces/default/events {"metadata":{"name":"e"},"involvedObject":{"namespace":"default"},"message":"hello"} | message
        next v1
        "#,
        expect![[r#"
            201 metadata.resourceVersion="r1"
            200 metadata.resourceVersion="r2"
            table: ADDED {"apiVersion":"meta.k8s.io/v1","columnDefinitions":[{"description":"d","format":"name","name":"Name","priority":0,"type":"string"}],"kind":"Table","metadata":{"resourceVersion":"r1"},"rows":[{"cells":["a"],"object":{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r1","uid":"<uid>"}}}]}
            table: MODIFIED {"apiVersion":"meta.k8s.io/v1","columnDefinitions":[],"kind":"Table","metadata":{"resourceVersion":"r2"},"rows":[{"cells":["a"],"object":{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r2","uid":"<uid>"}}}]}
            partial: ADDED {"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r2","uid":"<uid>"}}
            201 message="hello"
            v1: ADDED {"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"e","namespace":"default","resourceVersion":"r3","uid":"<uid>"},"note":"hello","regarding":{"namespace":"default"}}
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn too_many_watches_are_refused() {
    let limits = Limits { watches: 1, ..Limits::default() };
    let mut world = World::with(|_| {}, limits).await;
    let outcome = world
        .run(
            r#"
            watch one /api/v1/configmaps?watch=1&timeoutSeconds=5
            watch two /api/v1/configmaps?watch=1
            sleep 6
            next one
            "#,
        )
        .await;
    expect![[r#"
        watch two: 429 {"apiVersion":"v1","code":429,"details":{"retryAfterSeconds":5},"kind":"Status","message":"too many watches: this server serves at most 1 at a time; close some, or raise its limit of watches","metadata":{},"reason":"TooManyRequests","status":"Failure"}
        one: the end
    "#]].assert_eq(&outcome);
}
