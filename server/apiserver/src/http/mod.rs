//! HTTP: from a request to the verb that answers it. One fallback handler serves every path; what a path means is parsed
//! by `request_info`. Order: who asks, may they, then the registry, a review, or one of the hooks. A panic becomes a 500
//! and never a dropped connection.

pub mod body;
mod gzip;
mod health;
mod metrics;
pub mod negotiate;
mod places;
mod pretty;
pub mod query;
pub mod request_info;
mod resources;
pub mod respond;
mod reviews;
mod tables;
#[cfg(test)]
mod tests;
mod watch;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use coracle_api::status::Status;
use futures::FutureExt as _;
use http::{HeaderValue, Request};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::authz::forbidden;
use crate::auth::impersonation::impersonate;
use crate::hooks::{Attributes, Decision, Hooks, RawRequest, UserInfo};
use crate::registry::Registry;
use crate::registry::catalog::Resource;
use metrics::Metrics;
use negotiate::Accepted;
use places::Places;
use request_info::{RequestInfo, Verb};
use resources::STREAMS;
use respond::{Response, Style};

/// Subresources of pods that need the verb `create`, however they are asked for.
const RUNS_IN_POD: [&str; 3] = ["exec", "attach", "portforward"];

/// Limits on what clients may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    pub body_bytes: usize,
    pub watches: usize,
    /// Requests at once, watches and streams aside, of those who are not of the system itself: each may take as much
    /// memory as its body and its answer, until the last of the answer is on its way.
    pub requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes: body::MAX_BODY_BYTES, watches: 10_000, requests: 400 }
    }
}

pub(crate) struct Server {
    pub(crate) registry: Arc<Registry>,
    pub(crate) hooks: Hooks,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    places: Arc<Places>,
    /// Cancelled to end all watches before the server stops.
    pub(crate) stopping: CancellationToken,
}

impl Server {
    pub(crate) fn new(registry: Arc<Registry>, hooks: Hooks, limits: Limits) -> Self {
        let (metrics, stopping) = (Arc::<Metrics>::default(), CancellationToken::new());
        let places = Arc::new(Places::new(limits.requests, limits.watches, metrics.clone()));
        Self { registry, hooks, limits, metrics, places, stopping }
    }
}

pub(crate) fn router(server: Arc<Server>) -> Router {
    Router::new().fallback(answer).with_state(server)
}

async fn answer(State(server): State<Arc<Server>>, request: Request<Body>) -> Response {
    let began = Instant::now();
    let style = Style::new(Accepted::JSON, request.headers(), &query::Query::default());
    let audit = audit_id(&server, &request);
    server.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
    let info = RequestInfo::parse(request.method(), request.uri().path(), request.uri().query());
    let (mut response, info) = match info {
        Err(status) => (style.status(&status), None),
        Ok(info) => {
            let handled = AssertUnwindSafe(server.handle(&info, request)).catch_unwind().await;
            let response = match handled {
                Ok(Ok(response)) => response,
                Ok(Err(status)) => style.status(&status),
                Err(panic) => {
                    server.metrics.panics.fetch_add(1, Ordering::Relaxed);
                    let what = panic_text(&*panic);
                    tracing::error!(method = %info.method, path = %info.path, panic = what, "a request's handler panicked");
                    let text = "This request caused apiserver to panic. Look in the logs for details.";
                    style.status(&Status::internal(text))
                }
            };
            (response, Some(info))
        }
    };
    server.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    let code = response.status().as_u16();
    let known = info.as_ref().is_some_and(|info| server.serves(info));
    server.metrics.record(info.as_ref(), known, code, began.elapsed());
    response.headers_mut().insert("audit-id", audit);
    response
}

fn audit_id(server: &Server, request: &Request<Body>) -> HeaderValue {
    let given = request.headers().get("audit-id").filter(|value| (1..=64).contains(&value.len()));
    given.cloned().unwrap_or_else(|| {
        HeaderValue::try_from(server.registry.ids.uuid()).expect("a UUID's text is a valid header value")
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

impl Server {
    async fn handle(self: &Arc<Self>, info: &RequestInfo, request: Request<Body>) -> Result<Response, Status> {
        let (parts, body) = request.into_parts();
        let user = self.hooks.authenticator.authenticate(&parts)?;
        let user = match impersonate(&parts.headers, &user, &*self.hooks.authorizer)? {
            Some(other) => other,
            None => user,
        };
        let place = self.place(info, &user)?;
        self.authorize(info, &user, info.verb_text())?;
        if info.resource == "pods" && RUNS_IN_POD.contains(&info.subresource.as_str()) && info.verb == Verb::Get {
            // A WebSocket can only be asked for by GET; whoever may read must not be able to run commands by it.
            self.authorize(info, &user, Verb::Create.as_str().to_owned())?;
        }
        let request = Request::from_parts(parts, body);
        let response = if info.is_resource {
            self.resource(info, user, request).await?
        } else {
            self.document(info, user, request).await?
        };
        Ok(match place {
            Some(place) => places::hold(response, place),
            None => response,
        })
    }

    /// A place among the requests under way; None for who needs none.
    fn place(&self, info: &RequestInfo, user: &UserInfo) -> Result<Option<OwnedSemaphorePermit>, Status> {
        let is_stream = info.verb == Verb::Watch || STREAMS.contains(&info.subresource.as_str());
        if is_stream || user.in_group("system:masters") {
            return Ok(None);
        }
        self.places.request().map(Some)
    }

    /// Whether there is such a resource, and such a subresource of it.
    fn serves(&self, info: &RequestInfo) -> bool {
        let resource = self.registry.catalog.get(&info.group, &info.version, &info.resource);
        let has = |resource: Arc<Resource>| resource.def.subresource(&info.subresource).is_some();
        info.is_resource && resource.is_some_and(|resource| info.subresource.is_empty() || has(resource))
    }

    fn authorize(&self, info: &RequestInfo, user: &UserInfo, verb: String) -> Result<(), Status> {
        let asked = Attributes {
            verb: &verb,
            namespace: &info.namespace,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            name: &info.name,
            resource_request: info.is_resource,
            path: &info.path,
            field_selector: info.query.text("fieldSelector"),
        };
        match self.hooks.authorizer.authorize(user, &asked) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) | Decision::Deny(reason) => Err(forbidden(user, &asked, &reason)),
        }
    }

    /// Paths that are no resources.
    async fn document(
        &self,
        info: &RequestInfo,
        user: Arc<UserInfo>,
        request: Request<Body>,
    ) -> Result<Response, Status> {
        if let Some(response) = health::answer(self, info, request.headers())? {
            return Ok(response);
        }
        let trimmed = info.path.trim_end_matches('/');
        let discovers =
            matches!(trimmed, "/api" | "/apis") || trimmed.starts_with("/api/") || trimmed.starts_with("/apis/");
        let raw = RawRequest { info: info.clone(), user, request };
        Ok(if discovers { self.hooks.discovery.call(raw).await } else { self.hooks.documents.call(raw).await })
    }
}
