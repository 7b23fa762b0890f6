//! What every cluster has from the start: its namespaces, the `kubernetes` Service with its endpoints, system priority
//! classes, the runtime class of Wasm. Things that are there stay as they are; only the endpoints follow the server.

use std::net::SocketAddr;
use std::sync::Arc;

use coracle_api::object::Object;
use coracle_api::status::{Reason, Status};
use serde_json::{Value, json};

use super::Registry;
use super::context::Context;
use super::update::Part;
use crate::hooks::UserInfo;
use crate::http::request_info::Verb;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

impl Registry {
    /// Makes it all exist. `advertise` is where this server is reached by pods.
    pub(crate) async fn bootstrap(&self, advertise: SocketAddr) -> Result<(), Status> {
        for name in NAMESPACES {
            let namespace = json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]},
            });
            self.ensure("", "v1", "namespaces", "", namespace, Existing::Keep).await?;
        }
        for (name, value, text) in [
            (
                "system-cluster-critical",
                2_000_000_000,
                "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
            ),
            (
                "system-node-critical",
                2_000_001_000,
                "Used for system critical pods that must not be moved from their current node.",
            ),
        ] {
            let class = json!({"metadata": {"name": name}, "value": value, "description": text});
            self.ensure("scheduling.k8s.io", "v1", "priorityclasses", "", class, Existing::Keep).await?;
        }
        // Who shares a worker process: all of the node, a namespace, nobody.
        for name in ["wasm", "wasm-namespace", "wasm-pod"] {
            let class = json!({"metadata": {"name": name}, "handler": name});
            self.ensure("node.k8s.io", "v1", "runtimeclasses", "", class, Existing::Keep).await?;
        }
        self.bootstrap_service(advertise).await
    }

    async fn bootstrap_service(&self, advertise: SocketAddr) -> Result<(), Status> {
        let (ip, port) = (advertise.ip().to_string(), advertise.port());
        let service = json!({
            "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": self.addresses.first().to_string(),
                "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            },
        });
        self.ensure("", "v1", "services", "default", service, Existing::Keep).await?;
        let endpoints = json!({
            "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{
                "addresses": [{"ip": ip}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            }],
        });
        self.ensure("", "v1", "endpoints", "default", endpoints, Existing::Replace(&["subsets"])).await?;
        let slice = json!({
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": if advertise.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        });
        let kept = Existing::Replace(&["endpoints", "ports"]);
        self.ensure("discovery.k8s.io", "v1", "endpointslices", "default", slice, kept).await
    }

    async fn ensure(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
        wanted: Value,
        existing: Existing,
    ) -> Result<(), Status> {
        let resource = self.catalog.get(group, version, plural).ok_or_else(Status::no_such_path)?;
        let mut wanted = Object::from_value(wanted).map_err(Status::internal)?;
        if !namespace.is_empty() {
            wanted.set_namespace(namespace);
        }
        let user = Arc::new(UserInfo::system("system:apiserver"));
        let context = |verb| {
            let mut context =
                Context::new(verb, resource.stored.clone(), resource.def.clone(), user.clone(), self.clock.now());
            context.namespace = Arc::from(namespace);
            context.name = Arc::from(wanted.name());
            context
        };
        let fields = match (self.object(&resource.key, namespace, wanted.name())?, existing) {
            (None, _) => {
                return match self.create(&context(Verb::Create), &resource, wanted.clone()).await {
                    Ok(_) => Ok(()),
                    // Another server of the same cluster was faster.
                    Err(status) if status.reason == Reason::AlreadyExists => Ok(()),
                    Err(status) => Err(status),
                };
            }
            (Some(_), Existing::Keep) => return Ok(()),
            (Some(_), Existing::Replace(fields)) => fields,
        };
        let mut make = |current: Option<&Object>| {
            let mut object = current.cloned().unwrap_or_default();
            fields.iter().for_each(|field| crate::strategy::keep(&mut object, &wanted, field));
            Ok(object)
        };
        self.update(&context(Verb::Patch), &resource, Part::Main, &mut make).await.map(drop)
    }
}

/// What becomes of an object that is there already.
#[derive(Clone, Copy)]
enum Existing {
    Keep,
    /// These top-level fields are set.
    Replace(&'static [&'static str]),
}
