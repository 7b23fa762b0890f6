//! The stream of a watch: JSON lines around the stored bytes, bookmarks, deadline, end.
//!
//! ```text
//!  initial objects ─► bookmark "initial-events-end" ─► events and a bookmark a minute ─► deadline, shutdown or 410
//! ```

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use coracle_api::meta::Revision;
use coracle_api::status::Status;
use coracle_client::Clock;
use coracle_store::{Entry, Event, Lagged};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Server;
use super::negotiate::{Accepted, Form};
use super::places::Watcher;
use super::respond::{self, Response};
use super::tables::{Include, TableWriter};
use crate::hooks::{Tables, UserInfo};
use crate::registry::catalog::Resource;
use crate::registry::watch::{Seen, Sight, Watching, expired, sight};

/// Without `timeoutSeconds` a watch lasts between this and twice this.
const LIFE: Duration = Duration::from_secs(30 * 60);
/// Whatever `timeoutSeconds` says: beyond all use, and still a time that a timer can hold.
const LIFE_MOST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// Bookmarks of many watches are spread over this time.
const BOOKMARK_SPREAD_MS: u64 = 10_000;
/// Frames are sent together up to about this much, so that a burst costs few writes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Options of one watch beyond what it selects.
pub(super) struct WatchStyle {
    pub(super) accepted: Accepted,
    pub(super) include: Include,
    pub(super) bookmarks: bool,
    pub(super) timeout_seconds: Option<u64>,
}

/// Answers with the stream. A start that is too old is told in the stream, as upstream does.
pub(super) fn respond(
    server: &Server,
    user: &UserInfo,
    resource: Arc<Resource>,
    start: impl FnOnce() -> Result<Watching, Status>,
    style: WatchStyle,
) -> Result<Response, Status> {
    let place = server.places.watch(user)?;
    let mut watching = match start() {
        Ok(watching) => watching,
        Err(status) if status.code == 410 => {
            return Ok(respond::plain(200, "application/json", Body::from(error_frame(&status))));
        }
        Err(status) => return Err(status),
    };
    let ids = &server.registry.ids;
    let life = match style.timeout_seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds).min(LIFE_MOST),
        Some(_) | None => ids.jitter(LIFE),
    };
    let now = Instant::now();
    let period = BOOKMARK_PERIOD + Duration::from_millis(ids.below(BOOKMARK_SPREAD_MS));
    let stream = Stream {
        encoder: Encoder {
            resource,
            tables: server.hooks.tables.clone(),
            clock: server.registry.clock.clone(),
            accepted: style.accepted,
            include: style.include,
            headers_sent: false,
        },
        initial: std::mem::take(&mut watching.initial).into_iter(),
        watching,
        bookmarks: style.bookmarks,
        bookmarked: Revision::UNSET,
        next_bookmark: Box::pin(sleep_until(now + period)),
        period,
        deadline: Box::pin(sleep_until(now + life)),
        stopping: Box::pin(server.stopping.clone().cancelled_owned()),
        over: false,
        _place: place,
    };
    let frames = futures::stream::unfold(stream, |mut stream| async {
        let chunk = stream.next().await?;
        Some((Ok::<Bytes, Infallible>(chunk), stream))
    });
    Ok(respond::plain(200, "application/json", Body::from_stream(frames)))
}

