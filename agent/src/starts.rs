//! Places for pods that begin.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Pods that begin at once. More make none of them faster, and what a thousand would use for a moment lies between what they
/// keep: the memory could not be given back afterwards.
const PLACES: usize = 32;

/// Each RuntimeClass has its own, by name: pods of a runtime that is down wait for each other and hold up nobody else.
#[derive(Debug, Default)]
pub struct Starts(Mutex<HashMap<String, Arc<Semaphore>>>);

impl Starts {
    /// Waits for a place. The pods of a class come in the order in which they asked.
    pub async fn take(&self, class: &str) -> OwnedSemaphorePermit {
        let places = self.places(class);
        places.acquire_owned().await.expect("the places are never closed")
    }

    fn places(&self, class: &str) -> Arc<Semaphore> {
        let mut classes = self.0.lock();
        if let Some(places) = classes.get(class) {
            return places.clone();
        }
        // Those that nobody holds or waits for: a class may be gone.
        classes.retain(|_, places| Arc::strong_count(places) > 1);
        classes.entry(class.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(PLACES))).clone()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn classes_do_not_wait_for_each_other() {
        let starts = Starts::default();
        let mut held: Vec<_> =
            (0..PLACES).map(|_| starts.take("down").now_or_never().expect("there is room")).collect();
        let mut waiting = Box::pin(starts.take("down"));
        assert!((&mut waiting).now_or_never().is_none());
        let other = starts.take("").now_or_never().expect("these places are its own");
        held.pop();
        let waited = waiting.now_or_never().expect("there is room again");
        drop((held, waited, other));
        let _only = starts.take("new");
        let only = starts.take("new").now_or_never();
        assert!(only.is_some() && starts.0.lock().keys().eq(["new"]), "nothing is kept of those that are gone");
    }
}
