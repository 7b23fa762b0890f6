//! A registry as small as it can be: what is put into it can be pulled, and a push ends up in it. It can be told to
//! misbehave, request by request.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What a registry does with one request, instead of what it should.
#[derive(Clone, Debug)]
pub enum Step {
    /// What it should, after all.
    AsAsked,
    /// Breaks the connection after so many bytes of the body.
    Cut(usize),
    /// Sends so many bytes of the body and then nothing.
    Stall(usize),
    /// Sends a byte each time so long has passed.
    Trickle(std::time::Duration),
    /// Does not say how much it sends, and sends this.
    Unsized(Vec<u8>),
    Status(u16),
    /// Sends the whole although a part was asked for.
    Whole,
    /// Begins to, and breaks the connection after so many bytes.
    WholeCut(usize),
    Redirect(String),
    /// Sends nothing before as many others that do so were asked for.
    Meet(Arc<tokio::sync::Barrier>),
}

/// Who may ask.
#[derive(Clone, Debug)]
pub enum Access {
    Open,
    /// This `Authorization` is wanted.
    Basic(&'static str),
    /// A token is wanted, which the token server gives for this `Authorization`, or for this refresh token.
    Token {
        basic: &'static str,
        refresh: &'static str,
    },
}

#[derive(Default)]
struct State {
    /// Paths and what lies there, with its media type.
    contents: BTreeMap<String, (String, Bytes)>,
    steps: BTreeMap<String, VecDeque<Step>>,
    /// `METHOD path?query`, and the range if there was one.
    requests: Vec<String>,
    /// What was said to be authorised with.
    authorizations: Vec<String>,
}

struct Server {
    state: Mutex<State>,
    access: Access,
    base: String,
}

pub struct Registry {
    pub host: String,
    server: Arc<Server>,
    _serving: JoinSet<()>,
}

/// Certificates for a registry with TLS, in a directory.
pub struct Pki {
    pub dir: tempfile::TempDir,
    config: Arc<rustls::ServerConfig>,
}

impl Pki {
    /// A CA in `ca.pem`, and a client's certificate in `client.pem` and `client.key`, which the server demands or not.
    pub fn new(demand_client: bool) -> Pki {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("a CA");
        let issuer = Issuer::new(params, key);
        let leaf = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
            (params.signed_by(&key, &issuer).expect("a certificate"), key)
        };
        let (client, client_key) = leaf("client");
        for (file, text) in
            [("ca.pem", ca.pem()), ("client.pem", client.pem()), ("client.key", client_key.serialize_pem())]
        {
            std::fs::write(dir.path().join(file), text).expect("it can be written");
        }
        let (server, server_key) = leaf("127.0.0.1");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = if demand_client {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(ca.der().clone()).expect("a root");
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(server_key.serialize_der());
        let config = builder.with_single_cert(vec![server.der().clone()], key.into()).expect("a configuration");
        Pki { dir, config: Arc::new(config) }
    }
}

pub fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Registry {
    pub async fn start(password: Option<&'static str>) -> Registry {
        Registry::start_with(password.map_or(Access::Open, Access::Basic), None).await
    }

    pub async fn start_with(access: Access, pki: Option<&Pki>) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let host = listener.local_addr().expect("it has an address").to_string();
        let tls = pki.map(|pki| tokio_rustls::TlsAcceptor::from(pki.config.clone()));
        let base = format!("{}://{host}", if pki.is_some() { "https" } else { "http" });
        let server = Arc::new(Server { state: Mutex::default(), access, base });
        let mut serving = JoinSet::new();
        let shared = server.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, tls) = (shared.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, shared).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, shared).await;
                            }
                        }
                    }
                });
            }
        });
        Registry { host, server, _serving: serving }
    }

    pub fn put_blob(&self, repository: &str, content: &[u8]) -> String {
        let digest = digest(content);
        self.put_lie(repository, &digest, content);
        digest
    }

    /// A blob that is not what its digest says.
    pub fn put_lie(&self, repository: &str, digest: &str, content: &[u8]) {
        self.put(format!("/v2/{repository}/blobs/{digest}"), "application/octet-stream", content);
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, content: &str) -> String {
        let digest = digest(content.as_bytes());
        for name in [tag, &digest] {
            self.put(format!("/v2/{repository}/manifests/{name}"), media_type, content.as_bytes());
        }
        digest
    }

    /// What is done with the next requests for this path, one after the other.
    pub fn script(&self, path: &str, steps: impl IntoIterator<Item = Step>) {
        self.server.state.lock().expect("no panic").steps.entry(path.to_owned()).or_default().extend(steps);
    }

    pub fn get(&self, path: &str) -> Option<Bytes> {
        self.server.state.lock().expect("no panic").contents.get(path).map(|(_, content)| content.clone())
    }

    /// The requests so far for paths that contain `part`.
    pub fn requests(&self, part: &str) -> Vec<String> {
        let state = self.server.state.lock().expect("no panic");
        state.requests.iter().filter(|request| request.contains(part)).cloned().collect()
    }

    pub fn authorizations(&self) -> Vec<String> {
        self.server.state.lock().expect("no panic").authorizations.clone()
    }

    pub fn put(&self, path: String, media_type: &str, content: &[u8]) {
        let content = (media_type.to_owned(), Bytes::copy_from_slice(content));
        self.server.state.lock().expect("no panic").contents.insert(path, content);
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, server: Arc<Server>) {
    let service = hyper::service::service_fn(move |request| answer(server.clone(), request));
    let io = hyper_util::rt::TokioIo::new(stream);
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
}

