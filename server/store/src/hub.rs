//! What readers and watchers see: the current state and the recent events, in one place behind one lock that is only
//! ever held for a moment, never during I/O.
//!
//! Events are kept in two orders: all of them by revision, to go back to an earlier state, and those of each resource
//! (a `Topic`), which watchers read at their own pace. A watcher is a cursor into its topic and owns no queue, so a slow
//! one costs nothing and cannot hold up the writer: it loses its place when the events are dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::Revision;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::entry::{Event, Prefix};
use crate::error::{SnapshotError, WatchError};
use crate::kept::Kept;
use crate::state::{Snapshot, State};

/// How long and how much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) age: Duration,
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// Besides its JSON an event costs about this much: entry, key, labels, places in both orders.
const EVENT_BYTES: usize = 512;
/// A state is put by every so many events, so that going back to a revision undoes at most as many.
const CHECKPOINT_EVENTS: usize = 4096;
/// Ages are told apart no finer than this, which bounds the bookkeeping.
const MARK: Duration = Duration::from_secs(1);
/// Events dropped while the lock is held once.
const TRIM_STEP: usize = 1024;

pub(crate) struct Hub {
    inner: RwLock<Inner>,
    limits: Limits,
    failure: watch::Sender<Option<Arc<str>>>,
}

struct Inner {
    state: Arc<State>,
    topics: HashMap<Arc<str>, Topic>,
    history: History,
    kept: Kept,
    /// Where the events of a resource begin that has no topic yet.
    floor: Floor,
    closed: bool,
}

/// What is known of the time before the store was opened.
#[derive(Clone, Debug)]
pub(crate) struct Floor {
    /// Every durable event after this revision is known.
    pub(crate) durable: Revision,
    /// Volatile events from before the opening are not.
    pub(crate) opened: Revision,
    pub(crate) volatile: Arc<[Arc<str>]>,
}

impl Floor {
    fn of(&self, resource: &str) -> Revision {
        match self.volatile.iter().any(|volatile| **volatile == *resource) {
            true => self.opened,
            false => self.durable,
        }
    }
}

/// The recent events of one resource.
struct Topic {
    events: VecDeque<Arc<Event>>,
    /// The number of the first of `events`, counted since the store was opened.
    first: u64,
    /// All events after this revision are here.
    compacted: Revision,
    notify: Arc<Notify>,
}

impl Topic {
    fn new(compacted: Revision) -> Self {
        Self { events: VecDeque::new(), first: 0, compacted, notify: Arc::new(Notify::new()) }
    }
}

struct History {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// When the events up to a revision happened.
    marks: VecDeque<(Instant, Revision)>,
    /// Earlier states, oldest first.
    checkpoints: VecDeque<Arc<State>>,
    since_checkpoint: usize,
    /// The earliest revision whose state can be had.
    oldest: Revision,
}

impl History {
    fn record(&mut self, event: &Arc<Event>) {
        self.bytes += event.entry.json.len() + EVENT_BYTES;
        self.events.push_back(event.clone());
        self.since_checkpoint += 1;
    }

    fn mark(&mut self, now: Instant, revision: Revision) {
        match self.marks.back_mut() {
            Some((at, upto)) if now.saturating_duration_since(*at) < MARK => *upto = revision,
            Some(_) | None => self.marks.push_back((now, revision)),
        }
    }

    /// The revision up to which events are too old.
    fn expired(&mut self, now: Instant, age: Duration) -> Revision {
        let mut expired = Revision(0);
        while let Some((at, upto)) = self.marks.front()
            && now.saturating_duration_since(*at) >= age
        {
            expired = *upto;
            self.marks.pop_front();
        }
        expired
    }
}

/// A watcher's place in its topic.
pub(crate) struct Cursor {
    pub(crate) next: u64,
    pub(crate) notify: Arc<Notify>,
}

pub(crate) enum Fill {
    /// Events were appended to the buffer.
    Some,
    /// There is nothing more for this prefix up to this moment.
    Empty,
    Lagged,
    Closed,
}

impl Hub {
    pub(crate) fn new(state: State, floor: Floor, limits: Limits) -> Self {
        let history = History {
            events: VecDeque::new(),
            bytes: 0,
            marks: VecDeque::new(),
            checkpoints: VecDeque::new(),
            since_checkpoint: 0,
            oldest: floor.opened,
        };
        let inner = Inner {
            state: Arc::new(state),
            topics: HashMap::new(),
            history,
            kept: Kept::default(),
            floor,
            closed: false,
        };
        Self { inner: RwLock::new(inner), limits, failure: watch::Sender::new(None) }
    }

    /// Takes in events from before the opening: they serve watches, not snapshots.
    pub(crate) fn restore(&self, events: Vec<Arc<Event>>, now: Instant) {
        let mut inner = self.inner.write();
        let Some(last) = events.last().map(|event| event.revision()) else { return };
        for event in &events {
            inner.append(event);
        }
        inner.history.since_checkpoint = 0;
        inner.history.mark(now, last);
    }

