//! How soon a change behind a Service is published. With a handful of backends at once; with hundreds a little later, so
//! that a rollout of them writes their list some times and not once for each, which would be quadratic in bytes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::ObjectKey;
use coracle_client::WorkQueue;
use parking_lot::Mutex;

/// As many are written without thinking.
const FEW: usize = 20;

#[derive(Clone)]
pub(crate) struct Pace {
    each: Duration,
    most: Duration,
    backends: Arc<Mutex<BTreeMap<ObjectKey, u32>>>,
}

impl Pace {
    /// Waits `each` for every backend a Service has, `most` at most.
    pub(crate) fn new(each: Duration, most: Duration) -> Pace {
        Pace { each, most, backends: Arc::default() }
    }

    /// A Service had so many backends when it was last looked at.
    pub(crate) fn observe(&self, service: &ObjectKey, backends: usize) {
        if backends > FEW {
            self.backends.lock().insert(service.clone(), u32::try_from(backends).unwrap_or(u32::MAX));
        } else {
            self.backends.lock().remove(service);
        }
    }

    pub(crate) fn add(&self, queue: &WorkQueue<ObjectKey>, service: ObjectKey) {
        let delay = self.delay(&service);
        queue.add_after(service, delay);
    }

    fn delay(&self, service: &ObjectKey) -> Duration {
        let backends = self.backends.lock().get(service).copied().unwrap_or(0);
        self.each.saturating_mul(backends).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_backends_are_published_later_but_never_much() {
        let pace = Pace::new(Duration::from_millis(1), Duration::from_millis(500));
        let service = ObjectKey::new("default", "web");
        let after = |backends| {
            pace.observe(&service, backends);
            pace.delay(&service).as_millis()
        };
        assert_eq!([0, 1, 20, 21, 100, 1_000, 0].map(after), [0, 0, 0, 21, 100, 500, 0]);
    }
}
