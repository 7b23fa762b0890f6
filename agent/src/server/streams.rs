//! `/exec`, `/attach` and `/portForward`: what is asked for is read here and asked of the runtime, and the connection goes
//! to where the runtime says. What is spoken over it is between the client and the runtime.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use coracle_client::upgrade::{Upgrades, pass_on};
use http::header::{CONNECTION, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE};
use tokio::net::TcpStream;

use super::PodSource;
use crate::runtime::CriError;

/// What a client wants to speak to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Exec { container: String, command: Vec<String>, streams: Streams },
    Attach { container: String, streams: Streams },
    PortForward { ports: Vec<i32> },
}

/// The standard streams a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// Why there is nothing to speak to, in kubelet's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoStream {
    #[error("pod does not exist")]
    Pod,
    #[error("container not found ({container:?})")]
    Container { container: String },
    #[error("{0}")]
    Runtime(CriError),
}

impl NoStream {
    fn status(&self) -> StatusCode {
        match self {
            NoStream::Pod => StatusCode::NOT_FOUND,
            NoStream::Container { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            NoStream::Runtime(error) => match error.code {
                coracle_cri::Code::NotFound => StatusCode::NOT_FOUND,
                coracle_cri::Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
                coracle_cri::Code::InvalidArgument => StatusCode::BAD_REQUEST,
                _other => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }
}

type Pods = State<Arc<dyn PodSource>>;
type Asked = Query<Vec<(String, String)>>;

pub(super) async fn exec(
    State(pods): Pods,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Asked,
    request: Request,
) -> Response {
    let command: Vec<String> = all(&query, "command").map(str::to_owned).collect();
    match streams(&query) {
        Ok(streams) => reach(pods, &namespace, &pod, Wanted::Exec { container, command, streams }, request).await,
        Err(refusal) => (StatusCode::BAD_REQUEST, refusal).into_response(),
    }
}

pub(super) async fn attach(
    State(pods): Pods,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Asked,
    request: Request,
) -> Response {
    match streams(&query) {
        Ok(streams) => reach(pods, &namespace, &pod, Wanted::Attach { container, streams }, request).await,
        Err(refusal) => (StatusCode::BAD_REQUEST, refusal).into_response(),
    }
}

pub(super) async fn port_forward(
    State(pods): Pods,
    Path((namespace, pod)): Path<(String, String)>,
    Query(query): Asked,
    request: Request,
) -> Response {
    let ports: Result<Vec<i32>, String> = all(&query, "port")
        .map(|text| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(i32::from(port)),
            Ok(_) | Err(_) => Err(format!("invalid port: {text:?}")),
        })
        .collect();
    match ports {
        Ok(ports) => reach(pods, &namespace, &pod, Wanted::PortForward { ports }, request).await,
        Err(what) => (StatusCode::BAD_REQUEST, what).into_response(),
    }
}

fn all<'a>(query: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Kubelet spells what the API calls stdin, stdout and stderr in its own way.
fn streams(query: &[(String, String)]) -> Result<Streams, &'static str> {
    let is = |name: &str| all(query, name).last().is_some_and(|value| matches!(value, "1" | "true"));
    let (stdin, stdout, stderr, tty) = (is("input"), is("output"), is("error"), is("tty"));
    if !(stdin || stdout || stderr) {
        return Err("you must specify at least 1 of stdin, stdout, stderr");
    }
    // With a terminal both go over one stream.
    Ok(Streams { stdin, stdout, stderr: stderr && !tty, tty })
}

async fn reach(pods: Arc<dyn PodSource>, namespace: &str, pod: &str, wanted: Wanted, request: Request) -> Response {
    if !request.headers().contains_key(UPGRADE) {
        let text = "this asks for a connection that changes its protocol (Upgrade: websocket or SPDY/3.1)";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    let url = match pods.stream(namespace, pod, wanted).await {
        Ok(url) => url,
        Err(error) => return (error.status(), error.to_string()).into_response(),
    };
    match proxy(&url, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(url, error, "the container runtime's streaming server cannot be reached");
            let text = format!("the container runtime cannot be reached at {url}: {error}");
            (StatusCode::BAD_GATEWAY, text).into_response()
        }
    }
}

/// Passes the connection on to `url`, which the runtime gave and which is on this host.
async fn proxy(url: &str, mut request: Request) -> Result<Response, String> {
    let client = hyper::upgrade::on(&mut request);
    let upgrades = request.extensions().get::<Upgrades>().cloned();
    let upgrades = upgrades.ok_or("the connection cannot change its protocol: HTTP/1.1 is needed")?;
    let uri: http::Uri = url.parse().map_err(|error| format!("it is no URL: {error}"))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or("it is no http URL")?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let stream = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80)))
        .await
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|error| error.to_string())?;
    let mut onward = http::Request::builder().method(request.method()).uri(path);
    for (name, value) in request.headers() {
        if ![HOST, TRANSFER_ENCODING].contains(name) {
            onward = onward.header(name, value);
        }
    }
    let onward = onward.header(HOST, authority.as_str()).body(()).map_err(|error| error.to_string())?;
    let (response, session) = pass_on(stream, onward, client).await.map_err(|error| error.to_string())?;
    if let Some(session) = session {
        upgrades.put(session);
    }
    let (mut parts, body) = response.into_parts();
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        let of_connection: [HeaderName; 3] = [CONNECTION, UPGRADE, TRANSFER_ENCODING];
        of_connection.iter().for_each(|name| drop(parts.headers.remove(name)));
    }
    parts.extensions.clear();
    Ok(Response::from_parts(parts, Body::from(body)))
}