    /// Makes a committed group visible, all of it at once. The returned handles wake its watchers: the caller does that
    /// after it has answered the writers.
    pub(crate) fn publish(&self, state: State, events: &[Arc<Event>], now: Instant) -> Vec<Arc<Notify>> {
        let state = Arc::new(state);
        let mut touched: Vec<Arc<Notify>> = Vec::new();
        let mut inner = self.inner.write();
        if inner.history.since_checkpoint >= CHECKPOINT_EVENTS {
            let checkpoint = inner.state.clone();
            inner.history.checkpoints.push_back(checkpoint);
            inner.history.since_checkpoint = 0;
        }
        for event in events {
            inner.kept.record(event);
            let notify = inner.append(event);
            if !touched.iter().any(|known| Arc::ptr_eq(known, &notify)) {
                touched.push(notify);
            }
        }
        inner.history.mark(now, state.revision);
        let before = std::mem::replace(&mut inner.state, state);
        let gone = inner.kept.shed(self.limits.bytes);
        drop(inner);
        // Freeing what only old states held may take a while; nobody waits for it.
        drop((before, gone));
        touched
    }

    /// Drops events that are too old or too many and returns them, oldest first.
    pub(crate) fn trim(&self, now: Instant) -> Vec<Arc<Event>> {
        let mut dropped = Vec::new();
        let (expired, kept) = {
            let mut inner = self.inner.write();
            (inner.history.expired(now, self.limits.age), inner.kept.expire(now, self.limits.age))
        };
        drop(kept);
        loop {
            // Freed after the lock, which is given up between steps.
            let mut checkpoints = Vec::new();
            let mut inner = self.inner.write();
            for _ in 0..TRIM_STEP {
                match inner.drop_oldest_over(&self.limits, expired, &mut checkpoints) {
                    Some(event) => dropped.push(event),
                    None => {
                        inner.shrink();
                        return dropped;
                    }
                }
            }
            drop(inner);
        }
    }

    /// When the oldest events will be too old; `None` while there are none.
    pub(crate) fn trim_at(&self) -> Option<Instant> {
        // A little slack lets one wake-up serve several seconds' events.
        let slack = self.limits.age / 16;
        let inner = self.inner.read();
        let oldest = inner.history.marks.front().map(|(at, _)| *at + self.limits.age);
        let kept = inner.kept.due(self.limits.age);
        oldest.into_iter().chain(kept).min().map(|at| at + slack)
    }

    /// How many changes of a resource there were since the store was opened.
    pub(crate) fn changes(&self, resource: &str) -> u64 {
        let inner = self.inner.read();
        inner.topics.get(resource).map_or(0, |topic| topic.first + topic.events.len() as u64)
    }

    /// Keeps a state for as long as history is meant to last, within the same bound on memory as history itself.
    pub(crate) fn keep(&self, state: Arc<State>, now: Instant) {
        let mut inner = self.inner.write();
        let Inner { history, kept, .. } = &mut *inner;
        let later = history.events.partition_point(|event| event.revision() <= state.revision);
        let gone = kept.keep(state, history.events.range(later..), now, self.limits.bytes);
        drop(inner);
        drop(gone);
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.inner.read().state.clone()
    }

    pub(crate) fn history_len(&self) -> usize {
        self.inner.read().history.events.len()
    }

    pub(crate) fn state_at(&self, asked: Revision) -> Result<Snapshot, SnapshotError> {
        let (state, undo) = {
            let inner = self.inner.read();
            let current = inner.state.revision;
            let oldest = inner.history.oldest;
            if asked == current {
                return Ok(Snapshot(inner.state.clone()));
            }
            if asked > current {
                return Err(SnapshotError::Future { asked, current });
            }
            if let Some(kept) = inner.kept.get(asked) {
                return Ok(Snapshot(kept.clone()));
            }
            if asked < oldest {
                return Err(SnapshotError::Compacted { asked, oldest });
            }
            let checkpoints = &inner.history.checkpoints;
            let later = checkpoints.partition_point(|state| state.revision < asked);
            let state = checkpoints.get(later).unwrap_or(&inner.state).clone();
            if state.revision == asked {
                return Ok(Snapshot(state));
            }
            (state.clone(), between(&inner.history.events, asked, state.revision))
        };
        let mut earlier = State::clone(&state);
        for event in undo.iter().rev() {
            earlier.undo(event);
        }
        earlier.revision = asked;
        Ok(Snapshot(Arc::new(earlier)))
    }

    pub(crate) fn cursor(&self, prefix: &Prefix, from: Revision) -> Result<Cursor, WatchError> {
        let mut inner = self.inner.write();
        let current = inner.state.revision;
        if from > current {
            return Err(WatchError::Future { asked: from, current });
        }
        let topic = inner.topic(&prefix.resource);
        if from < topic.compacted {
            return Err(WatchError::Compacted { asked: from, oldest: topic.compacted });
        }
        let skip = topic.events.partition_point(|event| event.revision() <= from);
        Ok(Cursor { next: topic.first + skip as u64, notify: topic.notify.clone() })
    }

