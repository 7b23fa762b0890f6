//! The paths of the node API, as kubelet has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRef, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use coracle_client::Clock;
use futures::StreamExt as _;
use jiff::SignedDuration;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::tls::Caller;
use super::{NoLog, PodSource, streams};
use crate::logs::{self, LogError, LogOptions};

/// Pieces of log that may wait for a slow reader.
const PIECES_AHEAD: usize = 4;

#[derive(Clone)]
struct Node {
    pods: Arc<dyn PodSource>,
    clock: Arc<dyn Clock>,
}

pub(super) fn router(pods: Arc<dyn PodSource>, clock: Arc<dyn Clock>, more: axum::Router) -> axum::Router {
    axum::Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(list_pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/exec/{namespace}/{pod}/{container}", get(streams::exec).post(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", get(streams::attach).post(streams::attach))
        .route("/portForward/{namespace}/{pod}", get(streams::port_forward).post(streams::port_forward))
        .with_state(Node { pods, clock })
        .merge(more)
        .layer(from_fn(only_the_api_server))
}

async fn only_the_api_server(request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.may_call() => next.run(request).await,
        Some(caller) => {
            let text = format!("Forbidden (user={}): only the API server may call a node's API", caller.name);
            (StatusCode::FORBIDDEN, text).into_response()
        }
        None => (StatusCode::UNAUTHORIZED, "Unauthorized").into_response(),
    }
}

impl FromRef<Node> for Arc<dyn PodSource> {
    fn from_ref(node: &Node) -> Self {
        Arc::clone(&node.pods)
    }
}

async fn list_pods(State(node): State<Node>) -> Response {
    let pods = node.pods.pods();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
    ([("content-type", "application/json")], list.to_string()).into_response()
}

async fn container_logs(
    State(node): State<Node>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let bad = |what: String| (StatusCode::BAD_REQUEST, what).into_response();
    let options = match options(&query, node.clock.as_ref()) {
        Ok(options) => options,
        Err(what) => return bad(what),
    };
    let previous = query.get("previous").is_some_and(|v| is_true(v));
    let log = match node.pods.container_log(&namespace, &pod, &container, previous) {
        Ok(log) => log,
        Err(missing) => {
            let status = match missing {
                NoLog::Pod { .. } | NoLog::Container { .. } => StatusCode::NOT_FOUND,
                NoLog::Waiting { .. }
                | NoLog::NoPrevious { .. }
                | NoLog::NeverRan { .. }
                | NoLog::NotAvailable { .. } => StatusCode::BAD_REQUEST,
            };
            return (status, missing.to_string()).into_response();
        }
    };
    let (sender, receiver) = mpsc::channel::<Bytes>(PIECES_AHEAD);
    let reading = async move {
        let result: Result<(), LogError> = match options.follow && !previous {
            true => logs::follow(&log.path, &options, &log.ended, &sender).await,
            false => logs::read(&log.path, &options, &sender).await,
        };
        if let Err(error) = result {
            // The answer has begun: the user sees the reason at its end.
            tracing::warn!(%error, "a log cannot be read");
            let _ = sender.send(Bytes::from(format!("{error}\n"))).await;
        }
    };
    // The reader is part of the body: when the caller goes away both end.
    let body = futures::stream::select(
        ReceiverStream::new(receiver).map(Ok::<_, std::convert::Infallible>),
        futures::stream::once(reading).filter_map(|()| std::future::ready(None)),
    );
    ([("content-type", "text/plain")], Body::from_stream(body)).into_response()
}

fn options(query: &BTreeMap<String, String>, clock: &dyn Clock) -> Result<LogOptions, String> {
    let number = |name: &str| match query.get(name) {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| format!("{name}: {text:?} is no number of at least 0")),
    };
    let since_time = match query.get("sinceTime") {
        None => None,
        Some(text) => Some(text.parse().map_err(|e| format!("sinceTime: {text:?} is no RFC 3339 time: {e}"))?),
    };
    let since_seconds = number("sinceSeconds")?.map(|seconds| {
        let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        clock.now().checked_sub(ago).unwrap_or(jiff::Timestamp::MIN)
    });
    Ok(LogOptions {
        since: since_time.or(since_seconds),
        tail: number("tailLines")?,
        timestamps: query.get("timestamps").is_some_and(|v| is_true(v)),
        limit_bytes: number("limitBytes")?,
        follow: query.get("follow").is_some_and(|v| is_true(v)),
        stream: query.get("stream").filter(|s| !s.eq_ignore_ascii_case("all")).cloned(),
    })
}

fn is_true(text: &str) -> bool {
    matches!(text, "true" | "1" | "")
}