struct Stream {
    encoder: Encoder,
    watching: Watching,
    /// What has not been sent yet of what existed at the start.
    initial: std::vec::IntoIter<Arc<Entry>>,
    bookmarks: bool,
    /// The revision of the last bookmark.
    bookmarked: Revision,
    // These three live as long as the watch, so that an event costs no timer and no registration.
    next_bookmark: Pin<Box<Sleep>>,
    deadline: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    period: Duration,
    over: bool,
    _place: Watcher,
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if let Some(chunk) = self.initial_chunk() {
            return Some(chunk);
        }
        if let Some(revision) = self.watching.initial_end.take() {
            self.bookmarked = revision;
            return Some(self.encoder.bookmark(revision, true));
        }
        loop {
            tokio::select! {
                biased;
                () = &mut self.stopping => {
                    self.over = true;
                    return None;
                }
                () = &mut self.deadline => {
                    self.over = true;
                    return self.bookmark_chunk();
                }
                event = self.watching.events.next() => match event {
                    None => {
                        self.over = true;
                        return None;
                    }
                    Some(first) => if let Some(chunk) = self.chunk(first) {
                        return Some(chunk);
                    }
                },
                () = &mut self.next_bookmark, if self.bookmarks => {
                    self.next_bookmark.as_mut().reset(Instant::now() + self.period);
                    if let Some(chunk) = self.bookmark_chunk() {
                        return Some(chunk);
                    }
                }
            }
        }
    }

    fn initial_chunk(&mut self) -> Option<Bytes> {
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK_BYTES
            && let Some(entry) = self.initial.next()
        {
            chunk.extend_from_slice(&self.encoder.frame(Seen::Added, &entry.json));
        }
        if chunk.is_empty() {
            // The objects are not to be kept for the life of the watch.
            self.initial = Vec::new().into_iter();
            return None;
        }
        Some(chunk.freeze())
    }

    /// A bookmark, unless the client knows the revision already.
    fn bookmark_chunk(&mut self) -> Option<Bytes> {
        let revision = self.watching.events.progress();
        if !self.bookmarks || revision <= self.bookmarked {
            return None;
        }
        self.bookmarked = revision;
        Some(self.encoder.bookmark(revision, false))
    }

    /// The frames of an event and of those that wait behind it; None if this watcher sees none of them.
    fn chunk(&mut self, first: Result<Arc<Event>, Lagged>) -> Option<Bytes> {
        let single = self.frame(first);
        let mut frames = BytesMut::new();
        while !self.over && frames.len() < CHUNK_BYTES {
            let Some(event) = self.watching.events.try_next() else { break };
            if let Some(frame) = self.frame(event) {
                if frames.is_empty() {
                    frames.extend_from_slice(single.as_deref().unwrap_or_default());
                }
                frames.extend_from_slice(&frame);
            }
        }
        if frames.is_empty() { single } else { Some(frames.freeze()) }
    }

    fn frame(&mut self, event: Result<Arc<Event>, Lagged>) -> Option<Bytes> {
        let Ok(event) = event else {
            self.over = true;
            let revision = self.watching.events.progress();
            return Some(error_frame(&expired(revision, revision)));
        };
        match sight(&self.encoder.resource, &self.watching.selection, &event)? {
            Sight::Whole(seen) if self.encoder.is_plain() => Some(frame(seen.as_str(), &event.entry.json)),
            Sight::Whole(seen) => Some(self.encoder.frame(seen, &event.entry.json)),
            Sight::Own(seen, json) => Some(self.encoder.frame(seen, &json)),
        }
    }
}

/// Makes frames in the form that one watcher asked for.
struct Encoder {
    resource: Arc<Resource>,
    tables: Arc<dyn Tables>,
    clock: Arc<dyn Clock>,
    accepted: Accepted,
    include: Include,
    headers_sent: bool,
}

impl Encoder {
    /// Frames of this form are the stored bytes.
    fn is_plain(&self) -> bool {
        self.accepted.form == Form::Object && self.resource.header.bytes() == self.resource.served_header.bytes()
    }

    fn frame(&mut self, seen: Seen, stored: &Bytes) -> Bytes {
        let served = self.resource.conversion.served_json(&self.resource, stored);
        match served.and_then(|json| self.form(json)) {
            Ok(json) => frame(seen.as_str(), &json),
            Err(status) => error_frame(&status),
        }
    }

    fn bookmark(&mut self, revision: Revision, ends_initial: bool) -> Bytes {
        let annotations = if ends_initial { ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}" } else { "" };
        let metadata = format!("\"metadata\":{{\"resourceVersion\":\"{revision}\"{annotations}}}}}");
        let object = Bytes::from([self.resource.served_header.bytes(), metadata.as_bytes()].concat());
        match self.form(object) {
            Ok(json) => frame("BOOKMARK", &json),
            Err(status) => error_frame(&status),
        }
    }

    fn form(&mut self, json: Bytes) -> Result<Bytes, Status> {
        match self.accepted.form {
            Form::Object => Ok(json),
            Form::Partial | Form::PartialList => respond::partial(&json, self.accepted.meta_version()),
            Form::Table => {
                let writer = TableWriter {
                    tables: &*self.tables,
                    resource: &self.resource,
                    include: self.include,
                    meta_version: self.accepted.meta_version(),
                    now: self.clock.now(),
                };
                let table = writer.one(&json, !self.headers_sent)?;
                self.headers_sent = true;
                Ok(table)
            }
        }
    }
}

fn frame(kind: &str, json: &[u8]) -> Bytes {
    let json = json.strip_suffix(b"\n").unwrap_or(json);
    let mut out = Vec::with_capacity(json.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(json);
    out.extend_from_slice(b"}\n");
    out.into()
}

fn error_frame(status: &Status) -> Bytes {
    frame("ERROR", &respond::status_json(status))
}
