use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coracle_client::{Clock, RandomIds, TokioClock};
use expect_test::{Expect, expect};
use http::Request;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::authn::{Authn, Peer};
use super::objects::Objects;
use super::pki::{Pki, PkiConfig};
use super::service_account::ServiceAccountTokens;
use crate::hooks::{Authenticator, BoundObject, TokenSigner, TokenSpec, UserInfo};

/// What exists, as `resource namespace name` to uid.
#[derive(Default)]
struct Existing(Mutex<BTreeMap<String, String>>);

impl Existing {
    fn of(lines: &[&str]) -> Arc<Existing> {
        let existing = Existing::default();
        for line in lines {
            let (what, uid) = line.rsplit_once(' ').unwrap();
            existing.0.lock().insert(what.to_owned(), uid.to_owned());
        }
        Arc::new(existing)
    }
}

impl Objects for Existing {
    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String> {
        self.0.lock().get(&format!("{resource} {namespace} {name}")).cloned()
    }

    fn get(&self, _resource: &str, _namespace: &str, _name: &str) -> Option<Bytes> {
        None
    }

    fn all(&self, _resource: &str) -> Vec<(String, Bytes)> {
        Vec::new()
    }

    fn version(&self, _resource: &str) -> u64 {
        0
    }

    fn any_pod_on_node(&self, _namespace: &str, _node: &str, _found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
}

/// A clock that tests put forward.
struct Hands(Mutex<Timestamp>);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

fn start() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn pki(dir: &TempDir) -> Pki {
    let config = PkiConfig {
        data_dir: dir.path().to_owned(),
        hostname: "edge-1".to_owned(),
        tls_san: Vec::new(),
        addresses: Vec::new(),
        service_ip: "127.43.0.1".parse().unwrap(),
        cluster_domain: "cluster.local".to_owned(),
        server_url: "https://127.0.0.1:6443".to_owned(),
    };
    Pki::open(config, start()).unwrap()
}

struct World {
    _dir: TempDir,
    pki: Pki,
    clock: Arc<Hands>,
    existing: Arc<Existing>,
    tokens: Arc<ServiceAccountTokens>,
}

fn world(existing: &[&str]) -> World {
    let dir = TempDir::new().unwrap();
    let pki = pki(&dir);
    let clock = Arc::new(Hands(Mutex::new(start())));
    let existing = Existing::of(existing);
    let tokens = ServiceAccountTokens::new(
        "https://issuer".to_owned(),
        pki.signing_key(),
        clock.clone(),
        RandomIds::seeded(1),
        existing.clone(),
    );
    World { _dir: dir, pki, clock, existing, tokens: Arc::new(tokens.unwrap()) }
}

fn spec() -> TokenSpec {
    TokenSpec {
        namespace: "default".to_owned(),
        service_account: "bot".to_owned(),
        service_account_uid: "sa-1".to_owned(),
        audiences: Vec::new(),
        expiration_seconds: 600,
        bound: None,
        node: None,
    }
}

fn bound(kind: &str, name: &str, uid: &str) -> Option<BoundObject> {
    Some(BoundObject {
        kind: kind.to_owned(),
        api_version: "v1".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
    })
}

/// Signs `spec`, lets `between` change the world, and verifies.
fn check_token(spec: &TokenSpec, audiences: &[&str], between: impl FnOnce(&World), expected: Expect) {
    let world = world(&["serviceaccounts default bot sa-1", "pods default web pod-1", "nodes  edge-1 node-1"]);
    let signed = world.tokens.sign(spec).unwrap();
    between(&world);
    let audiences: Vec<String> = audiences.iter().map(|audience| (*audience).to_owned()).collect();
    let result = match world.tokens.verify(&signed.token, &audiences) {
        Ok(identity) => {
            let UserInfo { name, uid, groups, extra } = identity.user;
            format!("{name} {uid} {groups:?} {extra:?} for {:?} until {}", identity.audiences, signed.expires)
        }
        Err(refused) => refused.to_string(),
    };
    expected.assert_eq(&result);
}

#[test]
fn a_service_accounts_token_names_it_and_what_it_is_bound_to() {
    check_token(
        &spec(),
        &[],
        |_| {},
        expect![[
            r#"system:serviceaccount:default:bot sa-1 ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"] {"authentication.kubernetes.io/credential-id": ["JTI=f9681a64-d330-4861-b0f4-d125cc0d694a"]} for ["https://issuer"] until 2026-06-01T00:10:00Z"#
        ]],
    );
    let of_pod = TokenSpec {
        bound: bound("Pod", "web", "pod-1"),
        node: Some(("edge-1".to_owned(), "node-1".to_owned())),
        // What a projected volume asks for: told as an hour, good for a year.
        expiration_seconds: 3607,
        ..spec()
    };
    check_token(
        &of_pod,
        &[],
        |world| *world.clock.0.lock() = start() + SignedDuration::from_hours(24 * 300),
        expect![[
            r#"system:serviceaccount:default:bot sa-1 ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"] {"authentication.kubernetes.io/credential-id": ["JTI=f9681a64-d330-4861-b0f4-d125cc0d694a"], "authentication.kubernetes.io/node-name": ["edge-1"], "authentication.kubernetes.io/node-uid": ["node-1"], "authentication.kubernetes.io/pod-name": ["web"], "authentication.kubernetes.io/pod-uid": ["pod-1"]} for ["https://issuer"] until 2026-06-01T01:00:07Z"#
        ]],
    );
}

#[test]
fn a_token_ends_with_its_time_its_account_and_its_pod() {
    let later = |seconds| move |world: &World| *world.clock.0.lock() = start() + SignedDuration::from_secs(seconds);
    check_token(&spec(), &[], later(700), expect!["service account token has expired"]);
    check_token(&spec(), &[], later(-700), expect!["service account token is not valid yet"]);
    let gone = |what: &'static str| move |world: &World| drop(world.existing.0.lock().remove(what));
    check_token(
        &spec(),
        &[],
        gone("serviceaccounts default bot"),
        expect!["service account token has been invalidated: serviceaccount bot no longer exists"],
    );
    let of_pod = TokenSpec { bound: bound("Pod", "web", "pod-1"), ..spec() };
    check_token(
        &of_pod,
        &[],
        gone("pods default web"),
        expect!["service account token has been invalidated: pod web no longer exists"],
    );
    let of_old_pod = TokenSpec { bound: bound("Pod", "web", "pod-0"), ..spec() };
    check_token(
        &of_old_pod,
        &[],
        |_| {},
        expect!["service account token has been invalidated: pod web no longer exists"],
    );
    let of_node = TokenSpec { bound: bound("Node", "edge-1", "node-1"), ..spec() };
    check_token(
        &of_node,
        &[],
        gone("nodes  edge-1"),
        expect!["service account token has been invalidated: node edge-1 no longer exists"],
    );
}

#[test]
fn a_token_is_good_for_its_audiences_only() {
    let vault = TokenSpec { audiences: vec!["vault".to_owned(), "other".to_owned()], ..spec() };
    check_token(
        &vault,
        &[],
        |_| {},
        expect![[r#"token audiences ["vault", "other"] is invalid for the target audiences ["https://issuer"]"#]],
    );
    check_token(
        &vault,
        &["vault", "x"],
        |_| {},
        expect![[
            r#"system:serviceaccount:default:bot sa-1 ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"] {"authentication.kubernetes.io/credential-id": ["JTI=f9681a64-d330-4861-b0f4-d125cc0d694a"]} for ["vault"] until 2026-06-01T00:10:00Z"#
        ]],
    );
}

#[test]
fn a_token_of_another_key_is_refused() {
    let (one, other) = (world(&["serviceaccounts default bot sa-1"]), world(&["serviceaccounts default bot sa-1"]));
    let token = other.tokens.sign(&spec()).unwrap().token;
    expect!["invalid bearer token: it was signed with a key this server does not have"]
        .assert_eq(&one.tokens.verify(&token, &[]).unwrap_err().to_string());
    let (head, signature) =
        one.tokens.sign(&spec()).unwrap().token.rsplit_once('.').map(|(h, s)| (h.to_owned(), s.to_owned())).unwrap();
    let forged = format!("{head}.{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
    expect!["invalid bearer token: InvalidSignature"]
        .assert_eq(&one.tokens.verify(&forged, &[]).unwrap_err().to_string());
    expect!["the token is not of this cluster"].assert_eq(&one.tokens.verify("rubbish", &[]).unwrap_err().to_string());
}

/// Who is found behind a request: `METHOD path`, headers, and whatever the connection says.
fn check_authn(request: &str, prepare: impl FnOnce(&World, &mut http::request::Parts), expected: Expect) {
    let world = world(&["serviceaccounts default bot sa-1"]);
    let authn = Authn::new(world.tokens.clone(), world.clock.clone());
    let (method, path) = request.split_once(' ').unwrap();
    let mut parts = Request::builder().method(method).uri(path).body(()).unwrap().into_parts().0;
    prepare(&world, &mut parts);
    let result = match authn.authenticate(&parts) {
        Ok(user) => format!("{} {:?}", user.name, user.groups),
        Err(status) => format!("{} {} {}", status.code, status.reason.as_str(), status.message),
    };
    expected.assert_eq(&result);
}

fn bear(token: &str) -> impl FnOnce(&World, &mut http::request::Parts) {
    let value = format!("Bearer {token}");
    move |_, parts| drop(parts.headers.insert("authorization", value.parse().unwrap()))
}

/// As the acceptor does it for a client with an administrator's certificate.
fn connect_as_admin(world: &World, parts: &mut http::request::Parts) {
    let identity = world.pki.issue_client("jane", Some("system:masters"), start()).unwrap();
    let der = x509_parser::pem::parse_x509_pem(identity.certificate_pem.as_bytes()).unwrap().1.contents;
    parts.extensions.insert(Peer::of(&der.into()).unwrap());
}

#[test]
fn who_shows_nothing_may_only_ask_how_the_server_is_and_how_to_join() {
    let nothing = |_: &World, _: &mut http::request::Parts| {};
    check_authn("GET /healthz", nothing, expect![[r#"system:anonymous ["system:unauthenticated"]"#]]);
    check_authn("GET /version", nothing, expect![[r#"system:anonymous ["system:unauthenticated"]"#]]);
    check_authn("GET /cacerts", nothing, expect![[r#"system:anonymous ["system:unauthenticated"]"#]]);
    check_authn("GET /api/v1/pods", nothing, expect!["401 Unauthorized Unauthorized"]);
    check_authn("GET /healthz/etcd", nothing, expect!["401 Unauthorized Unauthorized"]);
    // The enrolment judges its token itself.
    check_authn(
        "POST /v1-coracle/node-certificate",
        bear("K10x::node:y"),
        expect![[r#"system:anonymous ["system:unauthenticated"]"#]],
    );
}

#[test]
fn certificates_and_tokens_say_who_asks() {
    check_authn("GET /api/v1/pods", connect_as_admin, expect![[r#"jane ["system:masters", "system:authenticated"]"#]]);
    check_authn("GET /api/v1/pods", bear("rubbish"), expect!["401 Unauthorized Unauthorized"]);
    check_authn("GET /healthz", bear("rubbish"), expect!["401 Unauthorized Unauthorized"]);
    check_authn(
        "GET /api/v1/pods",
        |world, parts| bear(&world.tokens.sign(&spec()).unwrap().token)(world, parts),
        expect![[
            r#"system:serviceaccount:default:bot ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]"#
        ]],
    );
    check_authn(
        "GET /api/v1/pods",
        |_, parts| drop(parts.extensions.insert(Arc::new(UserInfo::new("in-process", &[])))),
        expect!["in-process []"],
    );
}

#[test]
fn a_certificate_that_ends_during_a_connection_ends_what_it_allows() {
    check_authn(
        "GET /api/v1/pods",
        |world, parts| {
            connect_as_admin(world, parts);
            *world.clock.0.lock() = start() + SignedDuration::from_hours(24 * 366);
        },
        expect!["401 Unauthorized Unauthorized"],
    );
}

/// A server whose enrolment is asked as over the network.
mod enrolment {
    use std::path::Path;

    use axum::body::Body;
    use coracle_api::status::Status;
    use coracle_client::RandomIds;
    use coracle_store::{Mode, Store, StoreConfig};
    use http_body_util::BodyExt as _;
    use rcgen::{CertificateParams, KeyPair};
    use tower::ServiceExt as _;

    use super::*;
    use crate::auth::enrol::{EnrolRequest, EnrolResponse, NODE_PATH};
    use crate::{ApiServerConfig, Assembly, AssemblyConfig};

    async fn assembly(dir: &Path) -> Assembly {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::new(start()));
        let store = StoreConfig { mode: Mode::Inline, sync: false, ..StoreConfig::new(dir.join("state.db")) };
        let config = AssemblyConfig {
            api: ApiServerConfig::new(([127, 0, 0, 1], 6443).into()),
            pki: PkiConfig {
                data_dir: dir.to_owned(),
                hostname: "shop".to_owned(),
                tls_san: Vec::new(),
                addresses: vec!["10.0.0.1".parse().unwrap()],
                service_ip: "127.43.0.1".parse().unwrap(),
                cluster_domain: "cluster.local".to_owned(),
                server_url: "https://127.0.0.1:6443".to_owned(),
            },
            token: Some("0123456789abcdef".to_owned()),
        };
        Assembly::build(config, Store::open(store).unwrap(), clock, RandomIds::seeded(1)).await.unwrap()
    }

    fn csr() -> String {
        let key = KeyPair::generate().unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
    }

    /// Asks for certificates; says what they are for, or why there are none.
    async fn ask(assembly: &Assembly, node: &str, password: &str, token: &str, addresses: &[&str]) -> String {
        let request = EnrolRequest {
            node_name: node.to_owned(),
            node_password: password.to_owned(),
            client_csr: csr(),
            serving_csr: csr(),
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        };
        send(assembly, token, serde_json::to_vec(&request).unwrap()).await
    }

    async fn send(assembly: &Assembly, token: &str, body: Vec<u8>) -> String {
        let request = Request::post(NODE_PATH).header("authorization", format!("Bearer {token}"));
        let response = assembly.api.router().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        if code != 200 {
            let status: Status = serde_json::from_slice(&body).unwrap();
            return format!("{code} {}", status.message);
        }
        let response: EnrolResponse = serde_json::from_slice(&body).unwrap();
        let subject = |pem: &str| {
            let pem = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1;
            pem.parse_x509().unwrap().subject().to_string()
        };
        assert_eq!(response.server_ca, assembly.pki.server_ca().pem());
        assert_eq!(response.client_ca, assembly.pki.client_ca().pem());
        format!(
            "{} | {} | {:?}",
            subject(&response.client_certificate),
            subject(&response.serving_certificate),
            response.addresses
        )
    }

    const ONE: &str = "11111111111111111111111111111111";
    const OTHER: &str = "22222222222222222222222222222222";

    #[tokio::test(start_paused = true)]
    async fn a_machine_joins_with_the_token_and_comes_back_with_its_password() {
        let dir = TempDir::new().unwrap();
        let assembly = assembly(dir.path()).await;
        let token = assembly.enrolment.token().text();
        expect![[
            r#"O=system:nodes, CN=system:node:edge-1 | O=system:nodes, CN=system:node:edge-1 | ["edge-1", "10.0.0.9"]"#
        ]]
        .assert_eq(&ask(&assembly, "edge-1", ONE, &token, &["10.0.0.9"]).await);
        expect![[r#"O=system:nodes, CN=system:node:edge-1 | O=system:nodes, CN=system:node:edge-1 | ["edge-1"]"#]]
            .assert_eq(&ask(&assembly, "edge-1", ONE, "a token that is no longer right", &[]).await);
        expect![[r#"O=system:nodes, CN=system:node:edge-2 | O=system:nodes, CN=system:node:edge-2 | ["edge-2"]"#]]
            .assert_eq(&ask(&assembly, "edge-2", OTHER, "0123456789abcdef", &[]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_belongs_to_the_machine_that_took_it() {
        let dir = TempDir::new().unwrap();
        let assembly = assembly(dir.path()).await;
        let token = assembly.enrolment.token().text();
        ask(&assembly, "edge-1", ONE, &token, &[]).await;
        expect![[r#"403 the node name "edge-1" belongs to another machine. Give this one another name with --node-name; or, if that machine is gone or was set up anew: kubectl delete secret --namespace kube-system edge-1.node-password.coracle"#]]
            .assert_eq(&ask(&assembly, "edge-1", OTHER, &token, &[]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_cannot_pose_as_the_server() {
        let dir = TempDir::new().unwrap();
        let assembly = assembly(dir.path()).await;
        let token = assembly.enrolment.token().text();
        let claimed =
            ["kubernetes.default.svc", "127.43.0.1", "127.0.0.1", "10.0.0.1", "10.0.0.9", "other.example.org"];
        expect![[
            r#"O=system:nodes, CN=system:node:kubernetes | O=system:nodes, CN=system:node:kubernetes | ["10.0.0.9"]"#
        ]]
        .assert_eq(&ask(&assembly, "kubernetes", ONE, &token, &claimed).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_with_a_request_is_said() {
        let dir = TempDir::new().unwrap();
        let assembly = assembly(dir.path()).await;
        expect!["401 the join token is missing or wrong: start the agent with --token and what lies in server/token of the server's data directory"]
            .assert_eq(&ask(&assembly, "edge-1", ONE, "wrong", &[]).await);
        let token = assembly.enrolment.token().text();
        expect!["400 nodePassword must have at least 32 characters"]
            .assert_eq(&ask(&assembly, "edge-1", "short", &token, &[]).await);
        expect![[r#"400 nodeName "Edge_1": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#]]
            .assert_eq(&ask(&assembly, "Edge_1", ONE, &token, &[]).await);
        expect!["400 the body is no enrolment request: missing field `nodeName` at line 1 column 2"]
            .assert_eq(&send(&assembly, &token, b"{}".to_vec()).await);
    }
}
