//! `metrics.k8s.io/v1beta1`: what nodes and pods use, for `kubectl top` and the autoscaler, without a server of its own.
//!
//! Owns asking the nodes for `/metrics/resource` when somebody asks for metrics, and the last two answers of each.
//! Nobody is asked while nobody asks. `samples` decides what the answers mean.

mod samples;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use coracle_api::meta::GroupResource;
use coracle_api::schema::{ResourceDef, Schema, Verb as SchemaVerb};
use coracle_api::selector::{FieldSelector, LabelSelector};
use coracle_api::status::Status;
use coracle_client::{Pod, Wire};
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

use serde_json::{Value, json};

use super::{Inner, targets};
use crate::http::request_info::{RequestInfo, Verb};
use crate::http::respond;
use samples::{Ask, Sample, Samples};

pub const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// Nodes asked at once, and how long one may take.
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);
/// A node's whole answer; some 400 bytes a container.
const MAX_BYTES: usize = 32 << 20;
/// How long to wait for a second look where there was none before.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// What was heard of each node.
#[derive(Default)]
pub(super) struct Metrics(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Samples>>>>);

/// The two resources of the group, for discovery.
pub fn resources() -> Vec<Arc<ResourceDef>> {
    let of = |plural: &str, kind: &'static str| {
        let alike = Schema::v1_36().resources().iter().find(|def| def.group.is_empty() && def.plural == plural);
        alike.map(|alike| {
            Arc::new(ResourceDef {
                group: GROUP.into(),
                version: VERSION.into(),
                kind: kind.into(),
                list_kind: format!("{kind}List").into(),
                singular: "".into(),
                short_names: Box::default(),
                categories: Box::default(),
                verbs: [SchemaVerb::Get, SchemaVerb::List].into_iter().collect(),
                subresources: Box::default(),
                ..ResourceDef::clone(alike)
            })
        })
    };
    [of("nodes", "NodeMetrics"), of("pods", "PodMetrics")].into_iter().flatten().collect()
}

impl Inner {
    pub(super) async fn metrics(&self, info: &RequestInfo) -> Result<http::Response<Body>, Status> {
        let known = info.version == VERSION && info.subresource.is_empty();
        let resource = GroupResource::new(GROUP, &*info.resource);
        match (info.resource.as_str(), info.verb) {
            _ if !known => Err(Status::no_such_path()),
            ("nodes", Verb::Get | Verb::List) if info.namespace.is_empty() => self.node_metrics(info, resource).await,
            ("pods", Verb::List) => self.pod_metrics(info, resource).await,
            ("pods", Verb::Get) if !info.namespace.is_empty() => self.pod_metrics(info, resource).await,
            ("nodes" | "pods", verb) => Err(Status::method_not_allowed(&resource, verb.as_str())),
            (_, _) => Err(Status::no_such_path()),
        }
    }

    async fn node_metrics(&self, info: &RequestInfo, resource: GroupResource) -> Result<http::Response<Body>, Status> {
        let wanted = Wanted::of(info)?;
        let nodes: Vec<Node> = self.select("nodes", &wanted, |node: &Node| &node.metadata)?;
        let names: BTreeSet<String> = nodes.iter().filter_map(|node| node.metadata.name.clone()).collect();
        let samples = self.ask(names).await;
        let items = nodes.iter().filter_map(|node| {
            let name = node.metadata.name.as_deref()?;
            let usage = samples.get(name)?.node()?;
            Some(json!({
                "kind": "NodeMetrics",
                "apiVersion": API_VERSION,
                "metadata": self.metadata(name, None, node.metadata.labels.as_ref()),
                "timestamp": usage.at_text(),
                "window": usage.window_text(),
                "usage": usage.resources(),
            }))
        });
        answer(info, resource, "NodeMetricsList", items.collect())
    }

    async fn pod_metrics(&self, info: &RequestInfo, resource: GroupResource) -> Result<http::Response<Body>, Status> {
        let wanted = Wanted::of(info)?;
        let mut pods: Vec<Pod> = self.select("pods", &wanted, |pod: &Pod| &pod.metadata)?;
        let running = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        pods.retain(running);
        let node_of = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let samples = self.ask(pods.iter().filter_map(node_of).collect()).await;
        let items = pods.iter().filter_map(|pod| {
            let (name, namespace) = (pod.metadata.name.as_deref()?, pod.metadata.namespace.as_deref()?);
            let containers = samples.get(&node_of(pod)?)?.pod(namespace, name);
            // As long as one of a pod's containers is not known, its sum would be too low.
            let first = containers.first()?;
            let (timestamp, window) = (first.1.at_text(), first.1.window_text());
            let containers: Vec<Value> =
                containers.iter().map(|(name, usage)| json!({ "name": name, "usage": usage.resources() })).collect();
            Some(json!({
                "kind": "PodMetrics",
                "apiVersion": API_VERSION,
                "metadata": self.metadata(name, Some(namespace), pod.metadata.labels.as_ref()),
                "timestamp": timestamp,
                "window": window,
                "containers": containers,
            }))
        });
        answer(info, resource, "PodMetricsList", items.collect())
    }

