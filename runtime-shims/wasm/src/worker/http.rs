//! HTTP guests: connections of the pod's listening socket, an instance for each request.
//!
//! ```text
//! connection ──▶ request ──▶ place (bounded; waits, then 503) ──▶ instance ──▶ response, streamed ──▶ a while more
//!                   └────────────── the client leaves: the instance is dropped ──────┘
//! ```
//!
//! Nothing is instantiated before the first request: an idle pod is a socket and a sleeping task.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use http::StatusCode;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wasmtime::{PoolConcurrencyLimitError, Store};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::allowance::{Held, Kind};
use super::charged::charged;
use super::code::HttpCode;
use super::greeting::Greeting;
use super::guest::{Container, Instance};
use super::kept::Kept;
use super::log::Log;
use super::response::{AbortOnDrop, HEAD_PATIENCE, ServerBody, guest_body, plain};
use super::running::Guest;
use super::slots::Slot;
use super::traffic::Counted;
use super::{Shared, Stop, exit, grace_over};
use crate::wire::{Exit, HttpSpec, shown};

/// Connections of one pod; more wait in the kernel until one closes.
const CONNECTIONS: usize = 1024;
/// A client that has been silent for so long is asked whether it is still there; for as long again it may not answer.
const CLIENT_SILENCE: Duration = Duration::from_secs(60);
/// How long a request waits for its turn before it is told to go elsewhere.
const QUEUE_PATIENCE: Duration = Duration::from_secs(10);

/// Where instances come from.
pub(super) enum Serve {
    /// A new one for each request: of the pool, or beside it when that is used up.
    Each(Arc<HttpCode>),
    /// Kept between requests, and never of the pool.
    Kept(Kept),
}

/// One pod's HTTP service.
struct Service {
    shared: Arc<Shared>,
    container: Arc<Container>,
    serve: Serve,
    timeout: Duration,
    /// Requests that may run at once.
    places: Semaphore,
    concurrency: usize,
    waiting: AtomicUsize,
    instances: TaskTracker,
    /// The container has ended: no instance outlives it.
    over: CancellationToken,
    /// Set when a request took the last of the pod's memory.
    out_of_memory: Mutex<Option<Exit>>,
    wake: Notify,
}

/// What a request gets instead of the guest's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    BadRequest,
    Busy,
    Failed,
    TooLate,
}

pub(super) type Answer = Result<Response<HyperOutgoingBody>, Refusal>;
pub(super) type Respond = Arc<Mutex<Option<oneshot::Sender<Answer>>>>;

