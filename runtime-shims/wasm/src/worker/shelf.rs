//! Things that wait to be used again, the one that was used last first, and go when nobody has wanted them for a while.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// How long a thing waits.
const IDLE: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Shelf<T> {
    things: Arc<Mutex<Things<T>>>,
    tasks: TaskTracker,
}

struct Things<T> {
    /// Since when each lies here, the longest first.
    idle: Vec<(Instant, T)>,
    /// Somebody comes to clear them away.
    clearing: bool,
}

impl<T> Default for Shelf<T> {
    fn default() -> Shelf<T> {
        let things = Things { idle: Vec::new(), clearing: false };
        Shelf { things: Arc::new(Mutex::new(things)), tasks: TaskTracker::new() }
    }
}

impl<T: Send + 'static> Shelf<T> {
    pub(super) fn put(&self, thing: T) {
        let mut things = self.things.lock();
        things.idle.push((Instant::now(), thing));
        if !std::mem::replace(&mut things.clearing, true) {
            // It ends by itself, soon after the last thing or the shelf.
            self.tasks.spawn(clear(Arc::downgrade(&self.things)));
        }
    }

    /// The one that was used last: others get old and go.
    pub(super) fn take(&self) -> Option<T> {
        self.things.lock().idle.pop().map(|(_, thing)| thing)
    }
}

/// Lets things go that have lain there long enough, until there are none.
async fn clear<T>(things: Weak<Mutex<Things<T>>>) {
    loop {
        let next = {
            let Some(things) = things.upgrade() else { return };
            let mut things = things.lock();
            let now = Instant::now();
            things.idle.retain(|(since, _)| now.duration_since(*since) < IDLE);
            match things.idle.first() {
                Some((oldest, _)) => *oldest + IDLE,
                None => {
                    things.clearing = false;
                    return;
                }
            }
        };
        tokio::time::sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wants_goes_after_a_while() {
        let shelf = Shelf::default();
        let gone = Arc::new(());
        shelf.put((1, gone.clone()));
        tokio::time::sleep(IDLE / 2).await;
        shelf.put((2, gone.clone()));
        tokio::time::sleep(IDLE * 3 / 4).await;
        assert_eq!(Arc::strong_count(&gone), 2, "the first is gone");
        assert_eq!(shelf.take().map(|(number, _)| number), Some(2));
        assert!(shelf.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_task_clears_away_however_often_things_come_and_go() {
        let shelf = Shelf::default();
        for _ in 0..1000 {
            shelf.put(());
            assert!(shelf.take().is_some());
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(shelf.tasks.len() <= 1, "{} tasks", shelf.tasks.len());
        }
        tokio::time::sleep(2 * IDLE).await;
        assert_eq!(shelf.tasks.len(), 0);
        shelf.put(());
        tokio::time::sleep(2 * IDLE).await;
        assert!(shelf.take().is_none(), "somebody has come again");
    }
}
