//! The gRPC health protocol, as far as a probe needs it: one call of `grpc.health.v1.Health/Check`.
//!
//! The two messages have one field each, so they are written and read here by hand.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::Outcome;

const SERVING: u64 = 1;

pub(super) async fn check(stream: TcpStream, service: &str) -> Outcome {
    let failed = |error: &dyn std::fmt::Display| format!("error: health rpc probe failed: {error}");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    let request = http::Request::post("http://probe/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(request(service)))
        .map_err(|error| failed(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let head = grpc_status(response.headers());
        let body = response.into_body().collect().await?;
        let status = head.or_else(|| body.trailers().and_then(grpc_status));
        Ok::<_, hyper::Error>((status, body.to_bytes()))
    };
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    let answer = tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error),
        }
    };
    let (status, body) = answer.map_err(|error| failed(&error))?;
    match status.as_deref() {
        Some("0") | None => {}
        Some("12") => {
            return Err(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()
            );
        }
        Some(code) => return Err(failed(&format_args!("rpc error: code = {code}"))),
    }
    match serving(&body) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(format!("service unhealthy (responded with \"{}\")", name(other))),
        None => Err(failed(&"the answer is no HealthCheckResponse")),
    }
}

fn grpc_status(headers: &http::HeaderMap) -> Option<String> {
    headers.get("grpc-status").and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// A length-prefixed `HealthCheckRequest { service }`.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length as u8 & 0x7f) | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

/// The status of a length-prefixed `HealthCheckResponse { status }`; a field that is left out is 0.
fn serving(frame: &[u8]) -> Option<u64> {
    let message = frame.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, value, ..] => Some(u64::from(*value)),
        _ => None,
    }
}

fn name(status: u64) -> &'static str {
    match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}
