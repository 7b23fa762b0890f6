//! The Node object as a value.

use std::collections::BTreeMap;

use coracle_api::Quantity;
use coracle_cri::v1::Image;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeRuntimeHandler,
    NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::NodeState;
use crate::config::AgentConfig;
use crate::housekeeping::Pressure;

/// The version of Kubernetes this agent's behaviour follows.
const KUBELET_VERSION: &str = concat!("v1.36.0+coracle.", env!("CARGO_PKG_VERSION"));
/// Kept for the host and the agent.
const RESERVED_MEMORY_BYTES: i64 = 100 << 20;
const IMAGES_MAX: usize = 50;
const UNASKED: &str = "container runtime status check may not have completed yet";

/// What one runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeView {
    pub name: String,
    pub version: String,
    /// Why it cannot run containers.
    pub fault: Option<String>,
    /// Why it cannot give pods addresses.
    pub network_fault: Option<String>,
}

impl RuntimeView {
    /// Before its first answer.
    pub(crate) fn unasked() -> Self {
        Self { fault: Some(UNASKED.to_owned()), ..Self::default() }
    }
}

/// A node that has not been registered.
pub(super) fn node(config: &AgentConfig, state: &NodeState, now: Timestamp) -> Node {
    let name = config.node_name.to_string();
    let mut labels = config.node_labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", &name),
        ("kubernetes.io/os", &"linux".to_owned()),
        ("kubernetes.io/arch", &config.host.architecture),
        ("beta.kubernetes.io/os", &"linux".to_owned()),
        ("beta.kubernetes.io/arch", &config.host.architecture),
    ] {
        labels.insert(key.to_owned(), value.clone());
    }
    let mut node = Node {
        metadata: ObjectMeta { name: Some(name), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec {
            taints: Some(config.node_taints.clone()).filter(|taints| !taints.is_empty()),
            ..NodeSpec::default()
        }),
        status: None,
    };
    node.status = Some(status(config, state, &[], &node, now));
    node
}

/// The labels that differ from what the node says of itself.
pub(super) fn label_patch(existing: &Node, fresh: &Node) -> Option<Value> {
    let has = existing.metadata.labels.as_ref();
    let wanted = fresh.metadata.labels.iter().flatten();
    let labels: BTreeMap<_, _> =
        wanted.filter(|(key, value)| has.and_then(|has| has.get(*key)) != Some(*value)).collect();
    (!labels.is_empty()).then(|| json!({ "metadata": { "labels": labels } }))
}

pub(super) fn status(
    config: &AgentConfig,
    state: &NodeState,
    images: &[Image],
    node: &Node,
    now: Timestamp,
) -> NodeStatus {
    let host = &config.host;
    let text = |amounts: BTreeMap<String, Quantity>| -> BTreeMap<String, Text> {
        amounts.into_iter().map(|(name, amount)| (name, Text(amount.to_string()))).collect()
    };
    let mut addresses: Vec<NodeAddress> = state
        .net
        .ips
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".to_owned(), address: ip.to_string() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: config.node_name.to_string() });
    let versions = state.runtimes.iter().filter(|runtime| !runtime.name.is_empty());
    let versions: Vec<String> = versions.map(|runtime| format!("{}://{}", runtime.name, runtime.version)).collect();
    NodeStatus {
        capacity: Some(text(capacity(config))),
        allocatable: Some(text(allocatable(config))),
        conditions: Some(conditions(state, node, now)),
        addresses: Some(addresses),
        daemon_endpoints: state
            .api_port
            .map(|port| NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }) }),
        node_info: Some(NodeSystemInfo {
            architecture: host.architecture.clone(),
            boot_id: host.boot_id.clone(),
            container_runtime_version: versions.join(","),
            kernel_version: host.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: host.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: host.os_image.clone(),
            system_uuid: host.system_uuid.clone(),
            swap: None,
        }),
        images: Some(images_of(images)).filter(|images| !images.is_empty()),
        runtime_handlers: Some(handlers(state)),
        ..NodeStatus::default()
    }
}

/// The empty name is the default handler's.
fn handlers(state: &NodeState) -> Vec<NodeRuntimeHandler> {
    let names = std::iter::once("").chain(state.handlers.iter().map(String::as_str));
    names.map(|name| NodeRuntimeHandler { name: Some(name.to_owned()), features: None }).collect()
}

fn capacity(config: &AgentConfig) -> BTreeMap<String, Quantity> {
    let host = &config.host;
    BTreeMap::from([
        ("cpu".to_owned(), Quantity::from_value(i64::from(host.cpus))),
        ("memory".to_owned(), Quantity::from_bytes(host.memory_bytes)),
        ("ephemeral-storage".to_owned(), Quantity::from_bytes(host.storage_bytes)),
        ("pods".to_owned(), Quantity::from_value(i64::from(config.max_pods))),
    ])
}

