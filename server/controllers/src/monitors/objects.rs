//! The objects of one resource, seen as their metadata only. Kinds that some controller holds in full are shared with it
//! instead of being watched, decoded and held a second time.

use std::sync::Arc;

use coracle_api::meta::ObjectKey;
use coracle_client::{Cached, Change, Index, Informer, Informers, Kind, Pod, ResourceRef, TaskScope};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, ReplicationController, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{context, owner};

/// An object of which only the metadata is known.
pub(crate) type Meta = dyn HasMeta;

pub(crate) trait HasMeta: Send + Sync {
    fn meta(&self) -> &ObjectMeta;

    fn key(&self) -> ObjectKey {
        owner::key_of(self.meta())
    }
}

impl<T: Cached> HasMeta for T {
    fn meta(&self) -> &ObjectMeta {
        Cached::meta(self)
    }
}

/// A [`Change`] of metadata.
pub(crate) enum Seen {
    Applied { old: Option<Arc<Meta>>, new: Arc<Meta> },
    Deleted(Arc<Meta>),
    Resync,
}

pub(crate) trait Objects: Send + Sync {
    fn get(&self, key: &ObjectKey) -> Option<Arc<Meta>>;
    fn list(&self) -> Vec<Arc<Meta>>;
    /// Those that name this UID as an owner.
    fn by_owner(&self, uid: &str) -> Vec<Arc<Meta>>;
    fn is_synced(&self) -> bool;
    fn synced(&self) -> BoxFuture<'static, ()>;
    fn feed(&self, scope: &TaskScope, tell: Arc<dyn Fn(Seen) + Send + Sync>);
    /// The resource is not served any more.
    fn forget(&self, informers: &Informers);
}

struct View<T> {
    informer: Informer<T>,
    by_owner: Index<T>,
    /// Set if nobody else looks at this informer.
    alone: Option<ResourceRef>,
}

impl<T: Cached> View<T> {
    fn new(informer: Informer<T>, alone: Option<ResourceRef>) -> Self {
        let by_owner = informer.index("owner", |object: &T| {
            Cached::meta(object).owner_references.iter().flatten().map(|r| r.uid.clone()).collect()
        });
        Self { informer, by_owner, alone }
    }
}

fn erased<T: Cached>(objects: Vec<Arc<T>>) -> Vec<Arc<Meta>> {
    objects.into_iter().map(|object| object as Arc<Meta>).collect()
}

impl<T: Cached> Objects for View<T> {
    fn get(&self, key: &ObjectKey) -> Option<Arc<Meta>> {
        self.informer.get(key).map(|object| object as Arc<Meta>)
    }

    fn list(&self) -> Vec<Arc<Meta>> {
        erased(self.informer.list())
    }

    fn by_owner(&self, uid: &str) -> Vec<Arc<Meta>> {
        erased(self.by_owner.get(uid))
    }

    fn is_synced(&self) -> bool {
        self.informer.is_synced()
    }

    fn synced(&self) -> BoxFuture<'static, ()> {
        let informer = self.informer.clone();
        async move { informer.synced().await }.boxed()
    }

    fn feed(&self, scope: &TaskScope, tell: Arc<dyn Fn(Seen) + Send + Sync>) {
        context::feed(scope, "metadata", &self.informer, move |change| {
            tell(match change {
                Change::Applied { old, new } => Seen::Applied { old: old.map(|o| o as Arc<Meta>), new },
                Change::Deleted(old) => Seen::Deleted(old),
                Change::Resync => Seen::Resync,
            });
        });
    }

    fn forget(&self, informers: &Informers) {
        if let Some(resource) = &self.alone {
            informers.forget_metadata(resource);
        }
    }
}

pub(super) fn objects(informers: &Informers, resource: &ResourceRef) -> Box<dyn Objects> {
    fn shared<K: Kind>(informers: &Informers, resource: &ResourceRef) -> Option<Box<dyn Objects>> {
        let same = *resource == ResourceRef::of::<K>();
        same.then(|| Box::new(View::new(informers.get::<K>(), None)) as Box<dyn Objects>)
    }
    let held = [
        shared::<Pod>,
        shared::<ReplicaSet>,
        shared::<ReplicationController>,
        shared::<Deployment>,
        shared::<Node>,
        shared::<Namespace>,
        shared::<Service>,
        shared::<Endpoints>,
        shared::<EndpointSlice>,
        shared::<Lease>,
    ];
    held.iter()
        .find_map(|shared| shared(informers, resource))
        .unwrap_or_else(|| Box::new(View::new(informers.metadata(resource), Some(resource.clone()))))
}
