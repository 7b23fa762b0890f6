//! Bodies of responses: the guest's, which keeps its instance alive until it is sent, and short texts of our own.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

pub(super) type ServerBody = Either<Full<Bytes>, GuestBody>;

/// A client that takes longer to say what it wants, or is silent for so long between requests, is cut off.
pub(super) const HEAD_PATIENCE: Duration = Duration::from_secs(60);
const HEAD_BYTES: usize = 64 << 10;

/// HTTP/1.1 and HTTP/2 without TLS, told apart by how a client begins.
pub(super) fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD_PATIENCE)
        .max_concurrent_streams(128)
        .max_header_list_size(HEAD_BYTES as u32);
    server
}

pub(super) fn plain(status: StatusCode, text: &'static str) -> Response<ServerBody> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// `ended` is dropped when the response is over, sent or not.
pub(super) fn guest_body(body: HyperOutgoingBody, abort: AbortOnDrop, ended: oneshot::Sender<()>) -> ServerBody {
    Either::Right(GuestBody { body, abort, _ended: ended })
}

/// Ends an instance that nobody waits for any more.
pub(super) struct AbortOnDrop(Option<AbortHandle>);

impl AbortOnDrop {
    pub(super) fn new(handle: AbortHandle) -> AbortOnDrop {
        AbortOnDrop(Some(handle))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take() {
            handle.abort();
        }
    }
}

/// The guest's response. Dropped before its end (the client left), it takes the instance along; after its end, the
/// guest may go on for a while with what it does behind the response.
pub(super) struct GuestBody {
    body: HyperOutgoingBody,
    abort: AbortOnDrop,
    _ended: oneshot::Sender<()>,
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, wasmtime_wasi_http::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) {
            self.abort.0 = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.abort.0 = None;
        }
    }
}
