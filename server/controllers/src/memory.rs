//! What a controller remembers of a key from one reconciliation to the next. The queue gives a key to one worker at a
//! time, so a key's memory has one holder; it comes back even when that worker is dropped between two awaits.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

pub(crate) trait Remembered: Default {
    /// There is nothing to remember: the memory is let go.
    fn is_blank(&self) -> bool;
}

pub(crate) struct Memory<K, T>(Mutex<BTreeMap<K, T>>);

impl<K, T> Default for Memory<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Clone, T: Remembered> Memory<K, T> {
    pub(crate) fn open(&self, key: &K) -> Held<'_, K, T> {
        let value = self.0.lock().remove(key).unwrap_or_default();
        Held { memory: self, key: key.clone(), value }
    }

    pub(crate) fn forget(&self, key: &K) {
        self.0.lock().remove(key);
    }
}

pub(crate) struct Held<'a, K: Ord + Clone, T: Remembered> {
    memory: &'a Memory<K, T>,
    key: K,
    value: T,
}

impl<K: Ord + Clone, T: Remembered> Deref for Held<'_, K, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<K: Ord + Clone, T: Remembered> DerefMut for Held<'_, K, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<K: Ord + Clone, T: Remembered> Drop for Held<'_, K, T> {
    fn drop(&mut self) {
        if !self.value.is_blank() {
            self.memory.0.lock().insert(self.key.clone(), std::mem::take(&mut self.value));
        }
    }
}
