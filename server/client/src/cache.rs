//! What an informer holds: the objects, their indexes, and the queues of those who subscribed.
//!
//! One reflector writes; everyone reads. It must not know where the objects come from.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
    task::{Context, Poll},
};

use coracle_api::meta::{ObjectKey, Revision};
use futures::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};

use crate::resource::Cached;
use crate::watched;

/// Changes a subscriber may lag behind before they are replaced by one `Resync`.
const QUEUE_LENGTH: usize = 4096;

/// What a subscriber is told. Treat `Applied` as an upsert by key: right after a `Resync` it may repeat what `list()`
/// has shown already.
#[derive(Debug)]
pub enum Change<T> {
    Applied {
        old: Option<Arc<T>>,
        new: Arc<T>,
    },
    /// The last state that is known of an object that is gone.
    Deleted(Arc<T>),
    /// Forget what you derived and look at `list()`: the first thing a subscriber is told once the informer has synced,
    /// and again whenever it lagged so far behind that changes were dropped.
    Resync,
}

impl<T> Clone for Change<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Applied { old, new } => Self::Applied { old: old.clone(), new: new.clone() },
            Self::Deleted(object) => Self::Deleted(object.clone()),
            Self::Resync => Self::Resync,
        }
    }
}

pub(crate) struct Cache<T> {
    inner: RwLock<Inner<T>>,
    synced: watched::Sender<bool>,
}

struct Inner<T> {
    objects: BTreeMap<ObjectKey, Arc<T>>,
    indexes: BTreeMap<&'static str, IndexState<T>>,
    subscribers: Vec<Arc<Subscription<T>>>,
    closed: bool,
    /// Everything up to this revision is in `objects`.
    seen: Revision,
}

type IndexBy<T> = Box<dyn Fn(&T) -> Vec<String> + Send + Sync>;

struct IndexState<T> {
    by: IndexBy<T>,
    entries: BTreeMap<String, BTreeMap<ObjectKey, Arc<T>>>,
}

