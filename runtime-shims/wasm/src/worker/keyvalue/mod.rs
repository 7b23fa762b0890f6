//! `wasi:keyvalue` on a store that lasts: one for each namespace of the node, shared by all its pods.
//!
//! A bucket is a name within the store; it exists as soon as something is in it. Reads see all earlier writes of the
//! namespace, also those of another worker process; a write is on disk before the guest goes on.

mod record;
mod store;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::WasiView;

use self::store::{Store, StoreError, check_bucket};
use super::guest::Instance;
use super::interfaces::keyvalue::store::{Error, KeyResponse};
use super::interfaces::keyvalue::{atomics, batch, store as interface};

/// The stores that containers of this process use, each opened once.
#[derive(Debug, Default)]
pub(super) struct Stores(Mutex<HashMap<String, Weak<Shared>>>);

/// Calls of one namespace that may be under way: each holds one of the threads that all pods of this process share, for
/// as long as the disk takes, or whoever else has the store locked.
const CALLS: usize = 4;

/// The store of one namespace, as its pods share it.
#[derive(Debug)]
pub(super) struct Shared {
    store: Store,
    turns: Arc<Semaphore>,
}

impl Stores {
    pub(super) fn open(&self, namespace: &str, dir: OwnedFd, limit_bytes: u64) -> io::Result<Arc<Shared>> {
        let mut stores = self.0.lock();
        if let Some(shared) = stores.get(namespace).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let store = Store::open(namespace.to_owned(), dir, limit_bytes)?;
        let shared = Arc::new(Shared { store, turns: Arc::new(Semaphore::new(CALLS)) });
        stores.retain(|_, shared| shared.strong_count() > 0);
        stores.insert(namespace.to_owned(), Arc::downgrade(&shared));
        Ok(shared)
    }
}

/// An open bucket. Public because generated code says so; this module is not.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "generated code exports it again")]
pub struct Bucket {
    name: String,
    shared: Arc<Shared>,
}

/// The interface, as an instance of the container sees it.
pub(super) struct View<'a> {
    shared: Option<Arc<Shared>>,
    table: &'a mut ResourceTable,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn add_to_linker(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    fn view(instance: &mut Instance) -> View<'_> {
        View { shared: instance.keyvalue.clone(), table: WasiView::ctx(instance).table }
    }
    interface::add_to_linker::<Instance, Has>(linker, view)?;
    atomics::add_to_linker::<Instance, Has>(linker, view)?;
    batch::add_to_linker::<Instance, Has>(linker, view)
}

type Outcome<T> = wasmtime::Result<Result<T, Error>>;

impl View<'_> {
    /// Runs a call where it may block.
    async fn call<T: Send + 'static>(
        &mut self,
        bucket: &Resource<Bucket>,
        what: impl FnOnce(&Store, &str) -> Result<T, StoreError> + Send + 'static,
    ) -> Outcome<T> {
        let Bucket { name, shared } = self.table.get(bucket)?;
        let (name, shared) = (name.clone(), shared.clone());
        let turn = shared.turns.clone().acquire_owned().await?;
        let call = move || {
            let outcome = what(&shared.store, &name);
            // Held to the end of the call, which a guest that is gone does not end.
            drop(turn);
            outcome
        };
        let done = tokio::task::spawn_blocking(call).await;
        let done = done.map_err(|error| wasmtime::format_err!("the key-value store failed: {error}"))?;
        Ok(done.map_err(|error| Error::Other(error.to_string())))
    }
}

impl interface::Host for View<'_> {
    async fn open(&mut self, identifier: String) -> Outcome<Resource<Bucket>> {
        let Some(shared) = self.shared.clone() else { return Ok(Err(Error::NoSuchStore)) };
        // Open buckets lie in this process's memory, with their names.
        if let Err(error) = check_bucket(&identifier) {
            return Ok(Err(Error::Other(error.to_string())));
        }
        Ok(Ok(self.table.push(Bucket { name: identifier, shared })?))
    }
}

impl interface::HostBucket for View<'_> {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Outcome<Option<Vec<u8>>> {
        let found = self.call(&bucket, move |store, name| store.get(name, &[key])).await?;
        Ok(found.map(|mut values| values.pop().flatten()))
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Outcome<()> {
        self.call(&bucket, move |store, name| store.set(name, &[(key, value)])).await
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Outcome<()> {
        self.call(&bucket, move |store, name| store.delete(name, &[key])).await
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Outcome<bool> {
        self.call(&bucket, move |store, name| store.exists(name, &key)).await
    }

    async fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Outcome<KeyResponse> {
        let page = self.call(&bucket, move |store, name| store.keys(name, cursor)).await?;
        Ok(page.map(|(keys, cursor)| KeyResponse { keys, cursor }))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Outcome<u64> {
        self.call(&bucket, move |store, name| store.increment(name, &key, delta)).await
    }
}

impl batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Outcome<Vec<Option<(String, Vec<u8>)>>> {
        self.call(&bucket, move |store, name| {
            let values = store.get(name, &keys)?;
            Ok(keys.into_iter().zip(values).map(|(key, value)| value.map(|value| (key, value))).collect())
        })
        .await
    }

    async fn set_many(&mut self, bucket: Resource<Bucket>, entries: Vec<(String, Vec<u8>)>) -> Outcome<()> {
        self.call(&bucket, move |store, name| store.set(name, &entries)).await
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Outcome<()> {
        self.call(&bucket, move |store, name| store.delete(name, &keys)).await
    }
}
