//! One watcher's view of the events: in order, without a gap, at its own pace.

use std::collections::VecDeque;
use std::sync::Arc;

use coracle_api::meta::Revision;
use tokio::sync::Notify;

use crate::entry::{Event, Prefix};
use crate::error::Lagged;
use crate::hub::{Cursor, Fill, Hub};

/// Events taken from the hub at once, so that a busy watcher does not take its lock for each.
const BATCH: usize = 64;

/// A subscription, see [`crate::Store::watch`].
pub struct Watch {
    hub: Arc<Hub>,
    prefix: Prefix,
    notify: Arc<Notify>,
    next: u64,
    buffer: VecDeque<Arc<Event>>,
    seen: Revision,
    over: bool,
}

impl Watch {
    pub(crate) fn new(hub: Arc<Hub>, prefix: Prefix, cursor: Cursor, from: Revision) -> Self {
        let Cursor { next, notify } = cursor;
        Self { hub, prefix, notify, next, buffer: VecDeque::new(), seen: from, over: false }
    }

    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// The next event; waits for it. `None` after the store is closed, and after `Lagged`. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Option<Result<Arc<Event>, Lagged>> {
        loop {
            // Asked for before looking, so that an event published in between wakes us.
            let notify = self.notify.clone();
            let published = notify.notified();
            match self.take() {
                Taken::Event(event) => return Some(event),
                Taken::Over => return None,
                Taken::Nothing => published.await,
            }
        }
    }

    /// The next event if there is one by now.
    pub fn try_next(&mut self) -> Option<Result<Arc<Event>, Lagged>> {
        match self.take() {
            Taken::Event(event) => Some(event),
            Taken::Over | Taken::Nothing => None,
        }
    }

    /// A revision fit for a bookmark: every event up to it that this watch shall see was returned by `next`.
    pub fn progress(&mut self) -> Revision {
        let seen = match self.buffer.front() {
            Some(event) => Some(Revision(event.revision().0 - 1)),
            None => self.hub.seen(&self.prefix, self.next),
        };
        self.seen = self.seen.max(seen.unwrap_or(self.seen));
        self.seen
    }

    fn take(&mut self) -> Taken {
        if self.over {
            return Taken::Over;
        }
        if self.buffer.is_empty() {
            match self.hub.fill(&self.prefix, &mut self.next, &mut self.buffer, BATCH) {
                Fill::Some => {}
                Fill::Empty => return Taken::Nothing,
                Fill::Lagged => {
                    self.over = true;
                    return Taken::Event(Err(Lagged));
                }
                Fill::Closed => {
                    self.over = true;
                    return Taken::Over;
                }
            }
        }
        let event = self.buffer.pop_front().expect("filled above when it was empty");
        self.seen = event.revision();
        Taken::Event(Ok(event))
    }
}

enum Taken {
    Event(Result<Arc<Event>, Lagged>),
    Nothing,
    Over,
}