    pub(crate) fn cursor_now(&self, prefix: &Prefix) -> (Snapshot, Cursor) {
        let mut inner = self.inner.write();
        let snapshot = Snapshot(inner.state.clone());
        let topic = inner.topic(&prefix.resource);
        let next = topic.first + topic.events.len() as u64;
        (snapshot, Cursor { next, notify: topic.notify.clone() })
    }

    /// Moves events for `prefix` into `buffer` and the cursor behind them.
    pub(crate) fn fill(&self, prefix: &Prefix, next: &mut u64, buffer: &mut VecDeque<Arc<Event>>, most: usize) -> Fill {
        let inner = self.inner.read();
        let Some(topic) = inner.topics.get(&prefix.resource) else { return Fill::Lagged };
        let Some(skip) = next.checked_sub(topic.first) else { return Fill::Lagged };
        let skip = usize::try_from(skip).expect("a place in memory fits its addresses");
        for event in topic.events.range(skip.min(topic.events.len())..) {
            *next += 1;
            if prefix.contains(&event.entry.key) {
                buffer.push_back(event.clone());
                if buffer.len() >= most {
                    break;
                }
            }
        }
        match buffer.is_empty() {
            false => Fill::Some,
            true if inner.closed => Fill::Closed,
            true => Fill::Empty,
        }
    }

    /// The revision up to which a watcher at `next` with nothing buffered has seen everything.
    pub(crate) fn seen(&self, prefix: &Prefix, next: u64) -> Option<Revision> {
        let inner = self.inner.read();
        let topic = inner.topics.get(&prefix.resource)?;
        let skip = usize::try_from(next.checked_sub(topic.first)?).ok()?;
        let unseen = topic.events.range(skip.min(topic.events.len())..).find(|event| prefix.contains(&event.entry.key));
        Some(unseen.map_or(inner.state.revision, |event| Revision(event.revision().0 - 1)))
    }

    /// Ends all watches after what they have not yet taken.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.write();
        inner.closed = true;
        for topic in inner.topics.values() {
            topic.notify.notify_waiters();
        }
    }

    pub(crate) fn fail(&self, reason: &str) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                tracing::error!(reason, "state store failed");
                *failure = Some(Arc::from(reason));
            }
            first
        });
    }

    pub(crate) fn failure(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.failure.subscribe()
    }
}

impl Inner {
    fn topic(&mut self, resource: &Arc<str>) -> &mut Topic {
        if !self.topics.contains_key(resource) {
            let floor = self.floor.of(resource);
            self.topics.insert(resource.clone(), Topic::new(floor));
        }
        self.topics.get_mut(resource).expect("inserted above when it was missing")
    }

    fn append(&mut self, event: &Arc<Event>) -> Arc<Notify> {
        self.history.record(event);
        let topic = self.topic(&event.entry.key.resource);
        topic.events.push_back(event.clone());
        topic.notify.clone()
    }

    fn drop_oldest_over(
        &mut self,
        limits: &Limits,
        expired: Revision,
        checkpoints: &mut Vec<Arc<State>>,
    ) -> Option<Arc<Event>> {
        let history = &mut self.history;
        let many = history.events.len() > limits.events || history.bytes > limits.bytes;
        let event = history.events.pop_front_if(|event| many || event.revision() <= expired)?;
        let revision = event.revision();
        self.history.bytes -= event.entry.json.len() + EVENT_BYTES;
        self.history.oldest = self.history.oldest.max(revision);
        while self.history.checkpoints.front().is_some_and(|state| state.revision < revision) {
            checkpoints.extend(self.history.checkpoints.pop_front());
        }
        let topic = self.topic(&event.entry.key.resource);
        topic.events.pop_front();
        topic.first += 1;
        topic.compacted = revision;
        Some(event)
    }

    /// Gives back what a burst took, and earlier states that nothing leads to any more.
    fn shrink(&mut self) {
        if self.history.events.is_empty() {
            self.history.checkpoints.clear();
        }
        fn fit<T>(ring: &mut VecDeque<T>) {
            if ring.capacity() > 64 && ring.len() < ring.capacity() / 4 {
                ring.shrink_to(ring.len() * 2);
            }
        }
        fit(&mut self.history.events);
        self.topics.values_mut().for_each(|topic| fit(&mut topic.events));
    }
}

/// The events after `from` up to and with `to`.
fn between(events: &VecDeque<Arc<Event>>, from: Revision, to: Revision) -> Vec<Arc<Event>> {
    let start = events.partition_point(|event| event.revision() <= from);
    let end = events.partition_point(|event| event.revision() <= to);
    events.range(start..end).cloned().collect()
}
