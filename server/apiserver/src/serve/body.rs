//! Owns ending answers that would never end by themselves.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A body that ends, as if it were complete, when the server stops.
pub(super) struct Until {
    body: Body,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl Until {
    pub(super) fn new(body: Body, end: CancellationToken) -> Until {
        Until { body, end: Box::pin(end.cancelled_owned()), ended: false }
    }
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.ended || this.end.as_mut().poll(context).is_ready() {
            this.ended = true;
            return Poll::Ready(None);
        }
        Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Whether the answer goes on until somebody ends it: a watch, a log that is followed.
pub(super) fn is_endless(uri: &http::Uri) -> bool {
    let is_on = |value: &str| matches!(value, "" | "1" | "true");
    let by_query = uri.query().unwrap_or_default().split('&').any(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        matches!(key, "watch" | "follow") && is_on(value)
    });
    by_query || uri.path().split('/').nth(3) == Some("watch") || uri.path().split('/').nth(4) == Some("watch")
}
