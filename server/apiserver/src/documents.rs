//! Owns the requests that are for no resource and no health check: the OpenAPI documents, the keys of service-account
//! tokens, the list of paths, and what a machine needs to join.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use coracle_api::status::Status;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, IF_NONE_MATCH, LOCATION,
    VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::json;

use crate::auth::enrol::{CA_PATH, Enrolment, NODE_PATH};
use crate::auth::service_account::ServiceAccountTokens;
use crate::discovery;
use crate::hooks::{Endpoint, RawRequest};
use crate::http::{negotiate, respond};
use crate::openapi::{Compressed, Document, OpenApi, Served, group_version_of};

/// How kubectl asks for the protobuf form. The first is no valid media type, so the answer is always called the second.
const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];
const V3_ROOT: &str = "/openapi/v3/";

/// Answers them.
pub struct Documents {
    openapi: Arc<OpenApi>,
    tokens: Arc<ServiceAccountTokens>,
    enrolment: Arc<Enrolment>,
    served: Served,
}

impl Documents {
    pub fn new(
        openapi: Arc<OpenApi>,
        tokens: Arc<ServiceAccountTokens>,
        enrolment: Arc<Enrolment>,
        served: Served,
    ) -> Documents {
        Documents { openapi, tokens, enrolment, served }
    }
}

impl Endpoint for Documents {
    fn call(&self, request: RawRequest) -> BoxFuture<'static, http::Response<Body>> {
        let path = request.info.path.clone();
        if path == NODE_PATH {
            let enrolment = self.enrolment.clone();
            return async move { enrolment.call(request).await }.boxed();
        }
        let method = request.request.method();
        if method != Method::GET && method != Method::HEAD {
            return ready(respond::status(&Status::no_such_path()));
        }
        let headers = request.request.headers();
        match path.as_str() {
            "/" => {
                let mut paths = discovery::paths((self.served)());
                let fixed =
                    ["/healthz", "/livez", "/readyz", "/metrics", "/version", CA_PATH, "/openapi/v2", "/openapi/v3"];
                paths.extend(fixed.map(str::to_owned));
                paths.extend(["/.well-known/openid-configuration", "/openid/v1/jwks"].map(str::to_owned));
                paths.sort();
                ready(json_document(&json!({ "paths": paths })))
            }
            CA_PATH => {
                let pem = Body::from(self.enrolment.ca_bundle());
                ready(respond::plain(200, "application/x-pem-file", pem))
            }
            "/.well-known/openid-configuration" => ready(json_document(&self.tokens.openid_configuration())),
            "/openid/v1/jwks" => {
                let mut response = json_document(&self.tokens.key_set());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
                ready(response)
            }
            "/openapi/v2" => {
                let protobuf = accepts(headers, &V2_PROTOBUF);
                let (which, kind) = if protobuf {
                    (Document::V2Protobuf, V2_PROTOBUF[1])
                } else {
                    (Document::V2Json, "application/json")
                };
                self.compressed(which, kind, headers.clone(), None)
            }
            "/openapi/v3" | V3_ROOT => ready(self.index()),
            _other => match path.strip_prefix(V3_ROOT).and_then(group_version_of) {
                Some((group, version)) => {
                    let hash = request.info.query.get("hash").map(str::to_owned);
                    self.compressed(
                        Document::V3(group, version),
                        "application/json",
                        headers.clone(),
                        Some((path, hash)),
                    )
                }
                None => ready(respond::status(&Status::no_such_path())),
            },
        }
    }
}

impl Documents {
    fn index(&self) -> http::Response<Body> {
        let paths: serde_json::Map<String, serde_json::Value> = self
            .openapi
            .index()
            .into_iter()
            .map(|(path, hash)| {
                let url = format!("{V3_ROOT}{path}?hash={hash}");
                (path, json!({ "serverRelativeURL": url }))
            })
            .collect();
        json_document(&json!({ "paths": paths }))
    }

    /// A document, made aside where that takes long. `hashed`: its path and the hash the URL names, which lets it be
    /// kept for ever.
    fn compressed(
        &self,
        which: Document,
        kind: &'static str,
        headers: HeaderMap,
        hashed: Option<(String, Option<String>)>,
    ) -> BoxFuture<'static, http::Response<Body>> {
        let openapi = self.openapi.clone();
        async move {
            let made = tokio::task::spawn_blocking(move || openapi.document(&which)).await;
            let document = match made {
                Ok(Some(document)) => document,
                Ok(None) => return respond::status(&Status::no_such_path()),
                Err(error) => return respond::status(&Status::internal(error)),
            };
            if let Some((path, Some(asked))) = &hashed
                && *asked != document.hash
            {
                return moved(&format!("{path}?hash={}", document.hash));
            }
            let immutable = matches!(hashed, Some((_, Some(_))));
            answer(&document, kind, &headers, immutable)
        }
        .boxed()
    }
}

fn answer(document: &Compressed, kind: &'static str, headers: &HeaderMap, immutable: bool) -> http::Response<Body> {
    let etag = format!("\"{}\"", document.hash);
    let known = headers
        .get(IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|one| one.trim().trim_start_matches("W/") == etag));
    let mut response = respond::plain(200, kind, Body::empty());
    let own = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        own.insert(ETAG, etag);
    }
    if let Ok(vary) = HeaderValue::from_str(&format!("{ACCEPT}, {ACCEPT_ENCODING}")) {
        own.insert(VARY, vary);
    }
    if immutable {
        own.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        own.insert(EXPIRES, HeaderValue::from_static("Thu, 31 Dec 2037 23:55:55 GMT"));
    }
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    if negotiate::takes_gzip(headers) {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        *response.body_mut() = Body::from(document.gzip.clone());
        return response;
    }
    match inflate(&document.gzip) {
        Ok(plain) => *response.body_mut() = Body::from(plain),
        Err(error) => return respond::status(&Status::internal(error)),
    }
    response
}

fn inflate(gzip: &[u8]) -> std::io::Result<Bytes> {
    use std::io::Read;
    let mut plain = Vec::with_capacity(gzip.len() * 8);
    flate2::read::GzDecoder::new(gzip).read_to_end(&mut plain)?;
    Ok(plain.into())
}

fn moved(to: &str) -> http::Response<Body> {
    let mut response = respond::plain(301, "text/plain", Body::empty());
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// Whether the first media type the client takes, of those served, is one of `kinds`.
fn accepts(headers: &HeaderMap, kinds: &[&str]) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges =
        values.flat_map(|value| value.split(',')).map(|range| range.split(';').next().unwrap_or_default().trim());
    for range in ranges {
        if kinds.contains(&range) {
            return true;
        }
        if matches!(range, "application/json" | "*/*" | "application/*") {
            return false;
        }
    }
    false
}

fn json_document(value: &serde_json::Value) -> http::Response<Body> {
    respond::plain(200, "application/json", Body::from(value.to_string()))
}

fn ready(response: http::Response<Body>) -> BoxFuture<'static, http::Response<Body>> {
    std::future::ready(response).boxed()
}
