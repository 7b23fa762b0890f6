//! One TLS connection to the server, speaking the version of HTTP that was asked for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use coracle_client::Identity;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) type Body = BoxBody<Bytes, Infallible>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

pub(crate) struct Link {
    sender: Sender,
    token: Option<String>,
    authority: String,
    /// Cut with the link.
    _connection: JoinSet<()>,
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Answer {
    pub(crate) fn expect(self, code: u16) -> Answer {
        assert_eq!(self.code, code, "{}", self.text());
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("-", |value| value.to_str().expect("a header of text"))
    }

    /// Code, reason and message of a refusal.
    pub(crate) fn refusal(&self) -> String {
        let status = self.json();
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {}", self.code, text("reason"), text("message"))
    }
}

pub(crate) async fn tls(
    address: SocketAddr,
    ca: &str,
    identity: &Identity,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(roots);
    let mut config = match identity {
        Identity::ClientCert { cert_pem, key_pem } => {
            let chain = CertificateDer::pem_slice_iter(cert_pem.as_bytes()).collect::<Result<_, _>>().expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("the key is the certificate's")
        }
        Identity::Token(_) | Identity::Anonymous => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(address.ip().into()), stream).await
}

impl Link {
    pub(crate) async fn open(address: SocketAddr, ca: &str, identity: &Identity, protocol: Protocol) -> Link {
        let alpn: &[u8] = match protocol {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        };
        let stream = tls(address, ca, identity, &[alpn]).await.expect("a TLS connection");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn), "the protocol that was asked for");
        let io = TokioIo::new(stream);
        let mut connections = JoinSet::new();
        // How a connection ends is seen by its requests.
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.expect("HTTP/1.1");
                connections.spawn(async { connection.await.unwrap_or_default() });
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
                connections.spawn(async { connection.await.unwrap_or_default() });
                Sender::Http2(sender)
            }
        };
        let token = match identity {
            Identity::Token(token) => Some(token.clone()),
            Identity::ClientCert { .. } | Identity::Anonymous => None,
        };
        Link { sender, token, authority: address.to_string(), _connection: connections }
    }

    /// Sends a request; the answer's body is still to come.
    pub(crate) async fn send(&mut self, mut request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        if let Some(token) = &self.token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        }
        match &mut self.sender {
            Sender::Http1(sender) => {
                request.headers_mut().insert("host", self.authority.parse().expect("a header"));
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                let uri = format!("https://{}{}", self.authority, request.uri());
                *request.uri_mut() = uri.parse().expect("a URI");
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    pub(crate) async fn whole(&mut self, request: Request<Body>) -> Answer {
        let response = self.send(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.whole(request(Method::GET, path, &[], Bytes::new())).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.whole(request(Method::POST, path, &[], body.to_string())).await
    }

    pub(crate) async fn put(&mut self, path: &str, body: &Value) -> Answer {
        self.whole(request(Method::PUT, path, &[], body.to_string())).await
    }

    pub(crate) async fn delete(&mut self, path: &str) -> Answer {
        self.whole(request(Method::DELETE, path, &[], Bytes::new())).await
    }

    pub(crate) async fn watch(&mut self, path: &str) -> Events {
        let response = self.send(request(Method::GET, path, &[], Bytes::new())).await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        Events { body: response.into_body(), waiting: BytesMut::new() }
    }

    /// Another handle on the same HTTP/2 connection.
    pub(crate) fn share(&self) -> Link {
        let Sender::Http2(sender) = &self.sender else { panic!("only HTTP/2 connections are shared") };
        Link {
            sender: Sender::Http2(sender.clone()),
            token: self.token.clone(),
            authority: self.authority.clone(),
            _connection: JoinSet::new(),
        }
    }
}

pub(crate) fn request(method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Body> {
    let body: Bytes = body.into();
    let mut request = Request::builder().method(method).uri(path);
    if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body).boxed()).expect("a valid request")
}

/// The events of a watch.
pub(crate) struct Events {
    body: Incoming,
    waiting: BytesMut,
}

impl Events {
    /// The next event; None at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.waiting.iter().position(|byte| *byte == b'\n') {
                let line = self.waiting.split_to(end + 1);
                return Some(serde_json::from_slice(&line).expect("a frame of JSON"));
            }
            let frame = self.body.frame().await?.expect("the stream ends in order or not at all");
            self.waiting.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
    }
}

/// What an event says, in a line: type, name and revision.
pub(crate) fn shown(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let metadata = &event["object"]["metadata"];
    format!("{} {} {}", text(&event["type"]), text(&metadata["name"]), text(&metadata["resourceVersion"]))
}

pub(crate) fn revision(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().expect("a revision");
    text.parse().expect("a revision is a number")
}