async fn answer(server: Arc<Server>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let path = parts.uri.path().to_owned();
    let range = header("range").to_owned();
    let said = header("authorization").to_owned();
    let mut state = server.state.lock().expect("no panic");
    state.requests.push(format!("{} {} {range}", parts.method, parts.uri).trim_end().to_owned());
    state.authorizations.push(said.clone());
    if path == "/token" {
        return Ok(token(&server.access, &said, &body));
    }
    if let Some(refused) = refusal(&server, &said, &path) {
        return Ok(refused);
    }
    let content_type = header("content-type").to_owned();
    let step = state.steps.get_mut(&path).and_then(VecDeque::pop_front);
    let query = parts.uri.query().unwrap_or_default().replace("%3A", ":");
    Ok(match parts.method {
        Method::GET | Method::HEAD => read(&state, &path, &range, step),
        Method::POST => accepted(StatusCode::ACCEPTED, &format!("{path}upload")),
        Method::PUT if path.ends_with("/upload") => {
            let digest = query.split('&').find_map(|pair| pair.strip_prefix("digest=")).unwrap_or_default().to_owned();
            let name = path.trim_end_matches("uploads/upload").to_owned();
            state.contents.insert(format!("{name}{digest}"), ("application/octet-stream".to_owned(), body));
            accepted(StatusCode::CREATED, &format!("{name}{digest}"))
        }
        Method::PUT => {
            let repository = path.rsplit_once('/').map(|(start, _)| start.to_owned()).unwrap_or_default();
            let by_digest = format!("{repository}/{}", digest(&body));
            state.contents.insert(by_digest, (content_type.clone(), body.clone()));
            state.contents.insert(path.clone(), (content_type, body));
            accepted(StatusCode::CREATED, &path)
        }
        _ => status(StatusCode::METHOD_NOT_ALLOWED),
    })
}

