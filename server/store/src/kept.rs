//! Earlier states that are kept because somebody was promised further pages of them, however fast history moves on.
//! Owns how many, how long and how much memory they may hold; must not know how a state is made.
//!
//! Persistent maps share what they have in common, so a kept state costs what was replaced since: that is counted, event
//! by event, against the newest state that still has it. Older states go first, so the count is never too low.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::Revision;
use tokio::time::Instant;

use crate::entry::Event;
use crate::state::State;

/// As many lists may be on their way at once before the oldest has to start over.
const MOST: usize = 64;
/// What an event makes new in the maps (the path to its place), besides the bytes of the entry it replaces.
const NODES_BYTES: usize = 512;

#[derive(Default)]
pub(crate) struct Kept {
    /// Ordered by revision.
    states: VecDeque<One>,
    bytes: usize,
}

struct One {
    state: Arc<State>,
    since: Instant,
    bytes: usize,
}

/// What the event takes away from later states, and a state at `revision` still holds.
fn cost(event: &Event, revision: Revision) -> usize {
    let replaced = event.previous.as_ref().filter(|previous| previous.revision <= revision);
    NODES_BYTES + replaced.map_or(0, |previous| previous.json.len())
}

impl Kept {
    /// Keeps the state, `later` being what happened after it. Returns what had to go for it, to be freed without a lock.
    pub(crate) fn keep<'a>(
        &mut self,
        state: Arc<State>,
        later: impl Iterator<Item = &'a Arc<Event>>,
        now: Instant,
        most_bytes: usize,
    ) -> Vec<Arc<State>> {
        let at = self.states.partition_point(|one| one.state.revision < state.revision);
        if self.states.get(at).is_some_and(|one| one.state.revision == state.revision) {
            return Vec::new();
        }
        let bytes = later.map(|event| cost(event, state.revision)).sum();
        self.bytes += bytes;
        self.states.insert(at, One { state, since: now, bytes });
        self.shed(most_bytes)
    }

    /// Takes note of a change.
    pub(crate) fn record(&mut self, event: &Event) {
        if let Some(newest) = self.states.back_mut() {
            let cost = cost(event, newest.state.revision);
            newest.bytes += cost;
            self.bytes += cost;
        }
    }

    /// Lets the oldest go until the rest is within bounds.
    pub(crate) fn shed(&mut self, most_bytes: usize) -> Vec<Arc<State>> {
        let mut gone = Vec::new();
        while self.states.len() > MOST || self.bytes > most_bytes {
            let Some(one) = self.states.pop_front() else { break };
            self.bytes -= one.bytes;
            gone.push(one.state);
        }
        gone
    }

    /// Lets those go that were kept for as long as was promised.
    pub(crate) fn expire(&mut self, now: Instant, age: Duration) -> Vec<Arc<State>> {
        let mut gone = Vec::new();
        let mut bytes = 0;
        self.states.retain(|one| {
            let stays = now.saturating_duration_since(one.since) < age;
            if !stays {
                bytes += one.bytes;
                gone.push(one.state.clone());
            }
            stays
        });
        self.bytes -= bytes;
        gone
    }

    pub(crate) fn get(&self, revision: Revision) -> Option<&Arc<State>> {
        let at = self.states.partition_point(|one| one.state.revision < revision);
        self.states.get(at).map(|one| &one.state).filter(|state| state.revision == revision)
    }

    /// When the first of them is due to go.
    pub(crate) fn due(&self, age: Duration) -> Option<Instant> {
        self.states.iter().map(|one| one.since + age).min()
    }
}
