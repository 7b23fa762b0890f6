//! Typed requests for one kind.

use std::{collections::BTreeMap, marker::PhantomData, sync::Arc};

use http::Method;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::{
    Client, Error,
    client::{body_of, encode, request},
    kinds::Wire,
    params::{DeleteParams, ListParams, Query, WatchParams},
    resource::{Kind, ResourceRef},
    watch::WatchStream,
};

pub(crate) const JSON: &str = "application/json";
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";

/// A page of objects.
#[derive(Debug, Clone)]
pub struct List<K> {
    pub items: Vec<K>,
    /// The revision the list shows; a watch may begin here.
    pub resource_version: String,
    /// Ask for the next page with this.
    pub continue_token: Option<String>,
    pub remaining: Option<i64>,
}

#[derive(Deserialize)]
struct WireList<'a> {
    #[serde(default)]
    metadata: WireListMeta,
    #[serde(borrow, default)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WireListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: Option<String>,
    remaining_item_count: Option<i64>,
}

impl<K: Wire> List<K> {
    pub(crate) fn decode(json: &str) -> serde_json::Result<Self> {
        let WireList { metadata, items } = serde_json::from_str(json)?;
        Ok(Self {
            items: items.into_iter().map(|item| K::decode(item.get())).collect::<Result<_, _>>()?,
            resource_version: metadata.resource_version,
            continue_token: metadata.continue_token.filter(|token| !token.is_empty()),
            remaining: metadata.remaining_item_count,
        })
    }
}

/// Requests for objects of kind `K`, in one namespace or in all.
#[derive(Debug, Clone)]
pub struct Api<K> {
    client: Client,
    resource: ResourceRef,
    namespace: Option<Arc<str>>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Api<K> {
    pub(crate) fn new(client: Client, namespace: Option<Arc<str>>) -> Self {
        Self { client, resource: ResourceRef::of::<K>(), namespace, kind: PhantomData }
    }

    pub fn resource(&self) -> &ResourceRef {
        &self.resource
    }

    fn path(&self, name: Option<&str>, sub: Option<&str>) -> Result<String, Error> {
        self.resource.path(self.namespace.as_deref(), name, sub)
    }

    pub async fn get(&self, name: &str) -> Result<K, Error> {
        self.client.object(request(Method::GET, &self.path(Some(name), None)?, None)).await
    }

    /// `None` if the server says that it does not exist; any other failure is an error.
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>, Error> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn list(&self, params: &ListParams) -> Result<List<K>, Error> {
        let uri = format!("{}{}", self.path(None, None)?, params.query());
        self.client.list(request(Method::GET, &uri, None)).await
    }

    pub async fn create(&self, object: &K) -> Result<K, Error> {
        self.client.object(request(Method::POST, &self.path(None, None)?, Some((JSON, body_of(object)?)))).await
    }

    /// Writes the whole object; a conflict unless its resourceVersion is unset or the current one.
    pub async fn replace(&self, name: &str, object: &K) -> Result<K, Error> {
        self.put(name, None, object).await
    }

    pub async fn replace_status(&self, name: &str, object: &K) -> Result<K, Error> {
        self.put(name, Some("status"), object).await
    }

    async fn put(&self, name: &str, sub: Option<&str>, object: &K) -> Result<K, Error> {
        self.client.object(request(Method::PUT, &self.path(Some(name), sub)?, Some((JSON, body_of(object)?)))).await
    }

    /// RFC 7386: a `null` removes, lists are replaced.
    pub async fn merge_patch(&self, name: &str, patch: &Value) -> Result<K, Error> {
        self.patch(name, None, MERGE_PATCH, patch).await
    }

    /// Kubernetes' strategic merge: lists with a merge key are merged by it.
    pub async fn strategic_patch(&self, name: &str, patch: &Value) -> Result<K, Error> {
        self.patch(name, None, STRATEGIC_PATCH, patch).await
    }

    /// RFC 6902: a list of operations.
    pub async fn json_patch(&self, name: &str, operations: &Value) -> Result<K, Error> {
        self.patch(name, None, JSON_PATCH, operations).await
    }

    pub async fn merge_patch_status(&self, name: &str, patch: &Value) -> Result<K, Error> {
        self.patch(name, Some("status"), MERGE_PATCH, patch).await
    }

    pub async fn strategic_patch_status(&self, name: &str, patch: &Value) -> Result<K, Error> {
        self.patch(name, Some("status"), STRATEGIC_PATCH, patch).await
    }

    async fn patch(&self, name: &str, sub: Option<&str>, form: &'static str, patch: &Value) -> Result<K, Error> {
        self.client.object(request(Method::PATCH, &self.path(Some(name), sub)?, Some((form, encode(patch)?)))).await
    }

    /// Succeeds once the server has accepted the deletion: finalizers or a grace period may keep the object for a while.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<(), Error> {
        let body = Some((JSON, encode(params)?));
        self.client.bytes(request(Method::DELETE, &self.path(Some(name), None)?, body)).await.map(drop)
    }

    /// Deletes what `select` selects in this namespace.
    pub async fn delete_collection(&self, params: &DeleteParams, select: &ListParams) -> Result<(), Error> {
        let uri = format!("{}{}", self.path(None, None)?, select.query());
        self.client.bytes(request(Method::DELETE, &uri, Some((JSON, encode(params)?)))).await.map(drop)
    }

    /// POST to a subresource, such as `binding`, `eviction` or `token`.
    pub async fn create_subresource<B, R>(&self, name: &str, sub: &str, body: &B) -> Result<R, Error>
    where
        B: Serialize + Sync,
        R: DeserializeOwned,
    {
        let path = self.path(Some(name), Some(sub))?;
        self.client.json(request(Method::POST, &path, Some((JSON, encode(body)?)))).await
    }

    pub async fn get_subresource<R: DeserializeOwned>(&self, name: &str, sub: &str) -> Result<R, Error> {
        self.client.json(request(Method::GET, &self.path(Some(name), Some(sub))?, None)).await
    }

    pub async fn replace_subresource<B, R>(&self, name: &str, sub: &str, body: &B) -> Result<R, Error>
    where
        B: Serialize + Sync,
        R: DeserializeOwned,
    {
        let path = self.path(Some(name), Some(sub))?;
        self.client.json(request(Method::PUT, &path, Some((JSON, encode(body)?)))).await
    }

    /// The events of one watch request, until the server ends it. Who wants a lasting view takes an informer.
    pub async fn watch(&self, params: &WatchParams) -> Result<WatchStream<K>, Error> {
        let uri = format!("{}{}", self.path(None, None)?, params.query());
        self.client.watch(request(Method::GET, &uri, None)).await
    }

    /// The body of a subresource that is no object, such as a pod's `log`, with its query.
    pub async fn text_subresource(
        &self,
        name: &str,
        sub: &str,
        query: &BTreeMap<&str, String>,
    ) -> Result<http::Response<crate::Body>, Error> {
        let query = query.iter().fold(Query::default(), |query, (name, value)| query.text(name, Some(value)));
        let uri = format!("{}{query}", self.path(Some(name), Some(sub))?);
        self.client.request(request(Method::GET, &uri, None)).await
    }
}

#[cfg(test)]
mod tests;
