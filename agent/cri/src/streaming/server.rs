//! Who may connect, once, and which protocol they speak: a URL's token is good for one connection within a minute.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::command::{self, Command};
use super::websocket::Framing;
use super::{StreamingRuntime, forward};
use crate::v1::{AttachRequest, ExecRequest, PortForwardRequest};

const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// As many as kubelet's own streaming server keeps.
const TOKENS_MAX: usize = 1000;
const CONNECTIONS_MAX: usize = 1024;
/// For the head of a request.
const HEAD: Duration = Duration::from_secs(10);

const SPDY: &str = "SPDY/3.1";
const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const WEBSOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");

/// Of SPDY, the newest first.
const COMMAND_PROTOCOLS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
const FORWARD_PROTOCOLS: [&str; 1] = ["portforward.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

type Session = BoxFuture<'static, ()>;
/// The answer that changes the protocol, and what happens then.
type Upgrade = (Response<Full<Bytes>>, Session);
/// An answer that changes nothing.
type Refusal = Box<Response<Full<Bytes>>>;

/// Hands out URLs and serves them. Clones share the tokens.
#[derive(Clone)]
pub struct StreamingServer(Arc<Inner>);

struct Inner {
    /// `http://127.0.0.1:PORT`
    base: String,
    runtime: Arc<dyn StreamingRuntime>,
    token: Box<dyn Fn() -> String + Send + Sync>,
    waiting: Mutex<HashMap<String, (Instant, Wanted)>>,
}

#[derive(Clone, Debug)]
enum Wanted {
    Command(Command),
    Forward(PortForwardRequest),
}

impl Wanted {
    /// The first part of its URL's path.
    fn path(&self) -> &'static str {
        match self {
            Wanted::Command(Command::Exec(_)) => "exec",
            Wanted::Command(Command::Attach(_)) => "attach",
            Wanted::Forward(_) => "portforward",
        }
    }
}

impl StreamingServer {
    /// A server that will be reached at `address`. `token` gives names that cannot be guessed.
    pub fn new(
        address: SocketAddr,
        runtime: Arc<dyn StreamingRuntime>,
        token: impl Fn() -> String + Send + Sync + 'static,
    ) -> StreamingServer {
        let base = format!("http://{address}");
        StreamingServer(Arc::new(Inner { base, runtime, token: Box::new(token), waiting: Mutex::default() }))
    }

    pub fn exec_url(&self, request: ExecRequest) -> Result<String, Status> {
        check_streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        self.url(Wanted::Command(Command::Exec(request)))
    }

    pub fn attach_url(&self, request: AttachRequest) -> Result<String, Status> {
        check_streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        self.url(Wanted::Command(Command::Attach(request)))
    }

    pub fn port_forward_url(&self, request: PortForwardRequest) -> Result<String, Status> {
        self.url(Wanted::Forward(request))
    }

    fn url(&self, wanted: Wanted) -> Result<String, Status> {
        let now = Instant::now();
        let mut waiting = self.0.waiting.lock();
        waiting.retain(|_, (until, _)| *until > now);
        if waiting.len() >= TOKENS_MAX {
            return Err(Status::resource_exhausted("maximum number of in-flight requests exceeded"));
        }
        let (path, token) = (wanted.path(), (self.0.token)());
        waiting.insert(token.clone(), (now + TOKEN_LIFE, wanted));
        Ok(format!("{}/{path}/{token}", self.0.base))
    }

