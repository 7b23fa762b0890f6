use std::net::SocketAddr;

use expect_test::{Expect, expect};
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::ConfigMap;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{Client, OnExit, TaskScope, TokioClock, WatchParams, full_body};

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate from 2025 to 2030.
    fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn identity(&self) -> Identity {
        let (cert_pem, key_pem) = self.issue("client");
        Identity::ClientCert { cert_pem, key_pem }
    }
}

/// What a server of these tests does with a connection.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answer,
    /// The first connection is never answered.
    FirstIsMute,
    /// A connection ends after one answer.
    OneAnswerEach,
}

struct Server {
    address: SocketAddr,
    scope: TaskScope,
}

impl Server {
    async fn tls(ca: &Ca, name: &str, clients: Option<&Ca>, manner: Manner) -> Self {
        let (cert, key) = ca.issue(name);
        let provider = Arc::new(ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let mut config =
            builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::start(Some(TlsAcceptor::from(Arc::new(config))), ca.pem(), manner).await
    }

    async fn start(tls: Option<TlsAcceptor>, ca_pem: String, manner: Manner) -> Self {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let scope = TaskScope::root();
        let connections = scope.child("connections");
        scope.spawn("accept", OnExit::Finish, move |cancel| {
            let (listener, tls, ca_pem, connections) =
                (listener.clone(), tls.clone(), ca_pem.clone(), connections.clone());
            async move {
                for number in 1.. {
                    let (tcp, _) = tokio::select! {
                        biased;
                        () = cancel.cancelled() => return,
                        accepted = listener.accept() => accepted.unwrap(),
                    };
                    let tcp = parking_lot::Mutex::new(Some(tcp));
                    let (tls, ca_pem) = (tls.clone(), ca_pem.clone());
                    connections.spawn("c", OnExit::Finish, move |_| {
                        serve(tcp.lock().take().unwrap(), tls.clone(), ca_pem.clone(), number, manner)
                    });
                }
            }
        });
        Self { address, scope }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

async fn serve(tcp: TcpStream, tls: Option<TlsAcceptor>, ca_pem: String, number: u32, manner: Manner) {
    if manner == Manner::FirstIsMute && number == 1 {
        std::future::pending::<()>().await;
    }
    let stop = tokio_util::sync::CancellationToken::new();
    let answered = stop.clone();
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        if manner == Manner::OneAnswerEach {
            answered.cancel();
        }
        let who = request.headers().get("authorization").map_or("nobody", |v| v.to_str().unwrap()).to_owned();
        let object = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"c"}},"data":{{"connection":"{number}","who":"{who}"}}}}"#
        );
        let body = match (request.uri().path(), request.uri().query()) {
            ("/cacerts", _) => full_body(ca_pem.clone()),
            // The watch stays open.
            (_, Some(_)) => {
                let first = futures::stream::iter([Ok(http_body::Frame::data(bytes::Bytes::from(format!(
                    "{{\"type\":\"ADDED\",\"object\":{object}}}\n"
                ))))]);
                http_body_util::StreamBody::new(first.chain(futures::stream::pending())).boxed_unsync()
            }
            (_, None) => full_body(object),
        };
        async move { Ok::<_, std::convert::Infallible>(Response::new(body)) }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    match tls {
        None => drop(builder.serve_connection(TokioIo::new(tcp), service).await),
        Some(tls) => {
            let Ok(stream) = tls.accept(tcp).await else { return };
            let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                biased;
                _ = connection.as_mut() => {}
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        }
    }
}

fn config(server: &str, ca: &Ca, identity: Identity) -> RemoteConfig {
    RemoteConfig {
        clock: TokioClock::shared("2026-07-01T00:00:00Z".parse().unwrap()),
        ..RemoteConfig::new(server, ca.pem(), identity)
    }
}

async fn ask(client: &Client) -> Result<String, Error> {
    let object = client.namespaced::<ConfigMap>("default").get("c").await?;
    let data = object.data.unwrap();
    Ok(format!("connection {} for {}", data["connection"], data["who"]))
}

/// The whole chain of the error a request ends with, the port left out.
async fn check_error(config: RemoteConfig, port: u16, expected: Expect) {
    let error = ask(&Client::remote(config).unwrap()).await.unwrap_err();
    expected.assert_eq(&error.to_string().replace(&port.to_string(), "PORT"));
    assert!(error.is_retriable());
}

#[tokio::test]
async fn requests_share_a_connection_and_say_who_asks() {
    let ca = Ca::new();
    let server = Server::tls(&ca, "127.0.0.1", None, Manner::Answer).await;
    let client = Client::remote(config(&server.url(), &ca, Identity::Token("t1".into()))).unwrap();
    let (one, two) = futures::join!(ask(&client), ask(&client));
    assert_eq!((&*one.unwrap(), &*two.unwrap()), ("connection 1 for Bearer t1", "connection 1 for Bearer t1"));
    // A new identity: the open watch goes on over its connection, what follows takes another.
    let mut watch = client.all::<ConfigMap>().watch(&WatchParams::default()).await.unwrap();
    client.connection().unwrap().replace_identity(Identity::Token("t2".into())).unwrap();
    assert_eq!(ask(&client).await.unwrap(), "connection 2 for Bearer t2");
    assert!(watch.next().await.unwrap().is_ok());
    server.scope.abort().await;
}

