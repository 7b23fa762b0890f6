//! What a pod may learn of itself: its fields and its containers' resources.

use std::collections::BTreeMap;

use coracle_api::Quantity;
use coracle_client::Pod;
use k8s_openapi::api::core::v1::{Container, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::machine::container;

/// What is known of the pod beside its object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    /// What a container without limit may use: the node's allocatable amounts.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// A field of a pod as text; errors are worded as kubelet words them.
pub fn field(pod: &Pod, facts: &PodFacts, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| Ok(value.cloned().unwrap_or_default());
    if let Some((map, key)) = subscript(path) {
        let values = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("invalid fieldPath {path:?}: fieldPath does not support subscript")),
        };
        return text(values.and_then(|values| values.get(key)));
    }
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Ok(map_lines(meta.labels.as_ref())),
        "metadata.annotations" => Ok(map_lines(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" => text(facts.host_ips.first()),
        "status.hostIPs" => Ok(facts.host_ips.join(",")),
        "status.podIP" => text(facts.pod_ips.first()),
        "status.podIPs" => Ok(facts.pod_ips.join(",")),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// `metadata.labels['key']` into map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.strip_suffix("']")?.split_once("['")?;
    Some((map, rest))
}

/// `key="value"` lines with Go's quoting, ordered by key.
fn map_lines(values: Option<&BTreeMap<String, String>>) -> String {
    let lines = values.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// As Go's `%q` for the characters that occur in labels and annotations.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A container's request or limit as a number in units of the divisor, rounded up.
pub fn resource(
    pod: &Pod,
    own: &Container,
    facts: &PodFacts,
    wanted: &ResourceFieldSelector,
) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let container = match wanted.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => own,
        Some(name) => {
            spec.and_then(|spec| container(spec, name)).ok_or_else(|| format!("container {name} not found"))?
        }
    };
    let resources = container.resources.as_ref();
    let amount = |amounts: Option<&BTreeMap<String, Text>>, name: &str| -> Option<Quantity> {
        amounts?.get(name)?.0.parse().ok()
    };
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let zero = Quantity::from_value(0);
    let (section, name) = wanted
        .resource
        .split_once('.')
        .ok_or_else(|| format!("Unsupported container resource : {}", wanted.resource))?;
    let value = match section {
        "limits" => amount(limits, name).or_else(|| facts.allocatable.get(name).copied()).unwrap_or(zero),
        "requests" => amount(requests, name).unwrap_or(zero),
        _ => return Err(format!("Unsupported container resource : {}", wanted.resource)),
    };
    let known = ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-");
    if !known {
        return Err(format!("Unsupported container resource : {}", wanted.resource));
    }
    let divisor: Quantity = match wanted.divisor.as_ref().map(|divisor| divisor.0.as_str()).filter(|d| *d != "0") {
        Some(text) => text.parse().map_err(|error| format!("invalid divisor {text:?}: {error}"))?,
        None => Quantity::from_value(1),
    };
    let (value, divisor) = (value.nanos(), divisor.nanos().max(1));
    // Amounts are not negative, so this rounds up.
    Ok(((value + divisor - 1) / divisor).to_string())
}
