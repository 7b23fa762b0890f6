use coracle_api::schema::Schema;
use expect_test::{Expect, expect};
use http::HeaderValue;
use http_body_util::BodyExt as _;

use super::*;

fn discovery() -> Discovery {
    let served: Served = Arc::new(|| Schema::v1_36().resources().to_vec());
    Discovery::new(served, "127.0.0.1:6443".to_owned())
}

async fn get(path: &str, headers: &[(&'static str, &str)]) -> (http::response::Parts, String) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    let (parts, body) = discovery().respond(&Method::GET, path, &map).into_parts();
    (parts, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

async fn check_get(path: &str, expected: Expect) {
    expected.assert_eq(&get(path, &[]).await.1);
}

#[tokio::test]
async fn groups_are_listed_in_upstreams_order() {
    let groups: Value = serde_json::from_str(&get("/apis", &[]).await.1).unwrap();
    let lines: Vec<String> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| {
            let versions: Vec<&str> =
                group["versions"].as_array().unwrap().iter().map(|one| one["version"].as_str().unwrap()).collect();
            format!("{} {}", group["name"].as_str().unwrap(), versions.join(","))
        })
        .collect();
    expect![[r#"
        apiregistration.k8s.io v1
        apps v1
        events.k8s.io v1
        authentication.k8s.io v1
        authorization.k8s.io v1
        autoscaling v2,v1
        batch v1
        certificates.k8s.io v1
        networking.k8s.io v1
        policy v1
        rbac.authorization.k8s.io v1
        storage.k8s.io v1
        admissionregistration.k8s.io v1
        apiextensions.k8s.io v1
        scheduling.k8s.io v1
        coordination.k8s.io v1
        node.k8s.io v1
        discovery.k8s.io v1
        resource.k8s.io v1
        flowcontrol.apiserver.k8s.io v1"#]]
    .assert_eq(&lines.join("\n"));
}

#[tokio::test]
async fn documents_of_the_old_form() {
    check_get("/api", expect![[r#"{"kind":"APIVersions","serverAddressByClientCIDRs":[{"clientCIDR":"0.0.0.0/0","serverAddress":"127.0.0.1:6443"}],"versions":["v1"]}"#]]).await;
    check_get("/apis/autoscaling", expect![[r#"{"apiVersion":"v1","kind":"APIGroup","name":"autoscaling","preferredVersion":{"groupVersion":"autoscaling/v2","version":"v2"},"versions":[{"groupVersion":"autoscaling/v2","version":"v2"},{"groupVersion":"autoscaling/v1","version":"v1"}]}"#]]).await;
    check_get("/apis/batch/v1/", expect![[r#"{"apiVersion":"v1","groupVersion":"batch/v1","kind":"APIResourceList","resources":[{"categories":["all"],"kind":"CronJob","name":"cronjobs","namespaced":true,"shortNames":["cj"],"singularName":"cronjob","storageVersionHash":"sd5LIXh4Fjs=","verbs":["create","delete","deletecollection","get","list","patch","update","watch"]},{"kind":"CronJob","name":"cronjobs/status","namespaced":true,"singularName":"","verbs":["get","patch","update"]},{"categories":["all"],"kind":"Job","name":"jobs","namespaced":true,"singularName":"job","storageVersionHash":"mudhfqk/qZY=","verbs":["create","delete","deletecollection","get","list","patch","update","watch"]},{"kind":"Job","name":"jobs/status","namespaced":true,"singularName":"","verbs":["get","patch","update"]}]}"#]]).await;
    let none = get("/apis/none.io/v1", &[]).await;
    expect!["404"].assert_eq(none.0.status.as_str());
}

#[tokio::test]
async fn subresources_of_another_group_say_so() {
    let list: Value = serde_json::from_str(&get("/apis/apps/v1", &[]).await.1).unwrap();
    let scale = list["resources"].as_array().unwrap().iter().find(|one| one["name"] == "deployments/scale").unwrap();
    expect![[r#"{"group":"autoscaling","kind":"Scale","name":"deployments/scale","namespaced":true,"singularName":"","verbs":["get","patch","update"],"version":"v1"}"#]]
        .assert_eq(&scale.to_string());
}

const NEW: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const OLD: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

#[tokio::test]
async fn the_aggregated_form_is_given_to_who_prefers_it() {
    let mut said = String::new();
    for accept in [
        NEW,
        &format!("{NEW},{OLD},application/json"),
        &format!("{OLD},application/json"),
        &format!("application/json,{NEW}"),
        "*/*",
    ] {
        let (parts, body) = get("/apis", &[("accept", accept)]).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        said +=
            &format!("{} {}\n", parts.headers["content-type"].to_str().unwrap(), body["apiVersion"].as_str().unwrap());
    }
    expect![[r#"
        application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList apidiscovery.k8s.io/v2
        application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList apidiscovery.k8s.io/v2
        application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList apidiscovery.k8s.io/v2beta1
        application/json v1
        application/json v1
    "#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn the_aggregated_form_holds_everything_and_is_sent_once() {
    let (parts, body) = get("/api", &[("accept", NEW)]).await;
    let list: Value = serde_json::from_str(&body).unwrap();
    let pods =
        list["items"][0]["versions"][0]["resources"].as_array().unwrap().iter().find(|one| one["resource"] == "pods");
    let mut pods = pods.unwrap().clone();
    pods["subresources"].as_array_mut().unwrap().retain(|one| one["subresource"] == "eviction");
    expect![[r#"{"categories":["all"],"resource":"pods","responseKind":{"group":"","kind":"Pod","version":"v1"},"scope":"Namespaced","shortNames":["po"],"singularResource":"pod","subresources":[{"responseKind":{"group":"policy","kind":"Eviction","version":"v1"},"subresource":"eviction","verbs":["create"]}],"verbs":["create","delete","deletecollection","get","list","patch","update","watch"]}"#]]
        .assert_eq(&pods.to_string());
    let etag = parts.headers["etag"].to_str().unwrap().to_owned();
    let (parts, body) = get("/api", &[("accept", NEW), ("if-none-match", &etag)]).await;
    expect!["304 0"].assert_eq(&format!("{} {}", parts.status.as_str(), body.len()));
}

#[test]
fn versions_are_ordered_by_how_settled_they_are() {
    let mut versions = ["v1alpha1", "v2beta1", "v1", "foo", "v10", "v1beta2", "v2"];
    versions.sort_by_key(|version| Reverse(precedence(version)));
    expect!["v10 v2 v1 v2beta1 v1beta2 v1alpha1 foo"].assert_eq(&versions.join(" "));
}
