//! Pods and nodes as the plugins see them: everything a decision asks for often is worked out once, when the object
//! changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coracle_api::meta::{NodeName, PodKey};
use coracle_client::Pod;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PodSpec, Taint};

use crate::resources::{Requests, Resources, allowed_pods};

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

const ANY_IP: &str = "0.0.0.0";

impl HostPort {
    pub(crate) fn conflicts_with(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ANY_IP || other.ip == ANY_IP)
    }
}

#[derive(Clone, Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub key: PodKey,
    pub uid: Arc<str>,
    pub priority: i32,
    pub requests: Requests,
    pub ports: Vec<HostPort>,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.as_deref();
        Self {
            key: PodKey::of(&*pod),
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            priority: spec.and_then(|spec| spec.priority).unwrap_or(0),
            requests: spec.map(Requests::of).unwrap_or_default(),
            ports: spec.map(host_ports).unwrap_or_default(),
            pod,
        }
    }

    /// `None` for an object without a spec, which the API does not store.
    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_deref()
    }

    pub(crate) fn node_name(&self) -> Option<&str> {
        self.spec()?.node_name.as_deref().filter(|name| !name.is_empty())
    }

    pub(crate) fn nominated_node(&self) -> Option<&str> {
        self.pod.status.as_ref()?.nominated_node_name.as_deref().filter(|name| !name.is_empty())
    }

    pub(crate) fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    pub(crate) fn started(&self) -> Option<Timestamp> {
        self.pod.status.as_ref()?.start_time.as_ref().map(|time| time.0)
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    // Init containers count only when they go on running.
    let sidecars =
        spec.init_containers.iter().flatten().filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let or = |text: &Option<String>, default: &str| {
                text.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
            };
            let number = port.host_port.filter(|port| *port > 0)?;
            Some(HostPort { ip: or(&port.host_ip, ANY_IP), protocol: or(&port.protocol, "TCP"), port: number })
        })
        .collect()
}

#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub name: NodeName,
    pub allocatable: Resources,
    pub allowed_pods: i64,
    /// The pods here, those included whose binding is still under way.
    pub pods: BTreeMap<PodKey, Arc<PodInfo>>,
    pub requested: Resources,
    pub assumed: Resources,
    /// Bytes by each name of each image that lies here.
    pub images: HashMap<Arc<str>, i64>,
}

impl NodeInfo {
    pub fn new(node: Arc<Node>) -> Self {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        let images = status.and_then(|status| status.images.as_deref()).unwrap_or_default();
        let names = |image: &k8s_openapi::api::core::v1::ContainerImage| {
            let size = image.size_bytes.unwrap_or(0);
            image.names.iter().flatten().map(|name| (Arc::from(name.as_str()), size)).collect::<Vec<_>>()
        };
        Self {
            name: NodeName::from(node.metadata.name.as_deref().unwrap_or_default()),
            allocatable: Resources::of(allocatable),
            allowed_pods: allowed_pods(allocatable),
            pods: BTreeMap::new(),
            requested: Resources::default(),
            assumed: Resources::default(),
            images: images.iter().flat_map(names).collect(),
            node,
        }
    }

    /// Becomes the node as it is now, with the pods that are here; returns what it was, without them.
    pub(crate) fn replace(&mut self, node: Arc<Node>) -> Self {
        let new = Self::new(node);
        let mut old = std::mem::replace(self, new);
        self.pods = std::mem::take(&mut old.pods);
        (self.requested, self.assumed) = (old.requested.clone(), old.assumed.clone());
        old
    }

    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.key);
        self.requested.add(&pod.requests.exact);
        self.assumed.add(&pod.requests.assumed);
        self.pods.insert(pod.key.clone(), pod);
    }

    pub(crate) fn remove(&mut self, key: &PodKey) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        self.requested.subtract(&pod.requests.exact);
        self.assumed.subtract(&pod.requests.assumed);
        Some(pod)
    }

    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.metadata.labels.as_ref()
    }

    pub fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    pub fn is_unschedulable(&self) -> bool {
        self.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
    }
}
