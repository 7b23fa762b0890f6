//! One HTTP/1.1 request over a connection that is kept for the next one, with limits on how long anything may take.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use url::Url;

use super::endpoints::authority;
use super::settings::Timing;
use crate::images::error::chain;

pub(in crate::images) type Body = BoxBody<Bytes, io::Error>;

pub(in crate::images) fn empty() -> Body {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed()
}

pub(in crate::images) fn full(content: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(content.into()).map_err(|never| match never {}).boxed()
}

/// In which a document must be here, and in which the blobs of a session must get on, in times that nothing may come. Both
/// are for who sends a byte now and then, which is no silence.
const STALLS: u32 = 10;
/// What of all blobs together must come in that time. Several pulls share lines of 2 KB/s, each with a few layers, and
/// must not lose them: this is 55 B/s.
const LEAST_BYTES: u64 = 16 << 10;

/// Why a request got no answer.
#[derive(Debug)]
pub(in crate::images) enum Lost {
    /// Another attempt may fare better.
    Transient(String),
    /// It will not: a certificate that is not believed, an address that is none.
    Final(String),
}

/// Whose settings a connection was made with, by the number of the place; with TLS or without; and whom to.
type Key = (usize, bool, String);

/// More than are in use at once. A registry may lead to as many hosts as it likes.
const KEPT_MAX: usize = 16;

/// The connections of one session. They end with it.
pub(in crate::images) struct Transport {
    timing: Timing,
    /// Those to one host may all be busy: an answer that is still being read keeps its connection.
    /// The oldest first.
    kept: Mutex<VecDeque<(Key, SendRequest<Body>)>>,
    drivers: Mutex<JoinSet<()>>,
    /// Of all bodies so far.
    received: AtomicU64,
}

/// A body that must get on.
pub(in crate::images) struct Flow {
    body: Incoming,
    since: Instant,
    /// What all bodies had by then.
    had: u64,
}

impl Transport {
    pub(super) fn new(timing: Timing) -> Transport {
        Transport { timing, kept: Mutex::default(), drivers: Mutex::default(), received: AtomicU64::new(0) }
    }

