//! Port-forward: for each connection a stream of data and a stream on which is told what went wrong.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::spdy::{self, Side, SpdyStream, value};
use super::websocket::{self, Framing};
use super::{Forward, Outgoing, Output, PIECES_AHEAD, StreamingRuntime, queue};
use crate::v1::PortForwardRequest;

/// Two for each connection.
const STREAMS_MAX: usize = 1024;
/// Streams whose other one has not come; older ones are given up.
const SINGLE_MAX: usize = 64;
/// Data and errors have a channel each, and a channel is a byte.
const PORTS_MAX: usize = 100;

/// As kubelet words what goes onto a stream of errors.
fn told(sandbox: &str, port: &str, why: &str) -> Bytes {
    format!("error forwarding port {port} to pod {sandbox}, uid : {why}").into()
}

/// Over SPDY: the client opens a pair of streams for each connection it has taken.
pub(super) async fn over_spdy(
    io: impl AsyncRead + AsyncWrite,
    request: &PortForwardRequest,
    runtime: Arc<dyn StreamingRuntime>,
) -> io::Result<()> {
    let (connection, _link, mut opened) = spdy::connection(io, Side::Server, STREAMS_MAX);
    let session = async {
        let mut single: Vec<SpdyStream> = Vec::new();
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = running.next(), if !running.is_empty() => {}
                Some(stream) = opened.recv() => {
                    let other = single.iter().position(|other| pairs(other, &stream));
                    match other {
                        Some(index) => {
                            let other = single.swap_remove(index);
                            let (data, error) = if is_data(&stream) { (stream, other) } else { (other, stream) };
                            running.push(one(&*runtime, &request.pod_sandbox_id, data, error));
                        }
                        None => {
                            if single.len() >= SINGLE_MAX {
                                let given_up = single.remove(0);
                                let _ = given_up.output.end().await;
                            }
                            single.push(stream);
                        }
                    }
                }
                else => std::future::pending::<()>().await,
            }
        }
    };
    tokio::select! {
        biased;
        carried = connection.run() => carried,
        () = session => Ok(()),
    }
}

fn is_data(stream: &SpdyStream) -> bool {
    value(&stream.headers, "streamtype") == Some("data")
}

fn pairs(one: &SpdyStream, other: &SpdyStream) -> bool {
    ["requestid", "port"].iter().all(|name| value(&one.headers, name) == value(&other.headers, name))
        && is_data(one) != is_data(other)
}

async fn one(runtime: &dyn StreamingRuntime, sandbox: &str, data: SpdyStream, error: SpdyStream) {
    let text = value(&data.headers, "port").unwrap_or_default().to_owned();
    let output = data.output.clone();
    let outcome = match text.parse() {
        Ok(port) if port > 0 => {
            runtime.forward(sandbox, port, Forward { input: data.input, output: data.output }).await
        }
        Ok(_) | Err(_) => Err(format!("{text:?} is no port")),
    };
    if let Err(why) = outcome {
        tracing::debug!(sandbox, port = text, why, "a forwarded connection failed");
        let _ = error.output.send(told(sandbox, &text, &why)).await;
    }
    let _ = output.end().await;
    let _ = error.output.end().await;
}

/// Over channels of a WebSocket: one connection to each port that the request names, with two channels for each.
pub(super) async fn over_websocket(
    io: impl AsyncRead + AsyncWrite + Unpin,
    framing: Framing,
    request: &PortForwardRequest,
    runtime: Arc<dyn StreamingRuntime>,
) -> io::Result<()> {
    let (queue, outgoing) = queue();
    let sandbox = &request.pod_sandbox_id;
    let mut inputs = HashMap::new();
    let mut connections = Vec::new();
    let ports = request.port.iter().filter_map(|port| u16::try_from(*port).ok()).take(PORTS_MAX);
    for (index, port) in (0_u8..).zip(ports) {
        let (data, error) = (2 * index, 2 * index + 1);
        let (sender, input) = mpsc::channel(PIECES_AHEAD);
        inputs.insert(data, sender);
        let output = |channel: u8| Output { channel: channel.into(), queue: queue.clone() };
        let (data, error) = (output(data), output(error));
        let runtime = &runtime;
        connections.push(async move {
            // Both begin with the port they are for.
            for output in [&data, &error] {
                let _ = output.send(Bytes::copy_from_slice(&port.to_le_bytes())).await;
            }
            let streams = Forward { input, output: data };
            if let Err(why) = runtime.forward(sandbox, port, streams).await {
                let _ = error.send(told(sandbox, &port.to_string(), &why)).await;
            }
        });
    }
    let session = async {
        futures::future::join_all(connections).await;
        let _ = queue.send(Outgoing::Finish).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        carried = websocket::run(io, framing, inputs, outgoing) => carried,
        () = session => Ok(()),
    }
}

/// Over SPDY that is carried in a WebSocket's messages.
pub(super) async fn tunnelled(
    io: impl AsyncRead + AsyncWrite + Unpin,
    request: &PortForwardRequest,
    runtime: Arc<dyn StreamingRuntime>,
) -> io::Result<()> {
    let (ours, theirs) = tokio::io::duplex(super::PIECE_BYTES);
    let (carried, forwarded) = futures::join!(websocket::tunnel(io, theirs), over_spdy(ours, request, runtime));
    carried.and(forwarded)
}
