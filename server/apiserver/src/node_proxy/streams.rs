//! Owns `pods/exec`, `pods/attach` and `pods/portforward`: which container is meant, what is asked of it, and the passing
//! on of the connection to the pod's node. What is spoken over it is between the client and the node.

use axum::body::Body;
use coracle_api::status::{Reason, Status};
use coracle_client::Pod;
use coracle_client::upgrade::{Upgrades, pass_on};
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, SEC_WEBSOCKET_PROTOCOL, TRANSFER_ENCODING, UPGRADE};

use super::logs::{container, unreachable_node};
use super::targets;
use super::{Inner, connect::DialError};
use crate::hooks::RawRequest;
use crate::http::query::Query;

/// A token that a browser carries where others carry a protocol's name; it is for this server.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";

impl Inner {
    pub(super) async fn stream(&self, request: RawRequest) -> Result<http::Response<Body>, Status> {
        let RawRequest { info, mut request, .. } = request;
        if !request.headers().contains_key(UPGRADE) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let pod: Pod = targets::object(self.objects.as_ref(), "pods", &info.namespace, &info.name)?;
        let spec = pod.spec.unwrap_or_default();
        let place = format!("{}/{}", info.namespace, info.name);
        let path = if info.subresource == "portforward" {
            format!("/portForward/{place}{}", ports(&info.query)?)
        } else {
            let container = container(&spec, &info.name, info.query.text("container"))?;
            format!("/{}/{place}/{container}{}", info.subresource, streams(&info.query, &info.subresource)?)
        };
        let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) else {
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", info.name)));
        };
        let address = targets::node(self.objects.as_ref(), node)?;
        let client = hyper::upgrade::on(&mut request);
        let upgrades = request.extensions().get::<Upgrades>().cloned().ok_or_else(|| {
            Status::bad_request("the connection cannot change its protocol: HTTP/1.1 over TLS is needed")
        })?;
        let host = format!("{}:{}", address.host, address.port);
        let mut onward = http::Request::builder().method(request.method()).uri(&path).header(HOST, host);
        if let Some(headers) = onward.headers_mut() {
            forward(request.headers(), headers);
        }
        let onward = onward.body(()).map_err(|error| Status::bad_request(error.to_string()))?;
        let failed = |error: &DialError| unreachable_node(&address, &path, error);
        let stream = self.dialer.node_stream(&address).await.map_err(|error| failed(&error))?;
        let (response, session) = pass_on(stream, onward, client).await.map_err(|error| {
            Status::new(500, Reason::Unknown, format!("the node {:?} does not answer: {error}", address.node))
        })?;
        if let Some(session) = session {
            upgrades.put(session);
        }
        let (mut parts, body) = response.into_parts();
        if parts.status != http::StatusCode::SWITCHING_PROTOCOLS {
            [CONNECTION, UPGRADE, TRANSFER_ENCODING].iter().for_each(|name| drop(parts.headers.remove(name)));
        }
        parts.extensions.clear();
        Ok(http::Response::from_parts(parts, Body::from(body)))
    }
}

/// As a node's API spells the streams.
fn streams(query: &Query, subresource: &str) -> Result<String, Status> {
    let mut parts = Vec::new();
    for (name, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(name).unwrap_or(false) {
            parts.push(format!("{theirs}=1"));
        }
    }
    if subresource == "exec" {
        let before = parts.len();
        parts.extend(query.all("command").map(|word| format!("command={}", encode(word))));
        if parts.len() == before {
            return Err(Status::bad_request("you must specify at least one command for the container"));
        }
    }
    Ok(if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) })
}

fn ports(query: &Query) -> Result<String, Status> {
    let mut parts = Vec::new();
    for port in query.all("ports").flat_map(|ports| ports.split(',')) {
        match port.parse::<u16>() {
            Ok(port) if port > 0 => parts.push(format!("port={port}")),
            Ok(_) | Err(_) => {
                return Err(Status::bad_request(format!("ports: {port:?} is no port (1 to 65535)")));
            }
        }
    }
    Ok(if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) })
}

/// Percent-encoded, but for what needs it nowhere.
fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// All that the new protocol needs, and nothing that says who the client is.
fn forward(from: &HeaderMap, to: &mut HeaderMap) {
    const OURS: [HeaderName; 3] = [AUTHORIZATION, HOST, TRANSFER_ENCODING];
    for (name, value) in from {
        if OURS.contains(name) || name.as_str().starts_with("impersonate-") {
            continue;
        }
        if name == SEC_WEBSOCKET_PROTOCOL {
            let kept: Vec<&str> = value.to_str().unwrap_or_default().split(',').map(str::trim).collect();
            let kept: Vec<&str> = kept.into_iter().filter(|protocol| !protocol.starts_with(BEARER)).collect();
            if let Ok(value) = http::HeaderValue::from_str(&kept.join(", ")) {
                to.append(SEC_WEBSOCKET_PROTOCOL, value);
            }
            continue;
        }
        to.append(name.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(query: &str, subresource: &str, expected: Expect) {
        let query = Query::parse(Some(query));
        let path = if subresource == "portforward" { ports(&query) } else { streams(&query, subresource) };
        expected.assert_eq(&path.unwrap_or_else(|status| format!("{} {}", status.code, status.message)));
    }

    #[test]
    fn what_is_asked_of_a_container_is_spelled_as_nodes_spell_it() {
        check(
            "container=c&command=sh&command=-c&command=a%20%26%26%20b&stdin=true&stdout=true&stderr=false&tty=true",
            "exec",
            expect!["?input=1&output=1&tty=1&command=sh&command=-c&command=a%20%26%26%20b"],
        );
        check("stdout=true&stderr=1", "attach", expect!["?output=1&error=1"]);
        check("stdout=true", "exec", expect!["400 you must specify at least one command for the container"]);
        check("", "portforward", expect![""]);
        check("ports=80&ports=443", "portforward", expect!["?port=80&port=443"]);
        check("ports=http", "portforward", expect![[r#"400 ports: "http" is no port (1 to 65535)"#]]);
    }

    #[test]
    fn the_node_is_not_told_who_asks() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("impersonate-user", "bob"),
            ("upgrade", "websocket"),
            ("sec-websocket-protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0"),
        ] {
            from.insert(name, http::HeaderValue::from_static(value));
        }
        let mut to = HeaderMap::new();
        forward(&from, &mut to);
        let shown: Vec<String> =
            to.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(shown, ["upgrade: websocket", "sec-websocket-protocol: v5.channel.k8s.io"]);
    }
}
