//! Owns plain HTTP through `nodes/…/proxy`, `pods/…/proxy` and `services/…/proxy`. Connections that change protocol are
//! not forwarded.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use coracle_api::status::{Reason, Status};
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};

use super::logs::unreachable_node;
use super::targets::{self, TargetName};
use super::{Inner, connect::DialError};
use crate::hooks::RawRequest;

/// Picks the endpoints of services in turn.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// Of one connection only, or meant for this server.
const NOT_FORWARDED: [HeaderName; 7] = [AUTHORIZATION, CONNECTION, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

impl Inner {
    pub(super) async fn proxy(&self, request: RawRequest) -> Result<http::Response<Body>, Status> {
        let RawRequest { info, request, .. } = request;
        if request.headers().contains_key(UPGRADE) {
            let text = "the proxy of this server does not forward connections that change protocol yet";
            return Err(Status::new(501, Reason::Unknown, text));
        }
        let target = TargetName::parse(&info.name).ok_or_else(|| {
            Status::bad_request(format!(
                "invalid {} request {:?}: want name, name:port or scheme:name:port",
                info.resource, info.name
            ))
        })?;
        let path = if info.rest.is_empty() { "/" } else { &info.rest };
        let path = match request.uri().query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let objects = self.objects.as_ref();
        if info.resource == "nodes" && target.port.is_empty() {
            let address = targets::node(objects, target.name)?;
            let host = format!("{}:{}", address.host, address.port);
            let forwarded = forward(request, &path, &host, &info.path)?;
            let response = self.dialer.to_node(&address, forwarded).await;
            return response.map(returned).map_err(|error| unreachable_node(&address, &path, &error));
        }
        if target.scheme == "https" {
            let text = "the proxy of this server reaches pods and services over plain HTTP only";
            return Err(Status::new(501, Reason::Unknown, text));
        }
        let (host, port) = match info.resource.as_str() {
            "pods" => targets::pod(objects, &info.namespace, &target)?,
            "services" => {
                let turn = TURN.fetch_add(1, Ordering::Relaxed);
                targets::service(objects, &info.namespace, &target, turn)?
            }
            _nodes => {
                let text = "of a node, the proxy of this server reaches the node API only: leave the port out";
                return Err(Status::new(501, Reason::Unknown, text));
            }
        };
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let forwarded = forward(request, &path, &authority, &info.path)?;
        let response = self.dialer.plain(&host, port, forwarded).await;
        response.map(returned).map_err(|error| unreachable_target(&info.name, &authority, &error))
    }
}

fn unreachable_target(name: &str, authority: &str, error: &DialError) -> Status {
    Status::service_unavailable(format!("error trying to reach service {name:?} at {authority}: {error}"))
}

/// The request as the target gets it.
fn forward(
    request: http::Request<Body>,
    path: &str,
    host: &str,
    original: &str,
) -> Result<http::Request<Body>, Status> {
    let (parts, body) = request.into_parts();
    let mut forwarded = http::Request::builder()
        .method(parts.method)
        .uri(path)
        .body(body)
        .map_err(|error| Status::bad_request(error.to_string()))?;
    let headers = forwarded.headers_mut();
    *headers = kept(parts.headers);
    for (name, value) in [("host", host), ("x-forwarded-uri", original)] {
        if let Ok(value) = http::HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    Ok(forwarded)
}

fn returned(response: http::Response<Body>) -> http::Response<Body> {
    let (mut parts, body) = response.into_parts();
    parts.headers = kept(parts.headers);
    parts.version = http::Version::default();
    http::Response::from_parts(parts, body)
}

fn kept(mut headers: HeaderMap) -> HeaderMap {
    for name in NOT_FORWARDED {
        headers.remove(name);
    }
    // Whom the client acts as was decided here, and is no wish of this server's own.
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    impersonation.iter().for_each(|name| drop(headers.remove(name)));
    headers
}
