//! Informers: a shared, local, current view of the objects of a kind.
//!
//! There is one reflector for each kind and selector in a process, whoever asks; every object is decoded once and
//! shared. The view is never older than what a subscriber has been told.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    fmt,
    sync::Arc,
};

use coracle_api::meta::{ObjectKey, Revision};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use crate::cache::{Change, Changes};
use crate::watched;
use crate::{
    Client, Ids,
    cache::Cache,
    params::ListParams,
    reflector::{Source, reflect},
    resource::{Cached, Kind, PartialObjectMetadata, ResourceRef},
    scope::{OnExit, TaskScope},
    shared::Shared,
};

/// The informers of a process. Cheap to clone.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    scope: TaskScope,
    ids: Ids,
    shared: Shared,
    running: Arc<Mutex<BTreeMap<Selected, Running>>>,
}

type Selected = (TypeId, ResourceRef, Option<String>, Option<String>);

struct Running {
    cache: Arc<dyn Any + Send + Sync>,
    synced: watched::Receiver<bool>,
    token: CancellationToken,
}

impl fmt::Debug for Informers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informers").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Informers {
    /// Informers whose tasks live in `scope`; `ids` gives the jitter of their backoff.
    pub fn new(client: Client, scope: &TaskScope, ids: Ids) -> Self {
        Self { client, scope: scope.child("informers"), ids, shared: Shared::default(), running: Arc::default() }
    }

    /// The same, holding what others hold already of what they all see.
    #[must_use]
    pub fn sharing(mut self, shared: &Shared) -> Self {
        self.shared = shared.clone();
        self
    }

    /// All objects of a kind.
    pub fn get<K: Kind>(&self) -> Informer<K> {
        self.get_with(&ListParams::default())
    }

    /// The objects of a kind that the selectors in `params` select; its other fields mean nothing here.
    pub fn get_with<K: Kind>(&self, params: &ListParams) -> Informer<K> {
        self.informer(Source::objects(self.client.clone(), ResourceRef::of::<K>(), params))
    }

    /// Only the metadata of all objects of a resource, without annotations.
    pub fn metadata(&self, resource: &ResourceRef) -> Informer<PartialObjectMetadata> {
        self.informer(Source::metadata(self.client.clone(), resource.clone()))
    }

    /// Ends the metadata informer of a resource that is not served any more; its subscribers see the end.
    pub fn forget_metadata(&self, resource: &ResourceRef) {
        let key = (TypeId::of::<PartialObjectMetadata>(), resource.clone(), None, None);
        if let Some(running) = self.running.lock().remove(&key) {
            running.token.cancel();
        }
    }

    /// Waits until every informer that was asked for so far has synced.
    pub async fn synced(&self) {
        let all: Vec<_> = self.running.lock().values().map(|running| running.synced.clone()).collect();
        for synced in all {
            wait(synced).await;
        }
    }

    fn informer<T: Cached>(&self, source: Source) -> Informer<T> {
        let params = &source.params;
        let key =
            (TypeId::of::<T>(), source.resource.clone(), params.label_selector.clone(), params.field_selector.clone());
        let mut running = self.running.lock();
        if let Some(found) = running.get(&key) {
            let cache = found.cache.clone().downcast::<Cache<T>>();
            return Informer { cache: cache.expect("the key holds the type of the cache") };
        }
        let cache = Arc::new(Cache::<T>::new());
        let token = self.scope.token().child_token();
        let entry = Running { cache: cache.clone(), synced: cache.synced(), token: token.clone() };
        running.insert(key, entry);
        let (source, ids, into, shared) = (Arc::new(source), self.ids.clone(), cache.clone(), self.shared.clone());
        // The reflector ends when the informer is forgotten, which is no reason to start it again.
        self.scope.spawn(&source.task_name(), OnExit::Finish, move |_| {
            reflect(source.clone(), into.clone(), shared.clone(), ids.clone(), token.clone())
        });
        Informer { cache }
    }
}

async fn wait(mut synced: watched::Receiver<bool>) {
    // The sender lives as long as the cache; if that is gone there is nothing to wait for.
    let _ = synced.wait_for(|synced| *synced).await;
}

/// A view of the objects of one kind and selector. Cheap to clone.
pub struct Informer<T> {
    cache: Arc<Cache<T>>,
}

impl<T> Clone for Informer<T> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone() }
    }
}

impl<T> fmt::Debug for Informer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Informer")
    }
}

impl<T: Cached> Informer<T> {
    /// Resolves once the view has been complete for the first time. Before that it is empty.
    pub async fn synced(&self) {
        wait(self.cache.synced()).await;
    }

    pub fn is_synced(&self) -> bool {
        *self.cache.synced().borrow()
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.cache.get(key)
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.cache.list()
    }

    /// The objects of one namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        self.cache.in_namespace(namespace)
    }

    pub fn len(&self) -> usize {
        self.cache.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything that happened up to this revision is in the view. To tell what is not there yet from what is not
    /// there any more: ask for the revision first, then for the object.
    pub fn revision(&self) -> Revision {
        self.cache.revision()
    }

    /// Everything that changes from now on, after a first `Resync` once the view is complete.
    pub fn subscribe(&self) -> Changes<T> {
        self.cache.subscribe()
    }

    /// Finds objects by the values that `by` gives for them. An index of the same `name` is shared, not made again.
    pub fn index(&self, name: &'static str, by: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) -> Index<T> {
        self.cache.add_index(name, by);
        Index { cache: self.cache.clone(), name }
    }
}

/// Objects by a value derived from them.
pub struct Index<T> {
    cache: Arc<Cache<T>>,
    name: &'static str,
}

impl<T> Clone for Index<T> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), name: self.name }
    }
}

impl<T: Cached> Index<T> {
    /// The objects with this value, ordered by namespace and name.
    pub fn get(&self, value: &str) -> Vec<Arc<T>> {
        self.cache.by_index(self.name, value)
    }
}

#[cfg(test)]
mod tests;
