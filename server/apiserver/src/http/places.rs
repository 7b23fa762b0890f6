//! How much the server does at once: places for requests, held until their answers are sent, and for watches, of which no
//! one user gets so many that the others are left without. Knows who asks, not what for.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use coracle_api::status::Status;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics::Metrics;
use super::respond::Response;
use crate::hooks::UserInfo;

/// An answer is handed to the connection in pieces of at most this size: what a connection takes ahead of a slow reader
/// is a few of these, and not a whole list.
const PIECE_BYTES: usize = 64 * 1024;

/// The seconds after which whoever found no place may come again.
const REQUEST_RETRY_SECONDS: i32 = 1;
const WATCH_RETRY_SECONDS: i32 = 5;

pub(super) struct Places {
    requests: Arc<Semaphore>,
    watches: usize,
    /// Who has how many watches open; nobody with none.
    watchers: Mutex<HashMap<String, usize>>,
    metrics: Arc<Metrics>,
}

impl Places {
    pub(super) fn new(requests: usize, watches: usize, metrics: Arc<Metrics>) -> Self {
        Self { requests: Arc::new(Semaphore::new(requests)), watches, watchers: Mutex::default(), metrics }
    }

    /// A place among the requests under way.
    pub(super) fn request(&self) -> Result<OwnedSemaphorePermit, Status> {
        let busy = |_| Status::too_many_requests("Too many requests, please try again later.", REQUEST_RETRY_SECONDS);
        self.requests.clone().try_acquire_owned().map_err(busy)
    }

    /// A place among the watches. A quarter of them is for the system itself (administrators and nodes), and no other
    /// user has more than half of the rest.
    pub(super) fn watch(self: &Arc<Self>, user: &UserInfo) -> Result<Watcher, Status> {
        let limit = self.watches;
        let of_system = is_of_system(user);
        let common = limit - limit / 4;
        let share = common.div_ceil(2);
        let mut watchers = self.watchers.lock();
        let all: usize = usize::try_from(self.metrics.watches.load(Ordering::Relaxed)).unwrap_or(0);
        let own = watchers.get(&user.name).copied().unwrap_or(0);
        let refusal = if all >= limit {
            Some(format!(
                "too many watches: this server serves at most {limit} at a time; close some, or raise its limit of watches"
            ))
        } else if !of_system && own >= share {
            let name = &user.name;
            Some(format!(
                "too many watches: {name:?} has {own} open, and one user may have {share} of the {limit} that this server serves; close some, or raise its limit of watches"
            ))
        } else if !of_system && all >= common {
            Some(format!(
                "too many watches: {all} of {limit} are open, and the rest is kept for nodes and administrators; close some, or raise the server's limit of watches"
            ))
        } else {
            None
        };
        if let Some(text) = refusal {
            return Err(Status::too_many_requests(text, WATCH_RETRY_SECONDS));
        }
        *watchers.entry(user.name.clone()).or_default() += 1;
        self.metrics.watches.fetch_add(1, Ordering::Relaxed);
        Ok(Watcher { places: self.clone(), user: user.name.clone() })
    }
}

fn is_of_system(user: &UserInfo) -> bool {
    user.in_group("system:masters") || user.in_group("system:nodes")
}

/// One open watch.
pub(super) struct Watcher {
    places: Arc<Places>,
    user: String,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watchers = self.places.watchers.lock();
        if let Some(own) = watchers.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                watchers.remove(&self.user);
            }
        }
        self.places.metrics.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer, which keeps its request's place until it is sent or its reader is gone.
pub(super) fn hold(response: Response, place: OwnedSemaphorePermit) -> Response {
    response.map(|body| Body::new(Holding { body, rest: Bytes::new(), _place: place }))
}

struct Holding {
    body: Body,
    /// What is left of a frame that was too large to be handed out at once.
    rest: Bytes,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return other,
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
