//! Watch streams: JSON lines out of a body whose frames may be cut anywhere.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use coracle_api::{meta::ObjectKey, status::Status};
use futures::Stream;
use http_body::Body as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Error,
    body::Body,
    kinds::{Wire, text},
    resource::PartialObjectMetadata,
};

/// A watch line longer than this is an error: no object may be larger than a few MiB.
const MAX_LINE_BYTES: usize = 16 << 20;

/// Upstream's annotation on the bookmark that ends the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One line of a watch. An `ERROR` line is an `Err(Error::Api(..))` of the stream, its last item.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent<K> {
    Added(K),
    Modified(K),
    Deleted(K),
    /// A change of an object that does not read as a `K`. The watch goes on: one object must not hold up all others.
    Unreadable(Unreadable),
    /// Everything up to `resource_version` has been sent.
    Bookmark {
        resource_version: String,
        /// The initial events that were asked for are complete.
        initial_end: bool,
    },
}

/// What can be told of an object that cannot be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Unreadable {
    pub key: ObjectKey,
    pub resource_version: Option<String>,
    /// The object is gone, which can be acted upon however it looked.
    pub deleted: bool,
    pub problem: String,
}

/// The events of one watch request. It ends when the server ends the watch (`None`) or after the first error.
pub struct WatchStream<K> {
    subject: String,
    body: Body,
    lines: Lines,
    ended: bool,
    kind: PhantomData<fn() -> K>,
}

impl<K> fmt::Debug for WatchStream<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl<K> WatchStream<K> {
    pub(crate) fn new(subject: String, body: Body) -> Self {
        Self { subject, body, lines: Lines::default(), ended: false, kind: PhantomData }
    }

    fn cut(&self, why: impl Into<crate::BoxError>) -> Error {
        Error::Transport { request: self.subject.clone(), source: why.into() }
    }
}

impl<K: Wire> Stream for WatchStream<K> {
    type Item = Result<WatchEvent<K>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.ended {
            match this.lines.next() {
                Ok(Some(line)) => {
                    let event = decode(&this.subject, &line);
                    this.ended = event.is_err();
                    return Poll::Ready(Some(event));
                }
                Ok(None) => {}
                Err(TooLong) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(this.cut(format!("a line is longer than {MAX_LINE_BYTES} bytes")))));
                }
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        this.lines.push(data);
                    }
                }
                Some(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(this.cut(error))));
                }
                None => {
                    this.ended = true;
                    if this.lines.has_rest() {
                        return Poll::Ready(Some(Err(this.cut("the watch was cut in the middle of an event"))));
                    }
                }
            }
        }
        Poll::Ready(None)
    }
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct BookmarkObject {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

fn decode<K: Wire>(subject: &str, line: &[u8]) -> Result<WatchEvent<K>, Error> {
    let wrong = |source| Error::Decode { subject: subject.to_owned(), source };
    let frame: Frame<'_> = text(line).and_then(serde_json::from_str).map_err(wrong)?;
    let object = frame.object.get();
    match &*frame.kind {
        "ADDED" => K::decode(object).map(WatchEvent::Added).or_else(|e| unreadable(object, false, e)).map_err(wrong),
        "MODIFIED" => {
            K::decode(object).map(WatchEvent::Modified).or_else(|e| unreadable(object, false, e)).map_err(wrong)
        }
        "DELETED" => K::decode(object).map(WatchEvent::Deleted).or_else(|e| unreadable(object, true, e)).map_err(wrong),
        "BOOKMARK" => {
            let BookmarkObject { metadata } = serde_json::from_str(object).map_err(wrong)?;
            Ok(WatchEvent::Bookmark {
                initial_end: metadata.annotations.get(INITIAL_EVENTS_END).is_some_and(|v| v == "true"),
                resource_version: metadata.resource_version,
            })
        }
        "ERROR" => {
            let status: Status = serde_json::from_str(object).map_err(wrong)?;
            Err(Error::from(status))
        }
        other => {
            let known = ["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"];
            let message = format!("unknown watch event type {other:?}, known are {known:?}");
            Err(wrong(<serde_json::Error as serde::de::Error>::custom(message)))
        }
    }
}

/// What is left to tell of an object; its own error if not even its metadata can be read.
fn unreadable<K>(text: &str, deleted: bool, error: serde_json::Error) -> Result<WatchEvent<K>, serde_json::Error> {
    let Ok(object) = PartialObjectMetadata::decode(text) else { return Err(error) };
    let resource_version = object.metadata.resource_version.clone();
    Ok(WatchEvent::Unreadable(Unreadable { key: object.key(), resource_version, deleted, problem: error.to_string() }))
}

struct TooLong;

/// Cuts chunks into lines. A line that lies within one chunk is handed out without a copy.
#[derive(Default)]
pub(crate) struct Lines {
    chunks: VecDeque<Bytes>,
    /// The beginning of a line whose end has not come yet.
    rest: BytesMut,
}

impl Lines {
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        while let Some(chunk) = self.chunks.front_mut() {
            let Some(end) = chunk.iter().position(|byte| *byte == b'\n') else {
                self.rest.extend_from_slice(chunk);
                self.chunks.pop_front();
                if self.rest.len() > MAX_LINE_BYTES {
                    return Err(TooLong);
                }
                continue;
            };
            let head = chunk.split_to(end);
            chunk.advance(1);
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            let line = if self.rest.is_empty() {
                head
            } else {
                self.rest.extend_from_slice(&head);
                self.rest.split().freeze()
            };
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    /// Whether an unfinished line is left.
    fn has_rest(&self) -> bool {
        !self.rest.iter().all(u8::is_ascii_whitespace)
    }
}

#[cfg(test)]
mod tests;
