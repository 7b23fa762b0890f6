//! The pods that wait for a node.
//!
//! ```text
//!   add ──► Active ──pop──► InFlight ──bound──► (gone)
//!             ▲                │ refused          │ error
//!             │ time           ▼                  ▼
//!          Backoff ◄─event── Waiting           Erring ──time──► Active
//! ```
//!
//! A refused pod waits until something happens that its refusers say may help, and then until its backoff is over,
//! unless there is nothing else to do. Nothing is polled: the next deadline is known.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::PodKey;
use tokio::time::Instant;

use crate::framework::{Happened, Profile};
use crate::info::PodInfo;

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A pod that nothing seems to help is tried again all the same: a hint may have been wrong.
const WAIT_MOST: Duration = Duration::from_secs(300);

/// When, and in which order for equal times.
type Due = (Instant, u64);

#[derive(Default)]
pub(crate) struct Queue {
    pods: HashMap<PodKey, Entry>,
    active: BTreeMap<(Reverse<i32>, u64), PodKey>,
    backoff: BTreeMap<Due, PodKey>,
    erring: BTreeMap<Due, PodKey>,
    waiting: BTreeMap<Due, PodKey>,
    sequence: u64,
}

struct Entry {
    pod: Arc<PodInfo>,
    profile: usize,
    place: Place,
    attempts: u32,
    tried: Option<Instant>,
    refused_by: Vec<usize>,
    /// Something that may help happened while it was in flight.
    stirred: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Active(Reverse<i32>, u64),
    Backoff(Due),
    Erring(Due),
    Waiting(Due),
    InFlight,
}

/// A pod to decide on.
pub(crate) struct Popped {
    pub(crate) pod: Arc<PodInfo>,
    pub(crate) profile: usize,
}

impl Queue {
    /// Takes in a pod that is new or has changed.
    pub(crate) fn add(&mut self, pod: Arc<PodInfo>, profile: usize, now: Instant) {
        let key = pod.key.clone();
        let Some(entry) = self.pods.get_mut(&key).filter(|entry| entry.pod.uid == pod.uid) else {
            self.remove(&key);
            let entry = Entry {
                pod,
                profile,
                place: Place::InFlight,
                attempts: 0,
                tried: None,
                refused_by: Vec::new(),
                stirred: false,
            };
            self.pods.insert(key.clone(), entry);
            return self.activate(&key);
        };
        let before = std::mem::replace(&mut entry.pod, pod);
        // Our own writes to its status must not bring it back.
        if asks_for_the_same(&before, &entry.pod) {
            return;
        }
        match entry.place {
            Place::Waiting(_) => self.stir(&key, now),
            Place::InFlight => entry.stirred = true,
            Place::Active(..) | Place::Backoff(_) | Place::Erring(_) => {}
        }
    }

    /// The pod is bound, gone or not ours any more.
    pub(crate) fn remove(&mut self, key: &PodKey) -> bool {
        if let Some(entry) = self.pods.get(key) {
            let place = entry.place;
            self.leave(place);
        }
        self.pods.remove(key).is_some()
    }

    /// As `remove`, unless it is another pod of that name by now.
    pub(crate) fn settle(&mut self, pod: &PodInfo) {
        if self.holds(pod) {
            self.remove(&pod.key);
        }
    }

    pub(crate) fn holds(&self, pod: &PodInfo) -> bool {
        self.pods.get(&pod.key).is_some_and(|entry| entry.pod.uid == pod.uid)
    }

