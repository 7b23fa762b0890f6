//! Owns `pods/log`: which container is meant, what may be asked of its log, and fetching it from the pod's node.

use axum::body::Body;
use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::meta::{GroupKind, GroupResource};
use coracle_api::status::{Reason, Status};
use coracle_client::Pod;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::PodSpec;

use super::targets::{self, NodeAddress};
use super::{Inner, connect::DialError};
use crate::http::query::Query;
use crate::http::request_info::RequestInfo;
use crate::http::respond;

/// Of a node's complaint this much is told.
const MAX_COMPLAINT_BYTES: usize = 50_000;

impl Inner {
    pub(super) async fn log(&self, info: &RequestInfo) -> Result<http::Response<Body>, Status> {
        let query = query(&info.query, &info.name)?;
        let pod: Pod = targets::object(self.objects.as_ref(), "pods", &info.namespace, &info.name)?;
        let spec = pod.spec.unwrap_or_default();
        let container = container(&spec, &info.name, info.query.text("container"))?;
        let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) else {
            // It runs nowhere yet, so it has said nothing.
            return Ok(respond::plain(204, "text/plain", Body::empty()));
        };
        let address = targets::node(self.objects.as_ref(), node)?;
        let path = format!("/containerLogs/{}/{}/{container}{query}", info.namespace, info.name);
        let response = self.get(&address, &path).await?;
        if response.status().is_success() {
            let mut streamed = respond::plain(200, "text/plain", Body::empty());
            *streamed.body_mut() = response.into_body();
            return Ok(streamed);
        }
        Err(complaint(response, &info.name).await)
    }

    pub(super) async fn get(&self, address: &NodeAddress, path: &str) -> Result<http::Response<Body>, Status> {
        let request = http::Request::get(path)
            .header(http::header::HOST, format!("{}:{}", address.host, address.port))
            .body(Body::empty())
            .map_err(Status::internal)?;
        let response = self.dialer.to_node(address, request).await;
        response.map_err(|error| unreachable_node(address, path, &error))
    }
}

pub(super) fn unreachable_node(address: &NodeAddress, path: &str, error: &DialError) -> Status {
    let NodeAddress { node, host, port } = address;
    let text = format!("Get \"https://{host}:{port}{path}\": {error} (the API of node {node:?} cannot be reached)");
    Status::new(500, Reason::Unknown, text)
}

/// What the node says is wrong, as a Status.
async fn complaint(response: http::Response<Body>, pod: &str) -> Status {
    let code = response.status().as_u16();
    let text = match http_body_util::Limited::new(response.into_body(), MAX_COMPLAINT_BYTES).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    match code {
        400 => Status::bad_request(text),
        404 => {
            let mut status = Status::not_found(&GroupResource::new("", "pods/log"), pod);
            status.message = format!("the server could not find the requested resource ( pods/log {pod}): {text}");
            status
        }
        500 => Status::internal(text),
        code => Status::new(code, Reason::Unknown, text),
    }
}

/// The container meant: the one named, or the only one.
pub(super) fn container(spec: &PodSpec, pod: &str, named: &str) -> Result<String, Status> {
    let names = |containers: &[k8s_openapi::api::core::v1::Container]| -> Vec<String> {
        containers.iter().map(|container| container.name.clone()).collect()
    };
    let containers = names(&spec.containers);
    let init = names(spec.init_containers.as_deref().unwrap_or_default());
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    if !named.is_empty() {
        let known = containers.iter().chain(&init).any(|name| name == named)
            || ephemeral.iter().any(|container| container.name == named);
        return if known {
            Ok(named.to_owned())
        } else {
            Err(Status::bad_request(format!("container {named} is not valid for pod {pod}")))
        };
    }
    match containers.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {pod}"))),
        several => {
            let mut text =
                format!("a container name must be specified for pod {pod}, choose one of: [{}]", several.join(" "));
            if !init.is_empty() {
                text += &format!(" or one of the init containers: [{}]", init.join(" "));
            }
            Err(Status::bad_request(text))
        }
    }
}

/// What is asked of the log, as a node's API takes it, once it makes sense.
pub(super) fn query(query: &Query, pod: &str) -> Result<String, Status> {
    let mut errors = Vec::new();
    let mut parts: Vec<String> = Vec::new();
    for name in ["follow", "previous", "timestamps"] {
        if query.flag(name).unwrap_or(false) {
            parts.push(format!("{name}=true"));
        }
    }
    for (name, least) in [("sinceSeconds", 1), ("tailLines", 0), ("limitBytes", 1)] {
        let Some(number) = query.integer(name)? else { continue };
        if number < least {
            let text = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.push(FieldError::invalid(&FieldPath::new(name), number, text));
        }
        parts.push(format!("{name}={number}"));
    }
    let since = query.text("sinceTime");
    if !since.is_empty() {
        if query.get("sinceSeconds").is_some() {
            let text = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(FieldError::forbidden(&FieldPath::new("sinceTime"), text));
        }
        let at: jiff::Timestamp = since.parse().map_err(|error| {
            Status::bad_request(format!("unable to parse sinceTime {since:?} as an RFC 3339 time: {error}"))
        })?;
        parts.push(format!("sinceTime={at}"));
    }
    let stream = query.text("stream");
    match stream {
        "" | "All" => {}
        "Stdout" | "Stderr" => parts.push(format!("stream={stream}")),
        other => errors.push(FieldError::not_supported(&FieldPath::new("stream"), other, &["All", "Stderr", "Stdout"])),
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&GroupKind::new("", "PodLogOptions"), pod, errors));
    }
    Ok(if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) })
}
