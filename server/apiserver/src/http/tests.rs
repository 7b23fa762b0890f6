use expect_test::expect;
use http_body_util::BodyExt as _;

use super::Limits;
use super::request_info::RequestInfo;
use crate::testing::{World, check_script};

fn check_info(request: &str, expected: expect_test::Expect) {
    let (method, target) = request.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let text = match RequestInfo::parse(&method.parse().unwrap(), path, query) {
        Err(status) => status.message,
        Ok(info) if !info.is_resource => format!("no resource, {}", info.verb_text()),
        Ok(info) => format!(
            "{} {}/{} ns={} {}/{} name={} rest={}",
            info.verb.as_str(),
            info.group,
            info.version,
            info.namespace,
            info.resource,
            info.subresource,
            info.name,
            info.rest
        ),
    };
    expected.assert_eq(&text);
}

#[test]
fn paths_are_read_as_upstream_does() {
    check_info("GET /api/v1/pods", expect!["list /v1 ns= pods/ name= rest="]);
    check_info("GET /api/v1/namespaces", expect!["list /v1 ns= namespaces/ name= rest="]);
    check_info("GET /api/v1/namespaces/n", expect!["get /v1 ns=n namespaces/ name=n rest="]);
    check_info("PUT /api/v1/namespaces/n/finalize", expect!["update /v1 ns=n namespaces/finalize name=n rest="]);
    check_info("POST /api/v1/namespaces/n/pods", expect!["create /v1 ns=n pods/ name= rest="]);
    check_info("DELETE /api/v1/namespaces/n/pods", expect!["deletecollection /v1 ns=n pods/ name= rest="]);
    check_info(
        "PATCH /apis/apps/v1/namespaces/n/deployments/d/status",
        expect!["patch apps/v1 ns=n deployments/status name=d rest="],
    );
    check_info(
        "GET /api/v1/namespaces/n/services/http:s:80/proxy/a/b/",
        expect!["get /v1 ns=n services/proxy name=http:s:80 rest=/a/b/"],
    );
    check_info("GET /api/v1/pods?watch=true", expect!["watch /v1 ns= pods/ name= rest="]);
    check_info(
        "GET /api/v1/pods?watch=false&fieldSelector=metadata.name%3Dp",
        expect!["list /v1 ns= pods/ name=p rest="],
    );
    // The comma is a part of the type's name: this selects no name.
    check_info(
        "GET /api/v1/secrets?fieldSelector=type!%3Da%5C%2Cmetadata.name%3Dp",
        expect!["list /v1 ns= secrets/ name= rest="],
    );
    check_info("GET /api/v1/watch/namespaces/n/pods/p", expect!["watch /v1 ns=n pods/ name=p rest="]);
    check_info("GET /api/v1/watch", expect!["unable to determine kind and namespace from url, /api/v1/watch"]);
    check_info("GET /apis/apps/v1", expect!["no resource, get"]);
    check_info("POST /api", expect!["no resource, post"]);
    check_info("GET /healthz", expect!["no resource, get"]);
    check_info(
        "GET /apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
        expect!["get rbac.authorization.k8s.io/v1 ns= clusterroles/ name=system:node rest="],
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_served_is_refused_in_upstreams_words() {
    check_script(
        r#"
        GET /api/v1/namespaces/default/things
        GET /apis/none.io/v1/things | code
        GET /api/v1/pods/p | code
        GET /api/v1/namespaces/default/nodes | code
        POST /api/v1/namespaces/default/configmaps/a {} | code reason message
        PUT /api/v1/namespaces/default/configmaps | code reason
        GET /api/v1/namespaces/default/configmaps/a/status | code
        GET /api/v1/namespaces/default/configmaps [Accept: application/xml] | code reason message
        GET /api/v1/namespaces/default/configmaps [Accept: application/json;as=Thing;g=meta.k8s.io;v=v1] | code
        GET /api/v1/namespaces/default/configmaps [Accept: application/vnd.kubernetes.protobuf, application/json;q=0.5] | kind
        GET /api/v1/configmaps?watch=1 [Accept: application/yaml] | code
        GET /api/v1/namespaces/default/pods/p/log
        GET /api/v1
        GET /panic | code reason
        as nobody
        GET /api/v1/namespaces/default/pods
        GET /metrics | code message
        "#,
        expect![[r#"
            404 {"apiVersion":"v1","code":404,"details":{},"kind":"Status","message":"the server could not find the requested resource","metadata":{},"reason":"NotFound","status":"Failure"}
            404 code=404
            404 code=404
            404 code=404
            405 code=405 reason="MethodNotAllowed" message="the server does not allow this method on the requested resource"
            405 code=405 reason="MethodNotAllowed"
            404 code=404
            406 code=406 reason="NotAcceptable" message="only the following media types are accepted: application/json, application/yaml"
            406 code=406
            200 kind="ConfigMapList"
            406 code=406
            200 hook for /api/v1/namespaces/default/pods/p/log
            200 hook for /api/v1
            500 code=500 reason="InternalError"
            403 {"apiVersion":"v1","code":403,"details":{"kind":"pods"},"kind":"Status","message":"pods is forbidden: User \"nobody\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"","metadata":{},"reason":"Forbidden","status":"Failure"}
            403 code=403 message="forbidden: User \"nobody\" cannot get path \"/metrics\""
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn health_and_version() {
    check_script(
        r#"
        GET /healthz
        GET /readyz?verbose
        GET /livez/ping
        GET /livez/none | code
        GET /version | major minor platform
        "#,
        expect![[r#"
            200 ok
            200 [+]ping ok
            [+]store ok
            [+]shutdown ok
            readyz check passed
            200 ok
            404 code=404
            200 major="1" minor="36" platform="linux/amd64"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn reviews_are_answered_and_not_stored() {
    check_script(
        r#"
        as jane devs
        POST /apis/authentication.k8s.io/v1/selfsubjectreviews {}
        POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews {"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}} | status
        POST /apis/authorization.k8s.io/v1/subjectaccessreviews {"spec":{"user":"nobody","resourceAttributes":{"verb":"get","resource":"pods"}}} | status
        POST /apis/authorization.k8s.io/v1/subjectaccessreviews {"spec":{"resourceAttributes":{"verb":"get"}}} | code message
        POST /apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews {"spec":{"user":"x","resourceAttributes":{"namespace":"other"}}} | code message
        POST /apis/authentication.k8s.io/v1/tokenreviews {"spec":{"token":"good","audiences":["a"]}} | status
        POST /apis/authentication.k8s.io/v1/tokenreviews {"spec":{"token":"bad"}} | status
        POST /apis/authorization.k8s.io/v1/selfsubjectrulesreviews {"spec":{"namespace":"default"}} | status
        "#,
        expect![[r#"
            201 {"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview","status":{"userInfo":{"groups":["devs"],"username":"jane"}}}
            201 status={"allowed":true}
            201 status={"allowed":false}
            422 code=422 message="SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of user or group must be specified"
            422 code=422 message="LocalSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace"
            201 status={"audiences":["a"],"authenticated":true,"user":{"groups":["devs"],"username":"jane"}}
            201 status={"error":"invalid bearer token","user":{}}
            201 status={"incomplete":false,"nonResourceRules":[],"resourceRules":[]}
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn long_bodies_are_refused_and_long_answers_compressed() {
    let limits = Limits { body_bytes: 200_000, ..Limits::default() };
    let world = World::with(|_| {}, limits).await;
    let map = |size: usize| format!(r#"{{"metadata":{{"name":"a"}},"data":{{"k":"{}"}}}}"#, "x".repeat(size));
    let path = "/api/v1/namespaces/default/configmaps";
    let refused = world.send("POST", path, None, &map(200_000)).await;
    let refused_code = refused.status();
    let refused = String::from_utf8(refused.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    world.send("POST", path, None, &map(150_000)).await;
    let get = format!("{path}/a");
    let plain = world.send("GET", &get, None, "").await;
    let plain_head = format!("{:?}", plain.headers().get("content-encoding"));
    let plain = plain.into_body().collect().await.unwrap().to_bytes();
    let packed = world.send("GET", &get, Some("Accept-Encoding: gzip"), "").await;
    let packed_head = format!("{:?}", packed.headers().get("content-encoding"));
    let packed = packed.into_body().collect().await.unwrap().to_bytes();
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).unwrap();
    assert_eq!(unpacked, plain);
    expect![[r#"
        413 Payload Too Large {"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Request entity too large: limit is 200000","reason":"RequestEntityTooLarge","code":413}
        None Some("gzip") true"#]].assert_eq(&format!("{refused_code} {refused}\n{plain_head} {packed_head} {}", packed.len() < 10_000));
}

#[tokio::test(start_paused = true)]
async fn people_see_indented_json() {
    let world = World::new().await;
    let response = world.send("GET", "/api/v1/namespaces/default/services/none", Some("User-Agent: curl/8"), "").await;
    let text = response.into_body().collect().await.unwrap().to_bytes();
    expect![[r#"
        {
          "kind": "Status",
          "apiVersion": "v1",
          "metadata": {},
          "status": "Failure",
          "message": "services \"none\" not found",
          "reason": "NotFound",
          "details": {
            "name": "none",
            "kind": "services"
          },
          "code": 404
        }
    "#]]
    .assert_eq(std::str::from_utf8(&text).unwrap());
}
