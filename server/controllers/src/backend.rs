//! From a Service and its pods to what stands behind it: which pods, under which ports. Shared by the two controllers
//! that publish it (EndpointSlice and Endpoints). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::Pod;
use k8s_openapi::api::core::v1::{Container, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod;

/// Set on what is published for a Service without an address of its own.
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

type Labels = BTreeMap<String, String>;

/// The selector of a Service whose backends are ours to publish.
pub(crate) fn selector(service: &Service) -> Option<&Labels> {
    let spec = service.spec.as_ref()?;
    let external = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|s| !external && !s.is_empty())
}

pub(crate) fn selects(selector: &Labels, meta: &ObjectMeta) -> bool {
    let labels = meta.labels.as_ref();
    selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

pub(crate) fn is_headless(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref());
    matches!(ip, None | Some("" | "None"))
}

pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false)
}

pub(crate) fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or(&[])
}

pub(crate) fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// Addresses of the pod, first one first; none as long as it must not be published at all.
pub(crate) fn addresses(pod: &Pod, with_terminating: bool) -> Vec<&str> {
    if pod::is_terminal(pod) || (pod::is_deleting(pod) && !with_terminating) {
        return Vec::new();
    }
    let Some(status) = &pod.status else { return Vec::new() };
    let listed: Vec<&str> =
        status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).filter(|ip| !ip.is_empty()).collect();
    if listed.is_empty() {
        return status.pod_ip.as_deref().filter(|ip| !ip.is_empty()).into_iter().collect();
    }
    listed
}

/// The number on which this pod serves the Service's port; none if it has no port of that name.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars =
                spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers.iter().chain(sidecars).find_map(|c| named_port(c, name, protocol(port)))
        }
    }
}

fn named_port(container: &Container, name: &str, protocol: &str) -> Option<i32> {
    let matches = |p: &&k8s_openapi::api::core::v1::ContainerPort| {
        p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    container.ports.iter().flatten().find(matches).map(|p| p.container_port)
}

/// The pod's own name below the Service's, if it has asked for one.
pub(crate) fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_deref().filter(|h| !h.is_empty())?;
    (spec.subdomain == service.metadata.name).then_some(hostname)
}

/// Whether a change of the pod can change what is published of it.
pub(crate) fn is_affected(old: &Pod, new: &Pod) -> bool {
    let facts = |p: &'_ Pod| {
        let spec = p.spec.as_ref();
        (
            p.metadata.uid.clone(),
            p.metadata.labels.clone(),
            pod::is_deleting(p),
            pod::is_ready(p),
            addresses(p, true).into_iter().map(str::to_owned).collect::<Vec<_>>(),
            spec.and_then(|s| s.node_name.clone()),
            spec.and_then(|s| s.hostname.clone()),
        )
    };
    facts(old) != facts(new)
}

/// The Services of `candidates` (those of the pod's namespace) that select the pod.
pub(crate) fn services_of<'a>(
    candidates: &'a [Arc<Service>],
    meta: &'a ObjectMeta,
) -> impl Iterator<Item = &'a Arc<Service>> {
    candidates.iter().filter(|s| selector(s).is_some_and(|selector| selects(selector, meta)))
}

/// The Service's labels as they are passed on: without those that are ours to set, plus the mark of a headless one.
pub(crate) fn labels(service: &Service, reserved: &[&str]) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| key != HEADLESS_LABEL && !reserved.contains(&key.as_str()));
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels
}
