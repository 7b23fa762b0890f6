//! The generic registry: every verb on every kind, once. It owns the order of a write (defaults, admission, preparation,
//! validation, commit) and the meaning of resourceVersion; what is special about a kind is a `Strategy`, a row in
//! `facts`, or admission. It must not know HTTP beyond verbs and queries.

pub mod addresses;
pub mod bootstrap;
pub mod catalog;
pub mod codec;
pub mod context;
mod convert;
pub mod create;
pub mod delete;
mod expiry;
pub mod facts;
pub mod list;
pub mod metadata;
pub mod options;
pub mod patch;
pub mod selection;
pub mod subresource;
#[cfg(test)]
mod tests;
pub mod unacted;
pub mod update;
pub mod watch;

use std::sync::Arc;

use bytes::Bytes;
use coracle_api::meta::{Revision, Uid};
use coracle_api::object::Object;
use coracle_api::status::{Reason, Status};
use coracle_client::{Clock, Ids};
use coracle_store::{CommitError, Entry, Store};

use crate::admission::Admission;
use crate::hooks::Authorizer;
use addresses::ServiceAddresses;
use catalog::{Catalog, Resource};

pub struct Registry {
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub clock: Arc<dyn Clock>,
    pub ids: Ids,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) admission: Admission,
    pub(crate) addresses: ServiceAddresses,
}

/// An object as a write left it, in the stored version.
#[derive(Debug, Clone)]
pub struct Written {
    pub json: Bytes,
    pub uid: Uid,
    pub revision: Revision,
    pub created: bool,
}

impl Written {
    fn stored(entry: Arc<Entry>, created: bool) -> Self {
        Self { json: entry.json.clone(), uid: entry.uid.clone(), revision: entry.revision, created }
    }

    /// What a dry run would have stored.
    fn dry(resource: &Resource, object: &Object, created: bool) -> Self {
        let json = resource.header.encode_whole(object);
        Self { json, uid: object.uid(), revision: object.revision(), created }
    }
}

impl Registry {
    /// A failed commit as the client is told of it; `Exists` and `Conflict` have been dealt with where they mean more.
    pub(crate) fn commit_failed(&self, resource: &Resource, name: &str, error: CommitError) -> Status {
        let gr = resource.group_resource();
        match error {
            CommitError::Exists(_) => Status::already_exists(&gr, name),
            CommitError::Conflict { current: Some(_) } => Status::modified(&gr, name),
            CommitError::Conflict { current: None } => Status::not_found(&gr, name),
            error @ CommitError::Full => Status::new(507, Reason::InternalError, error.to_string()),
            error @ CommitError::Failed(_) => Status::service_unavailable(error.to_string()),
        }
    }

    /// A stored object of a built-in kind, decoded; for admission and subresources that look at other objects.
    pub(crate) fn object(&self, resource: &str, namespace: &str, name: &str) -> Result<Option<Object>, Status> {
        let key = coracle_store::Key::new(resource, namespace, name);
        self.store.snapshot().get(&key).map(|entry| codec::object(entry)).transpose()
    }
}
