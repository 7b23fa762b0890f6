//! Owns requests that are answered by a node, a pod or a service and not from the store: container logs, plain HTTP
//! through `…/proxy`, and connections to commands, containers and ports. Must not know how requests are authorised.

mod connect;
mod logs;
pub mod metrics;
mod proxy;
mod streams;
mod targets;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::body::Body;
use coracle_api::meta::GroupResource;
use coracle_api::status::Status;
use coracle_client::Clock;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::auth::objects::Objects;
use crate::auth::pki::Pki;
use crate::hooks::{Endpoint, RawRequest};
use crate::http::respond;
use connect::Dialer;

/// Reaches nodes, pods and services.
pub struct NodeProxy {
    inner: Arc<Inner>,
}

struct Inner {
    objects: Arc<dyn Objects>,
    dialer: Dialer,
    clock: Arc<dyn Clock>,
    metrics: metrics::Metrics,
}

impl NodeProxy {
    pub fn new(objects: Arc<dyn Objects>, pki: &Pki, clock: Arc<dyn Clock>) -> NodeProxy {
        let (dialer, metrics) = (Dialer::new(pki, clock.clone()), metrics::Metrics::default());
        NodeProxy { inner: Arc::new(Inner { objects, dialer, clock, metrics }) }
    }
}

impl Endpoint for NodeProxy {
    fn call(&self, request: RawRequest) -> BoxFuture<'static, http::Response<Body>> {
        let inner = self.inner.clone();
        async move { inner.answer(request).await.unwrap_or_else(|status| respond::status(&status)) }.boxed()
    }
}

impl Inner {
    async fn answer(&self, request: RawRequest) -> Result<http::Response<Body>, Status> {
        let info = &request.info;
        if info.group == metrics::GROUP {
            return self.metrics(info).await;
        }
        match (info.resource.as_str(), info.subresource.as_str()) {
            ("pods", "log") => self.log(info).await,
            ("pods", "exec" | "attach" | "portforward") => self.stream(request).await,
            ("nodes" | "pods" | "services", "proxy") => self.proxy(request).await,
            (resource, subresource) => {
                let resource = GroupResource::new(&*info.group, format!("{resource}/{subresource}"));
                Err(Status::not_found(&resource, &info.name))
            }
        }
    }
}
