//! A keyed work queue and `drive()`, the loop every controller runs in.
//!
//! A key is handed to one worker at a time; a key that is added while it is being worked on is handed out once more
//! afterwards. The queue holds each key at most once, so its size is bounded by the number of live objects.
//! It must not know what the keys mean.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::{Debug, Display},
    future::Future,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::warn;

use crate::scope::{Backoff, OnExit, TaskScope, panic_text};

/// client-go's default per-item limiter: 5 ms doubling to 1000 s.
const RETRY: Backoff =
    Backoff { initial: Duration::from_millis(5), max: Duration::from_secs(1000), reset_after: Duration::MAX };

/// What a reconciliation wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    RequeueAfter(Duration),
}

/// Keys waiting for work, each at most once. Clones are handles to the same queue.
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, or to be put there when their worker is done.
    dirty: BTreeSet<K>,
    working: BTreeSet<K>,
    /// Keys to be added later, by deadline; the number keeps equal deadlines in order.
    later: BTreeMap<(Instant, u64), K>,
    deadline: BTreeMap<K, (Instant, u64)>,
    failures: BTreeMap<K, u32>,
    sequence: u64,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K: Ord + Clone> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone> WorkQueue<K> {
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: BTreeSet::new(),
            working: BTreeSet::new(),
            later: BTreeMap::new(),
            deadline: BTreeMap::new(),
            failures: BTreeMap::new(),
            sequence: 0,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), wake: Notify::new() }) }
    }

    /// Makes the key due now. A later deadline that was set for it stays.
    pub fn add(&self, key: K) {
        if self.shared.state.lock().add(key) {
            self.shared.wake.notify_one();
        }
    }

    /// Makes the key due after `delay`; of several deadlines for one key the earliest holds.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.shared.state.lock();
        let due = Instant::now() + delay;
        if let Some(at) = state.deadline.get(&key).copied() {
            if at.0 <= due {
                return;
            }
            state.later.remove(&at);
        }
        state.sequence += 1;
        let at = (due, state.sequence);
        state.later.insert(at, key.clone());
        state.deadline.insert(key, at);
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Makes the key due after 5 ms, doubled for each call since the last [`WorkQueue::forget`], at most 1000 s.
    pub fn add_rate_limited(&self, key: K) {
        let delay = {
            let mut state = self.shared.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures += 1;
            RETRY.wait(*failures - 1)
        };
        self.add_after(key, delay);
    }

    /// Resets the key's rate limit.
    pub fn forget(&self, key: &K) {
        self.shared.state.lock().failures.remove(key);
    }

    /// How often the key was added by rate limit since it was last forgotten.
    pub fn retries(&self, key: &K) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Keys that are due now.
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next due key, in the order they became due. [`WorkQueue::done`] must follow.
    pub async fn next(&self) -> K {
        loop {
            let mut woken = pin!(self.shared.wake.notified());
            woken.as_mut().enable();
            let deadline = {
                let mut state = self.shared.state.lock();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    let more = !state.ready.is_empty() || !state.later.is_empty();
                    drop(state);
                    if more {
                        // A waiting worker takes the next key, or keeps the next deadline.
                        self.shared.wake.notify_one();
                    }
                    return key;
                }
                state.later.first_key_value().map(|((due, _), _)| *due)
            };
            match deadline {
                None => woken.await,
                Some(deadline) => tokio::select! {
                    biased;
                    () = woken => {}
                    () = sleep_until(deadline) => {}
                },
            }
        }
    }

    /// The worker is done with the key; if it was added meanwhile it becomes due again.
    pub fn done(&self, key: &K) {
        let mut state = self.shared.state.lock();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.shared.wake.notify_one();
        }
    }
}

impl<K: Ord + Clone> State<K> {
    fn add(&mut self, key: K) -> bool {
        if !self.dirty.insert(key.clone()) || self.working.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    fn promote(&mut self, now: Instant) {
        while let Some(first) = self.later.first_entry() {
            if first.key().0 > now {
                return;
            }
            let key = first.remove();
            self.deadline.remove(&key);
            self.add(key);
        }
    }
}

/// Runs `workers` tasks in `scope` that call `reconcile` for each key of the queue. An error or a panic is logged and the
/// key comes again after a growing wait; a success resets that wait.
pub fn drive<K, F, Fut, E>(scope: &TaskScope, name: &str, queue: &WorkQueue<K>, workers: usize, reconcile: F)
where
    K: Ord + Clone + Debug + Send + Sync + 'static,
    F: Fn(K) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    for worker in 0..workers.max(1) {
        let name = if workers <= 1 { name.to_owned() } else { format!("{name}-{worker}") };
        let (queue, reconcile) = (queue.clone(), reconcile.clone());
        scope.spawn(&name, OnExit::restart(), move |cancel| {
            let (queue, reconcile) = (queue.clone(), reconcile.clone());
            async move {
                loop {
                    let key = tokio::select! {
                        biased;
                        () = cancel.cancelled() => return,
                        key = queue.next() => key,
                    };
                    let held = Held { queue: &queue, key: &key };
                    let run = async { reconcile(key.clone()).await };
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return,
                        result = AssertUnwindSafe(run).catch_unwind() => settle(&queue, &key, result),
                    }
                    drop(held);
                }
            }
        });
    }
}

/// Gives the key back even if the worker is dropped between two awaits.
struct Held<'a, K: Ord + Clone> {
    queue: &'a WorkQueue<K>,
    key: &'a K,
}

impl<K: Ord + Clone> Drop for Held<'_, K> {
    fn drop(&mut self) {
        self.queue.done(self.key);
    }
}

fn settle<K, E>(queue: &WorkQueue<K>, key: &K, result: std::thread::Result<Result<Outcome, E>>)
where
    K: Ord + Clone + Debug,
    E: Display,
{
    let reason = match result {
        Ok(Ok(outcome)) => {
            queue.forget(key);
            if let Outcome::RequeueAfter(delay) = outcome {
                queue.add_after(key.clone(), delay);
            }
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("panicked: {}", panic_text(&*panic)),
    };
    warn!(?key, reason, retries = queue.retries(key), "reconciliation failed and is tried again");
    queue.add_rate_limited(key.clone());
}

#[cfg(test)]
mod tests;
