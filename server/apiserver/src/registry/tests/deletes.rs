use expect_test::expect;

use crate::testing::{World, check_script};

const POD: &str = r#"{"metadata":{"name":"p"},"spec":{"nodeName":"n","terminationGracePeriodSeconds":20,"automountServiceAccountToken":false,"containers":[{"name":"c","image":"i"}]}}"#;

fn with_pod(script: &str) -> String {
    let account = r#"POST /api/v1/namespaces/default/serviceaccounts {"metadata":{"name":"default"}} | metadata.name"#;
    format!("{account}\nPOST /api/v1/namespaces/default/pods {POD} | metadata.generation\n{script}")
}

const SHOWN: &str = "| metadata.generation metadata.deletionTimestamp metadata.deletionGracePeriodSeconds";

#[tokio::test(start_paused = true)]
async fn grace_is_only_ever_shortened() {
    check_script(
        &with_pod(&format!(
            r#"
            DELETE /api/v1/namespaces/default/pods/p {SHOWN}
            DELETE /api/v1/namespaces/default/pods/p?gracePeriodSeconds=60 {SHOWN}
            DELETE /api/v1/namespaces/default/pods/p {{"gracePeriodSeconds":5}} {SHOWN}
            DELETE /api/v1/namespaces/default/pods/p {SHOWN}
            DELETE /api/v1/namespaces/default/pods/p {{"gracePeriodSeconds":0}} {SHOWN}
            GET /api/v1/namespaces/default/pods/p | code
            "#
        )),
        expect![[r#"
            201 metadata.name="default"
            201 metadata.generation=1
            200 metadata.generation=2 metadata.deletionTimestamp="2026-01-01T00:00:20Z" metadata.deletionGracePeriodSeconds=20
            200 metadata.generation=2 metadata.deletionTimestamp="2026-01-01T00:00:20Z" metadata.deletionGracePeriodSeconds=20
            200 metadata.generation=2 metadata.deletionTimestamp="2026-01-01T00:00:05Z" metadata.deletionGracePeriodSeconds=5
            200 metadata.generation=2 metadata.deletionTimestamp="2026-01-01T00:00:05Z" metadata.deletionGracePeriodSeconds=5
            200 metadata.generation=2 metadata.deletionTimestamp="2026-01-01T00:00:00Z" metadata.deletionGracePeriodSeconds=0
            404 code=404
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_wait_for_nobody_go_at_once() {
    check_script(
        &with_pod(
            r#"
            PATCH /api/v1/namespaces/default/pods/p/status {"status":{"phase":"Succeeded"}} | status.phase
            DELETE /api/v1/namespaces/default/pods/p | kind metadata.deletionGracePeriodSeconds
            GET /api/v1/namespaces/default/pods/p | code
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"q"},"spec":{"containers":[{"name":"c","image":"i"}]}} | metadata.name
            DELETE /api/v1/namespaces/default/pods/q | kind metadata.deletionGracePeriodSeconds
            GET /api/v1/namespaces/default/pods/q | code
            "#,
        ),
        expect![[r#"
            201 metadata.name="default"
            201 metadata.generation=1
            200 status.phase="Succeeded"
            200 kind="Pod" metadata.deletionGracePeriodSeconds=0
            404 code=404
            201 metadata.name="q"
            200 kind="Pod" metadata.deletionGracePeriodSeconds=0
            404 code=404
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a","finalizers":["x.io/a","x.io/b"]}} | metadata.finalizers
        DELETE /api/v1/namespaces/default/configmaps/a | metadata.deletionTimestamp metadata.deletionGracePeriodSeconds metadata.resourceVersion
        DELETE /api/v1/namespaces/default/configmaps/a | metadata.deletionTimestamp metadata.resourceVersion
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"}} | code message
        PATCH /api/v1/namespaces/default/configmaps/a {"metadata":{"finalizers":["x.io/a","x.io/c"]}} | code message
        PATCH /api/v1/namespaces/default/configmaps/a {"metadata":{"deletionTimestamp":null}} | metadata.deletionTimestamp
        PATCH /api/v1/namespaces/default/configmaps/a {"metadata":{"finalizers":["x.io/b"]}} | metadata.finalizers
        watch w /api/v1/namespaces/default/configmaps?watch=1&resourceVersion=$rv
        PATCH /api/v1/namespaces/default/configmaps/a {"metadata":{"finalizers":null}} | metadata.name
        next w
        GET /api/v1/namespaces/default/configmaps/a | code
        "#,
        expect![[r#"
            201 metadata.finalizers=["x.io/a","x.io/b"]
            200 metadata.deletionTimestamp="2026-01-01T00:00:00Z" metadata.deletionGracePeriodSeconds=0 metadata.resourceVersion="r2"
            200 metadata.deletionTimestamp="2026-01-01T00:00:00Z" metadata.resourceVersion="r2"
            409 code=409 message="object is being deleted: configmaps \"a\" already exists"
            422 code=422 message="ConfigMap \"a\" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x.io/c\"}"
            200 metadata.deletionTimestamp="2026-01-01T00:00:00Z"
            200 metadata.finalizers=["x.io/b"]
            200 metadata.name="a"
            w: DELETED {"apiVersion":"v1","kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","deletionGracePeriodSeconds":0,"deletionTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r4","uid":"<uid>"}}
            404 code=404
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn propagation_policies_become_finalizers() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"}} | metadata.name
        DELETE /api/v1/namespaces/default/configmaps/a {"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Foreground"} | metadata.finalizers metadata.deletionTimestamp
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"b"}} | metadata.name
        DELETE /api/v1/namespaces/default/configmaps/b?propagationPolicy=Orphan | metadata.finalizers
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"c"}} | metadata.name
        DELETE /api/v1/namespaces/default/configmaps/c {"propagationPolicy":"Background"}
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"d"}} | metadata.name
        DELETE /api/v1/namespaces/default/configmaps/d {"propagationPolicy":"Sideways"} | code message
        DELETE /api/v1/namespaces/default/configmaps/d {"orphanDependents":true,"propagationPolicy":"Orphan"} | code message
        "#,
        expect![[r#"
            201 metadata.name="a"
            200 metadata.finalizers=["foregroundDeletion"] metadata.deletionTimestamp="2026-01-01T00:00:00Z"
            201 metadata.name="b"
            200 metadata.finalizers=["orphan"]
            201 metadata.name="c"
            200 {"apiVersion":"v1","details":{"kind":"configmaps","name":"c","uid":"<uid>"},"kind":"Status","metadata":{},"status":"Success"}
            201 metadata.name="d"
            422 code=422 message="DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
            422 code=422 message="DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn preconditions_are_checked() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"}} | metadata.name
        DELETE /api/v1/namespaces/default/configmaps/a {"preconditions":{"uid":"other"}} | code reason
        DELETE /api/v1/namespaces/default/configmaps/a {"preconditions":{"resourceVersion":"1"}} | code reason
        DELETE /api/v1/namespaces/default/configmaps/a {"preconditions":{"uid":"$uid","resourceVersion":"$rv"}} | status details.name details.kind
        DELETE /api/v1/namespaces/default/configmaps/a | code message
        "#,
        expect![[r#"
            201 metadata.name="a"
            409 code=409 reason="Conflict"
            409 code=409 reason="Conflict"
            200 status="Success" details.name="a" details.kind="configmaps"
            404 code=404 message="configmaps \"a\" not found"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn collections_are_deleted_by_selector() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a","labels":{"x":"1"}}} | metadata.name
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"b"}} | metadata.name
        DELETE /api/v1/namespaces/default/configmaps?labelSelector=x | kind items.0.metadata.name items.1
        GET /api/v1/namespaces/default/configmaps | items.0.metadata.name items.1
        DELETE /api/v1/configmaps | code
        "#,
        expect![[r#"
            201 metadata.name="a"
            201 metadata.name="b"
            200 kind="ConfigMapList" items.0.metadata.name="a" items.1=-
            200 items.0.metadata.name="b" items.1=-
            405 code=405
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn namespaces_terminate_in_steps() {
    check_script(
        r#"
        POST /api/v1/namespaces {"metadata":{"name":"n"},"spec":{"finalizers":["kubernetes"]}} | spec.finalizers
        DELETE /api/v1/namespaces/n | status.phase metadata.deletionTimestamp
        DELETE /api/v1/namespaces/n | status.phase
        POST /api/v1/namespaces/n/configmaps {"metadata":{"name":"late"}}
        PUT /api/v1/namespaces/n/finalize {"metadata":{"name":"n"},"spec":{}} | metadata.name spec.finalizers
        GET /api/v1/namespaces/n | code
        DELETE /api/v1/namespaces/default | code message
        "#,
        expect![[r#"
            201 spec.finalizers=["kubernetes"]
            200 status.phase="Terminating" metadata.deletionTimestamp="2026-01-01T00:00:00Z"
            200 status.phase="Terminating"
            403 {"apiVersion":"v1","code":403,"details":{"causes":[{"field":"metadata.namespace","message":"namespace n is being terminated","reason":"NamespaceTerminating"}],"kind":"configmaps","name":"late"},"kind":"Status","message":"configmaps \"late\" is forbidden: unable to create new content in namespace n because it is being terminated","metadata":{},"reason":"Forbidden","status":"Failure"}
            200 metadata.name="n" spec.finalizers=-
            404 code=404
            403 code=403 message="namespaces \"default\" is forbidden: this namespace may not be deleted"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_collection_goes_in_few_commits_and_each_object_by_its_own_rules() {
    let mut world = World::new().await;
    world.run(r#"POST /api/v1/namespaces/default/serviceaccounts {"metadata":{"name":"default"}}"#).await;
    for number in 0..300 {
        let body = format!(r#"{{"metadata":{{"name":"m{number}"}}}}"#);
        world.send("POST", "/api/v1/namespaces/default/configmaps", None, &body).await;
    }
    let before = world.server.registry.store.stats();
    let outcome = world
        .run(&format!(
            r#"
            PATCH /api/v1/namespaces/default/configmaps/m7 {{"metadata":{{"finalizers":["example.org/hold"]}}}} | metadata.name
            DELETE /api/v1/namespaces/default/configmaps | kind
            GET /api/v1/namespaces/default/configmaps | items.0.metadata.name items.0.metadata.deletionTimestamp items.1
            POST /api/v1/namespaces/default/pods {POD} | metadata.name
            POST /api/v1/namespaces/default/pods {{"metadata":{{"name":"unbound"}},"spec":{{"containers":[{{"name":"c","image":"i"}}]}}}} | metadata.name
            DELETE /api/v1/namespaces/default/pods | kind
            DELETE /api/v1/namespaces/default/pods | kind
            GET /api/v1/namespaces/default/pods | items.0.metadata.name items.0.metadata.deletionGracePeriodSeconds items.1
            DELETE /api/v1/namespaces/default/pods?dryRun=All&gracePeriodSeconds=0 | kind
            DELETE /api/v1/namespaces/default/pods?gracePeriodSeconds=0 | kind
            GET /api/v1/namespaces/default/pods | items
            "#
        ))
        .await;
    expect![[r#"
        200 metadata.name="m7"
        200 kind="ConfigMapList"
        200 items.0.metadata.name="m7" items.0.metadata.deletionTimestamp="2026-01-01T00:00:00Z" items.1=-
        201 metadata.name="p"
        201 metadata.name="unbound"
        200 kind="PodList"
        200 kind="PodList"
        200 items.0.metadata.name="p" items.0.metadata.deletionGracePeriodSeconds=20 items.1=-
        200 kind="PodList"
        200 kind="PodList"
        200 items=[]
    "#]]
    .assert_eq(&outcome);
    let after = world.server.registry.store.stats();
    assert_eq!(
        after.requests - before.requests,
        7,
        "two for the maps, and one for each other line that changes something"
    );
}