    fn metadata(&self, name: &str, namespace: Option<&str>, labels: Option<&BTreeMap<String, String>>) -> Value {
        let mut metadata = json!({ "name": name, "creationTimestamp": samples::seconds(self.clock.now()) });
        if let Some(fields) = metadata.as_object_mut() {
            if let Some(namespace) = namespace {
                fields.insert("namespace".to_owned(), Value::from(namespace));
            }
            if let Some(labels) = labels {
                fields.insert("labels".to_owned(), json!(labels));
            }
        }
        metadata
    }

    fn select<T: Wire>(
        &self,
        resource: &str,
        wanted: &Wanted<'_>,
        metadata: impl Fn(&T) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    ) -> Result<Vec<T>, Status> {
        let mut found = Vec::new();
        for (namespace, json) in self.objects.all(resource) {
            if !wanted.namespace.is_empty() && namespace != wanted.namespace {
                continue;
            }
            let object = T::decode_bytes(&json).map_err(Status::internal)?;
            let metadata = metadata(&object);
            let name = metadata.name.as_deref().unwrap_or_default();
            let fields = |field: &str| match field {
                "metadata.name" => Some(name),
                "metadata.namespace" => Some(namespace.as_str()),
                _other => None,
            };
            let labels: BTreeMap<String, String> = metadata.labels.clone().unwrap_or_default();
            let named = wanted.name.is_empty() || wanted.name == name;
            if named && wanted.fields.matches_by(fields) && wanted.labels.matches(&labels.into_iter().collect()) {
                found.push(object);
            }
        }
        Ok(found)
    }

    /// Asks nodes that were not asked a moment ago. One that does not answer is left out.
    async fn ask(&self, nodes: BTreeSet<String>) -> HashMap<String, Samples> {
        let asked = nodes.into_iter().map(|node| async move {
            let slot = self.metrics.0.lock().entry(node.clone()).or_default().clone();
            // Who asks for the same node meanwhile gets the same answer.
            let mut samples = slot.lock().await;
            match self.fill(&node, &mut samples).await {
                Ok(()) => Some((node, samples.clone())),
                Err(status) => {
                    tracing::warn!(node, error = %status.message, "a node does not say what it uses");
                    None
                }
            }
        });
        futures::stream::iter(asked).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    async fn fill(&self, node: &str, samples: &mut Samples) -> Result<(), Status> {
        loop {
            match samples.ask(self.clock.now()) {
                Ask::Enough => return Ok(()),
                Ask::Now => {}
                Ask::Later => tokio::time::sleep(SECOND_LOOK).await,
            }
            let text = tokio::time::timeout(PATIENCE, self.resource_metrics(node)).await;
            let text = text.map_err(|_| Status::service_unavailable(format!("node {node:?} takes too long")))??;
            samples.add(Sample::parse(&text, self.clock.now()));
        }
    }

    async fn resource_metrics(&self, node: &str) -> Result<String, Status> {
        let address = targets::node(self.objects.as_ref(), node)?;
        let response = self.get(&address, "/metrics/resource").await?;
        if !response.status().is_success() {
            return Err(Status::service_unavailable(format!("node {node:?} answers {}", response.status())));
        }
        let body = http_body_util::Limited::new(response.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(|error| Status::service_unavailable(error.to_string()))?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

/// Which objects are asked for.
struct Wanted<'a> {
    namespace: &'a str,
    name: &'a str,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Wanted<'_> {
    fn of(info: &RequestInfo) -> Result<Wanted<'_>, Status> {
        let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
        Ok(Wanted {
            namespace: &info.namespace,
            name: if info.verb == Verb::Get { &info.name } else { "" },
            labels: info.query.text("labelSelector").parse().map_err(|error| bad(&error))?,
            fields: info.query.text("fieldSelector").parse().map_err(|error| bad(&error))?,
        })
    }
}

fn answer(
    info: &RequestInfo,
    resource: GroupResource,
    list: &str,
    mut items: Vec<Value>,
) -> Result<http::Response<Body>, Status> {
    let body = if info.verb == Verb::Get {
        items.pop().ok_or_else(|| Status::not_found(&resource, &info.name))?
    } else {
        json!({ "kind": list, "apiVersion": API_VERSION, "metadata": {}, "items": items })
    };
    Ok(respond::plain(200, "application/json", Body::from(body.to_string())))
}
