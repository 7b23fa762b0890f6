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
    under_way: BTreeMap<u64, Start>,
}

#[derive(Debug)]
struct Start {
    id: String,
    called_off: CancellationToken,
    over: CancellationToken,
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
        let start = Start { id: id.to_owned(), called_off: called_off.clone(), over: CancellationToken::new() };
        all.under_way.insert(number, start);
        Begun { opening: self, number, called_off }
    }

    pub(super) fn call_off(&self, id: &str) {
        for start in self.all.lock().under_way.values().filter(|start| start.id == id) {
            start.called_off.cancel();
        }
    }

    /// Returns when no start of it is under way: orders for what is to run there wait for that.
    pub(super) async fn over(&self, id: &str) {
        let next = || self.all.lock().under_way.values().find(|start| start.id == id).map(|start| start.over.clone());
        while let Some(over) = next() {
            over.cancelled().await;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.lock().under_way.is_empty()
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
        if let Some(start) = self.opening.all.lock().under_way.remove(&self.number) {
            start.over.cancel();
        }
        self.opening.ends.changed();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn only_starts_under_way_are_called_off() {
        let opening = Opening::default();
        opening.call_off("a");
        let (first, second, other) = (opening.begin("a"), opening.begin("a"), opening.begin("b"));
        opening.call_off("a");
        assert!(first.called_off.is_cancelled() && second.called_off.is_cancelled());
        assert!(!other.called_off.is_cancelled());
        assert!(opening.over("none").now_or_never().is_some());
        assert!(opening.over("a").now_or_never().is_none());
        let mut over = Box::pin(opening.over("a"));
        drop(first);
        assert!((&mut over).now_or_never().is_none());
        drop(second);
        assert!(over.now_or_never().is_some());
        assert!(!opening.begin("a").called_off.is_cancelled(), "it may be ordered again");
        assert!(!opening.is_empty());
        drop(other);
        assert!(opening.is_empty());
    }
}
