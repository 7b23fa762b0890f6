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
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::WasiView;

use self::store::StoreError;
use super::guest::Instance;
use super::interfaces::keyvalue::store::{Error, KeyResponse};
use super::interfaces::keyvalue::{atomics, batch, store as interface};

pub(super) use self::store::Store;

/// The stores that containers of this process use, each opened once.
#[derive(Debug, Default)]
pub(super) struct Stores(Mutex<HashMap<String, Weak<Store>>>);

impl Stores {
    pub(super) fn open(&self, namespace: &str, dir: OwnedFd, limit_bytes: u64) -> io::Result<Arc<Store>> {
        let mut stores = self.0.lock();
        if let Some(store) = stores.get(namespace).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let store = Arc::new(Store::open(namespace.to_owned(), dir, limit_bytes)?);
        stores.retain(|_, store| store.strong_count() > 0);
        stores.insert(namespace.to_owned(), Arc::downgrade(&store));
        Ok(store)
    }
}

/// An open bucket. Public because generated code says so; this module is not.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "generated code exports it again")]
pub struct Bucket {
    name: String,
    store: Arc<Store>,
}

/// The interface, as an instance of the container sees it.
pub(super) struct View<'a> {
    store: Option<Arc<Store>>,
    table: &'a mut ResourceTable,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(super) fn add_to_linker(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    fn view(instance: &mut Instance) -> View<'_> {
        View { store: instance.keyvalue.clone(), table: WasiView::ctx(instance).table }
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
        let Bucket { name, store } = self.table.get(bucket)?;
        let (name, store) = (name.clone(), store.clone());
        let done = tokio::task::spawn_blocking(move || what(&store, &name)).await;
        let done = done.map_err(|error| wasmtime::format_err!("the key-value store failed: {error}"))?;
        Ok(done.map_err(|error| Error::Other(error.to_string())))
    }
}

impl interface::Host for View<'_> {
    async fn open(&mut self, identifier: String) -> Outcome<Resource<Bucket>> {
        let Some(store) = self.store.clone() else { return Ok(Err(Error::NoSuchStore)) };
        Ok(Ok(self.table.push(Bucket { name: identifier, store })?))
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
