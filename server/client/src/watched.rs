//! A value that several tasks wait on, as `tokio::sync::watch`, but they wake in the order in which they began to wait:
//! tokio's wakes them in random order, and a seed would not replay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

/// The value, read-locked: drop it before the next await.
pub type Ref<'a, T> = parking_lot::MappedRwLockReadGuard<'a, T>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody will change the value any more")]
pub struct Closed;

struct Shared<T> {
    /// The value, and how often it was changed.
    value: RwLock<(T, u64)>,
    changed: Notify,
    closed: AtomicBool,
    senders: AtomicUsize,
}

/// Changes the value.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Sees the newest value; what came in between may be missed.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Sender<T> {
    pub fn new(value: T) -> Self {
        let shared = Shared {
            value: RwLock::new((value, 0)),
            changed: Notify::new(),
            closed: AtomicBool::new(false),
            senders: AtomicUsize::new(1),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A receiver that has seen the present value.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.shared.value.read().1;
        Receiver { shared: Arc::clone(&self.shared), seen }
    }

    pub fn borrow(&self) -> Ref<'_, T> {
        RwLockReadGuard::map(self.shared.value.read(), |value| &value.0)
    }

    pub fn send_replace(&self, new: T) {
        self.send_modify(|value| *value = new);
    }

    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// Tells the receivers if `modify` says that it changed something; gives what it said.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = {
            let mut value = self.shared.value.write();
            let modified = modify(&mut value.0);
            value.1 += u64::from(modified);
            modified
        };
        if modified {
            self.shared.changed.notify_waiters();
        }
        modified
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.closed.store(true, Ordering::Release);
            self.shared.changed.notify_waiters();
        }
    }
}

impl<T> Receiver<T> {
    pub fn borrow(&self) -> Ref<'_, T> {
        RwLockReadGuard::map(self.shared.value.read(), |value| &value.0)
    }

    /// The present value, which counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.value.read();
        self.seen = value.1;
        RwLockReadGuard::map(value, |value| &value.0)
    }

    /// Resolves when there is a value that was not seen yet.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            let notified = self.shared.changed.notified();
            tokio::pin!(notified);
            // In line before the value is looked at, so that no change is missed.
            notified.as_mut().enable();
            let version = self.shared.value.read().1;
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.shared.closed.load(Ordering::Acquire) {
                return Err(Closed);
            }
            notified.await;
        }
    }

    /// Resolves when the value fits, which it may do already.
    pub async fn wait_for(&mut self, mut fits: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, Closed> {
        loop {
            if fits(&self.borrow_and_update()) {
                return Ok(self.borrow());
            }
            self.changed().await?;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_wake_in_the_order_they_came() {
        let sender = Sender::new(0);
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..20 {
            let (mut receiver, order) = (sender.subscribe(), Arc::clone(&order));
            tasks.spawn(async move {
                receiver.wait_for(|value| *value == 1).await.map(drop).unwrap();
                order.lock().push(n);
            });
        }
        tokio::task::yield_now().await;
        sender.send_replace(1);
        while tasks.join_next().await.is_some() {}
        assert_eq!(*order.lock(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_change_is_seen_once_and_the_end_is_told() {
        let sender = Sender::new(1);
        let mut receiver = sender.subscribe();
        assert!(!sender.send_if_modified(|_| false));
        sender.send_modify(|value| *value += 1);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(*receiver.borrow(), 2);
        let second = sender.clone();
        drop(sender);
        second.send_replace(3);
        assert_eq!(receiver.changed().await, Ok(()));
        drop(second);
        assert_eq!(receiver.changed().await, Err(Closed));
        assert!(receiver.wait_for(|value| *value == 3).await.is_ok(), "what it was stays readable");
    }
}
