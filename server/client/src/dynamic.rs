//! Requests for resources that are known at run time only: namespace deletion, garbage collection, custom resources.

use std::sync::Arc;

use coracle_api::Object;
use http::{HeaderValue, Method, Request, header};
use serde_json::Value;

use crate::{
    Body, Client, Error, List,
    api::{JSON, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH},
    client::{body_of, encode, request},
    params::{DeleteParams, ListParams, WatchParams},
    resource::{PartialObjectMetadata, ResourceRef},
    watch::WatchStream,
};

pub(crate) const AS_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const AS_METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Requests for objects of one resource, in one namespace or in all.
#[derive(Debug, Clone)]
pub struct DynamicApi {
    client: Client,
    resource: ResourceRef,
    namespace: Option<Arc<str>>,
}

impl DynamicApi {
    pub(crate) fn new(client: Client, resource: ResourceRef, namespace: Option<&str>) -> Self {
        let namespace = namespace.filter(|namespace| resource.namespaced && !namespace.is_empty()).map(Arc::from);
        Self { client, resource, namespace }
    }

    pub fn resource(&self) -> &ResourceRef {
        &self.resource
    }

    fn path(&self, name: Option<&str>, sub: Option<&str>) -> Result<String, Error> {
        self.resource.path(self.namespace.as_deref(), name, sub)
    }

    pub async fn get(&self, name: &str) -> Result<Object, Error> {
        self.client.object(request(Method::GET, &self.path(Some(name), None)?, None)).await
    }

    /// `None` if the server says that it does not exist; any other failure is an error.
    pub async fn get_opt(&self, name: &str) -> Result<Option<Object>, Error> {
        optional(self.get(name).await)
    }

    pub async fn get_metadata(&self, name: &str) -> Result<PartialObjectMetadata, Error> {
        let path = self.path(Some(name), None)?;
        self.client.object(accepting(request(Method::GET, &path, None), AS_METADATA)).await
    }

    /// `None` if the server says that it does not exist; any other failure is an error.
    pub async fn get_metadata_opt(&self, name: &str) -> Result<Option<PartialObjectMetadata>, Error> {
        optional(self.get_metadata(name).await)
    }

    pub async fn list(&self, params: &ListParams) -> Result<List<Object>, Error> {
        let uri = format!("{}{}", self.path(None, None)?, params.query());
        self.client.list(request(Method::GET, &uri, None)).await
    }

    pub async fn list_metadata(&self, params: &ListParams) -> Result<List<PartialObjectMetadata>, Error> {
        let uri = format!("{}{}", self.path(None, None)?, params.query());
        let request = accepting(request(Method::GET, &uri, None), AS_METADATA_LIST);
        self.client.list(request).await
    }

    pub async fn create(&self, object: &Object) -> Result<Object, Error> {
        self.client.object(request(Method::POST, &self.path(None, None)?, Some((JSON, body_of(object)?)))).await
    }

    pub async fn replace(&self, name: &str, object: &Object) -> Result<Object, Error> {
        self.client.object(request(Method::PUT, &self.path(Some(name), None)?, Some((JSON, body_of(object)?)))).await
    }

    /// PUT to a subresource, such as a namespace's `finalize`.
    pub async fn replace_subresource(&self, name: &str, sub: &str, object: &Object) -> Result<Object, Error> {
        let path = self.path(Some(name), Some(sub))?;
        self.client.object(request(Method::PUT, &path, Some((JSON, body_of(object)?)))).await
    }

    pub async fn merge_patch(&self, name: &str, patch: &Value) -> Result<Object, Error> {
        self.patch(name, MERGE_PATCH, patch).await
    }

    pub async fn strategic_patch(&self, name: &str, patch: &Value) -> Result<Object, Error> {
        self.patch(name, STRATEGIC_PATCH, patch).await
    }

    pub async fn json_patch(&self, name: &str, operations: &Value) -> Result<Object, Error> {
        self.patch(name, JSON_PATCH, operations).await
    }

    async fn patch(&self, name: &str, form: &'static str, patch: &Value) -> Result<Object, Error> {
        self.client.object(request(Method::PATCH, &self.path(Some(name), None)?, Some((form, encode(patch)?)))).await
    }

    /// Succeeds once the server has accepted the deletion.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<(), Error> {
        let body = Some((JSON, encode(params)?));
        self.client.bytes(request(Method::DELETE, &self.path(Some(name), None)?, body)).await.map(drop)
    }

    pub async fn delete_collection(&self, params: &DeleteParams, select: &ListParams) -> Result<(), Error> {
        let uri = format!("{}{}", self.path(None, None)?, select.query());
        self.client.bytes(request(Method::DELETE, &uri, Some((JSON, encode(params)?)))).await.map(drop)
    }

    pub async fn watch(&self, params: &WatchParams) -> Result<WatchStream<Object>, Error> {
        let uri = format!("{}{}", self.path(None, None)?, params.query());
        self.client.watch(request(Method::GET, &uri, None)).await
    }

    pub async fn watch_metadata(&self, params: &WatchParams) -> Result<WatchStream<PartialObjectMetadata>, Error> {
        let uri = format!("{}{}", self.path(None, None)?, params.query());
        self.client.watch(accepting(request(Method::GET, &uri, None), AS_METADATA)).await
    }
}

fn optional<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn accepting(mut request: Request<Body>, accept: &'static str) -> Request<Body> {
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
    request
}