fn read(state: &State, path: &str, range: &str, step: Option<Step>) -> Response<Body> {
    let Some((media_type, content)) = state.contents.get(path) else { return status(StatusCode::NOT_FOUND) };
    let from: usize = match &step {
        Some(Step::Whole | Step::WholeCut(_)) => 0,
        _ => range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0),
    };
    let part = content.slice(from.min(content.len())..);
    let mut found = Response::new(whole(part.clone()));
    let headers = found.headers_mut();
    headers.insert("content-type", media_type.parse().expect("a header"));
    if from > 0 {
        let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
        headers.insert("content-range", range.parse().expect("a header"));
        *found.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let length = part.len();
    match step {
        None | Some(Step::AsAsked | Step::Whole) => {}
        Some(Step::Status(code)) => return status(StatusCode::from_u16(code).expect("a status")),
        Some(Step::Redirect(to)) => return accepted(StatusCode::TEMPORARY_REDIRECT, &to),
        Some(Step::Unsized(content)) => {
            *found.body_mut() =
                StreamBody::new(futures::stream::iter([Ok(Frame::data(content.into()))])).boxed_unsync();
        }
        Some(Step::Meet(barrier)) => {
            let sent = futures::stream::once(async move {
                barrier.wait().await;
                Ok(Frame::data(part))
            });
            *found.body_mut() = StreamBody::new(sent).boxed_unsync();
            found.headers_mut().insert("content-length", length.into());
        }
        Some(Step::Cut(bytes) | Step::WholeCut(bytes)) => {
            let end = futures::stream::iter([Err(io::Error::other("cut"))]);
            *found.body_mut() = broken(part.slice(..bytes), end);
            found.headers_mut().insert("content-length", length.into());
        }
        Some(Step::Stall(bytes)) => {
            *found.body_mut() = broken(part.slice(..bytes), futures::stream::pending());
            found.headers_mut().insert("content-length", length.into());
        }
        Some(Step::Trickle(pause)) => {
            let sent = futures::stream::iter(part).then(move |byte| async move {
                tokio::time::sleep(pause).await;
                Ok(Frame::data(Bytes::copy_from_slice(&[byte])))
            });
            *found.body_mut() = StreamBody::new(sent).boxed_unsync();
            found.headers_mut().insert("content-length", length.into());
        }
    }
    found
}

/// The first bytes, given time to leave, and then `end`.
fn broken(first: Bytes, end: impl futures::Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static) -> Body {
    let first = futures::stream::iter([Ok(Frame::data(first))]);
    // hyper writes out what it has when the body has nothing more for the moment.
    let pause = futures::stream::once(async {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
        Ok(Frame::data(Bytes::new()))
    });
    StreamBody::new(first.chain(pause).chain(end)).boxed_unsync()
}

fn token(access: &Access, said: &str, form: &[u8]) -> Response<Body> {
    let Access::Token { basic, refresh } = access else { return status(StatusCode::NOT_FOUND) };
    let form = String::from_utf8_lossy(form);
    let refreshed = form.contains("grant_type=refresh_token") && form.contains(&format!("refresh_token={refresh}"));
    if said == *basic || refreshed {
        return Response::new(whole(Bytes::from_static(br#"{"token":"opensesame"}"#)));
    }
    status(StatusCode::UNAUTHORIZED)
}

fn refusal(server: &Server, said: &str, path: &str) -> Option<Response<Body>> {
    let (wanted, challenge) = match &server.access {
        Access::Open => return None,
        Access::Basic(wanted) => (*wanted, "Basic realm=\"test\"".to_owned()),
        Access::Token { .. } => {
            let repository = path.trim_start_matches("/v2/").split("/manifests").next().unwrap_or_default();
            let scope = format!("repository:{repository}:pull,push");
            let realm = format!("{}/token", server.base);
            ("Bearer opensesame", format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"{scope}\""))
        }
    };
    if said == wanted {
        return None;
    }
    let mut refused = status(StatusCode::UNAUTHORIZED);
    refused.headers_mut().insert("www-authenticate", challenge.parse().expect("a header"));
    Some(refused)
}

fn whole(content: Bytes) -> Body {
    Full::new(content).map_err(|never| match never {}).boxed_unsync()
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn accepted(code: StatusCode, location: &str) -> Response<Body> {
    let mut response = status(code);
    response.headers_mut().insert("location", location.parse().expect("a header"));
    response
}
