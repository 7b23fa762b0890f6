//! The client: one tower service, in this process or over the network, and what every request has in common.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_api::status::{Reason, Status};
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout;
use tower::{Service, ServiceExt as _};

use crate::{
    Error,
    api::{Api, List},
    body::{self, Body, BoxError},
    dynamic::DynamicApi,
    kinds::{Wire, text},
    remote::{Remote, RemoteConfig},
    resource::{Kind, ResourceRef, is_namespaced},
    watch::WatchStream,
};

/// How long an answer that is no stream may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Larger answers are an error: 3,000 pods are some 30 MiB.
const MAX_ANSWER_BYTES: usize = 512 << 20;

type Transport = dyn Fn(Request<Body>) -> BoxFuture<'static, Result<Response<Body>, BoxError>> + Send + Sync;

/// A handle to an API server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    send: Arc<Transport>,
    user_agent: HeaderValue,
    deadline: Duration,
    remote: Option<Arc<Remote>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("user_agent", &self.user_agent).field("remote", &self.remote).finish()
    }
}

impl Client {
    /// Over any service, such as an axum `Router` in the same process.
    pub fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::over(Arc::new(move |request| {
            let boxed = |response: Response<B>| response.map(|body| body.map_err(Into::into).boxed_unsync());
            service.clone().oneshot(request).map(move |answer| answer.map(boxed).map_err(Into::into)).boxed()
        }))
    }

    fn over(send: Arc<Transport>) -> Self {
        Self {
            send,
            user_agent: HeaderValue::from_static(concat!("coracle/", env!("CARGO_PKG_VERSION"))),
            deadline: DEADLINE,
            remote: None,
        }
    }

    /// Over TLS and HTTP/2 to a server elsewhere. Connects with the first request, and again whenever that is needed.
    pub fn remote(config: RemoteConfig) -> Result<Self, Error> {
        let remote = Arc::new(Remote::new(config)?);
        let sender = remote.clone();
        let client = Self::over(Arc::new(move |request| {
            let sender = sender.clone();
            Box::pin(async move { sender.send(request).await })
        }));
        Ok(Self { remote: Some(remote), ..client })
    }

    /// The connection of a remote client: to replace its identity, to list its servers.
    pub fn connection(&self) -> Option<&Remote> {
        self.remote.as_deref()
    }

    /// Drops the connection if nothing came over it for so long: the next request opens another.
    pub(crate) fn distrust_connection(&self, silence: Duration) {
        if let Some(remote) = &self.remote {
            remote.distrust(silence);
        }
    }

    /// `User-Agent`; its first word up to a slash is the field manager of this client's writes.
    #[must_use]
    pub fn with_user_agent(mut self, agent: &str) -> Self {
        self.user_agent = HeaderValue::try_from(agent).expect("a user agent is ASCII text chosen by us");
        self
    }

    /// Replaces the deadline (60 s) for answers that are no streams.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Objects of a kind in all namespaces, or cluster-scoped ones.
    pub fn all<K: Kind>(&self) -> Api<K> {
        Api::new(self.clone(), None)
    }

    /// Objects of a kind in one namespace; for a cluster-scoped kind the namespace means nothing.
    pub fn namespaced<K: Kind>(&self, namespace: &str) -> Api<K> {
        Api::new(self.clone(), is_namespaced::<K>().then(|| namespace.into()))
    }

    /// Objects of a resource known at run time only.
    pub fn dynamic(&self, resource: ResourceRef, namespace: Option<&str>) -> DynamicApi {
        DynamicApi::new(self.clone(), resource, namespace)
    }

    /// Sends a request and gives the answer as it comes, whatever its status. No deadline: streams are made of this.
    pub async fn request(&self, mut request: Request<Body>) -> Result<Response<Body>, Error> {
        request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| self.user_agent.clone());
        let subject = format!("{} {}", request.method(), request.uri().path());
        (self.send)(request).await.map_err(|source| Error::Transport { request: subject, source })
    }

    /// Sends a request and reads the whole answer, within the deadline; a failure status is `Error::Api`.
    pub async fn bytes(&self, request: Request<Body>) -> Result<Bytes, Error> {
        let subject = format!("{} {}", request.method(), request.uri().path());
        let whole = async {
            let response = self.request(request).await?;
            let (head, body) = response.into_parts();
            let body = collect(&subject, body).await?;
            if head.status.is_success() { Ok(body) } else { Err(failure(head.status, &body)) }
        };
        match timeout(self.deadline, whole).await {
            Ok(result) => result,
            Err(_) => {
                self.distrust_connection(self.deadline);
                Err(Error::Timeout { request: subject, after: self.deadline })
            }
        }
    }

    /// Sends a request and decodes its JSON answer.
    pub async fn json<T: DeserializeOwned>(&self, request: Request<Body>) -> Result<T, Error> {
        let subject = format!("{} {}", request.method(), request.uri().path());
        let bytes = self.bytes(request).await?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Decode { subject, source })
    }

    /// Sends a request and decodes the object it is answered with.
    pub async fn object<T: Wire>(&self, request: Request<Body>) -> Result<T, Error> {
        let subject = format!("{} {}", request.method(), request.uri().path());
        let bytes = self.bytes(request).await?;
        T::decode_bytes(&bytes).map_err(|source| Error::Decode { subject, source })
    }

    /// The same for the list it is answered with.
    pub(crate) async fn list<T: Wire>(&self, request: Request<Body>) -> Result<List<T>, Error> {
        let subject = format!("{} {}", request.method(), request.uri().path());
        let bytes = self.bytes(request).await?;
        text(&bytes).and_then(List::decode).map_err(|source| Error::Decode { subject, source })
    }

    /// Opens a watch; a failure status is `Error::Api`. The deadline holds for the head of the answer.
    pub(crate) async fn watch<K>(&self, request: Request<Body>) -> Result<WatchStream<K>, Error> {
        let subject = format!("watch {}", request.uri().path());
        let open = async {
            let response = self.request(request).await?;
            let (head, body) = response.into_parts();
            if head.status.is_success() {
                return Ok(WatchStream::new(subject.clone(), body));
            }
            Err(failure(head.status, &collect(&subject, body).await?))
        };
        match timeout(self.deadline, open).await {
            Ok(result) => result,
            Err(_) => {
                self.distrust_connection(self.deadline);
                Err(Error::Timeout { request: subject.clone(), after: self.deadline })
            }
        }
    }
}

