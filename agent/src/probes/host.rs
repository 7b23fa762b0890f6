//! The prober that opens sockets of this host.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::grpc;
use super::{Check, HttpCheck, Outcome, Prober};

/// Body bytes that are read, so that the connection ends in good order.
const BODY_MAX: usize = 10 * 1024;
/// As Go's HTTP client.
const REDIRECTS_MAX: usize = 10;

/// Probes over real sockets.
pub struct HostProber {
    tls: TlsConnector,
}

impl Default for HostProber {
    fn default() -> Self {
        // Probes ask whether something answers, not who: kubelet checks no certificates either.
        Self { tls: TlsConnector::from(Arc::new(coracle_client::tls_without_trust())) }
    }
}

impl Prober for HostProber {
    fn try_once<'a>(&'a self, check: &'a Check) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move {
            match check {
                Check::Tcp { host, port } => dial(host, *port).await.map(drop),
                Check::Http(http) => self.http(http).await,
                Check::Grpc { host, port, service } => grpc::check(dial(host, *port).await?, service).await,
                Check::Exec { .. } => Err("this runs in the container, not over the network".to_owned()),
            }
        })
    }
}

impl HostProber {
    /// Follows redirects on the same host, as kubelet does; one to another host is as good as an answer.
    async fn http(&self, check: &HttpCheck) -> Outcome {
        let mut check = check.clone();
        for _ in 0..REDIRECTS_MAX {
            let (status, location) = self.get(&check).await?;
            let next = location.filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308));
            match next.map(|location| redirected(&check, &location)) {
                Some(Some(next)) => check = next,
                Some(None) => return Ok(()),
                None if (200..400).contains(&status) => return Ok(()),
                None => return Err(format!("HTTP probe failed with statuscode: {status}")),
            }
        }
        Err(format!("Get \"{}\": stopped after {REDIRECTS_MAX} redirects", check.url()))
    }

    async fn get(&self, check: &HttpCheck) -> Result<(u16, Option<String>), String> {
        let failed = |error: String| format!("Get \"{}\": {error}", check.url());
        let stream = dial(&check.host, check.port).await.map_err(failed)?;
        let answer = if check.scheme == "https" {
            let name = ServerName::try_from(check.host.trim_matches(['[', ']']).to_owned());
            let name = name.map_err(|error| failed(error.to_string()))?;
            let stream = self.tls.connect(name, stream).await.map_err(|error| failed(error.to_string()))?;
            get(stream, check).await
        } else {
            get(stream, check).await
        };
        answer.map_err(|error| failed(error.to_string()))
    }
}

/// The request a redirect leads to; `None` if that is another host's.
fn redirected(check: &HttpCheck, location: &str) -> Option<HttpCheck> {
    let mut next = check.clone();
    let Some((scheme, rest)) = location.split_once("://") else {
        let folder =
            check.path.split('?').next().and_then(|path| path.rsplit_once('/')).map_or("", |(folder, _)| folder);
        next.path = if location.starts_with('/') { location.to_owned() } else { format!("{folder}/{location}") };
        return Some(next);
    };
    let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let uri: http::uri::Authority = authority.parse().ok()?;
    if uri.host() != check.host || !matches!(scheme, "http" | "https") {
        return None;
    }
    next.port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    next.scheme = scheme.to_owned();
    next.path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Some(next)
}

/// A path in which everything that a request line cannot hold is escaped.
fn written(path: &str) -> String {
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte);
    path.bytes().fold(String::with_capacity(path.len()), |mut text, byte| {
        if fits(byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let address = format!("{host}:{port}");
    TcpStream::connect(&address).await.map_err(|error| {
        let text = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {address}: {text}")
    })
}

/// Status and where it sends to.
async fn get<S>(stream: S, check: &HttpCheck) -> Result<(u16, Option<String>), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let default_port = (check.scheme == "http" && check.port == 80) || (check.scheme == "https" && check.port == 443);
    let authority = if default_port { check.host.clone() } else { format!("{}:{}", check.host, check.port) };
    let has = |name: &str| check.headers.keys().any(|known| known.eq_ignore_ascii_case(name));
    let mut request = http::Request::get(written(&check.path));
    for (name, value) in [("host", &*authority), ("user-agent", "kube-probe/1.36"), ("accept", "*/*")] {
        if !has(name) {
            request = request.header(name, value);
        }
    }
    for (name, value) in check.headers.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(name, value);
    }
    // The path is written so that it fits; a header that HTTP does not allow is refused by the API.
    let request = request.header("connection", "close").body(Empty::<Bytes>::new()).unwrap_or_default();
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let location = response.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut body = http_body_util::Limited::new(response.into_body(), BODY_MAX);
        while let Some(Ok(_)) = body.frame().await {}
        Ok((status, location))
    };
    // The connection is driven by this task: there is no other for the one request.
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}
