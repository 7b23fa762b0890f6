//! Owns knowing when nothing is asked over a connection any more: whoever connects, shakes hands and then stays silent
//! must not keep a place that others need.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::watch;

/// The requests under way on one connection.
#[derive(Clone)]
pub(super) struct Activity(watch::Sender<usize>);

impl Activity {
    pub(super) fn new() -> Activity {
        Activity(watch::Sender::new(0))
    }

    /// One more, until what is returned is dropped.
    pub(super) fn begin(&self) -> Busy {
        self.0.send_modify(|requests| *requests += 1);
        Busy(self.0.clone())
    }

    /// Returns once there has been none for so long. Sets no timer while there is one.
    pub(super) async fn ceased(&self, idle: Duration) {
        let mut requests = self.0.subscribe();
        loop {
            // The sender is in `self`: neither wait can fail.
            let _none = requests.wait_for(|requests| *requests == 0).await.map(drop);
            if tokio::time::timeout(idle, requests.wait_for(|requests| *requests > 0)).await.is_err() {
                return;
            }
        }
    }
}

pub(super) struct Busy(watch::Sender<usize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|requests| *requests -= 1);
    }
}

/// An answer's body: its request is under way until it is sent.
pub(super) struct Sending {
    pub(super) body: Body,
    pub(super) _busy: Busy,
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