/// Boxed: the compiler cannot prove such a future to be `Send` where the body's type is still in sight.
fn collect(subject: &str, body: Body) -> BoxFuture<'static, Result<Bytes, Error>> {
    let request = subject.to_owned();
    let whole = Limited::new(body, MAX_ANSWER_BYTES).collect();
    whole.map(|whole| whole.map(|w| w.to_bytes()).map_err(|source| Error::Transport { request, source })).boxed()
}

/// The `Status` in a failed answer; one is made if something else than an API server answered.
fn failure(code: http::StatusCode, body: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Typed {
        kind: String,
    }
    if serde_json::from_slice::<Typed>(body).is_ok_and(|typed| typed.kind == "Status")
        && let Ok(status) = serde_json::from_slice::<Status>(body)
    {
        return Error::from(status);
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(512)]);
    let reason = match code.as_u16() {
        400 => Reason::BadRequest,
        401 => Reason::Unauthorized,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        405 => Reason::MethodNotAllowed,
        409 => Reason::Conflict,
        410 => Reason::Gone,
        429 => Reason::TooManyRequests,
        500 => Reason::InternalError,
        503 => Reason::ServiceUnavailable,
        504 => Reason::Timeout,
        _ => Reason::Unknown,
    };
    Error::from(Status::new(code.as_u16(), reason, format!("{code}: {}", text.trim())))
}

/// A request with an optional JSON body.
pub(crate) fn request(method: Method, uri: &str, body: Option<(&'static str, Bytes)>) -> Request<Body> {
    let builder = Request::builder().method(method).uri(uri).header(header::ACCEPT, "application/json");
    let built = match body {
        Some((content_type, bytes)) => builder.header(header::CONTENT_TYPE, content_type).body(body::full(bytes)),
        None => builder.body(body::empty()),
    };
    built.expect("the path and query were escaped when they were put together")
}

/// The body of a request that writes an object.
pub(crate) fn body_of<T: Wire>(object: &T) -> Result<Bytes, Error> {
    written(object.encode())
}

pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, Error> {
    written(serde_json::to_vec(value))
}

fn written(json: serde_json::Result<Vec<u8>>) -> Result<Bytes, Error> {
    json.map(Bytes::from).map_err(|source| Error::Request(format!("the object cannot be written as JSON: {source}")))
}
