//! A Service and its pods in, its Endpoints out.

use std::fmt::Write as _;
use std::sync::Arc;

use coracle_client::Pod;
use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};

use super::plan::plan;
use crate::endpointslice::tests::{pod, service};
use crate::testing::lines;

fn desired(text: &str, current: Option<&Endpoints>) -> Option<Endpoints> {
    let lines = lines(text);
    let pods: Vec<Arc<Pod>> = lines.iter().filter(|l| l.kind == "pod").map(pod).collect();
    plan(&service(lines.iter().find(|l| l.kind == "svc").unwrap()), &pods, current)
}

fn show(endpoints: &Endpoints) -> String {
    let list = |addresses: &Option<Vec<EndpointAddress>>| {
        addresses.iter().flatten().map(|a| a.ip.as_str()).collect::<Vec<_>>().join(",")
    };
    let mut out = format!("labels {:?}\n", endpoints.metadata.labels.clone().unwrap_or_default());
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<_> =
            subset.ports.iter().flatten().map(|p| format!("{}:{}", p.name.as_deref().unwrap_or(""), p.port)).collect();
        let (ready, other) = (list(&subset.addresses), list(&subset.not_ready_addresses));
        writeln!(out, "ready [{ready}] not ready [{other}] ports [{}]", ports.join(",")).unwrap();
    }
    out
}

fn check_plan(text: &str, expected: Expect) {
    expected.assert_eq(&show(&desired(text, None).unwrap()));
}

#[test]
fn pods_are_sorted_by_readiness_and_port() {
    check_plan(
        "svc web ports=web:80:http,plain:81 labels=team:x; pod a ip=127.42.1.1 ready http=8080; pod b ip=127.42.1.2 http=8080
         pod c ip=127.42.1.3 ready http=9090; pod d ip=127.42.1.4 ready deleting; pod e ip=127.42.1.5 ready phase=Succeeded",
        expect![[r#"
            labels {"endpoints.kubernetes.io/managed-by": "endpoint-controller", "team": "x"}
            ready [127.42.1.1] not ready [127.42.1.2] ports [web:8080]
            ready [127.42.1.1,127.42.1.3] not ready [127.42.1.2] ports [plain:81]
            ready [127.42.1.3] not ready [] ports [web:9090]
        "#]],
    );
    check_plan(
        "svc db ip=None notready; pod a ip=127.42.1.1; pod b ip=127.42.1.2 deleting",
        expect![[r#"
        labels {"endpoints.kubernetes.io/managed-by": "endpoint-controller", "service.kubernetes.io/headless": ""}
        ready [127.42.1.1,127.42.1.2] not ready [] ports []
    "#]],
    );
}

#[test]
fn right_endpoints_are_left_alone() {
    let text = "svc web ports=:80; pod a ip=127.42.1.1 ready";
    let current = desired(text, None).unwrap();
    assert!(desired(text, Some(&current)).is_none());
    let lost = desired("svc web ports=:80", Some(&current)).unwrap();
    expect![[r#"
        labels {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}
    "#]]
    .assert_eq(&show(&lost));
}

#[test]
fn more_than_a_thousand_are_cut_and_said_to_be() {
    let crowd: String = (0..1001)
        .map(|i| format!("; pod p{i:04} ip=127.42.{}.{}{}", i / 250, i % 250, if i == 0 { "" } else { " ready" }))
        .collect();
    let endpoints = desired(&format!("svc web ports=:80{crowd}"), None).unwrap();
    let subset = &endpoints.subsets.unwrap()[0];
    assert_eq!(subset.addresses.as_ref().map(Vec::len), Some(1000), "the one that is not ready is left out");
    expect![[r#"{"endpoints.kubernetes.io/over-capacity": "truncated"}"#]]
        .assert_eq(&format!("{:?}", endpoints.metadata.annotations.unwrap()));
}
