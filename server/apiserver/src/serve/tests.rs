use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use coracle_client::{Client, Clock, Identity, RemoteConfig, SystemClock, TaskScope, empty_body};
use expect_test::expect;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::auth::pki::PkiConfig;

struct World {
    _dir: TempDir,
    pki: Arc<Pki>,
    clock: Arc<dyn Clock>,
    scope: TaskScope,
    address: SocketAddr,
}

/// Says who asked; a watch goes on for ever.
async fn who(request: axum::extract::Request) -> axum::response::Response {
    if super::body::is_endless(request.uri()) {
        let endless = futures::stream::once(async { Ok::<_, Infallible>("begun\n") }).chain(futures::stream::pending());
        return Body::from_stream(endless).into_response();
    }
    match request.extensions().get::<Peer>() {
        Some(peer) => format!("{} {:?}", peer.user.name, peer.user.groups).into_response(),
        None => "nobody".into_response(),
    }
}

use futures::StreamExt as _;

async fn world(limits: Limits) -> World {
    let dir = TempDir::new().unwrap();
    let clock = SystemClock::shared();
    let config = PkiConfig {
        data_dir: dir.path().to_owned(),
        hostname: "edge-1".to_owned(),
        tls_san: Vec::new(),
        addresses: Vec::new(),
        service_ip: "127.43.0.1".parse().unwrap(),
        cluster_domain: "cluster.local".to_owned(),
        server_url: "https://127.0.0.1:6443".to_owned(),
    };
    let pki = Arc::new(Pki::open(config, clock.now()).unwrap());
    let listener = listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let scope = TaskScope::root();
    serve(listener, Router::new().fallback(who), pki.clone(), clock.clone(), limits, &scope).unwrap();
    World { _dir: dir, pki, clock, scope, address }
}

impl World {
    fn client(&self, identity: Identity) -> Client {
        let server = format!("https://{}", self.address);
        Client::remote(RemoteConfig::new(server, self.pki.server_ca().pem(), identity)).unwrap()
    }

    async fn handshake(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        use rustls_pki_types::ServerName;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.pki.server_ca().der().clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn ask(&self, identity: Identity) -> String {
        let request = http::Request::get("/who").body(empty_body()).unwrap();
        String::from_utf8(self.client(identity).bytes(request).await.unwrap().to_vec()).unwrap()
    }
}

#[tokio::test]
async fn a_certificate_of_the_client_authority_says_who_asks() {
    let world = world(Limits::default()).await;
    let identity = |pki: &Pki| {
        let issued = pki.issue_client("jane", Some("devs"), world.clock.now()).unwrap();
        Identity::ClientCert { cert_pem: issued.certificate_pem, key_pem: issued.key_pem }
    };
    expect![[r#"jane ["devs", "system:authenticated"]"#]].assert_eq(&world.ask(identity(&world.pki)).await);
    expect!["nobody"].assert_eq(&world.ask(Identity::Anonymous).await);
    // One of another cluster is no reason to cut the connection: the client is told 401 by the layers above.
    let other = self::world(Limits::default()).await;
    expect!["nobody"].assert_eq(&world.ask(identity(&other.pki)).await);
    other.scope.shutdown().await;
    world.scope.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_ends_watches_and_returns() {
    let world = world(Limits::default()).await;
    let client = world.client(Identity::Anonymous);
    let response = client.request(http::Request::get("/pods?watch=true").body(empty_body()).unwrap()).await.unwrap();
    let mut body = response.into_body();
    use http_body_util::BodyExt as _;
    expect!["begun\n"].assert_eq(&String::from_utf8_lossy(&body.frame().await.unwrap().unwrap().into_data().unwrap()));
    let ended = async { while let Some(Ok(_)) = body.frame().await {} };
    tokio::join!(world.scope.shutdown(), ended);
}

#[tokio::test]
async fn who_does_not_finish_the_handshake_is_cut() {
    let limits = Limits { handshake: Duration::from_millis(50), connections: 1, ..Limits::default() };
    let world = world(limits).await;
    let mut slow = TcpStream::connect(world.address).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    // The only place is taken until the slow one is cut; then this one gets its turn.
    expect!["nobody"].assert_eq(&world.ask(Identity::Anonymous).await);
    let mut rest = Vec::new();
    let _reset_or_end = slow.read_to_end(&mut rest).await;
    world.scope.shutdown().await;
}

#[tokio::test]
async fn who_speaks_plain_http_is_told_so() {
    let world = world(Limits::default()).await;
    let say = async |said: &str| {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.map(|_| heard).unwrap_or_default()
    };
    let told = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    assert_eq!(say("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await, told);
    assert_eq!(say(&format!("POST /api HTTP/1.1\r\nHost: x\r\n\r\n{}", "x".repeat(10_000))).await, told);
    assert_eq!(say("what is this").await, "");
    assert_eq!(say("GE").await, "");
    expect!["nobody"].assert_eq(&world.ask(Identity::Anonymous).await);
    world.scope.shutdown().await;
}

#[tokio::test]
async fn who_asks_nothing_loses_the_connection() {
    let limits = Limits { idle: Duration::from_millis(50), drain: Duration::from_millis(50), ..Limits::default() };
    let world = world(Limits { connections: 1, ..limits }).await;
    // Both have shaken hands. One says nothing, one has begun as HTTP/2 does and then falls silent.
    for said in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut silent = world.handshake().await;
        silent.write_all(said).await.unwrap();
        let mut rest = Vec::new();
        let _reset_or_end = silent.read_to_end(&mut rest).await;
        // The only place is free again.
        expect!["nobody"].assert_eq(&world.ask(Identity::Anonymous).await);
    }
    // An answer that goes on is no silence.
    let client = world.client(Identity::Anonymous);
    let response = client.request(http::Request::get("/pods?watch=true").body(empty_body()).unwrap()).await.unwrap();
    let mut body = response.into_body();
    use http_body_util::BodyExt as _;
    body.frame().await.unwrap().unwrap();
    let more = tokio::time::timeout(Duration::from_millis(300), body.frame()).await;
    assert!(more.is_err(), "the watch was ended: {more:?}");
    world.scope.shutdown().await;
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_named_with_the_cure() {
    let taken = listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let said = listen(address).await.unwrap_err().to_string();
    expect!["cannot listen on ADDRESS: the address is in use; stop what listens there (`ss -ltnp` names it), or choose another port with --https-listen-port"]
        .assert_eq(&said.replace(&address.to_string(), "ADDRESS"));
    let said = listen(([203, 0, 113, 7], 6443).into()).await.unwrap_err().to_string();
    expect!["cannot listen on 203.0.113.7:6443: no interface of this host has that address; check --bind-address"]
        .assert_eq(&said);
}

#[test]
fn endless_answers_are_known_by_their_urls() {
    let endless: Vec<bool> = [
        "/api/v1/pods?watch=true",
        "/api/v1/pods?watch=1&x=y",
        "/api/v1/pods?watch=false",
        "/api/v1/watch/pods",
        "/apis/apps/v1/watch/deployments",
        "/api/v1/namespaces/n/pods/p/log?follow=true",
        "/api/v1/namespaces/n/pods/watch",
    ]
    .iter()
    .map(|uri| super::body::is_endless(&uri.parse().unwrap()))
    .collect();
    expect!["[true, true, false, true, true, true, false]"].assert_eq(&format!("{endless:?}"));
}
