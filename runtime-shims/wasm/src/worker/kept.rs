//! HTTP guests whose instances are kept: those of WASI 0.3, and those of 0.2 whose pods ask for it.
//!
//! ```text
//! made ──▶ serves ──▶ idle ──▶ serves …        one request at a time; more at once get more instances
//!             │         └──▶ gone              after a minute without a request, or a thousand requests
//!             └──▶ gone                        a trap, a client that left, the request's time is over
//! ```
//!
//! An idle instance does not run: what a guest leaves to do behind a response is done before it counts as idle.

use futures::future;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use wasmtime::{AsContextMut, Engine, Store};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p3::Request as GuestRequest;
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use super::guest::{Container, Instance};
use super::http::{self as server, CallError, Respond};
use super::shelf::Shelf;

const REQUESTS: u32 = 1000;

/// What instances are made of, with the engine it was loaded by.
pub(super) enum Program {
    Two(ProxyPre<Instance>, Engine),
    Three(ServicePre<Instance>, Engine),
}

enum Made {
    Two(Proxy),
    Three(Service),
}

/// The idle instances of one container.
pub(super) struct Kept {
    program: Program,
    idle: Shelf<Idle>,
}

struct Idle {
    store: Store<Instance>,
    made: Made,
    served: u32,
}

impl Kept {
    pub(super) fn new(program: Program) -> Kept {
        Kept { program, idle: Shelf::default() }
    }

    /// Serves one request; the answer goes out by `respond`, and its body while this runs.
    pub(super) async fn call(
        &self,
        container: &Container,
        request: Request<Incoming>,
        respond: &Respond,
    ) -> Result<(), CallError> {
        let mut instance = match self.idle.take() {
            Some(kept) => kept,
            None => self.make(container).await?,
        };
        match &instance.made {
            Made::Two(proxy) => {
                server::ask(&mut instance.store, proxy, &container.log, request, respond).await?;
            }
            Made::Three(service) => ask(&mut instance.store, service, request, respond).await?,
        }
        instance.served += 1;
        if instance.served < REQUESTS {
            self.idle.put(instance);
        }
        Ok(())
    }

    async fn make(&self, container: &Container) -> Result<Idle, CallError> {
        let (store, made) = match &self.program {
            Program::Two(pre, engine) => {
                let mut store = container.store(engine);
                let made = pre.instantiate_async(&mut store).await.map(Made::Two);
                (store, made)
            }
            Program::Three(pre, engine) => {
                let mut store = container.store(engine);
                let made = pre.instantiate_async(&mut store).await.map(Made::Three);
                (store, made)
            }
        };
        let made = made.map_err(CallError::Instantiate)?;
        Ok(Idle { store, made, served: 0 })
    }
}

/// One request to an instance of WASI 0.3.
async fn ask(
    store: &mut Store<Instance>,
    service: &Service,
    request: Request<Incoming>,
    respond: &Respond,
) -> Result<(), CallError> {
    let request = with_host(request)?;
    let (sent, all_sent) = oneshot::channel();
    let (request, io) = GuestRequest::from_http(store.data_mut().http().hooks, request);
    let outcome = store
        .run_concurrent(async |accessor| {
            let response = match service.handle(accessor, request).await? {
                Ok(response) => accessor.with(|mut access| response.into_http(access.as_context_mut(), io))?,
                Err(error) => return Err(wasmtime::format_err!("the guest answered with an error: {error:?}")),
            };
            let response = response.map(|body| Watched { body, _sent: sent }.boxed_unsync());
            if let Some(respond) = respond.lock().take() {
                // Nobody listens when the client has left; then this is dropped.
                let _ = respond.send(Ok(response));
            }
            // The body flows while this waits: its end is told by the drop.
            let _ = all_sent.await;
            future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            Ok(())
        })
        .await;
    outcome.and_then(|inner| inner).map_err(CallError::Guest)
}

/// HTTP/1.1 names the host in a header; guests find it in the request's authority.
fn with_host(request: Request<Incoming>) -> Result<Request<WasiBody>, CallError> {
    let (mut parts, body) = request.into_parts();
    let mut uri = parts.uri.into_parts();
    if uri.authority.is_none() {
        let host = parts.headers.get(http::header::HOST).ok_or(CallError::NoHost)?;
        uri.authority = Some(http::uri::Authority::try_from(host.as_bytes()).map_err(|_| CallError::NoHost)?);
    }
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.path_and_query = uri.path_and_query.or_else(|| Some(http::uri::PathAndQuery::from_static("/")));
    parts.uri = http::Uri::from_parts(uri).map_err(|_| CallError::NoHost)?;
    let body = body.map_err(wasmtime_wasi_http::Error::from).boxed_unsync();
    Ok(Request::from_parts(parts, body))
}

/// A body whose end, whatever it is, is told by its being dropped.
struct Watched {
    body: WasiBody,
    _sent: oneshot::Sender<()>,
}

impl http_body::Body for Watched {
    type Data = bytes::Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
