//! Owns the rows of the core group's smaller kinds: nodes, events, namespaces, secrets, config maps.

use std::collections::BTreeSet;

use coracle_api::object::{ConvertError, Object};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::duration::since;
use super::view::{Condition, Meta, Nothing, View, or};
use super::{Context, Row, cells, parse};

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    unschedulable: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodeStatus {
    conditions: Vec<Condition>,
    addresses: Vec<Address>,
    node_info: NodeInfo,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodeInfo {
    kubelet_version: String,
    os_image: String,
    kernel_version: String,
    container_runtime_version: String,
}

pub(super) fn node(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let node: View<NodeSpec, NodeStatus> = parse(object)?;
    let ready = node.status.conditions.iter().rfind(|condition| condition.kind == "Ready");
    let mut status = match ready {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.spec.unschedulable {
        status += ",SchedulingDisabled";
    }
    let mut roles = BTreeSet::new();
    for (key, value) in &node.metadata.labels {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/") {
            roles.insert(role);
        } else if key == "kubernetes.io/role" {
            roles.insert(value);
        }
    }
    roles.remove("");
    let roles = roles.into_iter().collect::<Vec<_>>().join(",");
    let address = |kind: &str| {
        let found = node.status.addresses.iter().find(|address| address.kind == kind);
        found.map_or("<none>", |found| found.address.as_str()).to_owned()
    };
    let (internal, external) = (address("InternalIP"), address("ExternalIP"));
    let info = node.status.node_info;
    Ok(cells![
        node.metadata.name,
        status,
        or(roles, "<none>"),
        since(node.metadata.creation_timestamp, context.now),
        info.kubelet_version,
        internal,
        external,
        or(info.os_image, "<unknown>"),
        or(info.kernel_version, "<unknown>"),
        or(info.container_runtime_version, "<unknown>"),
    ])
}

/// An event, in either group's spelling of its fields.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Event {
    metadata: Meta,
    #[serde(alias = "regarding")]
    involved_object: InvolvedObject,
    reason: String,
    #[serde(alias = "note")]
    message: String,
    #[serde(alias = "deprecatedSource")]
    source: Source,
    #[serde(alias = "deprecatedFirstTimestamp")]
    first_timestamp: Option<Timestamp>,
    #[serde(alias = "deprecatedLastTimestamp")]
    last_timestamp: Option<Timestamp>,
    #[serde(alias = "deprecatedCount")]
    count: i64,
    #[serde(rename = "type")]
    kind: String,
    event_time: Option<Timestamp>,
    series: Option<Series>,
    #[serde(alias = "reportingController")]
    reporting_component: String,
    reporting_instance: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct InvolvedObject {
    kind: String,
    name: String,
    field_path: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    component: String,
    host: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Series {
    count: i64,
    last_observed_time: Option<Timestamp>,
}

pub(super) fn event(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let event: Event = parse(object)?;
    let first = event.first_timestamp.or(event.event_time);
    let (last, count) = match &event.series {
        Some(series) => (series.last_observed_time, series.count),
        // An event of the newer group that happened once has no count.
        None => (event.last_timestamp.or(first), event.count.max(1)),
    };
    let mut object = event.involved_object.kind.to_lowercase();
    if !event.involved_object.name.is_empty() {
        object = format!("{object}/{}", event.involved_object.name);
    }
    let component = or(event.source.component, &event.reporting_component);
    let instance = or(event.source.host, &event.reporting_instance);
    let source = if instance.is_empty() { component } else { format!("{component}, {instance}") };
    Ok(cells![
        since(last, context.now),
        event.kind,
        event.reason,
        object,
        event.involved_object.field_path,
        source,
        event.message.trim().to_owned(),
        since(first, context.now),
        count,
        event.metadata.name,
    ])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Phase {
    phase: String,
}

pub(super) fn namespace(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let namespace: View<Nothing, Phase> = parse(object)?;
    let age = since(namespace.metadata.creation_timestamp, context.now);
    Ok(cells![namespace.metadata.name, namespace.status.phase, age])
}

/// Values are skipped, not read: they may be large and secret.
type Entries = std::collections::BTreeMap<String, IgnoredAny>;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Data {
    metadata: Meta,
    #[serde(rename = "type")]
    kind: String,
    data: Entries,
    binary_data: Entries,
}

pub(super) fn secret(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let secret: Data = parse(object)?;
    let age = since(secret.metadata.creation_timestamp, context.now);
    Ok(cells![secret.metadata.name, secret.kind, secret.data.len(), age])
}

pub(super) fn config_map(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let map: Data = parse(object)?;
    let age = since(map.metadata.creation_timestamp, context.now);
    Ok(cells![map.metadata.name, map.data.len() + map.binary_data.len(), age])
}

pub(super) fn service_account(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    super::cluster::name_and_age(object, context)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ComponentStatus {
    metadata: Meta,
    conditions: Vec<Condition>,
}

pub(super) fn component_status(object: &Object, _context: &Context) -> Result<Row, ConvertError> {
    let component: ComponentStatus = parse(object)?;
    let healthy = component.conditions.into_iter().find(|condition| condition.kind == "Healthy");
    let (status, message, error) = match healthy {
        Some(condition) if condition.status == "True" => ("Healthy", condition.message, condition.error),
        Some(condition) => ("Unhealthy", condition.message, condition.error),
        None => ("Unknown", String::new(), String::new()),
    };
    Ok(cells![component.metadata.name, status, message, error])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    status: String,
    reason: String,
    message: String,
}

pub(super) fn status(object: &Object, _context: &Context) -> Result<Row, ConvertError> {
    let status: Status = parse(object)?;
    Ok(cells![status.status, status.reason, status.message])
}