/// What pods may have of the node.
pub(crate) fn allocatable(config: &AgentConfig) -> BTreeMap<String, Quantity> {
    let host = &config.host;
    let mut amounts = capacity(config);
    // Kubelet's own threshold of hard eviction is 100 MiB of memory and 10 % of the disk.
    let memory = (host.memory_bytes - RESERVED_MEMORY_BYTES).max(0);
    amounts.insert("memory".to_owned(), Quantity::from_bytes(memory));
    amounts.insert("ephemeral-storage".to_owned(), Quantity::from_value(host.storage_bytes / 10 * 9));
    amounts
}

fn conditions(state: &NodeState, node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let ready = readiness(state);
    let pressure = |pressure: Pressure| {
        let is = state.pressures.contains(&pressure);
        let (reason, message) = pressure.words(is);
        (pressure.condition(), is, reason, message.to_owned())
    };
    let all = [
        pressure(Pressure::Memory),
        pressure(Pressure::Disk),
        pressure(Pressure::Pid),
        match ready {
            Ok(()) => {
                let text = std::iter::once("kubelet is posting ready status".to_owned());
                let text: Vec<String> = text.chain(state.runtimes.iter().filter_map(fault)).collect();
                ("Ready", true, "KubeletReady", text.join("; "))
            }
            Err(message) => ("Ready", false, "KubeletNotReady", message),
        },
    ];
    let before = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let condition = |(kind, is, reason, message): (&str, bool, &str, String)| {
        let status = if is { "True" } else { "False" };
        let same = before.iter().find(|condition| condition.type_ == kind && condition.status == status);
        let since = same.and_then(|condition| condition.last_transition_time.clone());
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(time(now)),
            last_transition_time: Some(since.unwrap_or_else(|| time(now))),
        }
    };
    all.into_iter().map(condition).collect()
}

/// Why the node cannot run pods, as kubelet words it. A runtime that is down beside one that works holds up its own pods,
/// not the node.
pub(crate) fn readiness(state: &NodeState) -> Result<(), String> {
    let mut faults: Vec<String> = state.runtimes.iter().filter_map(fault).collect();
    if faults.len() < state.runtimes.len() {
        faults.clear();
    }
    if let Some(pending) = &state.net.pending {
        faults.push(format!("node network is not ready: {pending}"));
    }
    if faults.is_empty() { Ok(()) } else { Err(format!("[{}]", faults.join(", "))) }
}

fn fault(runtime: &RuntimeView) -> Option<String> {
    let network = |fault: &String| {
        format!("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{fault}")
    };
    runtime.fault.clone().or_else(|| runtime.network_fault.as_ref().map(network))
}

pub(super) fn is_ready(status: &NodeStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn images_of(images: &[Image]) -> Vec<ContainerImage> {
    let mut list: Vec<ContainerImage> = images
        .iter()
        .map(|image| ContainerImage {
            names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(5).cloned().collect()),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect();
    // The largest first, for they are worth the most to the scheduler.
    list.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    list.truncate(IMAGES_MAX);
    list
}

/// Whether the server has to be told; heartbeats alone are no reason.
pub(super) fn differs(known: Option<&NodeStatus>, wanted: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        // Kept by others.
        status.volumes_attached = None;
        status.volumes_in_use = None;
        status.phase = None;
        status.config = None;
        status.features = None;
        status.declared_features = None;
        status.images = status.images.filter(|images| !images.is_empty());
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|condition| OWNED.contains(&condition.type_.as_str()));
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        for condition in conditions {
            condition.last_heartbeat_time = None;
        }
        status
    };
    known.is_none_or(|known| still(known) != still(wanted))
}

const OWNED: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

/// The patch that makes the server's status this one. Lists without which strategic merge would only add are replaced.
pub(super) fn status_patch(known: Option<&NodeStatus>, wanted: &NodeStatus) -> Value {
    let known_addresses = known.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let marker = (!known_addresses.is_empty()).then(|| json!({ "$patch": "replace" }));
    let addresses: Vec<Value> =
        marker.into_iter().chain(wanted.addresses.iter().flatten().map(|address| json!(address))).collect();
    json!({ "status": {
        "capacity": wanted.capacity,
        "allocatable": wanted.allocatable,
        "conditions": wanted.conditions,
        "addresses": addresses,
        "daemonEndpoints": wanted.daemon_endpoints,
        "nodeInfo": wanted.node_info,
        "images": wanted.images,
        "runtimeHandlers": wanted.runtime_handlers,
    }})
}

fn time(timestamp: Timestamp) -> Time {
    let whole = timestamp.checked_sub(SignedDuration::from_nanos(i64::from(timestamp.subsec_nanosecond())));
    Time(whole.unwrap_or(timestamp))
}
