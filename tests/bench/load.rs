//! HTTP/1.1 connections with TLS, one per worker, and what they measured.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The API server of a kubeconfig, as its administrator.
#[derive(Clone)]
pub(crate) struct Target {
    tls: TlsConnector,
    host: String,
}

impl Target {
    pub(crate) fn from_kubeconfig(path: &Path) -> anyhow::Result<Target> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let field = |name: &str| {
            text.lines()
                .find_map(|l| l.trim().trim_start_matches("- ").strip_prefix(name)?.strip_prefix(": "))
                .map(|v| v.trim_matches('"').to_owned())
                .ok_or_else(|| anyhow!("{}: no {name}", path.display()))
        };
        let pem = |name: &str| anyhow::Ok(base64::engine::general_purpose::STANDARD.decode(field(name)?)?);
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem("certificate-authority-data")?) {
            roots.add(certificate?)?;
        }
        let chain = CertificateDer::pem_slice_iter(&pem("client-certificate-data")?).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let host = field("server")?.trim_start_matches("https://").to_owned();
        Ok(Target { tls: TlsConnector::from(Arc::new(config)), host })
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(&self.host).await?;
        stream.set_nodelay(true)?;
        let (name, _) = self.host.rsplit_once(':').context("the server's address has a port")?;
        let stream = self.tls.connect(ServerName::try_from(name.to_owned())?, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        #[allow(clippy::disallowed_methods, reason = "a load client: the connection ends with its sender")]
        tokio::spawn(connection);
        Ok(Connection { sender, host: self.host.clone() })
    }
}

pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    pub(crate) async fn open(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<hyper::Response<Incoming>> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("accept", "application/json")
            .header("content-type", kind)
            .body(Full::from(body.to_owned()))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    pub(crate) async fn call(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<Bytes> {
        let response = self.open(method, path, body).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
        }
        Ok(bytes)
    }
}

/// Latencies of one kind of operation, and how long all of them took together.
pub(crate) struct Measured {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) elapsed: Duration,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Milliseconds below which a share `p` of the operations lies.
    pub(crate) fn percentile_ms(&self, p: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = ((sorted.len().saturating_sub(1)) as f64 * p).round() as usize;
        sorted.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
    }
}

/// Sends `count` requests over `connections` connections: `request(i)` gives method, path and body.
pub(crate) async fn load(
    target: &Target,
    count: usize,
    connections: usize,
    request: impl Fn(usize) -> (&'static str, String, String) + Send + Sync + 'static,
) -> anyhow::Result<Measured> {
    let request = Arc::new(request);
    let next = Arc::new(AtomicUsize::new(0));
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(target.connect().await?);
    }
    let start = now();
    let mut workers = tokio::task::JoinSet::new();
    for mut connection in open {
        let (request, next) = (Arc::clone(&request), Arc::clone(&next));
        workers.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    return anyhow::Ok(latencies);
                }
                let (method, path, body) = request(i);
                let sent = now();
                connection.call(method, &path, &body).await?;
                latencies.push(sent.elapsed());
            }
        });
    }
    let mut latencies = Vec::new();
    while let Some(worker) = workers.join_next().await {
        latencies.extend(worker??);
    }
    Ok(Measured { latencies, elapsed: start.elapsed() })
}

#[allow(clippy::disallowed_methods, reason = "a bench measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
