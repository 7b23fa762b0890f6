//! The current state as persistent maps, one per resource: cloning one is O(1), so a snapshot costs nothing and a list
//! never holds up the writer.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use coracle_api::meta::Revision;
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

use crate::entry::{Entry, Event, EventKind, Key, Prefix};

/// An entry ordered by its key, so that the key lies in memory once.
#[derive(Clone, Debug)]
struct Slot(Arc<Entry>);

impl Borrow<Key> for Slot {
    fn borrow(&self) -> &Key {
        &self.0.key
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Slot {}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

type Table = RedBlackTreeSetSync<Slot>;
type Bounds = (Bound<Key>, Bound<Key>);

#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    tables: RedBlackTreeMapSync<Arc<str>, Table>,
}

impl State {
    pub(crate) fn new(revision: Revision) -> Self {
        Self { revision, tables: RedBlackTreeMapSync::new_sync() }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.tables.get(&key.resource)?.get(key).map(|slot| &slot.0)
    }

    pub(crate) fn put(&mut self, entry: Arc<Entry>) {
        match self.tables.get_mut(&entry.key.resource) {
            Some(table) => table.insert_mut(Slot(entry)),
            None => {
                let resource = entry.key.resource.clone();
                self.tables.insert_mut(resource, Table::new_sync().insert(Slot(entry)));
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        if let Some(table) = self.tables.get_mut(&key.resource) {
            table.remove_mut(key);
        }
    }

    /// Takes the event back, which must be the newest that this state contains.
    pub(crate) fn undo(&mut self, event: &Event) {
        match (event.kind, &event.previous) {
            (EventKind::Modified | EventKind::Deleted, Some(previous)) => self.put(previous.clone()),
            (EventKind::Added, None) => self.remove(&event.entry.key),
            (EventKind::Modified | EventKind::Deleted, None) | (EventKind::Added, Some(_)) => {
                unreachable!("an event has a previous entry unless it is an addition")
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.tables.values().map(Table::size).sum()
    }
}

/// All objects as they were at one revision. Cheap to take, to clone and to keep for the length of a request.
#[derive(Clone, Debug)]
pub struct Snapshot(pub(crate) Arc<State>);

impl Snapshot {
    pub fn revision(&self) -> Revision {
        self.0.revision
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.0.get(key)
    }

    /// The entries below `prefix` ordered by (namespace, name), beginning behind `after`.
    pub fn range(&self, prefix: &Prefix, after: Option<&Key>) -> impl Iterator<Item = &Arc<Entry>> + use<'_> {
        let namespace = prefix.namespace.clone();
        let start = namespace.clone().unwrap_or_else(|| Arc::from(""));
        let lower = match after {
            // A page token of another namespace must not let the range begin before its prefix.
            Some(after) if *after.namespace >= *start => Bound::Excluded(after.clone()),
            Some(_) | None => Bound::Included(Key::new(prefix.resource.clone(), start, "")),
        };
        let table = self.0.tables.get(&prefix.resource);
        table
            .into_iter()
            .flat_map(move |table| table.range::<Key, Bounds>((lower.clone(), Bound::Unbounded)))
            .map(|slot| &slot.0)
            .take_while(move |entry| namespace.as_ref().is_none_or(|namespace| *namespace == entry.key.namespace))
    }

    /// How many entries lie below `prefix`: O(1) for a whole resource.
    pub fn count(&self, prefix: &Prefix) -> usize {
        match &prefix.namespace {
            None => self.0.tables.get(&prefix.resource).map_or(0, Table::size),
            Some(_) => self.range(prefix, None).count(),
        }
    }

    /// The resources that have entries.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.tables.iter().filter(|(_, table)| !table.is_empty()).map(|(resource, _)| resource)
    }
}
