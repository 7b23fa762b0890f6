//! Containers whose start waits for their volumes, and may be called off. A repeated order to start one waits by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::reports::Ends;
use crate::turns::Turns;

#[derive(Debug, Default)]
pub(super) struct Opening {
    all: Mutex<All>,
    /// One attempt of a container opens volumes at a time: the thread of one that hangs stays.
    pub(super) turns: Turns<(String, String)>,
    /// Told when there is one less.
    ends: Arc<Ends>,
}

#[derive(Debug, Default)]
struct All {
    last: u64,
    ids: BTreeMap<u64, (String, CancellationToken)>,
}

impl Opening {
    pub(super) fn new(ends: Arc<Ends>) -> Opening {
        Opening { ends, ..Opening::default() }
    }

    pub(super) fn begin(&self, id: &str) -> Begun<'_> {
        let called_off = CancellationToken::new();
        let mut all = self.all.lock();
        all.last += 1;
        let number = all.last;
        all.ids.insert(number, (id.to_owned(), called_off.clone()));
        Begun { opening: self, number, called_off }
    }

    pub(super) fn call_off(&self, id: &str) {
        for (_, called_off) in self.all.lock().ids.values().filter(|(other, _)| other == id) {
            called_off.cancel();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.lock().ids.is_empty()
    }
}

/// A start under way, until it is dropped.
pub(super) struct Begun<'a> {
    opening: &'a Opening,
    number: u64,
    pub(super) called_off: CancellationToken,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.opening.all.lock().ids.remove(&self.number);
        self.opening.ends.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_starts_under_way_are_called_off() {
        let opening = Opening::default();
        opening.call_off("a");
        let (first, second, other) = (opening.begin("a"), opening.begin("a"), opening.begin("b"));
        opening.call_off("a");
        assert!(first.called_off.is_cancelled() && second.called_off.is_cancelled());
        assert!(!other.called_off.is_cancelled());
        drop((first, second));
        assert!(!opening.begin("a").called_off.is_cancelled(), "it may be ordered again");
        assert!(!opening.is_empty());
        drop(other);
        assert!(opening.is_empty());
    }
}
