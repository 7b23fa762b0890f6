//! Requests that guests send: names through the cluster's DNS, from the pod's address, TLS with the roots of `roots`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::allowance::{Allowance, Held, Kind, Refused};
use super::charged::charged;
use super::cpu::{Cpu, Used};
use super::guest::Container;
use super::pod::{NameError, PodNet};
use super::roots::Trust;
use super::traffic::{Counted, Traffic};

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(http::Response<WasiBody>, Io), Error>;

/// Where the guest sets no limit of its own.
const PATIENCE: Duration = Duration::from_secs(600);

/// What of a body may wait to be sent; times the bodies a guest may have, this is memory of the host.
const BODY_CHUNK_BYTES: usize = 64 << 10;

#[derive(Clone)]
pub(super) struct Outgoing {
    net: Arc<PodNet>,
    allowance: Arc<Allowance>,
    traffic: Arc<Traffic>,
    trust: Arc<Trust>,
    cpu: Arc<Cpu>,
    used: Arc<Used>,
}

impl Outgoing {
    pub(super) fn of(container: &Container) -> Outgoing {
        let Container { net, allowance, traffic, trust, cpu, used, .. } = container;
        Outgoing {
            net: net.clone(),
            allowance: allowance.clone(),
            traffic: traffic.clone(),
            trust: trust.clone(),
            cpu: cpu.clone(),
            used: used.clone(),
        }
    }

    fn charged<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        charged(self.cpu.clone(), self.used.clone(), work)
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _body: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(self.charged(send(self.clone(), request, options)))
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }
}

async fn send(own: Outgoing, mut request: http::Request<WasiBody>, options: Option<RequestOptions>) -> Sent {
    let limit = |chosen: Option<Duration>| chosen.unwrap_or(PATIENCE);
    let connecting = limit(options.and_then(|options| options.connect_timeout));
    let first_byte = limit(options.and_then(|options| options.first_byte_timeout));
    let between_bytes = limit(options.and_then(|options| options.between_bytes_timeout)).max(Duration::from_nanos(1));
    let authority = request.uri().authority().ok_or(Error::HttpRequestUriInvalid)?.clone();
    let tls = request.uri().scheme() == Some(&Scheme::HTTPS);
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });

    let connect = async {
        let stream = connect(&own, authority.host(), port).await?;
        if !tls {
            return handshake(stream).await;
        }
        let bare = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = rustls::pki_types::ServerName::try_from(bare).map_err(|_| Error::HttpRequestUriInvalid)?;
        let stream = own.trust.connector().connect(name, stream).await.map_err(Error::Tls)?;
        handshake(stream).await
    };
    let (mut sender, connection) =
        tokio::time::timeout(connecting, connect).await.map_err(|_| Error::ConnectionTimeout)??;

    // What goes to a server names the path only.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;

    // The connection must be driven while the response is waited for, and by the caller after that.
    let mut connection = connection;
    let mut answer = Box::pin(tokio::time::timeout(first_byte, sender.send_request(request)));
    let mut driven = false;
    let response = std::future::poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        if !driven && connection.as_mut().poll(cx).is_ready() {
            driven = true;
            return answer.as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await
    .map_err(|_| Error::ConnectionReadTimeout)?
    .map_err(Error::from)?;
    let response = response.map(|body| {
        let mut timer = Box::pin(tokio::time::sleep(between_bytes));
        timer.as_mut().reset(tokio::time::Instant::now() + between_bytes);
        Timed { body, timer, between_bytes }.boxed_unsync()
    });
    let rest: Io = Box::new(own.charged(async move { if driven { Ok(()) } else { connection.await } }));
    Ok((response, rest))
}

async fn connect(own: &Outgoing, host: &str, port: u16) -> Result<Counted<TcpStream, Held>, Error> {
    let net = &own.net;
    let looking = own.allowance.take(Kind::Lookup).map_err(|Refused| Error::DnsTimeout)?;
    let addresses = net.resolve(host).await.map_err(|error| match error {
        NameError::Invalid => Error::HttpRequestUriInvalid,
        NameError::NotFound => Error::DnsError { rcode: Some("NXDOMAIN".to_owned()), info_code: None },
        NameError::Unanswered => Error::DnsTimeout,
    })?;
    drop(looking);
    let held = own.allowance.take(Kind::Socket).map_err(|Refused| Error::ConnectionLimitReached)?;
    let mut last = Error::DestinationNotFound;
    for ip in addresses {
        let remote = net.remote_address(SocketAddr::new(ip, port));
        if !net.allows(remote, SocketAddrUse::TcpConnect) {
            continue;
        }
        match connect_to(net, remote).await {
            Ok(stream) => return Ok(Counted::new(stream, own.traffic.clone(), held)),
            Err(error) => last = Error::Connect(error),
        }
    }
    Err(last)
}

async fn connect_to(net: &PodNet, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = net.source_for(address) {
        socket.bind(source)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

type Sender = hyper::client::conn::http1::SendRequest<WasiBody>;
type Driver = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

async fn handshake<S>(stream: S) -> Result<(Sender, Driver), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        hyper::client::conn::http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(Error::from)?;
    Ok((sender, Box::pin(async move { connection.await.map_err(Error::from) })))
}

/// A body that fails when the server falls silent.
struct Timed {
    body: Incoming,
    timer: Pin<Box<tokio::time::Sleep>>,
    between_bytes: Duration,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let deadline = tokio::time::Instant::now() + self.between_bytes;
                self.timer.as_mut().reset(deadline);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Error::from(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