/// Serves until stopped.
pub(super) async fn serve(
    shared: Arc<Shared>,
    container: Arc<Container>,
    serve: Serve,
    listener: Arc<TcpListener>,
    spec: HttpSpec,
    mut stop: watch::Receiver<Stop>,
) -> Exit {
    let service = Arc::new(Service {
        shared,
        container,
        serve,
        timeout: Duration::from_millis(spec.timeout_ms),
        places: Semaphore::new(spec.concurrency),
        concurrency: spec.concurrency,
        waiting: AtomicUsize::new(0),
        instances: TaskTracker::new(),
        over: CancellationToken::new(),
        out_of_memory: Mutex::new(None),
        wake: Notify::new(),
    });
    let connections = Connections::new(service.clone());
    loop {
        tokio::select! {
            biased;
            () = service.wake.notified() => return connections.kill(service.memory_exit()).await,
            stopped = stopped(&mut stop) => return match stopped {
                Stop::Drain { .. } => connections.drain(listener, stop).await,
                Stop::Run | Stop::Kill => connections.kill(exit::stopped(false)).await,
            },
            accepted = connections.accept(&listener) => match accepted {
                Ok(stream) => connections.serve(stream),
                Err(error) => {
                    // Out of descriptors, most likely: give others time to close theirs.
                    tracing::warn!(container = service.container.spec.title, %error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// Waits for the order to stop.
async fn stopped(stop: &mut watch::Receiver<Stop>) -> Stop {
    match stop.wait_for(|stop| *stop != Stop::Run).await {
        Ok(stop) => *stop,
        Err(_closed) => Stop::Kill,
    }
}

/// What connections are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serve,
    /// Close when the request under way is answered.
    Finish,
    Close,
}

/// The connections of a pod.
struct Connections {
    service: Arc<Service>,
    tasks: TaskTracker,
    phase: watch::Sender<Phase>,
    room: Arc<Semaphore>,
}

impl Connections {
    fn new(service: Arc<Service>) -> Connections {
        Connections {
            service,
            tasks: TaskTracker::new(),
            phase: watch::Sender::new(Phase::Serve),
            room: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }

    async fn accept(&self, listener: &TcpListener) -> io::Result<TcpStream> {
        // Given back at once: `serve` takes it for good. Here it only waits until there is room.
        drop(self.room.acquire().await.map_err(io::Error::other)?);
        listener.accept().await.map(|(stream, _)| stream)
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(room) = self.room.clone().try_acquire_owned() else { return };
        // Without one, the connection is closed: that is all one can say with no socket to say it on.
        let container = &self.service.container;
        let Ok(held) = container.allowance.take(Kind::Socket) else { return };
        // Responses are often small, and the last piece should not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        notice_lost_clients(&stream);
        let stream = Counted::new(stream, container.traffic.clone(), held);
        let connection = connection(stream, self.service.clone(), self.phase.subscribe());
        let connection = charged(container.cpu.clone(), container.used.clone(), connection);
        self.tasks.spawn(async move {
            connection.await;
            drop(room);
        });
    }

    /// Returns when nothing of the container runs any more: its address may be another pod's next.
    async fn kill(&self, exit: Exit) -> Exit {
        self.phase.send_replace(Phase::Close);
        self.service.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.service.instances.close();
        self.service.instances.wait().await;
        exit
    }

    /// Takes no more connections and lets requests finish until the grace is over.
    async fn drain(&self, listener: Arc<TcpListener>, stop: watch::Receiver<Stop>) -> Exit {
        // Clients whose connection the kernel has accepted already would otherwise be cut off unheard.
        while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
            self.serve(stream);
        }
        drop(listener);
        self.phase.send_replace(Phase::Finish);
        self.tasks.close();
        self.service.instances.close();
        let idle = async {
            self.tasks.wait().await;
            self.service.instances.wait().await;
        };
        let exit = tokio::select! {
            biased;
            () = idle => Exit::with_code(0),
            () = self.service.wake.notified() => self.service.memory_exit(),
            () = grace_over(stop) => exit::stopped(false),
        };
        self.kill(exit).await
    }
}

/// A client that lost its power or its network says nothing of it, and may have an instance waiting for the rest of what it
/// was sending.
fn notice_lost_clients(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(CLIENT_SILENCE).with_interval(CLIENT_SILENCE / 4).with_retries(4);
    // Without it, all else works. Not with a limit on what is sent and not acknowledged: it would end clients that only
    // do not read for a while.
    let _ = socket.set_tcp_keepalive(&probes);
}

async fn connection(stream: Counted<TcpStream, Held>, service: Arc<Service>, mut phase: watch::Receiver<Phase>) {
    let shared = service.shared.clone();
    let handler = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let mut connection =
        pin!(shared.http.serve_connection(TokioIo::new(Greeting::new(stream, HEAD_PATIENCE)), handler));
    let mut finishing = false;
    loop {
        tokio::select! {
            biased;
            changed = phase.wait_for(|phase| *phase == Phase::Close || (*phase == Phase::Finish && !finishing)) => {
                match changed.map(|phase| *phase) {
                    Ok(Phase::Finish) => {
                        finishing = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    Ok(Phase::Serve | Phase::Close) | Err(_) => return,
                }
            }
            served = connection.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a connection ended badly");
                }
                return;
            }
        }
    }
}

impl Service {
    async fn answer(self: Arc<Service>, request: Request<Incoming>) -> Response<ServerBody> {
        match self.run(request).await {
            Ok(response) => response,
            Err(Refusal::BadRequest) => plain(StatusCode::BAD_REQUEST, "the request names no host\n"),
            Err(Refusal::Busy) => plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once\n"),
            Err(Refusal::Failed) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest failed; see its log\n"),
            Err(Refusal::TooLate) => plain(StatusCode::GATEWAY_TIMEOUT, "the guest did not answer in time\n"),
        }
    }

    async fn run(self: Arc<Service>, request: Request<Incoming>) -> Result<Response<ServerBody>, Refusal> {
        self.wait_for_place().await?;
        let (respond, response) = oneshot::channel();
        let respond: Respond = Arc::new(Mutex::new(Some(respond)));
        let (ended, responded) = oneshot::channel();
        let (cpu, used) = (self.container.cpu.clone(), self.container.used.clone());
        let service = self.clone();
        // In the instance, not only around its task: it may go on elsewhere for a moment when the task is ended.
        let running = self.instances.token();
        let instance = Box::pin(async move {
            let _running = running;
            // Taken within the task: a client that leaves does not free a place that its instance still holds.
            let Ok(_place) = service.places.acquire().await else { return };
            let own = service.concurrency - service.places.available_permits();
            let fast = match &service.serve {
                Serve::Each(code) => code.pooled.is_some(),
                Serve::Kept(_) => false,
            };
            let Some(slot) = service.shared.slots.take(own, fast).await else { return };
            let line = format!("{:.100} {:.1000}", request.method().as_str(), request.uri().path());
            let behind = async {
                // Dropped with the response, however that ends.
                let _ = responded.await;
                tokio::time::sleep(service.timeout).await;
            };
            tokio::select! {
                biased;
                () = service.instance(request, &line, respond, &slot) => {}
                () = behind => service.container.log.say(&format!(
                    "coracle: {line}: the guest was ended: it went on for {} s behind its response (annotation \
                     coracle.dev/http-timeout-seconds)",
                    service.timeout.as_secs()
                )),
            }
        });
        // Around the guest, which may be waiting for its quota.
        let instance = self.over.clone().run_until_cancelled_owned(Guest::new(instance, cpu, used));
        let task = self.instances.spawn(instance);
        let abort = AbortOnDrop::new(task.abort_handle());
        match tokio::time::timeout(self.timeout, response).await {
            Ok(Ok(Ok(response))) => Ok(response.map(|body| guest_body(body, abort, ended))),
            Ok(Ok(Err(refusal))) => Err(refusal),
            // The instance is gone without an answer; it has logged why.
            Ok(Err(_gone)) => Err(Refusal::Failed),
            Err(_elapsed) => Err(Refusal::TooLate),
        }
    }

    /// Waits while as many requests run as may; when as many again wait already, or it takes long, refuses.
    async fn wait_for_place(&self) -> Result<(), Refusal> {
        let free = |place: Result<SemaphorePermit<'_>, _>| place.map(drop).map_err(|_| Refusal::Busy);
        if let Ok(place) = self.places.try_acquire() {
            drop(place);
            return Ok(());
        }
        let queued = self.waiting.fetch_add(1, Ordering::Relaxed);
        let outcome = if queued >= self.concurrency {
            Err(Refusal::Busy)
        } else {
            match tokio::time::timeout(QUEUE_PATIENCE, self.places.acquire()).await {
                Ok(place) => free(place),
                Err(_elapsed) => Err(Refusal::Busy),
            }
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        outcome
    }

    async fn instance(&self, request: Request<Incoming>, line: &str, respond: Respond, slot: &Slot<'_>) {
        let refuse = |refusal| {
            if let Some(respond) = respond.lock().take() {
                // Nobody listens when the client has left.
                let _ = respond.send(Err(refusal));
            }
        };
        let error = match self.call(request, &respond, slot).await {
            Ok(()) => {
                // It returned without ever setting a response.
                if respond.lock().is_some() {
                    self.container.log.say(&format!("coracle: {line}: the guest returned without a response"));
                }
                return refuse(Refusal::Failed);
            }
            Err(CallError::NoHost) => return refuse(Refusal::BadRequest),
            Err(CallError::NoRoom) => return refuse(Refusal::Busy),
            // Neighbours of this request have the memory; it is not that the guest does not fit.
            Err(CallError::Instantiate(error)) if exit::is_out_of_memory(&error) && self.is_shared() => {
                return refuse(Refusal::Busy);
            }
            Err(CallError::Instantiate(error) | CallError::Guest(error)) => error,
        };
        refuse(Refusal::Failed);
        if exit::is_out_of_memory(&error) {
            let exit = exit::of_error(&error);
            self.container.log.say(&format!("coracle: {line}: {}", exit.message));
            *self.out_of_memory.lock() = Some(exit);
            self.wake.notify_one();
            return;
        }
        self.container.log.say(&format!("coracle: {line}: {}", exit::text(&error)));
    }

    async fn call(&self, request: Request<Incoming>, respond: &Respond, slot: &Slot<'_>) -> Result<(), CallError> {
        let code = match &self.serve {
            Serve::Each(code) => code,
            Serve::Kept(kept) => return kept.call(&self.container, request, respond).await,
        };
        let Container { spec, log, .. } = &*self.container;
        let loader = &self.shared.loader;
        if let (true, Some(pooled)) = (slot.is_pooled(), &code.pooled) {
            let mut store = self.container.store(&loader.requests);
            match pooled.instantiate_async(&mut store).await {
                Ok(proxy) => return ask(&mut store, &proxy, log, request, respond).await,
                // Instances with several memories, or a collected heap, take more of the pool than others.
                Err(error) if error.is::<PoolConcurrencyLimitError>() => {}
                Err(error) => return Err(CallError::Instantiate(error)),
            }
        }
        let beside = loader.beside_pool(code, &spec.code).map_err(|error| {
            tracing::warn!(container = spec.title, %error, "no code beside the pool");
            CallError::NoRoom
        })?;
        let mut store = self.container.store(&loader.commands);
        let proxy = beside.instantiate_async(&mut store).await.map_err(CallError::Instantiate)?;
        ask(&mut store, &proxy, log, request, respond).await
    }

    /// Do other requests run beside this one?
    fn is_shared(&self) -> bool {
        self.places.available_permits() + 1 < self.concurrency
    }

    fn memory_exit(&self) -> Exit {
        self.out_of_memory.lock().take().unwrap_or_else(|| exit::stopped(false))
    }
}

/// One request to an instance of WASI 0.2.
pub(super) async fn ask(
    store: &mut Store<Instance>,
    proxy: &Proxy,
    log: &Arc<Log>,
    request: Request<Incoming>,
    respond: &Respond,
) -> Result<(), CallError> {
    let http = &mut store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request).map_err(|_| CallError::NoHost)?;
    let callback = respond.clone();
    let log = log.clone();
    let outparam = http
        .new_response_outparam_from_callback(move |response: Result<_, ErrorCode>| {
            let Some(respond) = callback.lock().take() else { return };
            let answer = response.map_err(|error| {
                log.say(&shown(format!("coracle: the guest answered with an error: {error}")));
                Refusal::Failed
            });
            let _ = respond.send(answer);
        })
        .map_err(CallError::Guest)?;
    let handler = proxy.wasi_http_incoming_handler();
    handler.call_handle(store, request, outparam).await.map_err(CallError::Guest)
}

pub(super) enum CallError {
    NoHost,
    /// The pool is used up, and there is nothing beside it.
    NoRoom,
    Instantiate(wasmtime::Error),
    Guest(wasmtime::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_is_lost_is_noticed() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let _client = TcpStream::connect(server.local_addr().expect("it has one")).await.expect("it listens");
        let (stream, _) = server.accept().await.expect("somebody came");
        notice_lost_clients(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("it can be asked"));
        assert_eq!(socket.tcp_keepalive_time().expect("it can be asked"), CLIENT_SILENCE);
    }
}