impl<T> IndexState<T> {
    fn insert(&mut self, key: &ObjectKey, object: &Arc<T>) {
        for value in (self.by)(object) {
            self.entries.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &T) {
        for value in (self.by)(object) {
            if let Some(found) = self.entries.get_mut(&value) {
                found.remove(key);
                if found.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

impl<T: Cached> Cache<T> {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            objects: BTreeMap::new(),
            indexes: BTreeMap::new(),
            subscribers: Vec::new(),
            closed: false,
            seen: Revision::UNSET,
        };
        Self { inner: RwLock::new(inner), synced: watched::Sender::new(false) }
    }

    pub(crate) fn synced(&self) -> watched::Receiver<bool> {
        self.synced.subscribe()
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.inner.read().objects.get(key).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Arc<T>> {
        self.inner.read().objects.values().cloned().collect()
    }

    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        let from = ObjectKey::new(namespace, "");
        let inner = self.inner.read();
        let rest = inner.objects.range((Bound::Included(&from), Bound::Unbounded));
        rest.take_while(|(key, _)| &*key.namespace == namespace).map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Adds an index by name, unless there is one of that name, and fills it.
    pub(crate) fn add_index(&self, name: &'static str, by: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) {
        let mut inner = self.inner.write();
        if inner.indexes.contains_key(name) {
            return;
        }
        let mut state = IndexState { by: Box::new(by), entries: BTreeMap::new() };
        for (key, object) in &inner.objects {
            state.insert(key, object);
        }
        inner.indexes.insert(name, state);
    }

    pub(crate) fn by_index(&self, name: &'static str, value: &str) -> Vec<Arc<T>> {
        let inner = self.inner.read();
        let found = inner.indexes.get(name).and_then(|index| index.entries.get(value));
        found.map(|found| found.values().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn revision(&self) -> Revision {
        self.inner.read().seen
    }

    /// Nothing that would have to be here happened up to this revision.
    pub(crate) fn saw(&self, revision: &str) {
        self.inner.write().saw(Some(revision));
    }

    /// Takes in the new state of an object. A state it has already changes nothing.
    pub(crate) fn apply(&self, object: Arc<T>) {
        let mut inner = self.inner.write();
        inner.saw(object.meta().resource_version.as_deref());
        inner.apply(object.key(), object);
    }

    /// Takes an object out; `last` is its final state.
    pub(crate) fn delete(&self, last: Arc<T>) {
        let key = last.key();
        let mut inner = self.inner.write();
        inner.saw(last.meta().resource_version.as_deref());
        if inner.take(&key).is_some() {
            inner.publish(|| Change::Deleted(last.clone()));
        }
    }

    /// Takes in a whole new listing: what is not in it has been deleted meanwhile.
    pub(crate) fn replace(&self, objects: BTreeMap<ObjectKey, Arc<T>>) {
        let first = !*self.synced.borrow();
        let mut inner = self.inner.write();
        if first {
            for (key, object) in objects {
                inner.put(key, object);
            }
        } else {
            let gone: Vec<_> = inner.objects.keys().filter(|key| !objects.contains_key(key)).cloned().collect();
            for key in gone {
                if let Some(last) = inner.take(&key) {
                    inner.publish(|| Change::Deleted(last.clone()));
                }
            }
            for (key, object) in objects {
                inner.apply(key, object);
            }
        }
        drop(inner);
        if first {
            self.synced.send_replace(true);
            for subscriber in &self.inner.read().subscribers {
                subscriber.open();
            }
        }
    }

    pub(crate) fn subscribe(&self) -> Changes<T> {
        let subscription = Arc::new(Subscription {
            queue: Mutex::new(Queue { changes: VecDeque::new(), resync: true, open: false, closed: false }),
            waker: AtomicWaker::new(),
        });
        let mut inner = self.inner.write();
        if *self.synced.borrow() {
            subscription.open();
        }
        if inner.closed {
            subscription.close();
        }
        inner.subscribers.push(subscription.clone());
        Changes { subscription }
    }

    /// No more changes will come.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.write();
        inner.closed = true;
        for subscriber in inner.subscribers.drain(..) {
            subscriber.close();
        }
    }
}

impl<T: Cached> Inner<T> {
    fn saw(&mut self, revision: Option<&str>) {
        if let Some(revision) = revision.and_then(|r| r.parse().ok()) {
            self.seen = self.seen.max(revision);
        }
    }

    fn apply(&mut self, key: ObjectKey, object: Arc<T>) {
        let mut old = self.take(&key);
        if let Some(same) = old.as_ref().filter(|old| {
            old.meta().resource_version.is_some()
                && old.meta().resource_version == object.meta().resource_version
                && old.meta().uid == object.meta().uid
        }) {
            let same = same.clone();
            self.put(key, same);
            return;
        }
        // Another object took the name while nobody looked: its predecessor's end must not be missed.
        if let Some(former) = old.take_if(|old| old.meta().uid != object.meta().uid) {
            self.publish(|| Change::Deleted(former.clone()));
        }
        self.put(key, object.clone());
        self.publish(|| Change::Applied { old: old.clone(), new: object.clone() });
    }

    fn put(&mut self, key: ObjectKey, object: Arc<T>) {
        for index in self.indexes.values_mut() {
            index.insert(&key, &object);
        }
        self.objects.insert(key, object);
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Arc<T>> {
        let object = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &object);
        }
        Some(object)
    }

    fn publish(&mut self, change: impl Fn() -> Change<T>) {
        // A subscriber that was dropped leaves its half behind; this is where it is cleared away.
        self.subscribers.retain(|subscriber| Arc::strong_count(subscriber) > 1);
        for subscriber in &self.subscribers {
            subscriber.push(&change);
        }
    }
}

struct Subscription<T> {
    queue: Mutex<Queue<T>>,
    waker: AtomicWaker,
}

struct Queue<T> {
    changes: VecDeque<Change<T>>,
    resync: bool,
    /// The informer has synced.
    open: bool,
    closed: bool,
}

impl<T> Subscription<T> {
    fn push(&self, change: impl Fn() -> Change<T>) {
        {
            let mut queue = self.queue.lock();
            // What happens before the resync is taken will be in the listing.
            if queue.resync {
                return;
            }
            if queue.changes.len() >= QUEUE_LENGTH {
                queue.changes = VecDeque::new();
                queue.resync = true;
            } else {
                queue.changes.push_back(change());
            }
        }
        self.waker.wake();
    }

    fn open(&self) {
        self.queue.lock().open = true;
        self.waker.wake();
    }

    fn close(&self) {
        self.queue.lock().closed = true;
        self.waker.wake();
    }
}

/// A subscriber's view of an informer's changes, in order. `None` from [`Changes::next`] means the informer has ended.
pub struct Changes<T> {
    subscription: Arc<Subscription<T>>,
}

impl<T> Changes<T> {
    /// Waits for the next change. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Change<T>> {
        std::future::poll_fn(|cx| self.poll_change(cx)).await
    }

    /// The next change if there is one now.
    pub fn try_next(&mut self) -> Option<Change<T>> {
        let mut queue = self.subscription.queue.lock();
        if queue.resync && queue.open {
            queue.resync = false;
            return Some(Change::Resync);
        }
        queue.changes.pop_front()
    }

    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Option<Change<T>>> {
        self.subscription.waker.register(cx.waker());
        match self.try_next() {
            Some(change) => Poll::Ready(Some(change)),
            None if self.subscription.queue.lock().closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl<T> futures::Stream for Changes<T> {
    type Item = Change<T>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_change(cx)
    }
}
