//! Requests that change a connection's protocol, passed on as they are: what a kubectl says to an API server goes to the
//! node, and what it says to the node goes to the container runtime. Nobody in between reads it.
//!
//! A handler cannot outlive its answer, and the new protocol begins after it: so the handler leaves what is to be done
//! with the connection in [`Upgrades`], and whoever serves the connection does it.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

/// What happens on a connection after it has changed its protocol.
pub type Session = BoxFuture<'static, ()>;

/// Of a refusal this much is told.
const REFUSAL_BYTES: usize = 64 << 10;

/// Where the session of one connection is left. In a request's extensions.
#[derive(Clone, Default)]
pub struct Upgrades(Arc<Mutex<Option<Session>>>);

impl Upgrades {
    pub fn put(&self, session: Session) {
        *self.0.lock() = Some(session);
    }

    pub fn take(&self) -> Option<Session> {
        self.0.lock().take()
    }
}

/// Why a request was not passed on.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("it closed the connection without an answer")]
    Closed,
}

/// Sends `request` over `stream` and gives the answer. If the answer is that the protocol changes, the session copies both
/// ways between `stream` and the client's connection, which `client` is the promise of.
pub async fn pass_on<S>(
    stream: S,
    request: http::Request<()>,
    client: OnUpgrade,
) -> Result<(http::Response<Bytes>, Option<Session>), PassError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = Box::pin(connection.with_upgrades());
    let exchange = async {
        let mut response = sender.send_request(request.map(|()| Empty::<Bytes>::new())).await?;
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            let changed = hyper::upgrade::on(&mut response);
            return Ok((response.map(|_| Bytes::new()), Some(changed)));
        }
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, REFUSAL_BYTES).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Ok::<_, PassError>((http::Response::from_parts(parts, body), None))
    };
    let mut exchange = std::pin::pin!(exchange);
    let (response, changed) = tokio::select! {
        biased;
        answered = &mut exchange => answered?,
        ended = &mut connection => {
            ended?;
            // What it said last may be there still.
            tokio::select! {
                biased;
                answered = &mut exchange => answered?,
                () = std::future::ready(()) => return Err(PassError::Closed),
            }
        }
    };
    let session = changed.map(|changed| -> Session {
        Box::pin(async move {
            let both = async { tokio::try_join!(client, changed) };
            // The connection hands itself over while it is polled.
            let upgraded = tokio::select! {
                biased;
                upgraded = both => upgraded,
                () = drive(connection) => return,
            };
            match upgraded {
                Ok((client, server)) => {
                    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
                    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
                        tracing::debug!(%error, "an upgraded connection broke");
                    }
                }
                Err(error) => tracing::debug!(%error, "a connection did not change its protocol"),
            }
        })
    });
    Ok((response, session))
}

/// Does not return unless the connection breaks before it has handed itself over.
async fn drive(connection: impl Future<Output = Result<(), hyper::Error>>) {
    match connection.await {
        Ok(()) => std::future::pending().await,
        Err(error) => tracing::debug!(%error, "a connection broke before it changed its protocol"),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// A proxy in front of `backend`, as a client sees it.
    async fn through(mut client: DuplexStream, backend: DuplexStream, say: &[u8]) -> String {
        let (ours, theirs) = tokio::io::duplex(1024);
        let upgrades = Upgrades::default();
        let backend = Mutex::new(Some(backend));
        let left = upgrades.clone();
        let service = service_fn(|mut request: http::Request<hyper::body::Incoming>| {
            let (left, backend) = (left.clone(), backend.lock().take().expect("one request"));
            async move {
                let client = hyper::upgrade::on(&mut request);
                let (mut parts, _) = request.into_parts();
                parts.extensions.clear();
                let passed = pass_on(backend, http::Request::from_parts(parts, ()), client).await;
                let (response, session) =
                    passed.unwrap_or_else(|error| (http::Response::new(Bytes::from(error.to_string())), None));
                if let Some(session) = session {
                    left.put(session);
                }
                Ok::<_, Infallible>(response.map(http_body_util::Full::new))
            }
        });
        let serving = async {
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(theirs), service)
                .with_upgrades()
                .await;
            if let (Ok(()), Some(session)) = (served, upgrades.take()) {
                session.await;
            }
        };
        let talking = async {
            let mut ours = ours;
            ours.write_all(b"GET /x HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n")
                .await
                .unwrap();
            ours.write_all(say).await.unwrap();
            // The far end answers and closes.
            let mut heard = vec![0; 64];
            let got = client.read(&mut heard).await.unwrap();
            drop(client);
            let mut answer = String::new();
            let _ = ours.read_to_string(&mut answer).await;
            format!("{:?} | {answer:?}", String::from_utf8_lossy(&heard[..got]))
        };
        tokio::join!(serving, talking).1
    }

    #[tokio::test]
    async fn bytes_go_both_ways_once_the_protocol_has_changed_and_refusals_come_back() {
        let (mut far, near) = tokio::io::duplex(1024);
        let (told, hears) = tokio::io::duplex(64);
        let backend = async {
            let mut told = told;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(far.read_u8().await.unwrap());
            }
            assert!(String::from_utf8_lossy(&head).contains("upgrade: echo"));
            far.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\nhello")
                .await
                .unwrap();
            let mut said = [0; 4];
            far.read_exact(&mut said).await.unwrap();
            told.write_all(&said).await.unwrap();
            drop(far);
        };
        let (seen, ()) = tokio::join!(through(hears, near, b"ping"), backend);
        assert!(seen.starts_with("\"ping\" | \"HTTP/1.1 101 ") && seen.ends_with("hello\""), "{seen}");

        let (mut far, near) = tokio::io::duplex(1024);
        let (told, hears) = tokio::io::duplex(64);
        let backend = async {
            let mut told = told;
            let mut head = [0; 16];
            far.read_exact(&mut head).await.unwrap();
            far.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").await.unwrap();
            told.write_all(b"refused").await.unwrap();
            std::future::pending::<()>().await;
        };
        let seen = tokio::select! {
            biased;
            seen = through(hears, near, b"") => seen,
            () = backend => unreachable!("it does not end"),
        };
        assert!(seen.starts_with("\"refused\" | \"HTTP/1.1 404 ") && seen.ends_with("no\""), "{seen}");
    }
}
