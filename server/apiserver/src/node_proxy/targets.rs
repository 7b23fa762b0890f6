//! Owns where things are: the address of a node's API, of a pod, of an endpoint of a service, as stored objects say.

use std::net::IpAddr;

use coracle_api::meta::GroupResource;
use coracle_api::status::Status;
use coracle_client::{Pod, Wire};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::auth::objects::Objects;

const NODE_API_PORT: u16 = 10250;

/// Where a node's API is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeAddress {
    pub(super) node: String,
    /// An address or a name.
    pub(super) host: String,
    pub(super) port: u16,
}

/// `name`, `name:port` or `scheme:name:port`, as the path of a proxy request names its target.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TargetName<'a> {
    pub(super) scheme: &'a str,
    pub(super) name: &'a str,
    pub(super) port: &'a str,
}

impl TargetName<'_> {
    pub(super) fn parse(text: &str) -> Option<TargetName<'_>> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            [name] => Some(TargetName { scheme: "", name, port: "" }),
            [name, port] => Some(TargetName { scheme: "", name, port }),
            [scheme @ ("" | "http" | "https"), name, port] => Some(TargetName { scheme, name, port }),
            _other => None,
        }
    }
}

pub(super) fn object<T: Wire>(objects: &dyn Objects, resource: &str, namespace: &str, name: &str) -> Result<T, Status> {
    let stored = objects.get(resource, namespace, name);
    let json = stored.ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))?;
    T::decode_bytes(&json).map_err(Status::internal)
}

pub(super) fn node(objects: &dyn Objects, name: &str) -> Result<NodeAddress, Status> {
    let node: Node = object(objects, "nodes", "", name)?;
    let status = node.status.unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    let find = |kind: &str| addresses.iter().find(|address| address.type_ == kind).map(|found| found.address.clone());
    let host = find("InternalIP").or_else(|| find("ExternalIP")).or_else(|| find("Hostname"));
    let Some(host) = host else {
        return Err(Status::service_unavailable(format!("node {name:?} has not said yet where it is reached")));
    };
    let port = status.daemon_endpoints.and_then(|endpoints| endpoints.kubelet_endpoint).map(|endpoint| endpoint.port);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(NODE_API_PORT);
    Ok(NodeAddress { node: name.to_owned(), host, port })
}

/// Address and port of a pod; without a port, the first its containers name.
pub(super) fn pod(objects: &dyn Objects, namespace: &str, target: &TargetName<'_>) -> Result<(String, u16), Status> {
    let pod: Pod = object(objects, "pods", namespace, target.name)?;
    let ip = pod.status.and_then(|status| status.pod_ip).filter(|ip| !ip.is_empty());
    let ip = ip.ok_or_else(|| Status::bad_request(format!("pod {} has no address yet", target.name)))?;
    check_address(&ip)?;
    let port = if target.port.is_empty() {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let first = containers.flat_map(|container| container.ports.iter().flatten()).next();
        first.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(80)
    } else {
        number(target.port)?
    };
    Ok((ip, port))
}

/// An endpoint of a service that is ready, picked by `chance`.
pub(super) fn service(
    objects: &dyn Objects,
    namespace: &str,
    target: &TargetName<'_>,
    chance: usize,
) -> Result<(String, u16), Status> {
    let service: Service = object(objects, "services", namespace, target.name)?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let wanted = match target.port {
        "" if ports.len() == 1 => ports.first(),
        "" => None,
        text => ports.iter().find(|port| {
            port.name.as_deref() == Some(text)
                || text.parse() == Ok(port.port)
                || target_is(port.target_port.as_ref(), text)
        }),
    };
    let wanted = wanted.ok_or_else(|| {
        Status::service_unavailable(format!(
            "no endpoints available for service {:?}: it has no port {:?}",
            target.name, target.port
        ))
    })?;
    let wanted_name = wanted.name.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for (slice_namespace, json) in objects.all("endpointslices.discovery.k8s.io") {
        if slice_namespace != namespace {
            continue;
        }
        let slice = EndpointSlice::decode_bytes(&json).map_err(Status::internal)?;
        let labels = slice.metadata.labels.as_ref();
        if labels.and_then(|labels| labels.get("kubernetes.io/service-name")).is_none_or(|name| name != target.name) {
            continue;
        }
        let port = slice.ports.iter().flatten().find(|port| port.name.as_deref().unwrap_or_default() == wanted_name);
        let Some(port) = port.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok()) else { continue };
        for endpoint in slice.endpoints.into_iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            if ready {
                found.extend(endpoint.addresses.into_iter().map(|address| (address, port)));
            }
        }
    }
    if found.is_empty() {
        return Err(Status::service_unavailable(format!("no endpoints available for service {:?}", target.name)));
    }
    let picked = found.swap_remove(chance % found.len());
    check_address(&picked.0)?;
    Ok(picked)
}

fn target_is(port: Option<&IntOrString>, text: &str) -> bool {
    match port {
        Some(IntOrString::String(name)) => name == text,
        Some(IntOrString::Int(_)) | None => false,
    }
}

fn number(port: &str) -> Result<u16, Status> {
    match port.parse() {
        Ok(0) | Err(_) => Err(Status::bad_request(format!("{port:?} is no port"))),
        Ok(port) => Ok(port),
    }
}

/// A node says what its pods' addresses are: it must not lead this server to what only the server reaches. Pods have
/// loopback addresses in loopback mode, but never in 127.0.0.0/16, where this host's own services listen.
fn check_address(text: &str) -> Result<(), Status> {
    let refused = || Status::bad_request(format!("address not allowed: {text}"));
    let ip: IpAddr = text.parse().map_err(|_| refused())?;
    let allowed = match ip {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let hosts_own = first == 127 && second == 0;
            let special = v4.is_unspecified() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast();
            !hosts_own && !special
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local())
                && v6.to_ipv4_mapped().is_none()
        }
    };
    if allowed { Ok(()) } else { Err(refused()) }
}
