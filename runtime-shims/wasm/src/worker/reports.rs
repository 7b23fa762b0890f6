//! What ended here and is not on record yet. It is told to the front that is there, and to each one after it until one
//! acknowledges it. There are never more of them than guests were started.

use std::collections::{BTreeMap, HashSet};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wire::Ended;

#[derive(Debug, Default)]
pub(super) struct Ends {
    all: Mutex<All>,
    news: Notify,
}

#[derive(Debug, Default)]
struct All {
    last: u64,
    ended: BTreeMap<u64, Ended>,
}

impl Ends {
    pub(super) fn add(&self, ended: Ended) {
        {
            let mut all = self.all.lock();
            all.last += 1;
            let number = all.last;
            all.ended.insert(number, ended);
        }
        self.changed();
    }

    pub(super) fn acknowledge(&self, ids: &[String]) {
        let ids: HashSet<&String> = ids.iter().collect();
        self.all.lock().ended.retain(|_, ended| !ids.contains(&ended.id));
        self.changed();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.lock().ended.is_empty()
    }

    /// What came after `number`, and the number to ask for next time.
    pub(super) fn after(&self, number: u64) -> (Vec<Ended>, u64) {
        let all = self.all.lock();
        (all.ended.range(number + 1..).map(|(_, ended)| ended.clone()).collect(), all.last)
    }

    /// Wakes those that wait: a guest is gone, whether or not anybody is to be told.
    pub(super) fn changed(&self) {
        self.news.notify_waiters();
    }

    /// Returns what `look` finds, now or after a change.
    pub(super) async fn wait_until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            let changed = self.news.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look() {
                return found;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Exit;

    fn ended(id: &str) -> Ended {
        Ended { id: id.to_owned(), at: 1, exit: Exit::with_code(0) }
    }

    fn ids(ended: &[Ended]) -> Vec<&str> {
        ended.iter().map(|ended| ended.id.as_str()).collect()
    }

    #[test]
    fn an_end_is_told_once_to_each_front_until_it_is_acknowledged() {
        let ends = Ends::default();
        ends.add(ended("a"));
        ends.add(ended("b"));
        let (told, next) = ends.after(0);
        assert_eq!(ids(&told), ["a", "b"]);
        assert!(ends.after(next).0.is_empty());
        ends.acknowledge(&["a".to_owned()]);
        ends.add(ended("c"));
        assert_eq!(ids(&ends.after(next).0), ["c"]);
        // The next front.
        assert_eq!(ids(&ends.after(0).0), ["b", "c"]);
        ends.acknowledge(&["b".to_owned(), "c".to_owned()]);
        assert!(ends.is_empty());
    }
}