    /// The most important pod, of equals the one that waits longest. It is in flight until it is refused, returned or
    /// removed.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Popped> {
        self.promote(now);
        let key = match self.active.first_key_value() {
            Some((_, key)) => key.clone(),
            // With nothing else to do, a backoff spares nobody anything.
            None => self.backoff.first_key_value()?.1.clone(),
        };
        self.put(&key, Place::InFlight);
        let entry = self.pods.get_mut(&key)?;
        entry.attempts += 1;
        entry.tried = Some(now);
        entry.stirred = false;
        Some(Popped { pod: entry.pod.clone(), profile: entry.profile })
    }

    /// There is a pod that `pop` would give.
    pub(crate) fn has_work(&self, now: Instant) -> bool {
        !self.active.is_empty()
            || !self.backoff.is_empty()
            || self.erring.first_key_value().is_some_and(|((due, _), _)| *due <= now)
    }

    /// No node does, says these plugins.
    pub(crate) fn refused(&mut self, key: &PodKey, refused_by: Vec<usize>, now: Instant) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        entry.refused_by = refused_by;
        let stirred = entry.stirred;
        let due = self.due(now + WAIT_MOST);
        self.put(key, Place::Waiting(due));
        if stirred {
            self.stir(key, now);
        }
    }

    /// It could not be bound, for a reason that is not the pod's: tried again after its backoff.
    pub(crate) fn failed(&mut self, pod: &PodInfo) {
        let Some(at) = self.pods.get(&pod.key).filter(|entry| entry.pod.uid == pod.uid).and_then(Entry::backoff_ends)
        else {
            return;
        };
        let due = self.due(at);
        self.put(&pod.key, Place::Erring(due));
    }

    /// Lets go the waiting pods that this may help.
    pub(crate) fn happened(&mut self, profiles: &[Profile], happened: Happened<'_>, now: Instant) {
        let helped: Vec<PodKey> = self
            .waiting
            .values()
            .filter(|key| {
                let entry = &self.pods[*key];
                profiles[entry.profile].may_help(&entry.refused_by, &entry.pod, happened)
            })
            .cloned()
            .collect();
        for key in helped {
            self.stir(&key, now);
        }
    }

    /// When there may be work without any event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let first = |map: &BTreeMap<Due, PodKey>| map.first_key_value().map(|((due, _), _)| *due);
        [first(&self.backoff), first(&self.erring), first(&self.waiting)].into_iter().flatten().min()
    }

    pub(crate) fn keys(&self) -> BTreeSet<PodKey> {
        self.pods.keys().cloned().collect()
    }

    fn stir(&mut self, key: &PodKey, now: Instant) {
        match self.pods.get(key).and_then(Entry::backoff_ends) {
            Some(at) if at > now => {
                let due = self.due(at);
                self.put(key, Place::Backoff(due));
            }
            Some(_) | None => self.activate(key),
        }
    }

    fn promote(&mut self, now: Instant) {
        loop {
            let first = [&self.backoff, &self.erring, &self.waiting].into_iter().filter_map(first_due).min();
            match first {
                Some(((due, _), key)) if due <= now => self.activate(&key),
                Some(_) | None => return,
            }
        }
    }

    fn activate(&mut self, key: &PodKey) {
        let Some(priority) = self.pods.get(key).map(|entry| entry.pod.priority) else { return };
        self.sequence += 1;
        self.put(key, Place::Active(Reverse(priority), self.sequence));
    }

    fn due(&mut self, at: Instant) -> Due {
        self.sequence += 1;
        (at, self.sequence)
    }

    fn put(&mut self, key: &PodKey, place: Place) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        let before = std::mem::replace(&mut entry.place, place);
        self.leave(before);
        match place {
            Place::Active(priority, sequence) => drop(self.active.insert((priority, sequence), key.clone())),
            Place::Backoff(due) => drop(self.backoff.insert(due, key.clone())),
            Place::Erring(due) => drop(self.erring.insert(due, key.clone())),
            Place::Waiting(due) => drop(self.waiting.insert(due, key.clone())),
            Place::InFlight => {}
        }
    }

    fn leave(&mut self, place: Place) {
        match place {
            Place::Active(priority, sequence) => drop(self.active.remove(&(priority, sequence))),
            Place::Backoff(due) => drop(self.backoff.remove(&due)),
            Place::Erring(due) => drop(self.erring.remove(&due)),
            Place::Waiting(due) => drop(self.waiting.remove(&due)),
            Place::InFlight => {}
        }
    }
}

impl Entry {
    fn backoff_ends(&self) -> Option<Instant> {
        let wait = BACKOFF_FIRST.saturating_mul(1 << self.attempts.saturating_sub(1).min(8)).min(BACKOFF_MOST);
        self.tried.map(|tried| tried + wait)
    }
}

fn first_due(map: &BTreeMap<Due, PodKey>) -> Option<(Due, PodKey)> {
    map.first_key_value().map(|(due, key)| (*due, key.clone()))
}

/// Nothing that decides where the pod may go is different.
fn asks_for_the_same(before: &PodInfo, after: &PodInfo) -> bool {
    before.pod.spec == after.pod.spec && before.pod.metadata.labels == after.pod.metadata.labels
}