#[tokio::test]
async fn connections_that_end_are_opened_again_at_any_server_that_answers() {
    let ca = Ca::new();
    let server = Server::tls(&ca, "127.0.0.1", Some(&ca), Manner::OneAnswerEach).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut config = config(&format!("https://{free}"), &ca, ca.identity());
    config.servers.push(server.url());
    let client = Client::remote(config).unwrap();
    for expected in ["connection 1 for nobody", "connection 2 for nobody", "connection 3 for nobody"] {
        assert_eq!(ask(&client).await.unwrap(), expected);
    }
    server.scope.abort().await;
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let ca = Ca::new();
    let server = Server::start(None, ca.pem(), Manner::FirstIsMute).await;
    let config = config(&format!("http://{}", server.address), &ca, Identity::Anonymous);
    let client = Client::remote(config).unwrap().with_deadline(Duration::from_millis(50));
    expect!["GET /api/v1/namespaces/default/configmaps/c: no answer within 50ms"]
        .assert_eq(&ask(&client).await.unwrap_err().to_string());
    let patient = client.with_deadline(Duration::from_secs(60));
    assert_eq!(ask(&patient).await.unwrap(), "connection 2 for nobody");
    server.scope.abort().await;
}

#[tokio::test]
async fn errors_name_the_server_and_the_cure() {
    let (ca, other) = (Ca::new(), Ca::new());
    let server = Server::tls(&ca, "localhost", Some(&ca), Manner::Answer).await;
    let port = server.address.port();
    let url = format!("https://localhost:{port}");
    check_error(config(&url, &other, ca.identity()), port, expect!["GET /api/v1/namespaces/default/configmaps/c: no trust between this client and https://localhost:PORT: invalid peer certificate: BadSignature; the server's certificate is not signed by the CA this client trusts: it is another cluster, or its data directory was made anew; take its new kubeconfig or token"]).await;
    check_error(config(&server.url(), &ca, ca.identity()), port, expect![[r#"GET /api/v1/namespaces/default/configmaps/c: no trust between this client and https://127.0.0.1:PORT: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for DnsName("localhost"); the server's certificate is not for "127.0.0.1": start the server with --tls-san 127.0.0.1, or use a name or address that it has"#]]).await;
    check_error(config(&url, &ca, other.identity()), port, expect!["GET /api/v1/namespaces/default/configmaps/c: no trust between this client and https://localhost:PORT: received fatal alert: DecryptError; the server does not accept this client's certificate: it is of another cluster or of an earlier one; take the kubeconfig or token that this server has written"]).await;
    check_error(config(&url, &ca, Identity::Anonymous), port, expect!["GET /api/v1/namespaces/default/configmaps/c: no trust between this client and https://localhost:PORT: received fatal alert: CertificateRequired; the server does not accept this client's certificate: it is of another cluster or of an earlier one; take the kubeconfig or token that this server has written"]).await;
    let clock = |at: &str| TokioClock::shared(at.parse().unwrap());
    let early = RemoteConfig { clock: clock("1970-01-01T00:05:00Z"), ..config(&url, &ca, ca.identity()) };
    check_error(early, port, expect!["GET /api/v1/namespaces/default/configmaps/c: no trust between this client and https://localhost:PORT: invalid peer certificate: certificate not valid yet: verification time 300 (UNIX), but certificate is not valid before 1735689600 (1735689300 seconds in future); the server's certificate is not valid yet: here it is 1970-01-01T00:05:00Z; set this host's clock"]).await;
    let late = RemoteConfig { clock: clock("2031-01-01T00:00:00Z"), ..config(&url, &ca, ca.identity()) };
    check_error(late, port, expect!["GET /api/v1/namespaces/default/configmaps/c: no trust between this client and https://localhost:PORT: invalid peer certificate: certificate expired: verification time 1924992000 (UNIX), but certificate is not valid after 1893456000 (31536000 seconds ago); the server's certificate has expired: here it is 2031-01-01T00:00:00Z; if that is right restart the server, which renews it, else set this host's clock"]).await;
    server.scope.abort().await;

    let plain = Server::start(None, ca.pem(), Manner::Answer).await;
    let port = plain.address.port();
    check_error(config(&plain.url(), &ca, ca.identity()), port, expect!["GET /api/v1/namespaces/default/configmaps/c: no trust between this client and https://127.0.0.1:PORT: received corrupt message of type InvalidContentType; the server does not speak TLS on this port: check the port, or use http:// for a server without TLS"]).await;
    plain.scope.abort().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    check_error(config(&format!("https://{free}"), &ca, ca.identity()), free.port(), expect!["GET /api/v1/namespaces/default/configmaps/c: cannot connect to https://127.0.0.1:PORT: Connection refused (os error 111); is the server running there, and is the address right?"]).await;

    let wrong = |server: &str| Client::remote(config(server, &ca, Identity::Anonymous)).unwrap_err().to_string();
    expect![[r#"the server "host:6443" is not a URL like https://host:6443"#]].assert_eq(&wrong("host:6443"));
    expect![[r#"the server "https://host/api" is not a URL like https://host:6443"#]]
        .assert_eq(&wrong("https://host/api"));
}

#[tokio::test]
async fn a_ca_is_taken_by_its_hash() {
    let ca = Ca::new();
    let server = Server::tls(&ca, "127.0.0.1", None, Manner::Answer).await;
    let hash = tls::hex(&Sha256::digest(ca.pem()));
    assert_eq!(fetch_ca(&server.url(), &hash).await.unwrap(), ca.pem());
    let error = fetch_ca(&server.url(), &"0".repeat(64)).await.unwrap_err().to_string();
    expect!["URL is not the server this token was made by: its CA has the hash HASH, the token says 0000000000000000000000000000000000000000000000000000000000000000; take a new token from that server, or correct the address"]
        .assert_eq(&error.replace(&server.url(), "URL").replace(&hash, "HASH"));
    server.scope.abort().await;
}
