//! Owns the rows of services, endpoints, ingresses and network policies.

use std::collections::BTreeSet;

use coracle_api::object::{ConvertError, Object};
use serde::Deserialize;

use super::duration::since;
use super::view::{Labels, Meta, Nothing, Selector, View, first_three, labels, or, selector};
use super::{Context, Row, cells, parse};

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<String>,
    external_name: String,
    ports: Vec<ServicePort>,
    selector: Labels,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServicePort {
    port: i64,
    node_port: i64,
    protocol: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Balanced {
    load_balancer: LoadBalancer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Vec<IngressPoint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IngressPoint {
    ip: String,
    hostname: String,
}

impl LoadBalancer {
    fn addresses(&self) -> Vec<&str> {
        let mut all = BTreeSet::new();
        for point in &self.ingress {
            all.insert(if point.ip.is_empty() { point.hostname.as_str() } else { point.ip.as_str() });
        }
        all.remove("");
        all.into_iter().collect()
    }
}

pub(super) fn service(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<ServiceSpec, Balanced> { metadata, spec, status } = parse(object)?;
    let external = match spec.kind.as_str() {
        "ClusterIP" | "NodePort" => or(spec.external_ips.join(","), "<none>"),
        "LoadBalancer" => {
            let mut addresses = status.load_balancer.addresses();
            addresses.extend(spec.external_ips.iter().map(String::as_str));
            or(addresses.join(","), "<pending>")
        }
        "ExternalName" => spec.external_name,
        _unknown => "<unknown>".to_owned(),
    };
    let ports: Vec<String> = spec
        .ports
        .iter()
        .map(|port| match port.node_port {
            0 => format!("{}/{}", port.port, port.protocol),
            node_port => format!("{}:{node_port}/{}", port.port, port.protocol),
        })
        .collect();
    let cluster_ip = spec.cluster_ips.into_iter().next();
    Ok(cells![
        metadata.name,
        spec.kind,
        cluster_ip.unwrap_or_else(|| "<none>".to_owned()),
        external,
        or(ports.join(","), "<none>"),
        since(metadata.creation_timestamp, context.now),
        labels(&spec.selector),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IngressSpec {
    ingress_class_name: Option<String>,
    rules: Vec<IngressRule>,
    tls: Vec<Nothing>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IngressRule {
    host: String,
}

pub(super) fn ingress(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<IngressSpec, Balanced> { metadata, spec, status } = parse(object)?;
    let mut hosts: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in &spec.rules {
        more |= hosts.len() == 3;
        if !more && !rule.host.is_empty() {
            hosts.push(&rule.host);
        }
    }
    let mut shown = or(hosts.join(","), "*");
    if more {
        shown += &format!(" + {} more...", spec.rules.len() - 3);
    }
    Ok(cells![
        metadata.name,
        spec.ingress_class_name.unwrap_or_else(|| "<none>".to_owned()),
        shown,
        status.load_balancer.addresses().join(","),
        if spec.tls.is_empty() { "80" } else { "80, 443" },
        since(metadata.creation_timestamp, context.now),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IngressClassSpec {
    controller: String,
    parameters: Option<Parameters>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Parameters {
    api_group: Option<String>,
    kind: String,
    name: String,
}

pub(super) fn ingress_class(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<IngressClassSpec> { metadata, spec, status: _ } = parse(object)?;
    let parameters = match spec.parameters {
        Some(Parameters { api_group: Some(group), kind, name }) => format!("{kind}.{group}/{name}"),
        Some(Parameters { api_group: None, kind, name }) => format!("{kind}/{name}"),
        None => "<none>".to_owned(),
    };
    Ok(cells![metadata.name, spec.controller, parameters, since(metadata.creation_timestamp, context.now)])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Endpoints {
    metadata: Meta,
    subsets: Vec<Subset>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Subset {
    addresses: Vec<IngressPoint>,
    ports: Vec<Port>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Option<String>,
    port: Option<i64>,
}

pub(super) fn endpoints(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let endpoints: Endpoints = parse(object)?;
    let mut all = Vec::new();
    for subset in &endpoints.subsets {
        // A headless service may have no ports.
        if subset.ports.is_empty() {
            all.extend(subset.addresses.iter().map(|address| address.ip.clone()));
        }
        for port in &subset.ports {
            for address in &subset.addresses {
                let port = port.port.unwrap_or_default();
                let v6 = address.ip.contains(':');
                all.push(if v6 { format!("[{}]:{port}", address.ip) } else { format!("{}:{port}", address.ip) });
            }
        }
    }
    let shown = if endpoints.subsets.is_empty() { "<none>".to_owned() } else { first_three(&all) };
    Ok(cells![endpoints.metadata.name, shown, since(endpoints.metadata.creation_timestamp, context.now)])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EndpointSlice {
    metadata: Meta,
    address_type: String,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    addresses: Vec<String>,
}

pub(super) fn endpoint_slice(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let slice: EndpointSlice = parse(object)?;
    let ports: Vec<String> = slice
        .ports
        .into_iter()
        .map(|port| match (port.port, port.name) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name,
            (None, None) => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> = slice.endpoints.into_iter().flat_map(|endpoint| endpoint.addresses).collect();
    Ok(cells![
        slice.metadata.name,
        slice.address_type,
        or(first_three(&ports), "<unset>"),
        or(first_three(&addresses), "<unset>"),
        since(slice.metadata.creation_timestamp, context.now),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NetworkPolicySpec {
    pod_selector: Selector,
}

pub(super) fn network_policy(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<NetworkPolicySpec> { metadata, spec, status: _ } = parse(object)?;
    let age = since(metadata.creation_timestamp, context.now);
    Ok(cells![metadata.name, selector(Some(&spec.pod_selector)), age])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServiceCidrSpec {
    cidrs: Vec<String>,
}

pub(super) fn service_cidr(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<ServiceCidrSpec> { metadata, spec, status: _ } = parse(object)?;
    Ok(cells![metadata.name, spec.cidrs.join(","), since(metadata.creation_timestamp, context.now)])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IpAddressSpec {
    parent_ref: Option<ParentRef>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ParentRef {
    group: String,
    resource: String,
    namespace: String,
    name: String,
}

pub(super) fn ip_address(object: &Object, _context: &Context) -> Result<Row, ConvertError> {
    let View::<IpAddressSpec> { metadata, spec, status: _ } = parse(object)?;
    let parent = match spec.parent_ref {
        Some(parent) => {
            let resource =
                if parent.group.is_empty() { parent.resource } else { format!("{}.{}", parent.resource, parent.group) };
            let mut text = resource.to_lowercase();
            if !parent.namespace.is_empty() {
                text = format!("{text}/{}", parent.namespace);
            }
            format!("{text}/{}", parent.name)
        }
        None => "<none>".to_owned(),
    };
    Ok(cells![metadata.name, parent])
}
