use std::collections::BTreeMap;

use bytes::Bytes;
use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::targets::{self, TargetName};
use super::*;
use crate::http::query::Query;

/// Objects by `resource namespace/name`.
struct Fixed(BTreeMap<&'static str, Value>);

impl Objects for Fixed {
    fn uid(&self, _resource: &str, _namespace: &str, _name: &str) -> Option<String> {
        None
    }

    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Bytes> {
        self.0.get(format!("{resource} {namespace}/{name}").as_str()).map(|json| json.to_string().into())
    }

    fn all(&self, resource: &str) -> Vec<(String, Bytes)> {
        let of = |key: &str| key.strip_prefix(resource).and_then(|rest| rest.strip_prefix(' ')).is_some();
        let namespace = |key: &str| key.split(['/', ' ']).nth(1).unwrap().to_owned();
        self.0.iter().filter(|(key, _)| of(key)).map(|(key, json)| (namespace(key), json.to_string().into())).collect()
    }

    fn version(&self, _resource: &str) -> (u64, usize) {
        (0, 0)
    }

    fn any_pod_on_node(&self, _namespace: &str, _node: &str, _found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
}

fn check_container(spec: Value, named: &str, expected: Expect) {
    let spec: PodSpec = serde_json::from_value(spec).unwrap();
    let result =
        logs::container(&spec, "p", named).unwrap_or_else(|status| format!("{} {}", status.code, status.message));
    expected.assert_eq(&result);
}

#[test]
fn the_container_meant_is_the_named_or_the_only_one() {
    let one = json!({ "containers": [{ "name": "a" }] });
    let two = json!({ "containers": [{ "name": "a" }, { "name": "b" }] });
    let more = json!({ "containers": [{ "name": "a" }, { "name": "b" }], "initContainers": [{ "name": "i" }], "ephemeralContainers": [{ "name": "debug" }] });
    check_container(one.clone(), "", expect!["a"]);
    check_container(one, "b", expect!["400 container b is not valid for pod p"]);
    check_container(two, "", expect!["400 a container name must be specified for pod p, choose one of: [a b]"]);
    check_container(
        more.clone(),
        "",
        expect![
            "400 a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        ],
    );
    check_container(more.clone(), "i", expect!["i"]);
    check_container(more, "debug", expect!["debug"]);
    check_container(json!({ "containers": [] }), "", expect!["400 a container name must be specified for pod p"]);
}

fn check_query(query: &str, expected: Expect) {
    let result = logs::query(&Query::parse(Some(query)), "p")
        .unwrap_or_else(|status| format!("{} {}", status.code, status.message));
    expected.assert_eq(&result);
}

#[test]
fn what_is_asked_of_a_log_is_checked_and_passed_on() {
    check_query("container=a", expect![""]);
    check_query(
        "container=a&follow=true&previous=false&tailLines=0&limitBytes=9&timestamps=1&sinceSeconds=5&stream=Stderr",
        expect!["?follow=true&timestamps=true&sinceSeconds=5&tailLines=0&limitBytes=9&stream=Stderr"],
    );
    check_query("sinceTime=2026-01-01T00:00:00Z", expect!["?sinceTime=2026-01-01T00:00:00Z"]);
    check_query(
        "tailLines=-1",
        expect![[
            r#"422 PodLogOptions "p" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"#
        ]],
    );
    check_query(
        "limitBytes=0",
        expect![[r#"422 PodLogOptions "p" is invalid: limitBytes: Invalid value: 0: must be greater than 0"#]],
    );
    check_query(
        "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
        expect![[
            r#"422 PodLogOptions "p" is invalid: sinceTime: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"#
        ]],
    );
    check_query(
        "sinceTime=yesterday",
        expect![[
            r#"400 unable to parse sinceTime "yesterday" as an RFC 3339 time: failed to parse four digit integer as year: invalid digit, expected 0-9 but got y"#
        ]],
    );
}

fn world() -> Fixed {
    let slice = json!({
        "metadata": { "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": [
            { "addresses": ["127.42.0.2"], "conditions": { "ready": false } },
            { "addresses": ["127.42.0.3"], "conditions": { "ready": true } },
            { "addresses": ["127.42.0.4"] },
        ],
    });
    Fixed(BTreeMap::from([
        (
            "nodes /far",
            json!({ "status": {
            "addresses": [{ "type": "Hostname", "address": "far" }, { "type": "InternalIP", "address": "10.0.0.9" }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": 12345 } },
        } }),
        ),
        ("nodes /named", json!({ "status": { "addresses": [{ "type": "Hostname", "address": "named" }] } })),
        ("nodes /new", json!({})),
        (
            "pods default/web",
            json!({ "spec": { "containers": [{ "name": "a" }, { "name": "b", "ports": [{ "containerPort": 81 }] }] }, "status": { "podIP": "127.42.0.2" } }),
        ),
        ("pods default/pending", json!({ "spec": { "containers": [] } })),
        ("pods default/liar", json!({ "spec": { "containers": [] }, "status": { "podIP": "127.0.0.1" } })),
        ("pods default/metadata", json!({ "spec": { "containers": [] }, "status": { "podIP": "169.254.169.254" } })),
        ("services default/web", json!({ "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] } })),
        ("services default/empty", json!({ "spec": { "ports": [{ "name": "http", "port": 80 }] } })),
        ("endpointslices.discovery.k8s.io default/web-1", slice),
    ]))
}

fn check_target(resource: &str, name: &str, expected: Expect) {
    let world = world();
    let target = TargetName::parse(name).unwrap();
    let show = |result: Result<(String, u16), Status>| match result {
        Ok((host, port)) => format!("{host}:{port}"),
        Err(status) => format!("{} {}", status.code, status.message),
    };
    let result = match resource {
        "nodes" => show(targets::node(&world, target.name).map(|address| (address.host, address.port))),
        "pods" => show(targets::pod(&world, "default", &target)),
        _services => {
            let turns: Vec<String> =
                (0..2).map(|turn| show(targets::service(&world, "default", &target, turn))).collect();
            turns.join(" ")
        }
    };
    expected.assert_eq(&result);
}

#[test]
fn nodes_are_reached_where_they_say() {
    check_target("nodes", "far", expect!["10.0.0.9:12345"]);
    check_target("nodes", "named", expect!["named:10250"]);
    check_target("nodes", "new", expect![[r#"503 node "new" has not said yet where it is reached"#]]);
    check_target("nodes", "none", expect![[r#"404 nodes "none" not found"#]]);
}

#[test]
fn pods_are_reached_where_this_server_may_go() {
    check_target("pods", "web", expect!["127.42.0.2:81"]);
    check_target("pods", "http:web:8000", expect!["127.42.0.2:8000"]);
    check_target("pods", "web:http", expect![[r#"400 "http" is no port"#]]);
    check_target("pods", "pending", expect!["400 pod pending has no address yet"]);
    check_target("pods", "liar", expect!["400 address not allowed: 127.0.0.1"]);
    check_target("pods", "metadata", expect!["400 address not allowed: 169.254.169.254"]);
}

#[test]
fn services_are_reached_at_endpoints_that_are_ready() {
    check_target("services", "web", expect!["127.42.0.3:8080 127.42.0.4:8080"]);
    check_target("services", "web:http", expect!["127.42.0.3:8080 127.42.0.4:8080"]);
    check_target(
        "services",
        "web:81",
        expect![[
            r#"503 no endpoints available for service "web": it has no port "81" 503 no endpoints available for service "web": it has no port "81""#
        ]],
    );
    check_target(
        "services",
        "empty",
        expect![[r#"503 no endpoints available for service "empty" 503 no endpoints available for service "empty""#]],
    );
}
