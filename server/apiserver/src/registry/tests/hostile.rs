//! Requests made to get at what they should not, or to bring the server down.

use expect_test::expect;
use http_body_util::BodyExt as _;

use crate::http::Limits;
use crate::testing::{World, check_script};

#[tokio::test(start_paused = true)]
async fn a_namespace_in_the_path_opens_nothing_outside_it() {
    check_script(
        r#"
        GET /api/v1/namespaces/default/namespaces/kube-system | code metadata.name
        GET /api/v1/namespaces/default/namespaces | code kind
        DELETE /api/v1/namespaces/default/namespaces/kube-node-lease | code
        PUT /api/v1/namespaces/default/namespaces/kube-node-lease/finalize {} | code
        GET /api/v1/namespaces/default/nodes/n/proxy/pods | code
        POST /api/v1/namespaces/default/nodes/n/proxy/run/x/y/z | code
        GET /api/v1/pods/p/log | code
        GET /api/v1/namespaces/kube-node-lease | metadata.name
        "#,
        expect![[r#"
            404 code=404 metadata.name=-
            404 code=404 kind="Status"
            404 code=404
            404 code=404
            404 code=404
            404 code=404
            404 code=404
            200 metadata.name="kube-node-lease"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn numbers_beyond_all_time_are_no_harm() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/serviceaccounts {"metadata":{"name":"default"}} | metadata.name
        POST /api/v1/namespaces/default/pods {"metadata":{"name":"p","finalizers":["x.io/a"]},"spec":{"nodeName":"n","automountServiceAccountToken":false,"containers":[{"name":"c","image":"i"}]}} | metadata.name
        DELETE /api/v1/namespaces/default/pods/p?gracePeriodSeconds=9223372036854775807 | code metadata.deletionGracePeriodSeconds
        DELETE /api/v1/namespaces/default/pods/p?gracePeriodSeconds=9223372036854775806 | code metadata.deletionGracePeriodSeconds
        GET /api/v1/namespaces/default/pods?watch=1&timeoutSeconds=9223372036854775807 | code message
        POST /api/v1/namespaces/default/pods {"metadata":{"name":"q"},"spec":{"terminationGracePeriodSeconds":9223372036854775807,"nodeName":"n","automountServiceAccountToken":false,"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"1e999999999"},"limits":{"cpu":"99999999999999999999999999999999999999999999E"}}}]}} | code message
        DELETE /api/v1/namespaces/default/pods/q | code
        "#,
        expect![[r#"
            201 metadata.name="default"
            201 metadata.name="p"
            200 code=- metadata.deletionGracePeriodSeconds=9223372036854775807
            200 code=- metadata.deletionGracePeriodSeconds=9223372036854775806
            200 code=- message=-
            201 code=- message=-
            200 code=-
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_json_patch_cannot_make_an_object_that_nobody_can_read() {
    let mut operations = vec![r#"{"op":"add","path":"/data/d","value":{}}"#.to_owned()];
    for _ in 0..200 {
        operations.push(r#"{"op":"add","path":"/data/e","value":{}}"#.to_owned());
        operations.push(r#"{"op":"move","from":"/data/d","path":"/data/e/d"}"#.to_owned());
        operations.push(r#"{"op":"move","from":"/data/e","path":"/data/d"}"#.to_owned());
    }
    let path = "/apis/apps/v1/namespaces/default/controllerrevisions";
    check_script(
        &format!(
            r#"
            POST {path} {{"metadata":{{"name":"a"}},"revision":1,"data":{{"x":1}}}} | metadata.name
            PATCH {path}/a [content-type: application/json-patch+json] [{}] | code message
            PATCH {path}/a {{"metadata":{{"labels":{{"a":"b"}}}}}} | code message
            DELETE {path}/a | code status
            "#,
            operations.join(",")
        ),
        expect![[r#"
            201 metadata.name="a"
            422 code=422 message="the server rejected our request due to an error in our request"
            200 code=- message=-
            200 code=- status="Success"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_alias_in_yaml_cannot_stand_for_more_than_its_body_could_hold() {
    let many = "x,".repeat(10_000);
    let twice = "*a,".repeat(10_000);
    let body = format!(
        "{{kind: ControllerRevision, apiVersion: apps/v1, metadata: {{name: a}}, revision: 1, data: {{a: &a [{many}], b: [{twice}]}}}}"
    );
    let path = "/apis/apps/v1/namespaces/default/controllerrevisions";
    check_script(
        &format!(
            r#"
            POST {path} [content-type: application/yaml] {{kind: ConfigMap, apiVersion: v1, metadata: {{name: a}}}} | code message
            POST {path} [content-type: application/yaml] {body} | code message
            "#
        ),
        expect![[r#"
            400 code=400 message="ConfigMap in version \"v1\" cannot be handled as a ControllerRevision: converting (v1.ConfigMap) to (v1.ControllerRevision): unknown conversion"
            400 code=400 message="the object provided is unrecognized (must be of type ControllerRevision): couldn't get version/kind; json parse error: data.b[44][43]: document contains excessive aliasing at line 1 column 183 ({kind: ControllerRevision, api ...)"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_label_gives_no_more_than_its_author_has() {
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    check_script(
        &format!(
            r#"
            POST {roles} {{"metadata":{{"name":"all"}},"rules":[{{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}}]}} | metadata.name
            POST {roles} {{"metadata":{{"name":"gathers"}},"aggregationRule":{{"clusterRoleSelectors":[{{"matchLabels":{{"a":"b"}}}}]}}}} | metadata.name
            as editor devs
            PATCH {roles}/all {{"metadata":{{"labels":{{"rbac.authorization.k8s.io/aggregate-to-view":"true"}}}}}} | code reason
            PATCH {roles}/all {{"metadata":{{"annotations":{{"a":"b"}}}}}} | code metadata.annotations.a
            PATCH {roles}/gathers {{"aggregationRule":null}} | code reason
            "#
        ),
        expect![[r#"
            201 metadata.name="all"
            201 metadata.name="gathers"
            403 code=403 reason="Forbidden"
            200 code=- metadata.annotations.a="b"
            403 code=403 reason="Forbidden"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_may_update_does_not_create_by_it() {
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    check_script(
        &format!(
            r#"
            PUT {path}/mine {{"metadata":{{"name":"mine"}}}} | code metadata.name
            as updater devs
            PUT {path}/other {{"metadata":{{"name":"other"}}}} | code message
            PATCH {path}/mine {{"metadata":{{"labels":{{"a":"b"}}}}}} | metadata.labels
            "#
        ),
        expect![[r#"
            201 code=- metadata.name="mine"
            403 code=403 message="leases.coordination.k8s.io \"other\" is forbidden: User \"updater\" cannot create resource \"leases\" in API group \"coordination.k8s.io\" in the namespace \"default\""
            200 metadata.labels={"a":"b"}
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_are_limited_but_for_the_system() {
    let mut world = World::with(|_| {}, Limits { requests: 0, ..Limits::default() }).await;
    let outcome = world
        .run(
            r#"
            GET /api/v1/namespaces/default | metadata.name
            as jane devs
            GET /api/v1/namespaces/default | code message details.retryAfterSeconds
            watch w /api/v1/namespaces?watch=1&fieldSelector=metadata.name%3Ddefault
            "#,
        )
        .await;
    expect![[r#"
        200 metadata.name="default"
        429 code=429 message="Too many requests, please try again later." details.retryAfterSeconds=1
    "#]]
    .assert_eq(&outcome);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_makes_up_does_not_stay_in_the_metrics() {
    let mut world = World::new().await;
    world.run("GET /api/v1/namespaces/default/pods/p/made-up\nGET /api/v1/namespaces/default/pods/p/status").await;
    let metrics = world.send("GET", "/metrics", None, "").await.into_body().collect().await.expect("a body").to_bytes();
    let text = String::from_utf8(metrics.to_vec()).expect("metrics are text");
    let counted: Vec<&str> = text.lines().filter(|line| line.starts_with("apiserver_request_total")).collect();
    expect![[r#"
        apiserver_request_total{verb="GET",group="",version="",resource="",subresource="",code="404"} 1
        apiserver_request_total{verb="GET",group="",version="v1",resource="pods",subresource="status",code="404"} 1"#]]
    .assert_eq(&counted.join("\n"));
}
