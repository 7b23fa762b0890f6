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

    fn version(&self, _resource: &str) -> u64 {
        0
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

/// A node that answers over TLS as an agent does, and the proxy that asks it.
mod over_tls {
    use std::net::SocketAddr;

    use axum::Router;
    use axum::routing::get;
    use coracle_client::{SystemClock, TaskScope};
    use futures::StreamExt as _;
    use http_body_util::BodyExt as _;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::service::TowerToHyperService;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig};
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::auth::pki::{PkiConfig, San};
    use crate::hooks::UserInfo;
    use crate::http::request_info::RequestInfo;

    fn pki(dir: &tempfile::TempDir) -> Pki {
        let config = PkiConfig {
            data_dir: dir.path().to_owned(),
            hostname: "server".to_owned(),
            tls_san: Vec::new(),
            addresses: Vec::new(),
            service_ip: "127.43.0.1".parse().unwrap(),
            cluster_domain: "cluster.local".to_owned(),
            server_url: "https://127.0.0.1:6443".to_owned(),
        };
        Pki::open(config, SystemClock::shared().now()).unwrap()
    }

    /// What a node serves with: `serves_as` is its name and the addresses that its certificate names.
    fn tls(pki: &Pki, serves_as: &str) -> TlsAcceptor {
        let name = serves_as.split(' ').next().unwrap();
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let sans = serves_as.split(' ').map(|san| San::parse(san).unwrap()).collect();
        let certificate = pki.sign_node_serving(name, sans, &csr, SystemClock::shared().now()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(pki.client_ca().der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    fn routes() -> Router {
        let log = |uri: http::Uri| async move {
            let text = uri.to_string();
            if text.contains("/waiting/") {
                let why = "container \"c\" in pod \"waiting\" is waiting to start: ContainerCreating";
                return (http::StatusCode::BAD_REQUEST, Body::from(why));
            }
            let begun = futures::stream::once(async move { Ok::<_, std::convert::Infallible>(format!("{text}\n")) });
            let goes_on = futures::stream::once(async { Ok("and on\n".to_owned()) });
            (http::StatusCode::OK, Body::from_stream(begun.chain(goes_on)))
        };
        Router::new().route("/containerLogs/{*rest}", get(log)).route("/healthz", get(|| async { "ok" }))
    }

    async fn node(tls: TlsAcceptor, scope: &TaskScope) -> SocketAddr {
        let listener = Arc::new(TcpListener::bind(("127.0.0.1", 0)).await.unwrap());
        let address = listener.local_addr().unwrap();
        scope.spawn("node", coracle_client::OnExit::restart(), move |cancel| {
            let (tls, listener) = (tls.clone(), listener.clone());
            async move {
                let mut connections = JoinSet::new();
                loop {
                    let (stream, _) = tokio::select! {
                        biased;
                        () = cancel.cancelled() => return Ok::<_, std::io::Error>(()),
                        accepted = listener.accept() => accepted?,
                    };
                    let tls = tls.clone();
                    connections.spawn(async move {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        let service = TowerToHyperService::new(routes());
                        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                        let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            }
        });
        address
    }

    /// Asks the proxy for `path` while the node `edge-1` serves as `serves_as`.
    async fn check_call(path: &str, serves_as: &str, expected: Expect) {
        let dir = tempfile::TempDir::new().unwrap();
        let pki = pki(&dir);
        let scope = TaskScope::root();
        let address = node(tls(&pki, serves_as), &scope).await;
        let pod = |node: &str| json!({ "spec": { "nodeName": node, "containers": [{ "name": "c" }] } });
        let objects = Fixed(BTreeMap::from([
            (
                "nodes /edge-1",
                json!({ "status": {
                "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
                "daemonEndpoints": { "kubeletEndpoint": { "Port": address.port() } },
            } }),
            ),
            ("pods default/web", pod("edge-1")),
            ("pods default/waiting", pod("edge-1")),
            ("pods default/unbound", pod("")),
        ]));
        let proxy = NodeProxy::new(Arc::new(objects), &pki, SystemClock::shared());
        let uri: http::Uri = path.parse().unwrap();
        let raw = RawRequest {
            info: RequestInfo::parse(&http::Method::GET, uri.path(), uri.query()).unwrap(),
            user: Arc::new(UserInfo::system("test")),
            request: http::Request::get(path).body(Body::empty()).unwrap(),
        };
        let response = proxy.call(raw).await;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = match serde_json::from_slice::<Status>(&body) {
            Ok(status) => status.message,
            Err(_) => String::from_utf8(body.to_vec()).unwrap(),
        };
        scope.shutdown().await;
        expected.assert_eq(&format!("{code} {}", text.replace(&address.port().to_string(), "PORT")));
    }

    const LOG: &str = "/api/v1/namespaces/default/pods/web/log?follow=true&tailLines=3";

    #[tokio::test]
    async fn a_log_is_streamed_from_the_pods_node() {
        check_call(
            LOG,
            "edge-1",
            expect![[r#"
            200 /containerLogs/default/web/c?follow=true&tailLines=3
            and on
        "#]],
        )
        .await;
        check_call("/api/v1/namespaces/default/pods/unbound/log", "edge-1", expect!["204 "]).await;
        check_call("/api/v1/nodes/edge-1/proxy/healthz", "edge-1", expect!["200 ok"]).await;
    }

    #[tokio::test]
    async fn what_the_node_says_is_wrong_is_passed_on() {
        check_call(
            "/api/v1/namespaces/default/pods/waiting/log",
            "edge-1",
            expect![[r#"400 container "c" in pod "waiting" is waiting to start: ContainerCreating"#]],
        )
        .await;
        check_call("/api/v1/namespaces/default/pods/none/log", "edge-1", expect![[r#"404 pods "none" not found"#]])
            .await;
        check_call("/api/v1/namespaces/default/pods/web/exec", "edge-1", expect!["400 Upgrade request required"]).await;
    }

    #[tokio::test]
    async fn another_node_in_its_place_is_not_believed() {
        // Whether or not its certificate is good for the address: a node says itself what its address is.
        check_call(LOG, "edge-2 127.0.0.1", expect![[r#"500 Get "https://127.0.0.1:PORT/containerLogs/default/web/c?follow=true&tailLines=3": unexpected error: the certificate shown there is not that of system:node:edge-1 (the API of node "edge-1" cannot be reached)"#]]).await;
        check_call(LOG, "edge-2", expect![[r#"500 Get "https://127.0.0.1:PORT/containerLogs/default/web/c?follow=true&tailLines=3": unexpected error: the certificate shown there is not that of system:node:edge-1 (the API of node "edge-1" cannot be reached)"#]]).await;
    }
}
