use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::Pod;
use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use serde_json::{Value, json};

use super::*;

fn sources() -> BTreeMap<SourceKey, Result<Arc<Source>, SourceError>> {
    let key = |kind, name: &str| SourceKey { kind, namespace: "ns".into(), name: name.into() };
    let map: ConfigMap = serde_json::from_value(json!({"data": {"a": "1", "b=c": "no"}})).unwrap();
    let secret: Secret = serde_json::from_value(json!({"data": {"token": "c2VzYW1l"}})).unwrap();
    let missing = |kind, name: &str| Err(SourceError::NotFound { kind, name: name.into() });
    BTreeMap::from([
        (key(SourceKind::ConfigMap, "map"), Ok(Arc::new(map.into()))),
        (key(SourceKind::Secret, "secret"), Ok(Arc::new(secret.into()))),
        (key(SourceKind::ConfigMap, "none"), missing(SourceKind::ConfigMap, "none")),
    ])
}

fn services() -> BTreeMap<String, String> {
    let service = |namespace: &str, name: &str, ip: &str| -> Arc<Service> {
        let ports = json!([{"port": 80, "name": "http-x", "protocol": "TCP"}]);
        let value =
            json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": ports}});
        Arc::new(serde_json::from_value(value).unwrap())
    };
    let services = [
        service("default", "kubernetes", "127.43.0.1"),
        service("ns", "my-db", "127.43.0.9"),
        service("ns", "headless", "None"),
        service("other", "far", "127.43.0.7"),
    ];
    service_variables(&services, "ns", true)
}

fn check_env(container: Value, expected: Expect) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web"}, "annotations": {"a": "x\"y"}},
        "spec": {"nodeName": "n1", "containers": [container]},
    }))
    .unwrap();
    let facts = PodFacts {
        pod_ips: vec!["127.42.0.2".into()],
        host_ips: vec!["127.42.0.1".into()],
        allocatable: BTreeMap::from([("memory".into(), "1Gi".parse().unwrap())]),
    };
    let services = services();
    let sources = sources();
    let input = EnvInput {
        pod: &pod,
        container: &pod.spec.as_ref().unwrap().containers[0],
        facts: &facts,
        services: &services,
        sources: &sources,
    };
    let text = match environment(&input) {
        Ok(env) => env
            .iter()
            .filter(|(name, _)| !services.contains_key(*name))
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect(),
        Err(error) => error,
    };
    expected.assert_eq(&text);
}

#[test]
fn variables_refer_to_each_other_and_to_sources() {
    check_env(
        json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "map"}}], "env": [
            {"name": "A", "value": "x"},
            {"name": "B", "value": "$(A)-$(P_a)-$(NOPE)-$$(A)-$(KUBERNETES_SERVICE_HOST)$"},
            {"name": "T", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "token"}}},
            {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": true}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "ANN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations"}}},
        ]}),
        expect![[r#"
            A=x
            ANN=a="x\"y"
            B=x-1-$(NOPE)-$(A)-127.43.0.1$
            IP=127.42.0.2
            L=web
            NODE=n1
            P_a=1
            T=sesame
        "#]],
    );
}

#[test]
fn resources_are_rounded_up_and_default_to_the_node() {
    let resource = |name: &str, resource: &str, divisor: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}});
    check_env(
        json!({"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "100M"}}, "env": [
            resource("CPU", "limits.cpu", "0"), resource("MCPU", "limits.cpu", "1m"),
            resource("MEM", "requests.memory", "1Mi"), resource("NODEMEM", "limits.memory", "1"),
        ]}),
        expect![[r#"
            CPU=2
            MCPU=1500
            MEM=96
            NODEMEM=1073741824
        "#]],
    );
}

#[test]
fn what_is_missing_is_named() {
    let env = |from: Value| json!({"name": "c", "env": [{"name": "X", "valueFrom": from}]});
    check_env(
        env(json!({"configMapKeyRef": {"name": "none", "key": "k"}})),
        expect![[r#"configmap "none" not found"#]],
    );
    check_env(
        env(json!({"configMapKeyRef": {"name": "map", "key": "k"}})),
        expect!["couldn't find key k in ConfigMap ns/map"],
    );
    check_env(env(json!({"fieldRef": {"fieldPath": "spec.bogus"}})), expect!["unsupported fieldPath: spec.bogus"]);
}

#[test]
fn services_are_named_as_docker_links_were() {
    let text: String = services().iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    expect![[r#"
        KUBERNETES_PORT=tcp://127.43.0.1:80
        KUBERNETES_PORT_80_TCP=tcp://127.43.0.1:80
        KUBERNETES_PORT_80_TCP_ADDR=127.43.0.1
        KUBERNETES_PORT_80_TCP_PORT=80
        KUBERNETES_PORT_80_TCP_PROTO=tcp
        KUBERNETES_SERVICE_HOST=127.43.0.1
        KUBERNETES_SERVICE_PORT=80
        KUBERNETES_SERVICE_PORT_HTTP_X=80
        MY_DB_PORT=tcp://127.43.0.9:80
        MY_DB_PORT_80_TCP=tcp://127.43.0.9:80
        MY_DB_PORT_80_TCP_ADDR=127.43.0.9
        MY_DB_PORT_80_TCP_PORT=80
        MY_DB_PORT_80_TCP_PROTO=tcp
        MY_DB_SERVICE_HOST=127.43.0.9
        MY_DB_SERVICE_PORT=80
        MY_DB_SERVICE_PORT_HTTP_X=80
    "#]]
    .assert_eq(&text);
}
