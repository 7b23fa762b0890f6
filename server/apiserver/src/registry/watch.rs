//! watch: which events of the store a watcher sees, and as what. An object that comes to match a selector is ADDED, one
//! that stops matching is DELETED as it was before, at the revision of the change.

use std::sync::Arc;

use bytes::Bytes;
use coracle_api::meta::Revision;
use coracle_api::status::Status;
use coracle_store::{Entry, Event, EventKind, Watch, WatchError};

use super::Registry;
use super::catalog::Resource;
use super::list::check_not_future;
use super::options::{Asked, ListOptions};
use super::selection::Selection;

const TOO_OLD: &str = "too old resource version";

/// A started watch: what exists is to be sent first (if at all), then what `events` yields.
pub struct Watching {
    pub selection: Selection,
    /// Sent as ADDED before any event.
    pub initial: Vec<Arc<Entry>>,
    /// A bookmark at this revision, marked as the end of the initial events, follows them.
    pub initial_end: Option<Revision>,
    pub events: Watch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Added,
    Modified,
    Deleted,
}

impl Seen {
    pub fn as_str(self) -> &'static str {
        match self {
            Seen::Added => "ADDED",
            Seen::Modified => "MODIFIED",
            Seen::Deleted => "DELETED",
        }
    }
}

/// What one watcher sees of one event.
pub enum Sight {
    /// The event as it is: its encoding is shared with all who see it so.
    Whole(Seen),
    /// Something of its own: an object enters or leaves the selection.
    Own(Seen, Bytes),
}

impl Registry {
    pub fn watch(&self, resource: &Resource, namespace: &Arc<str>, options: &ListOptions) -> Result<Watching, Status> {
        let selection = Selection::new(resource, namespace, options.labels.clone(), options.fields.clone())?;
        let sends_state = match (options.send_initial_events, options.version) {
            (Some(wanted), _) => wanted,
            (None, Asked::Newest | Asked::Any) => true,
            (None, Asked::At(_)) => false,
        };
        if let (Asked::At(revision), false) = (options.version, sends_state) {
            let events = self.store.watch(selection.prefix.clone(), revision).map_err(watch_failed)?;
            return Ok(Watching { selection, initial: Vec::new(), initial_end: None, events });
        }
        let (snapshot, events) = self.store.snapshot_and_watch(selection.prefix.clone());
        check_not_future(&snapshot, options.version)?;
        let mut initial = Vec::new();
        if sends_state {
            initial.extend(snapshot.range(&selection.prefix, None).filter(|entry| selection.matches(entry)).cloned());
        }
        let ends = options.send_initial_events == Some(true) && options.bookmarks;
        Ok(Watching { selection, initial, initial_end: ends.then(|| snapshot.revision()), events })
    }
}

/// What a watcher with this selection sees of an event; None if nothing.
pub fn sight(resource: &Resource, selection: &Selection, event: &Event) -> Option<Sight> {
    let before = event.previous.as_ref().is_some_and(|previous| selection.matches(previous));
    let after = selection.matches(&event.entry);
    let left = |previous: Option<&Arc<Entry>>| {
        let previous = previous.expect("an object that matched before was there before");
        Sight::Own(Seen::Deleted, resource.header.at_revision(&previous.json, event.entry.revision))
    };
    match event.kind {
        EventKind::Added => after.then_some(Sight::Whole(Seen::Added)),
        EventKind::Deleted => match (before, after) {
            (true, true) => Some(Sight::Whole(Seen::Deleted)),
            (true, false) => Some(left(event.previous.as_ref())),
            (false, _) => None,
        },
        EventKind::Modified => match (before, after) {
            (true, true) => Some(Sight::Whole(Seen::Modified)),
            (false, true) => Some(Sight::Own(Seen::Added, event.entry.json.clone())),
            (true, false) => Some(left(event.previous.as_ref())),
            (false, false) => None,
        },
    }
}

fn watch_failed(error: WatchError) -> Status {
    match error {
        WatchError::Compacted { asked, oldest } => expired(asked, oldest),
        WatchError::Future { asked, current } => Status::too_large_resource_version(asked.0, current.0, 1),
    }
}

pub fn expired(asked: Revision, oldest: Revision) -> Status {
    Status::expired(format!("{TOO_OLD}: {asked} ({oldest})"))
}
