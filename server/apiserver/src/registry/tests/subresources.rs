use expect_test::expect;

use crate::testing::check_script;

const ACCOUNT: &str = r#"POST /api/v1/namespaces/default/serviceaccounts {"metadata":{"name":"default"},"imagePullSecrets":[{"name":"s"}]} | metadata.name"#;
const POD: &str = r#"POST /api/v1/namespaces/default/pods {"metadata":{"name":"p","labels":{"app":"x"}},"spec":{"containers":[{"name":"c","image":"i"}]}} | metadata.name"#;

#[tokio::test(start_paused = true)]
async fn scale_reads_and_writes_replicas() {
    check_script(
        r#"
        POST /apis/apps/v1/namespaces/default/deployments {"metadata":{"name":"d"},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}} | metadata.generation
        GET /apis/apps/v1/namespaces/default/deployments/d/scale
        PATCH /apis/apps/v1/namespaces/default/deployments/d/scale {"spec":{"replicas":4}} | kind spec.replicas
        PUT /apis/apps/v1/namespaces/default/deployments/d/scale {"metadata":{"name":"d","resourceVersion":"1"},"spec":{"replicas":5}} | code reason
        PUT /apis/apps/v1/namespaces/default/deployments/d/scale {"metadata":{"name":"d"},"spec":{"replicas":-1}} | code message
        GET /apis/apps/v1/namespaces/default/deployments/d | spec.replicas metadata.generation
        "#,
        expect![[r#"
            201 metadata.generation=1
            200 {"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"d","namespace":"default","resourceVersion":"r1","uid":"<uid>"},"spec":{"replicas":2},"status":{"replicas":0,"selector":"a=b"}}
            200 kind="Scale" spec.replicas=4
            409 code=409 reason="Conflict"
            422 code=422 message="Scale.autoscaling \"d\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
            200 spec.replicas=4 metadata.generation=2
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_once() {
    check_script(
        &format!(
            r#"
            {ACCOUNT}
            {POD}
            POST /api/v1/namespaces/default/pods/p/binding {{"metadata":{{"name":"p","annotations":{{"a":"b"}}}},"target":{{"kind":"Node","name":"n1"}}}}
            GET /api/v1/namespaces/default/pods/p | spec.nodeName metadata.annotations status.conditions
            POST /api/v1/namespaces/default/pods/p/binding {{"metadata":{{"name":"p"}},"target":{{"kind":"Node","name":"n2"}}}} | code message
            POST /api/v1/namespaces/default/bindings {{"metadata":{{"name":"p"}},"target":{{"name":"n2"}}}} | code reason
            POST /api/v1/namespaces/default/pods/p/binding {{"metadata":{{"name":"p"}},"target":{{"kind":"Moon"}}}} | code message
            GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn1 | items.0.metadata.name
            GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn2 | items
            "#
        ),
        expect![[r#"
            201 metadata.name="default"
            201 metadata.name="p"
            201 {"apiVersion":"v1","code":201,"kind":"Status","metadata":{},"status":"Success"}
            200 spec.nodeName="n1" metadata.annotations={"a":"b"} status.conditions=[{"lastTransitionTime":"2026-01-01T00:00:00Z","status":"True","type":"PodScheduled"}]
            409 code=409 message="Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
            409 code=409 reason="Conflict"
            422 code=422 message="Binding \"p\" is invalid: [target.kind: Unsupported value: \"Moon\": supported values: \"Node\", \"<empty>\", target.name: Required value]"
            200 items.0.metadata.name="p"
            200 items=[]
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn eviction_respects_the_budget() {
    check_script(
        &format!(
            r#"
            {ACCOUNT}
            {POD}
            PATCH /api/v1/namespaces/default/pods/p/status {{"status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"True"}}]}}}} | status.phase
            POST /apis/policy/v1/namespaces/default/poddisruptionbudgets {{"metadata":{{"name":"b"}},"spec":{{"minAvailable":1,"selector":{{"matchLabels":{{"app":"x"}}}}}}}} | metadata.generation
            POST /api/v1/namespaces/default/pods/p/eviction {{"metadata":{{"name":"p"}}}} | code reason message details.causes
            PATCH /apis/policy/v1/namespaces/default/poddisruptionbudgets/b/status {{"status":{{"observedGeneration":1,"currentHealthy":1,"desiredHealthy":1,"disruptionsAllowed":0,"expectedPods":1}}}} | status.disruptionsAllowed
            POST /api/v1/namespaces/default/pods/p/eviction {{"apiVersion":"policy/v1beta1","kind":"Eviction","metadata":{{"name":"p"}}}} | code details.causes
            POST /api/v1/namespaces/default/pods/p/eviction {{"apiVersion":"policy/v2","kind":"Eviction","metadata":{{"name":"p"}}}} | code message
            PATCH /apis/policy/v1/namespaces/default/poddisruptionbudgets/b/status {{"status":{{"disruptionsAllowed":1}}}} | status.disruptionsAllowed
            POST /api/v1/namespaces/default/pods/p/eviction {{"metadata":{{"name":"p"}}}}
            GET /apis/policy/v1/namespaces/default/poddisruptionbudgets/b | status.disruptionsAllowed status.disruptedPods
            GET /api/v1/namespaces/default/pods/p | code
            "#
        ),
        expect![[r#"
            201 metadata.name="default"
            201 metadata.name="p"
            200 status.phase="Running"
            201 metadata.generation=1
            429 code=429 reason="TooManyRequests" message="Cannot evict pod as it would violate the pod's disruption budget." details.causes=[{"message":"The disruption budget b is still being processed by the server.","reason":"DisruptionBudget"}]
            200 status.disruptionsAllowed=0
            429 code=429 details.causes=[{"message":"The disruption budget b needs 1 healthy pods and has 1 currently","reason":"DisruptionBudget"}]
            400 code=400 message="the API version in the data (policy/v2) does not match the expected API version (policy/v1)"
            200 status.disruptionsAllowed=1
            201 {"apiVersion":"v1","code":201,"kind":"Status","metadata":{},"status":"Success"}
            200 status.disruptionsAllowed=0 status.disruptedPods={"p":"2026-01-01T00:00:00Z"}
            404 code=404
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn tokens_are_signed_for_accounts_and_bound_objects() {
    check_script(
        &format!(
            r#"
            {ACCOUNT}
            {POD}
            POST /api/v1/namespaces/default/serviceaccounts/default/token {{"spec":{{"audiences":["api"],"expirationSeconds":3600}}}}
            POST /api/v1/namespaces/default/serviceaccounts/default/token {{"spec":{{"audiences":[],"boundObjectRef":{{"apiVersion":"v1","kind":"Pod","name":"p"}}}}}} | status.token
            POST /api/v1/namespaces/default/serviceaccounts/default/token {{"spec":{{"audiences":[],"boundObjectRef":{{"apiVersion":"v1","kind":"Pod","name":"p","uid":"other"}}}}}} | code reason
            POST /api/v1/namespaces/default/serviceaccounts/default/token {{"spec":{{"audiences":[],"expirationSeconds":5}}}} | code message
            POST /api/v1/namespaces/default/serviceaccounts/none/token {{"spec":{{"audiences":[]}}}} | code message
            "#
        ),
        expect![[r#"
            201 metadata.name="default"
            201 metadata.name="p"
            201 {"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"default","namespace":"default"},"spec":{"audiences":["api"],"expirationSeconds":3600},"status":{"expirationTimestamp":"2026-01-01T01:00:00Z","token":"token of default/default bound to None"}}
            201 status.token="token of default/default bound to Some(\"p\")"
            409 code=409 reason="Conflict"
            422 code=422 message="TokenRequest.authentication.k8s.io \"default\" is invalid: spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"
            404 code=404 message="serviceaccounts \"none\" not found"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn ephemeral_containers_are_only_added() {
    check_script(
        &format!(
            r#"
            {ACCOUNT}
            {POD}
            PATCH /api/v1/namespaces/default/pods/p/ephemeralcontainers {{"spec":{{"nodeName":"x","ephemeralContainers":[{{"name":"e","image":"i"}}]}}}} | spec.nodeName spec.ephemeralContainers.0.name
            PATCH /api/v1/namespaces/default/pods/p/ephemeralcontainers {{"spec":{{"ephemeralContainers":[]}}}} | code message
            PATCH /api/v1/namespaces/default/pods/p/resize {{"spec":{{"nodeName":"x"}}}} | spec.nodeName
            "#
        ),
        expect![[r#"
            201 metadata.name="default"
            201 metadata.name="p"
            200 spec.nodeName=- spec.ephemeralContainers.0.name="e"
            422 code=422 message="Pod \"p\" is invalid: spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n"
            200 spec.nodeName=-
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn approval_changes_conditions_only() {
    check_script(
        r#"
        POST /apis/certificates.k8s.io/v1/certificatesigningrequests {"metadata":{"name":"c"},"spec":{"request":"LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K","signerName":"example.org/s","usages":["client auth"]}} | spec.username
        PATCH /apis/certificates.k8s.io/v1/certificatesigningrequests/c/approval {"spec":{"signerName":"other.org/s"},"status":{"certificate":"eA==","conditions":[{"type":"Approved","status":"True","reason":"r"}]}} | spec.signerName status.certificate status.conditions.0.type
        GET /apis/certificates.k8s.io/v1/certificatesigningrequests/c/approval | status.conditions.0.reason
        "#,
        expect![[r#"
            201 spec.username="admin"
              299 - "certificates.k8s.io/v1 CertificateSigningRequest is stored but not acted upon in this release: no controller signs certificates"
            200 spec.signerName="example.org/s" status.certificate=- status.conditions.0.type="Approved"
            200 status.conditions.0.reason="r"
        "#]],
    )
    .await;
}
