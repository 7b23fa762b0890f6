use expect_test::expect;

use crate::testing::{World, check_script};

const THREE: &str = r#"
    POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a","labels":{"app":"x"}}} | metadata.resourceVersion
    POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"b","labels":{"app":"y"}}} | metadata.resourceVersion
    POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"c","labels":{"app":"x"}}} | metadata.resourceVersion
"#;

async fn check_after_three(script: &str, expected: expect_test::Expect) {
    let mut world = World::new().await;
    world.run(THREE).await;
    expected.assert_eq(&world.run(script).await);
}

#[tokio::test(start_paused = true)]
async fn pages_are_of_the_first_pages_revision() {
    check_after_three(
        r#"
        GET /api/v1/namespaces/default/configmaps?limit=2 | metadata items.0.metadata.name items.1.metadata.name
        DELETE /api/v1/namespaces/default/configmaps/c | status
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"d"}} | metadata.name
        GET /api/v1/namespaces/default/configmaps?limit=2&continue=$continue | metadata items.0.metadata.name items.1.metadata.name
        GET /api/v1/namespaces/default/configmaps?limit=1&labelSelector=app | metadata items.0.metadata.name
        GET /api/v1/namespaces/default/configmaps?continue=$continue&resourceVersion=7 | code message
        GET /api/v1/namespaces/default/configmaps?continue=nonsense | code message
        "#,
        expect![[r#"
            200 metadata={"continue":"<token>","remainingItemCount":1,"resourceVersion":"r3"} items.0.metadata.name="a" items.1.metadata.name="b"
            200 status="Success"
            201 metadata.name="d"
            200 metadata={"resourceVersion":"r3"} items.0.metadata.name="c" items.1.metadata.name=-
            200 metadata={"continue":"<token>","resourceVersion":"r5"} items.0.metadata.name="a"
            400 code=400 message="specifying resource version is not allowed when using continue"
            400 code=400 message="continue key is not valid"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_gone_comes_with_a_new_token() {
    check_after_three(
        r#"
        GET /api/v1/namespaces/default/configmaps?limit=2 | metadata
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"d"}} | metadata.name
        sleep 400
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"e"}} | metadata.name
        GET /api/v1/namespaces/default/configmaps?limit=2&continue=$continue
        GET /api/v1/namespaces/default/configmaps?limit=5&continue=$continue | metadata items.0.metadata.name items.1.metadata.name
        GET /api/v1/namespaces/default/configmaps?resourceVersion=$start&resourceVersionMatch=Exact | code reason message
        "#,
        expect![[r#"
            200 metadata={"continue":"<token>","remainingItemCount":1,"resourceVersion":"r3"}
            201 metadata.name="d"
            201 metadata.name="e"
            410 {"apiVersion":"v1","code":410,"kind":"Status","message":"The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.","metadata":{"continue":"<token>"},"reason":"Expired","status":"Failure"}
            200 metadata={"resourceVersion":"r5"} items.0.metadata.name="c" items.1.metadata.name="d"
            410 code=410 reason="Expired" message="The resourceVersion for the provided list is too old."
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn resource_versions_of_lists() {
    check_after_three(
        r#"
        GET /api/v1/namespaces/default/configmaps?resourceVersion=0&limit=1 | metadata items.2.metadata.name
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"d"}} | metadata.resourceVersion
        DELETE /api/v1/namespaces/default/configmaps/a | status
        GET /api/v1/namespaces/default/configmaps?resourceVersion=$rv&resourceVersionMatch=Exact | metadata items.0.metadata.name items.3.metadata.name
        GET /api/v1/namespaces/default/configmaps?resourceVersion=$rv&resourceVersionMatch=NotOlderThan | metadata items.0.metadata.name items.3.metadata.name
        GET /api/v1/namespaces/default/configmaps?resourceVersion=$future | code reason details.causes
        GET /api/v1/namespaces/default/configmaps/b?resourceVersion=$future | code reason
        GET /api/v1/namespaces/default/configmaps?resourceVersionMatch=Exact | code message
        GET /api/v1/namespaces/default/configmaps?resourceVersion=x | code message
        GET /api/v1/namespaces/default/configmaps?sendInitialEvents=true | code message
        "#,
        expect![[r#"
            200 metadata={"resourceVersion":"r3"} items.2.metadata.name="c"
            201 metadata.resourceVersion="r4"
            200 status="Success"
            200 metadata={"resourceVersion":"r4"} items.0.metadata.name="a" items.3.metadata.name="d"
            200 metadata={"resourceVersion":"r5"} items.0.metadata.name="b" items.3.metadata.name=-
            504 code=504 reason="Timeout" details.causes=[{"message":"Too large resource version","reason":"ResourceVersionTooLarge"}]
            504 code=504 reason="Timeout"
            422 code=422 message="ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
            422 code=422 message="ListOptions.meta.k8s.io \"\" is invalid: resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax"
            422 code=422 message="ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn selectors_choose_and_are_checked() {
    check_after_three(
        r#"
        GET /api/v1/namespaces/default/configmaps?labelSelector=app%3Dx | items.0.metadata.name items.1.metadata.name items.2
        GET /api/v1/configmaps?fieldSelector=metadata.name%3Db | items.0.metadata.name items.1
        GET /api/v1/configmaps?fieldSelector=metadata.namespace!%3Ddefault | items
        GET /api/v1/namespaces/default/configmaps?fieldSelector=data.x=1 | code message
        GET /api/v1/namespaces/default/pods?fieldSelector=spec.foo=1 | code message
        GET /api/v1/namespaces/default/configmaps?labelSelector=a%20in%20x | code message
        GET /api/v1/namespaces/default/configmaps?limit=x | code message
        "#,
        expect![[r#"
            200 items.0.metadata.name="a" items.1.metadata.name="c" items.2=-
            200 items.0.metadata.name="b" items.1=-
            200 items=[]
            400 code=400 message="\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            400 code=400 message="field label not supported: spec.foo"
            400 code=400 message="unable to parse requirement: found 'x' expected: '('"
            400 code=400 message="strconv.ParseInt: parsing \"x\": invalid syntax (limit)"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn lists_are_encoded_as_upstream_does() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"},"data":{"k":"v"}} | metadata.name
        GET /api/v1/namespaces/default/configmaps
        GET /api/v1/namespaces/default/configmaps [Accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1]
        GET /api/v1/namespaces/default/configmaps [Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json]
        GET /api/v1/namespaces/default/configmaps/a [Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json]
        GET /api/v1/namespaces/default/configmaps/a?includeObject=None [Accept: application/json;as=Table;v=v1;g=meta.k8s.io]
        GET /api/v1/namespaces/default/configmaps/a [Accept: application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1]
        GET /api/v1/namespaces/default/configmaps [Accept: application/yaml;q=0.9,application/json;q=0.5,application/vnd.kubernetes.protobuf]
        "#,
        expect![[r#"
            201 metadata.name="a"
            200 {"apiVersion":"v1","items":[{"data":{"k":"v"},"metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r1","uid":"<uid>"}}],"kind":"ConfigMapList","metadata":{"resourceVersion":"r1"}}
            200 {"apiVersion":"meta.k8s.io/v1","items":[{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r1","uid":"<uid>"}}],"kind":"PartialObjectMetadataList","metadata":{"resourceVersion":"r1"}}
            200 {"apiVersion":"meta.k8s.io/v1","columnDefinitions":[{"description":"d","format":"name","name":"Name","priority":0,"type":"string"}],"kind":"Table","metadata":{"resourceVersion":"r1"},"rows":[{"cells":["a"],"object":{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r1","uid":"<uid>"}}}]}
            200 {"apiVersion":"meta.k8s.io/v1","columnDefinitions":[{"description":"d","format":"name","name":"Name","priority":0,"type":"string"}],"kind":"Table","metadata":{"resourceVersion":"r1"},"rows":[{"cells":["a"],"object":{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r1","uid":"<uid>"}}}]}
            200 {"apiVersion":"meta.k8s.io/v1","columnDefinitions":[{"description":"d","format":"name","name":"Name","priority":0,"type":"string"}],"kind":"Table","metadata":{"resourceVersion":"r1"},"rows":[{"cells":["a"]}]}
            200 {"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r1","uid":"<uid>"}}
            200 apiVersion: v1
            items:
            - data:
                k: v
              metadata:
                creationTimestamp: 2026-01-01T00:00:00Z
                name: a
                namespace: default
                resourceVersion: '13'
                uid: 4335531e-5ff6-406a-b0ab-56b6843ecf22
            kind: ConfigMapList
            metadata:
              resourceVersion: '13'
        "#]],
    )
    .await;
}
