use coracle_store::Mode;
use expect_test::expect;
use futures::future::join_all;

use crate::http::Limits;
use crate::testing::{World, check_script};

#[tokio::test(start_paused = true)]
async fn create_sets_system_fields_and_get_shows_them() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a","resourceVersion":"","uid":"x","selfLink":"y"},"data":{"k":"v"}}
        GET /api/v1/namespaces/default/configmaps/a
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"}}
        POST /api/v1/namespaces/nowhere/configmaps {"metadata":{"name":"a"}}
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a","namespace":"other"}}
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"A_b"}}
        POST /api/v1/namespaces/default/configmaps {"metadata":{}}
        POST /api/v1/namespaces/default/configmaps {"kind":"Secret","apiVersion":"v1","metadata":{"name":"b"}}
        GET /api/v1/namespaces/default/configmaps/none
        "#,
        expect![[r#"
            201 {"apiVersion":"v1","data":{"k":"v"},"kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r1","uid":"<uid>"}}
            200 {"apiVersion":"v1","data":{"k":"v"},"kind":"ConfigMap","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r1","uid":"<uid>"}}
            409 {"apiVersion":"v1","code":409,"details":{"kind":"configmaps","name":"a"},"kind":"Status","message":"configmaps \"a\" already exists","metadata":{},"reason":"AlreadyExists","status":"Failure"}
            404 {"apiVersion":"v1","code":404,"details":{"kind":"namespaces","name":"nowhere"},"kind":"Status","message":"namespaces \"nowhere\" not found","metadata":{},"reason":"NotFound","status":"Failure"}
            400 {"apiVersion":"v1","code":400,"kind":"Status","message":"the namespace of the provided object does not match the namespace sent on the request","metadata":{},"reason":"BadRequest","status":"Failure"}
            422 {"apiVersion":"v1","code":422,"details":{"causes":[{"field":"metadata.name","message":"Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')","reason":"FieldValueInvalid"}],"kind":"ConfigMap","name":"A_b"},"kind":"Status","message":"ConfigMap \"A_b\" is invalid: metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')","metadata":{},"reason":"Invalid","status":"Failure"}
            422 {"apiVersion":"v1","code":422,"details":{"causes":[{"field":"metadata.name","message":"Required value: name or generateName is required","reason":"FieldValueRequired"}],"kind":"ConfigMap"},"kind":"Status","message":"ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required","metadata":{},"reason":"Invalid","status":"Failure"}
            400 {"apiVersion":"v1","code":400,"kind":"Status","message":"Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (v1.ConfigMap): unknown conversion","metadata":{},"reason":"BadRequest","status":"Failure"}
            404 {"apiVersion":"v1","code":404,"details":{"kind":"configmaps","name":"none"},"kind":"Status","message":"configmaps \"none\" not found","metadata":{},"reason":"NotFound","status":"Failure"}
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn names_are_generated() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"generateName":"pre-"}} | metadata.name metadata.generateName
        POST /api/v1/namespaces/default/configmaps {"metadata":{"generateName":"0123456789012345678901234567890123456789012345678901234567890123456789"}} | metadata.name
        "#,
        expect![[r#"
            201 metadata.name="pre-khvmq" metadata.generateName="pre-"
            201 metadata.name="0123456789012345678901234567890123456789012345678901234567whqg4"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn field_validation_is_strict_warns_or_ignores() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps?fieldValidation=Strict {"metadata":{"name":"a"},"dat":{},"data":{"x":"1","x":"2"}} | code message
        POST /api/v1/namespaces/default/configmaps?fieldValidation=Warn {"metadata":{"name":"a"},"dat":{},"data":{"x":"1","x":"2"}} | data dat
        POST /api/v1/namespaces/default/configmaps?fieldValidation=Ignore {"metadata":{"name":"b"},"dat":{}} | metadata.name dat
        POST /api/v1/namespaces/default/configmaps?fieldValidation=Maybe {"metadata":{"name":"c"}} | code message
        PATCH /api/v1/namespaces/default/configmaps/a?fieldValidation=Strict {"dat":{}} | code reason details.causes.0.field
        PATCH /api/v1/namespaces/default/configmaps/a {"dat":{}} | dat
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":1}} | code message
        POST /api/v1/namespaces/default/configmaps {"metadata": | code message
        POST /api/v1/namespaces/default/configmaps [Content-Type: application/vnd.kubernetes.protobuf] x | code message
        POST /api/v1/namespaces/default/configmaps?fieldValidation=Strict [Content-Type: application/yaml] {metadata: {name: y}, data: {a: b}} | data
        "#,
        expect![[r#"
            400 code=400 message="ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dat\", duplicate field \"data.x\""
            201 data={"x":"2"} dat=-
              299 - "unknown field \"dat\""
              299 - "duplicate field \"data.x\""
            201 metadata.name="b" dat=-
            422 code=422 message="CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Maybe\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
            422 code=422 reason="Invalid" details.causes.0.field="patch"
            200 dat=-
              299 - "unknown field \"dat\""
            400 code=400 message="ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string"
            400 code=400 message="the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: EOF while parsing a value at line 1 column 12 ({\"metadata\":)"
            400 code=400 message="the body is not Kubernetes' protobuf: it does not begin with \"k8s\\x00\""
            201 data={"a":"b"}
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn updates_lock_optimistically_and_leave_what_does_not_change() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"},"data":{"k":"v"}} | metadata.resourceVersion
        PUT /api/v1/namespaces/default/configmaps/a {"metadata":{"name":"a","resourceVersion":"$rv"},"data":{"k":"v"}} | metadata.resourceVersion
        PUT /api/v1/namespaces/default/configmaps/a {"metadata":{"name":"a"},"data":{"k":"w"}} | metadata.resourceVersion data
        PUT /api/v1/namespaces/default/configmaps/a {"metadata":{"name":"a","resourceVersion":"$start"},"data":{"k":"x"}} | code reason message
        PUT /api/v1/namespaces/default/configmaps/a {"metadata":{"name":"a","uid":"other"},"data":{"k":"x"}} | code reason
        PUT /api/v1/namespaces/default/configmaps/a {"metadata":{"name":"b"}} | code message
        PUT /api/v1/namespaces/default/configmaps/none {"metadata":{"name":"none"}} | code message
        PATCH /api/v1/namespaces/default/configmaps/a {"data":{"k":"w"}} | metadata.resourceVersion
        PATCH /api/v1/namespaces/default/configmaps/a {"metadata":{"resourceVersion":"$start"}} | code reason
        PATCH /api/v1/namespaces/default/configmaps/a {"metadata":{"name":"z"}} | code message
        PATCH /api/v1/namespaces/default/configmaps/a [Content-Type: application/json-patch+json] [{"op":"replace","path":"/data/k","value":"z"}] | data
        PATCH /api/v1/namespaces/default/configmaps/a [Content-Type: application/json-patch+json] [{"op":"test","path":"/data/k","value":"no"}] | code reason
        PATCH /api/v1/namespaces/default/configmaps/a [Content-Type: application/strategic-merge-patch+json] {"metadata":{"labels":{"l":"1"}}} | metadata.labels data
        PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=kubectl&force=false [Content-Type: application/apply-patch+yaml] {"metadata":{"labels":{"l":"1"}}} | code reason message
        PUT /apis/coordination.k8s.io/v1/namespaces/default/leases/made {"metadata":{"name":"made"}} | code metadata.name
        PUT /apis/coordination.k8s.io/v1/namespaces/default/leases/made {"metadata":{"name":"made"}} | code message
        "#,
        expect![[r#"
            201 metadata.resourceVersion="r1"
            200 metadata.resourceVersion="r1"
            200 metadata.resourceVersion="r2" data={"k":"w"}
            409 code=409 reason="Conflict" message="Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
            409 code=409 reason="Conflict"
            400 code=400 message="the name of the object (b) does not match the name on the URL (a)"
            404 code=404 message="configmaps \"none\" not found"
            200 metadata.resourceVersion="r2"
            409 code=409 reason="Conflict"
            422 code=422 message="ConfigMap \"a\" is invalid: metadata.name: Invalid value: \"z\": field is immutable"
            200 data={"k":"z"}
            422 code=422 reason="Invalid"
            200 metadata.labels={"l":"1"} data={"k":"z"}
            415 code=415 reason="UnsupportedMediaType" message="server-side apply is not served by this server; apply on the client's side (kubectl apply without --server-side), or send one of: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
            201 code=- metadata.name="made"
            422 code=422 message="leases.coordination.k8s.io \"made\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_stores_nothing() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps?dryRun=All {"metadata":{"name":"a"}} | metadata.name metadata.resourceVersion
        GET /api/v1/namespaces/default/configmaps/a | code
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"a"}} | metadata.resourceVersion
        POST /api/v1/namespaces/default/configmaps?dryRun=All {"metadata":{"name":"a"}} | code reason
        PATCH /api/v1/namespaces/default/configmaps/a?dryRun=All {"data":{"k":"v"}} | data metadata.resourceVersion
        DELETE /api/v1/namespaces/default/configmaps/a?dryRun=All | status
        GET /api/v1/namespaces/default/configmaps/a | data metadata.resourceVersion
        POST /api/v1/namespaces/default/configmaps?dryRun=Some {"metadata":{"name":"b"}} | code message
        "#,
        expect![[r#"
            201 metadata.name="a" metadata.resourceVersion=-
            404 code=404
            201 metadata.resourceVersion="r1"
            409 code=409 reason="AlreadyExists"
            200 data={"k":"v"} metadata.resourceVersion="r1"
            200 status="Success"
            200 data=- metadata.resourceVersion="r1"
            422 code=422 message="CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\""
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn status_and_spec_are_written_apart_and_generation_counts_the_spec() {
    check_script(
        r#"
        POST /apis/apps/v1/namespaces/default/deployments {"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}},"status":{"replicas":7}} | metadata.generation status.replicas
        PATCH /apis/apps/v1/namespaces/default/deployments/d/status {"spec":{"replicas":5},"status":{"replicas":3}} | metadata.generation spec.replicas status.replicas
        PATCH /apis/apps/v1/namespaces/default/deployments/d {"spec":{"replicas":5},"status":{"replicas":9}} | metadata.generation spec.replicas status.replicas
        PATCH /apis/apps/v1/namespaces/default/deployments/d {"metadata":{"labels":{"x":"y"}}} | metadata.generation
        PATCH /apis/apps/v1/namespaces/default/deployments/d {"metadata":{"annotations":{"x":"y"}}} | metadata.generation
        PATCH /apis/apps/v1/namespaces/default/deployments/d {"metadata":{"generation":70}} | metadata.generation
        "#,
        expect![[r#"
            201 metadata.generation=1 status.replicas=-
            200 metadata.generation=1 spec.replicas=1 status.replicas=3
            200 metadata.generation=2 spec.replicas=5 status.replicas=3
            200 metadata.generation=2
            200 metadata.generation=3
            200 metadata.generation=3
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn versions_of_a_resource_share_their_objects() {
    check_script(
        r#"
        POST /apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers {"metadata":{"name":"h"},"spec":{"maxReplicas":3,"minReplicas":1,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"},"targetCPUUtilizationPercentage":80}} | apiVersion spec
        GET /apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h | apiVersion spec.metrics
        PATCH /apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h {"spec":{"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":50}}},{"type":"Resource","resource":{"name":"memory","target":{"type":"AverageValue","averageValue":"1Mi"}}}]}} | apiVersion
        GET /apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/h | spec.targetCPUUtilizationPercentage metadata.annotations
        POST /apis/events.k8s.io/v1/namespaces/default/events {"metadata":{"name":"e"},"eventTime":"2026-01-01T00:00:00.000000Z","note":"hello","reason":"R","action":"A","type":"Normal","reportingController":"c","reportingInstance":"i","regarding":{"kind":"Pod","name":"p","namespace":"default"}} | apiVersion note
        GET /api/v1/namespaces/default/events/e | apiVersion message reportingComponent involvedObject
        GET /api/v1/namespaces/default/events?fieldSelector=involvedObject.name=p | items.0.metadata.name
        GET /apis/events.k8s.io/v1/namespaces/default/events?fieldSelector=regarding.name=p | kind apiVersion items.0.note
        GET /apis/events.k8s.io/v1/namespaces/default/events?fieldSelector=regarding.name=q | items
        "#,
        expect![[r#"
            201 apiVersion="autoscaling/v1" spec={"maxReplicas":3,"minReplicas":1,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"},"targetCPUUtilizationPercentage":80}
              299 - "autoscaling/v1 HorizontalPodAutoscaler is stored but not acted upon in this release: no controller scales its target"
            200 apiVersion="autoscaling/v2" spec.metrics=[{"resource":{"name":"cpu","target":{"averageUtilization":80,"type":"Utilization"}},"type":"Resource"}]
            200 apiVersion="autoscaling/v2"
              299 - "autoscaling/v2 HorizontalPodAutoscaler is stored but not acted upon in this release: no controller scales its target"
            200 spec.targetCPUUtilizationPercentage=50 metadata.annotations={"autoscaling.alpha.kubernetes.io/metrics":"[{\"resource\":{\"name\":\"memory\",\"target\":{\"averageValue\":\"1Mi\",\"type\":\"AverageValue\"}},\"type\":\"Resource\"}]"}
            201 apiVersion="events.k8s.io/v1" note="hello"
            200 apiVersion="v1" message="hello" reportingComponent="c" involvedObject={"kind":"Pod","name":"p","namespace":"default"}
            200 items.0.metadata.name="e"
            200 kind="EventList" apiVersion="events.k8s.io/v1" items.0.note="hello"
            200 items=[]
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn events_go_an_hour_after_their_last_change() {
    let mut world = World::new().await;
    let event = |name: &str| {
        format!(
            r#"POST /api/v1/namespaces/default/events {{"metadata":{{"name":"{name}"}},"involvedObject":{{"namespace":"default"}}}} | code"#
        )
    };
    let script = format!(
        r#"
        {}
        {}
        sleep 3000
        PATCH /api/v1/namespaces/default/events/b {{"count":2}} | count
        watch w /api/v1/events?watch=1&resourceVersion=$rv
        sleep 1000
        next w
        GET /api/v1/namespaces/default/events/b | count
        sleep 3000
        GET /api/v1/namespaces/default/events/b | code
        "#,
        event("a"),
        event("b")
    );
    let scope = coracle_client::TaskScope::root();
    let registry = world.server.registry.clone();
    scope.spawn("expiry", coracle_client::OnExit::Finish, move |cancel| registry.clone().expire_events(cancel));
    let outcome = world.run(&script).await;
    scope.shutdown().await;
    expect![[r#"
        201 code=-
        201 code=-
        200 count=2
        w: DELETED {"apiVersion":"v1","involvedObject":{"namespace":"default"},"kind":"Event","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"a","namespace":"default","resourceVersion":"r4","uid":"<uid>"}}
        200 count=2
        404 code=404
    "#]].assert_eq(&outcome);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_said_and_costs_nothing() {
    let mut world = World::with(|config| config.max_bytes = Some(1 << 20), Limits::default()).await;
    let post = format!(
        r#"POST /api/v1/namespaces/default/configmaps {{"metadata":{{"generateName":"a-"}},"data":{{"k":"{}"}}}} | code message"#,
        "x".repeat(100_000)
    );
    let mut refused = String::new();
    for _ in 0..20 {
        let outcome = world.run(&post).await;
        if !outcome.starts_with("201") {
            refused = outcome;
            break;
        }
    }
    let rest = world.run("GET /api/v1/namespaces/default/configmaps?limit=1 | kind").await;
    expect![[r#"
        507 code=507 message="no space is left on the disk of the state store: free some, nothing was lost"
        200 kind="ConfigMapList"
    "#]]
    .assert_eq(&format!("{refused}{rest}"));
}

/// Each of many writers at once changes its own part: none is refused, nothing is lost.
#[tokio::test]
async fn patches_that_name_no_revision_never_conflict() {
    const WRITERS: usize = 24;
    let mut world = World::with(|config| config.mode = Mode::Threaded, Limits::default()).await;
    let path = "/api/v1/namespaces/default/configmaps";
    world.run(&format!(r#"POST {path} {{"metadata":{{"name":"a"}}}} | code"#)).await;
    let path = format!("{path}/a");
    let bodies: Vec<String> = (0..WRITERS).map(|n| format!(r#"{{"data":{{"k{n}":"v"}}}}"#)).collect();
    let answers = join_all(bodies.iter().map(|body| world.send("PATCH", &path, None, body))).await;
    let good = answers.iter().filter(|answer| answer.status() == 200).count();
    let last = world.run(&format!("GET {path} | data metadata.resourceVersion")).await;
    expect!["24 24 true"].assert_eq(&format!(
        "{good} {} {}",
        last.matches("\":\"v\"").count(),
        last.contains(&format!("r{}", WRITERS + 1))
    ));
}

#[tokio::test]
async fn services_made_at_once_share_no_address() {
    let world = World::with(|config| config.mode = Mode::Threaded, Limits::default()).await;
    let path = "/api/v1/namespaces/default/services";
    let bodies: Vec<String> = (0..24)
        .map(|n| format!(r#"{{"metadata":{{"name":"s{n}"}},"spec":{{"type":"NodePort","clusterIP":"127.43.9.{}","ports":[{{"port":80}}]}}}}"#, n % 4 + 1))
        .collect();
    let answers = join_all(bodies.iter().map(|body| world.send("POST", path, None, body))).await;
    let (good, bad) = (201, 422);
    let count = |code| answers.iter().filter(|answer| answer.status() == code).count();
    expect!["4 made, 20 refused"].assert_eq(&format!("{} made, {} refused", count(good), count(bad)));
}

#[tokio::test(start_paused = true)]
async fn generations_count_what_was_asked_for_and_nothing_else() {
    check_script(
        r#"
        POST /apis/apps/v1/namespaces/default/deployments {"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}} | metadata.generation
        PATCH /apis/apps/v1/namespaces/default/deployments/d/status {"metadata":{"annotations":{"deployment.kubernetes.io/revision":"1"}},"status":{"replicas":1}} | metadata.generation metadata.annotations status.replicas
        PATCH /apis/apps/v1/namespaces/default/deployments/d {"metadata":{"labels":{"x":"y"}}} | metadata.generation
        PATCH /apis/apps/v1/namespaces/default/deployments/d {"metadata":{"annotations":{"x":"y"}}} | metadata.generation
        PATCH /apis/apps/v1/namespaces/default/deployments/d/scale {"spec":{"replicas":3}} | spec
        GET /apis/apps/v1/namespaces/default/deployments/d | metadata.generation
        POST /api/v1/namespaces/default/serviceaccounts {"metadata":{"name":"default"}} | metadata.generation
        POST /api/v1/namespaces/default/pods {"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}} | metadata.generation
        POST /api/v1/namespaces/default/pods/p/binding {"target":{"kind":"Node","name":"n"}} | status
        GET /api/v1/namespaces/default/pods/p | metadata.generation spec.nodeName
        PATCH /api/v1/namespaces/default/pods/p {"metadata":{"annotations":{"x":"y"}}} | metadata.generation
        PATCH /api/v1/namespaces/default/pods/p {"spec":{"activeDeadlineSeconds":7}} | metadata.generation
        POST /api/v1/namespaces/default/services {"metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}} | metadata.generation
        POST /apis/apiregistration.k8s.io/v1/apiservices {"metadata":{"name":"v1.a.b"},"spec":{"group":"a.b","version":"v1","groupPriorityMinimum":1,"versionPriority":1}} | metadata.generation
        POST /apis/storage.k8s.io/v1/csidrivers {"metadata":{"name":"a.b"},"spec":{}} | metadata.generation
        "#,
        expect![[r#"
            201 metadata.generation=1
            200 metadata.generation=1 metadata.annotations={"deployment.kubernetes.io/revision":"1"} status.replicas=1
            200 metadata.generation=1
            200 metadata.generation=2
            200 spec={"replicas":3}
            200 metadata.generation=3
            201 metadata.generation=-
            201 metadata.generation=1
            201 status="Success"
            200 metadata.generation=1 spec.nodeName="n"
            200 metadata.generation=1
            200 metadata.generation=2
            201 metadata.generation=-
            201 metadata.generation=-
              299 - "apiregistration.k8s.io/v1 APIService is stored but not acted upon in this release: requests are not passed on to other servers"
            201 metadata.generation=1
              299 - "storage.k8s.io/v1 CSIDriver is stored but not acted upon in this release: no controller provisions or attaches volumes"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_writes_what_nothing_acts_upon_is_told() {
    check_script(
        r#"
        POST /apis/networking.k8s.io/v1/namespaces/default/networkpolicies {"metadata":{"name":"n"},"spec":{"podSelector":{}}} | metadata.name
        PATCH /apis/networking.k8s.io/v1/namespaces/default/networkpolicies/n {"metadata":{"labels":{"a":"b"}}} | metadata.name
        GET /apis/networking.k8s.io/v1/namespaces/default/networkpolicies/n | metadata.name
        DELETE /apis/networking.k8s.io/v1/namespaces/default/networkpolicies/n | status
        PATCH /apis/apps/v1/namespaces/default/statefulsets/none/status {} | code
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"c"}} | metadata.name
        "#,
        expect![[r#"
            201 metadata.name="n"
              299 - "networking.k8s.io/v1 NetworkPolicy is stored but not acted upon in this release: traffic is not restricted"
            200 metadata.name="n"
              299 - "networking.k8s.io/v1 NetworkPolicy is stored but not acted upon in this release: traffic is not restricted"
            200 metadata.name="n"
            200 status="Success"
            404 code=404
            201 metadata.name="c"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_is_none_is_no_conflict() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/configmaps {"metadata":{"name":"c"}} | metadata.name
        PUT /api/v1/namespaces/default/configmaps/c {"metadata":{"name":"c","resourceVersion":"newest"}} | code reason message
        PATCH /api/v1/namespaces/default/configmaps/c {"metadata":{"resourceVersion":"-1"}} | code reason message
        PUT /api/v1/namespaces/default/configmaps/c {"metadata":{"name":"c","resourceVersion":"1"}} | code reason
        "#,
        expect![[r#"
            201 metadata.name="c"
            500 code=500 reason=- message="strconv.ParseUint: parsing \"newest\": invalid syntax"
            500 code=500 reason=- message="strconv.ParseUint: parsing \"-1\": invalid syntax"
            409 code=409 reason="Conflict"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_scheduler_does_not_look_at_is_told() {
    check_script(
        r#"
        POST /api/v1/namespaces/default/serviceaccounts {"metadata":{"name":"default"}} | metadata.name
        POST /api/v1/namespaces/default/pods {"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}],"affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchLabels":{"a":"b"}}}]}}}} | metadata.name
        POST /apis/apps/v1/namespaces/default/deployments {"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}],"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule"}]}}}} | metadata.name
        POST /api/v1/namespaces/default/pods {"metadata":{"name":"q"},"spec":{"containers":[{"name":"c","image":"i"}],"affinity":{"nodeAffinity":{}}}} | metadata.name
        "#,
        expect![[r#"
            201 metadata.name="default"
            201 metadata.name="p"
              299 - "spec.affinity.podAntiAffinity is stored but not acted upon in this release: pods are placed without regard to where others are"
            201 metadata.name="d"
              299 - "spec.template.spec.topologySpreadConstraints is stored but not acted upon in this release: pods are placed without regard to where others are"
            201 metadata.name="q"
        "#]],
    )
    .await;
}
