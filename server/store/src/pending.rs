//! Decides what a commit does, without I/O: checks each request against the state as the requests before it in the
//! same group leave it, and collects the events that become true once the group is on disk.

use std::collections::HashSet;
use std::sync::Arc;

use coracle_api::meta::Revision;

use crate::entry::{Draft, Entry, Event, EventKind, Fields, Key, Labels, Op, Paths, splice};
use crate::error::CommitError;
use crate::state::State;

/// Texts that many entries have in common, kept once.
#[derive(Default)]
pub(crate) struct Texts {
    known: HashSet<Arc<str>>,
    paths: HashSet<Paths>,
    no_labels: Arc<Labels>,
}

impl Texts {
    /// Enough for every resource, namespace and field name of a large cluster; forgetting them only costs memory.
    const MOST: usize = 16_384;

    pub(crate) fn share(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= Self::MOST {
            self.known.clear();
        }
        self.known.insert(text.clone());
        text.clone()
    }

    pub(crate) fn share_str(&mut self, text: &str) -> Arc<str> {
        match self.known.get(text) {
            Some(known) => known.clone(),
            None => self.share(&Arc::from(text)),
        }
    }

    pub(crate) fn labels(&self, labels: Labels, previous: Option<&Entry>) -> Arc<Labels> {
        match previous {
            _ if labels.is_empty() => self.no_labels.clone(),
            Some(previous) if *previous.labels == labels => previous.labels.clone(),
            Some(_) | None => Arc::new(labels),
        }
    }

    pub(crate) fn paths(&mut self, paths: &[Arc<str>]) -> Paths {
        if let Some(known) = self.paths.get(paths) {
            return known.clone();
        }
        if self.paths.len() >= Self::MOST {
            self.paths.clear();
        }
        let paths: Paths = paths.iter().map(|path| self.share(path)).collect();
        self.paths.insert(paths.clone());
        paths
    }

    fn fields(&mut self, mut fields: Fields) -> Fields {
        fields.paths = self.paths(&fields.paths);
        fields
    }
}

pub(crate) struct Pending<'a> {
    pub(crate) state: State,
    pub(crate) events: Vec<Arc<Event>>,
    texts: &'a mut Texts,
}

impl<'a> Pending<'a> {
    pub(crate) fn on(state: State, texts: &'a mut Texts) -> Self {
        Self { state, events: Vec::new(), texts }
    }

    /// Applies all operations of a request, or none.
    pub(crate) fn apply(&mut self, ops: Vec<(Key, Op)>) -> Result<Vec<Arc<Entry>>, CommitError> {
        // One operation fails before it changes anything; only several need a state to go back to.
        let saved = (ops.len() > 1).then(|| (self.state.clone(), self.events.len()));
        let mut entries = Vec::with_capacity(ops.len());
        for (key, op) in ops {
            match self.apply_one(key, op) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    if let Some((state, events)) = saved {
                        self.state = state;
                        self.events.truncate(events);
                    }
                    return Err(error);
                }
            }
        }
        Ok(entries)
    }

    fn apply_one(&mut self, key: Key, op: Op) -> Result<Arc<Entry>, CommitError> {
        let current = self.state.get(&key).cloned();
        let (kind, draft, previous) = match (op, current) {
            (Op::Create(_), Some(current)) => return Err(CommitError::Exists(current)),
            (Op::Create(draft), None) => (EventKind::Added, draft, None),
            (Op::Update { expect, draft }, current) => (EventKind::Modified, draft, Some(matching(expect, current)?)),
            (Op::Delete { expect, last }, current) => (EventKind::Deleted, last, Some(matching(expect, current)?)),
        };
        let entry = self.seal(key, draft, previous.as_deref());
        self.state.revision = entry.revision;
        match kind {
            EventKind::Added | EventKind::Modified => self.state.put(entry.clone()),
            EventKind::Deleted => self.state.remove(&entry.key),
        }
        self.events.push(Arc::new(Event::new(kind, entry.clone(), previous)));
        Ok(entry)
    }

    fn seal(&mut self, key: Key, draft: Draft, previous: Option<&Entry>) -> Arc<Entry> {
        let revision = self.state.revision.next();
        let key = match previous {
            Some(previous) => previous.key.clone(),
            None => Key {
                resource: self.texts.share(&key.resource),
                namespace: self.texts.share(&key.namespace),
                name: key.name,
            },
        };
        let uid = match previous {
            Some(previous) if previous.uid == draft.uid => previous.uid.clone(),
            Some(_) | None => draft.uid.clone(),
        };
        Arc::new(Entry {
            key,
            uid,
            created: previous.map_or(revision, |previous| previous.created),
            revision,
            json: splice(&draft, revision),
            labels: self.texts.labels(draft.labels, previous),
            fields: self.texts.fields(draft.fields),
        })
    }
}

fn matching(expect: Revision, current: Option<Arc<Entry>>) -> Result<Arc<Entry>, CommitError> {
    match current {
        Some(current) if current.revision == expect => Ok(current),
        current => Err(CommitError::Conflict { current }),
    }
}
