//! A registry as small as it can be: what is put into it can be pulled, and a push ends up in it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Paths and what lies there, with its media type.
type Contents = Arc<Mutex<BTreeMap<String, (String, Bytes)>>>;

pub struct Registry {
    pub host: String,
    contents: Contents,
    /// `Basic …`, if somebody must say it.
    _serving: JoinSet<()>,
}

pub fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Registry {
    pub async fn start(password: Option<&'static str>) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let host = listener.local_addr().expect("it has an address").to_string();
        let contents = Contents::default();
        let mut serving = JoinSet::new();
        let shared = contents.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                connections.spawn(async move {
                    let service = hyper::service::service_fn(move |request| answer(shared.clone(), password, request));
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
        Registry { host, contents, _serving: serving }
    }

    pub fn put_blob(&self, repository: &str, content: &[u8]) -> String {
        let digest = digest(content);
        self.put(format!("/v2/{repository}/blobs/{digest}"), "application/octet-stream", content);
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

    pub fn get(&self, path: &str) -> Option<Bytes> {
        self.contents.lock().expect("no panic").get(path).map(|(_, content)| content.clone())
    }

    fn put(&self, path: String, media_type: &str, content: &[u8]) {
        let content = (media_type.to_owned(), Bytes::copy_from_slice(content));
        self.contents.lock().expect("no panic").insert(path, content);
    }
}

async fn answer(
    contents: Contents,
    password: Option<&'static str>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let said = request.headers().get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
    if password.is_some() && said.as_deref() != password {
        let mut refused = status(StatusCode::UNAUTHORIZED);
        refused.headers_mut().insert("www-authenticate", "Basic realm=\"test\"".parse().expect("a header"));
        return Ok(refused);
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().replace("%3A", ":");
    let mut contents = contents.lock().expect("no panic");
    let upload = "/upload";
    Ok(match parts.method {
        Method::GET | Method::HEAD => match contents.get(&path) {
            _ if path == "/v2/" => status(StatusCode::OK),
            Some((media_type, content)) => {
                let mut found = Response::new(Full::new(content.clone()));
                found.headers_mut().insert("content-type", media_type.parse().expect("a header"));
                found
            }
            None => status(StatusCode::NOT_FOUND),
        },
        Method::POST => accepted(StatusCode::ACCEPTED, &format!("{path}{upload}"), 0),
        Method::PATCH => {
            let entry = contents.entry(path.clone()).or_default();
            entry.1 = [entry.1.as_ref(), body.as_ref()].concat().into();
            let length = entry.1.len();
            accepted(StatusCode::ACCEPTED, &path, length)
        }
        Method::PUT if path.ends_with(upload) => {
            let uploaded = contents.remove(&path).map(|(_, content)| content).unwrap_or_default();
            let digest = query.split('&').find_map(|pair| pair.strip_prefix("digest=")).unwrap_or_default().to_owned();
            let name = path.trim_end_matches(upload).trim_end_matches("uploads/").to_owned();
            let whole: Bytes = [uploaded.as_ref(), body.as_ref()].concat().into();
            contents.insert(format!("{name}{digest}"), ("application/octet-stream".to_owned(), whole));
            accepted(StatusCode::CREATED, &format!("{name}{digest}"), 0)
        }
        Method::PUT => {
            let media_type =
                parts.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
            contents.insert(path.clone(), (media_type.to_owned(), body));
            accepted(StatusCode::CREATED, &path, 0)
        }
        _ => status(StatusCode::METHOD_NOT_ALLOWED),
    })
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn accepted(code: StatusCode, location: &str, length: usize) -> Response<Full<Bytes>> {
    let mut response = status(code);
    response.headers_mut().insert("location", location.parse().expect("a header"));
    let last = length.saturating_sub(1);
    response.headers_mut().insert("range", format!("0-{last}").parse().expect("a header"));
    response
}