    /// Sends `request` to `url`, for the place of this number. `tls` is made only where it is needed.
    pub(super) async fn send(
        &self,
        place: usize,
        url: &Url,
        tls: impl FnOnce() -> Result<Arc<ClientConfig>, String>,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Lost> {
        let host = authority(url);
        let key = (place, url.scheme() == "https", host.clone());
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        *request.uri_mut() = path.parse().map_err(|error| Lost::Final(format!("{url}: {error}")))?;
        let headers = request.headers_mut();
        let host_value = HeaderValue::from_str(&host).map_err(|error| Lost::Final(format!("{url}: {error}")))?;
        headers.insert(header::HOST, host_value);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("coracle/", env!("CARGO_PKG_VERSION"))));
        let mut sender = match self.idle(&key) {
            Some(sender) => sender,
            None => match tokio::time::timeout(self.timing.connect, self.connect(url, tls)).await {
                Ok(connected) => connected?,
                Err(_) => {
                    return Err(Lost::Transient(format!("{host} did not answer within {}", secs(self.timing.connect))));
                }
            },
        };
        // The answer comes after what is sent, for which a slow line may take a second per 64 KiB.
        let upload = http_body::Body::size_hint(request.body()).lower() >> 16;
        let patience = self.timing.stall + Duration::from_secs(upload);
        let response = match tokio::time::timeout(patience, sender.send_request(request)).await {
            Ok(response) => response.map_err(|error| Lost::Transient(format!("{host}: {}", chain(&error))))?,
            Err(_) => return Err(Lost::Transient(format!("{host} sent nothing for {}", secs(patience)))),
        };
        self.keep(key, sender);
        Ok(response)
    }

    /// One that makes room for another serves the answer that is being read to its end.
    fn keep(&self, key: Key, sender: SendRequest<Body>) {
        let mut kept = self.kept.lock();
        kept.retain(|(_, sender)| !sender.is_closed());
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((key, sender));
    }

    /// A connection is ready again once the last answer was read to its end.
    fn idle(&self, key: &Key) -> Option<SendRequest<Body>> {
        let mut kept = self.kept.lock();
        kept.retain(|(_, sender)| !sender.is_closed());
        let ready = kept.iter().position(|(other, sender)| other == key && sender.is_ready())?;
        kept.remove(ready).map(|(_, sender)| sender)
    }

    async fn connect(
        &self,
        url: &Url,
        tls: impl FnOnce() -> Result<Arc<ClientConfig>, String>,
    ) -> Result<SendRequest<Body>, Lost> {
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let lost = |error: io::Error| Lost::Transient(format!("cannot connect to {}: {error}", authority(url)));
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(lost)?;
        stream.set_nodelay(true).map_err(lost)?;
        if url.scheme() != "https" {
            return self.handshake(stream).await;
        }
        let name = rustls::pki_types::ServerName::try_from(host)
            .map_err(|error| Lost::Final(format!("{}: {error}", authority(url))))?;
        let connector = TlsConnector::from(tls().map_err(Lost::Final)?);
        let stream = connector.connect(name, stream).await.map_err(|error| tls_failed(url, &error))?;
        self.handshake(stream).await
    }

    async fn handshake<S>(&self, stream: S) -> Result<SendRequest<Body>, Lost>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            Builder::new().handshake(TokioIo::new(stream)).await.map_err(|error| Lost::Transient(chain(&error)))?;
        let mut drivers = self.drivers.lock();
        while drivers.try_join_next().is_some() {}
        drivers.spawn(async move {
            // The request that it breaks says so.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a registry ended");
            }
        });
        Ok(sender)
    }

    pub(in crate::images) fn flow(&self, body: Incoming) -> Flow {
        Flow { body, since: Instant::now(), had: self.received.load(Ordering::Relaxed) }
    }

    /// The next piece of a body, or nothing at its end.
    pub(in crate::images) async fn next(&self, flow: &mut Flow) -> Result<Option<Bytes>, Lost> {
        let Some(piece) = self.piece(&mut flow.body).await? else { return Ok(None) };
        let all = self.received.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
        if flow.since.elapsed() >= self.patience() {
            let came = all - flow.had;
            if came < LEAST_BYTES {
                let time = secs(self.patience());
                return Err(Lost::Transient(format!("the registry sent no more than {came} bytes in {time}")));
            }
            (flow.since, flow.had) = (Instant::now(), all);
        }
        Ok(Some(piece))
    }

    async fn piece(&self, body: &mut Incoming) -> Result<Option<Bytes>, Lost> {
        loop {
            let frame = match tokio::time::timeout(self.timing.stall, body.frame()).await {
                Ok(frame) => frame,
                Err(_) => {
                    return Err(Lost::Transient(format!("the registry sent nothing for {}", secs(self.timing.stall))));
                }
            };
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(Lost::Transient(format!("the registry broke off: {}", chain(&error)))),
            }
        }
    }

    /// A whole body of at most `limit` bytes; nothing if it is larger.
    pub(in crate::images) async fn read(&self, mut body: Incoming, limit: u64) -> Result<Option<Vec<u8>>, Lost> {
        let reading = async {
            let mut content = Vec::new();
            while let Some(piece) = self.piece(&mut body).await? {
                if content.len() as u64 + piece.len() as u64 > limit {
                    return Ok(None);
                }
                content.extend_from_slice(&piece);
            }
            Ok(Some(content))
        };
        tokio::time::timeout(self.patience(), reading).await.unwrap_or_else(|_| {
            let time = secs(self.patience());
            Err(Lost::Transient(format!("the registry did not send the whole answer in {time}")))
        })
    }

    fn patience(&self) -> Duration {
        self.timing.stall * STALLS
    }
}

fn tls_failed(url: &Url, error: &io::Error) -> Lost {
    let host = authority(url);
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => Lost::Final(format!(
            "the certificate of {host} is not trusted: {why}; name its CA as configs.{host:?}.tls.ca_file in registries.yaml"
        )),
        Some(error) => Lost::Final(format!("TLS with {host} failed: {error}")),
        None => Lost::Transient(format!("TLS with {host} failed: {error}")),
    }
}

fn secs(time: Duration) -> String {
    format!("{} s", time.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connections_are_used_again_and_few_are_kept() {
        let transport = Transport::new(Timing::default());
        let no_tls = || Err("nobody asks for it".to_owned());
        let mut servers = Vec::new();
        for _ in 0..2 * KEPT_MAX {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            let url: Url = format!("http://{}/", listener.local_addr().expect("an address")).parse().expect("a URL");
            let answering = async {
                let (mut stream, _) = listener.accept().await.expect("it is asked");
                let mut asked = [0; 1024];
                for _ in 0..2 {
                    assert_ne!(stream.read(&mut asked).await.expect("it is asked"), 0);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
                    stream.write_all(answer).await.expect("it can answer");
                }
                stream
            };
            let asking = async {
                for _ in 0..2 {
                    let answer = transport.send(0, &url, no_tls, Request::new(empty())).await.expect("it answers");
                    let answer = transport.read(answer.into_body(), 10).await.expect("it can be read");
                    assert_eq!(answer.as_deref(), Some(b"hi".as_slice()));
                    while !transport.kept.lock().back().is_some_and(|(_, sender)| sender.is_ready()) {
                        tokio::task::yield_now().await;
                    }
                }
            };
            let (stream, ()) = tokio::join!(answering, asking);
            servers.push(stream);
        }
        assert_eq!(transport.kept.lock().len(), KEPT_MAX);
    }
}