    /// Serves connections, each in a task of its own, until `stop`.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(self.clone().connection(stream))),
                    Err(error) => {
                        // Out of descriptors, most likely: others must end first.
                        tracing::warn!(%error, "the streaming server cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    async fn connection(self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            return tracing::debug!(%error, "a client was gone at once");
        }
        let upgraded: Mutex<Option<Session>> = Mutex::new(None);
        let service = service_fn(|request: Request<Incoming>| {
            let response = match self.answer(request) {
                Ok((response, session)) => {
                    *upgraded.lock() = Some(session);
                    response
                }
                Err(refusal) => *refusal,
            };
            async move { Ok::<_, Infallible>(response) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            return tracing::debug!(%error, "a streaming connection broke");
        }
        let session = upgraded.lock().take();
        if let Some(session) = session {
            session.await;
        }
    }

    fn answer(&self, mut request: Request<Incoming>) -> Result<Upgrade, Refusal> {
        let mut path = request.uri().path().split('/').skip(1);
        let (kind, token) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
        let not_found =
            || refused(StatusCode::NOT_FOUND, "the URL is unknown, was used already, or is older than a minute");
        if request.method() != http::Method::GET && request.method() != http::Method::POST {
            return Err(refused(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST are answered"));
        }
        let wanted = {
            let mut waiting = self.0.waiting.lock();
            let fits = waiting.get(token).is_some_and(|(until, wanted)| {
                *until > Instant::now() && wanted.path() == kind && path.next().is_none()
            });
            if fits { waiting.remove(token) } else { None }
        };
        let Some((_, wanted)) = wanted else { return Err(not_found()) };
        let chosen = Chosen::of(&wanted, request.headers())?;
        let response = chosen.response(request.headers());
        let (upgrade, runtime) = (hyper::upgrade::on(&mut request), self.0.runtime.clone());
        let session = async move {
            let outcome = match upgrade.await {
                Ok(upgraded) => run(TokioIo::new(upgraded), wanted, chosen, runtime).await,
                Err(error) => Err(io::Error::other(error)),
            };
            if let Err(error) = outcome {
                tracing::debug!(%error, "a streaming session broke");
            }
        };
        Ok((response, Box::pin(session)))
    }
}

async fn run(
    io: TokioIo<Upgraded>,
    wanted: Wanted,
    chosen: Chosen,
    runtime: Arc<dyn StreamingRuntime>,
) -> io::Result<()> {
    let version = chosen.version();
    match (wanted, chosen.transport) {
        (Wanted::Command(command), Transport::WebSocket(framing)) => {
            let terms = command.terms(version >= 4, true);
            command::over_websocket(io, framing, &command, terms, runtime).await
        }
        (Wanted::Command(command), Transport::Spdy | Transport::Tunnel) => {
            let terms = command.terms(version >= 4, version >= 3);
            command::over_spdy(io, &command, terms, runtime).await
        }
        (Wanted::Forward(request), Transport::Spdy) => forward::over_spdy(io, &request, runtime).await,
        (Wanted::Forward(request), Transport::Tunnel) => forward::tunnelled(io, &request, runtime).await,
        (Wanted::Forward(request), Transport::WebSocket(framing)) => {
            forward::over_websocket(io, framing, &request, runtime).await
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Spdy,
    WebSocket(Framing),
    /// SPDY in a WebSocket.
    Tunnel,
}

/// What client and server agree on.
#[derive(Clone, Debug)]
struct Chosen {
    transport: Transport,
    /// Empty: the client named none.
    protocol: String,
}

impl Chosen {
    fn of(wanted: &Wanted, headers: &HeaderMap) -> Result<Chosen, Refusal> {
        let upgrade = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let asks = listed(headers, CONNECTION).iter().any(|word| word.eq_ignore_ascii_case("upgrade"));
        if asks && upgrade.eq_ignore_ascii_case("websocket") {
            Chosen::websocket(wanted, headers)
        } else if asks && upgrade.eq_ignore_ascii_case(SPDY) {
            Chosen::spdy(wanted, headers)
        } else {
            let text =
                format!("unable to upgrade: the request asks for no protocol that is spoken here ({SPDY}, websocket)");
            Err(refused(StatusCode::BAD_REQUEST, &text))
        }
    }

    fn spdy(wanted: &Wanted, headers: &HeaderMap) -> Result<Chosen, Refusal> {
        let offered = listed(headers, PROTOCOL);
        let known: &[&str] = match wanted {
            Wanted::Command(_) => &COMMAND_PROTOCOLS,
            Wanted::Forward(_) => &FORWARD_PROTOCOLS,
        };
        let protocol = match known.iter().find(|known| offered.iter().any(|offer| offer == *known)) {
            Some(protocol) => (*protocol).to_owned(),
            // Clients from before there were versions.
            None if offered.is_empty() => String::new(),
            None => {
                let text = format!(
                    "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                    offered.join(" "),
                    known.join(" ")
                );
                let mut response = refused(StatusCode::FORBIDDEN, &text);
                for known in known {
                    response.headers_mut().append(ACCEPTED, HeaderValue::from_static(known));
                }
                return Err(response);
            }
        };
        Ok(Chosen { transport: Transport::Spdy, protocol })
    }

    fn websocket(wanted: &Wanted, headers: &HeaderMap) -> Result<Chosen, Refusal> {
        let offered = listed(headers, WEBSOCKET_PROTOCOL);
        let of = |protocol: &str| {
            let framing = |base64: bool, closes: bool| Some(Transport::WebSocket(Framing { base64, closes }));
            match (wanted, protocol) {
                (Wanted::Forward(_), TUNNEL) => Some(Transport::Tunnel),
                (Wanted::Command(_), "v5.channel.k8s.io") => framing(false, true),
                (_, "v4.channel.k8s.io") => framing(false, false),
                (_, "v4.base64.channel.k8s.io") => framing(true, false),
                (Wanted::Command(_), "channel.k8s.io" | "") => framing(false, false),
                (Wanted::Command(_), "base64.channel.k8s.io") => framing(true, false),
                (Wanted::Command(_) | Wanted::Forward(_), _) => None,
            }
        };
        let nothing = [String::new()];
        let offered = if offered.is_empty() { &nothing[..] } else { &offered };
        let found = offered.iter().find_map(|protocol| Some((of(protocol)?, protocol.clone())));
        let is_possible = headers.contains_key(SEC_WEBSOCKET_KEY)
            && headers.get("sec-websocket-version").is_some_and(|version| version == "13");
        match found {
            Some((transport, protocol)) if is_possible => Ok(Chosen { transport, protocol }),
            Some(_) => Err(refused(StatusCode::BAD_REQUEST, "unable to upgrade: not a WebSocket of version 13")),
            None => {
                let text = format!("unable to upgrade: none of the protocols {offered:?} is spoken here");
                Err(refused(StatusCode::BAD_REQUEST, &text))
            }
        }
    }

    fn version(&self) -> u8 {
        match self.protocol.as_bytes() {
            [b'v', digit @ b'0'..=b'9', b'.', ..] => digit - b'0',
            _ => 1,
        }
    }

    fn response(&self, request: &HeaderMap) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let (upgrade, name) = match self.transport {
            Transport::Spdy => (SPDY, PROTOCOL),
            Transport::WebSocket(_) | Transport::Tunnel => ("websocket", WEBSOCKET_PROTOCOL),
        };
        headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
        if let (Some(key), true) = (request.get(SEC_WEBSOCKET_KEY), upgrade == "websocket")
            && let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if !self.protocol.is_empty()
            && let Ok(protocol) = HeaderValue::from_str(&self.protocol)
        {
            headers.insert(name, protocol);
        }
        response
    }
}

/// The words of a header that is a list, over all its lines.
fn listed(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

fn refused(status: StatusCode, text: &str) -> Refusal {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Box::new(response)
}

fn check_streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<(), Status> {
    if tty && stderr {
        return Err(Status::invalid_argument("tty and stderr cannot both be true"));
    }
    if !(stdin || stdout || stderr) {
        return Err(Status::invalid_argument("one of stdin, stdout, or stderr must be set"));
    }
    Ok(())
}
