//! Decides the Endpoints object of a Service: the older form of its EndpointSlices, which some clients still read. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::Pod;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpointslice::pod_reference;
use crate::{backend, owner, pod};

pub(crate) const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
pub(crate) const MANAGED_BY: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

/// The Endpoints that the Service should have, given those it has; `None` when those are right.
pub(crate) fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Option<Endpoints> {
    let (subsets, truncated) = subsets(service, pods);
    let mut labels = backend::labels(service, &[MANAGED_BY_LABEL]);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    let mut next = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    next.metadata.labels = Some(labels);
    if truncated {
        next.metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(annotations) = &mut next.metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    next.subsets = (!subsets.is_empty()).then_some(subsets);
    let plain = |e: &Endpoints| {
        let annotations = e.metadata.annotations.clone().filter(|a| !a.is_empty());
        (e.metadata.labels.clone(), annotations, e.subsets.clone().filter(|s| !s.is_empty()))
    };
    current.is_none_or(|c| plain(c) != plain(&next)).then_some(next)
}

/// Address and pod UID; then whether it is ready.
type Addresses = BTreeMap<(String, String), (bool, EndpointAddress)>;
/// Addresses without their state: what subsets are told apart by.
type AddressKeys = Vec<(String, String)>;
/// Name, protocol, number, application protocol.
type PortKey = (String, String, i32, Option<String>);

/// Ports with the same addresses behind them make one subset.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let (chosen, truncated) = choose(service, pods);
    let mut by_port: BTreeMap<Option<PortKey>, Addresses> = BTreeMap::new();
    for (pod, ready, address) in chosen {
        let key = (address.ip.clone(), owner::uid(&pod.metadata).to_owned());
        let ports = backend::ports(service);
        if ports.is_empty() {
            by_port.entry(None).or_default().insert(key, (ready, address));
            continue;
        }
        for port in ports {
            let Some(number) = backend::target_port(pod, port) else { continue };
            let name = port.name.clone().unwrap_or_default();
            let port = (name, backend::protocol(port).to_owned(), number, port.app_protocol.clone());
            by_port.entry(Some(port)).or_default().insert(key.clone(), (ready, address.clone()));
        }
    }
    let mut groups: BTreeMap<AddressKeys, (Addresses, Vec<PortKey>)> = BTreeMap::new();
    for (port, addresses) in by_port {
        let group = groups.entry(addresses.keys().cloned().collect()).or_insert_with(|| (addresses, Vec::new()));
        group.1.extend(port);
    }
    (groups.into_values().map(|(addresses, ports)| subset(addresses, ports)).collect(), truncated)
}

/// Pods that are to be published, at most as many as an Endpoints may hold, the ready ones before the others.
fn choose<'a>(service: &Service, pods: &'a [Arc<Pod>]) -> (Vec<(&'a Pod, bool, EndpointAddress)>, bool) {
    let not_ready_too = backend::publishes_not_ready(service);
    let mut chosen: Vec<_> = pods
        .iter()
        .filter_map(|pod| {
            let ip = *backend::addresses(pod, not_ready_too).first()?;
            let address = EndpointAddress {
                ip: ip.to_owned(),
                hostname: backend::hostname(pod, service).map(str::to_owned),
                node_name: pod::node_name(pod).map(str::to_owned),
                target_ref: Some(pod_reference(pod)),
            };
            Some((&**pod, not_ready_too || pod::is_ready(pod), address))
        })
        .collect();
    let truncated = chosen.len() > MAX_ADDRESSES;
    if truncated {
        chosen.sort_by_key(|(pod, ready, _)| (!ready, owner::key_of(&pod.metadata)));
        chosen.truncate(MAX_ADDRESSES);
    }
    (chosen, truncated)
}

fn subset(addresses: Addresses, ports: Vec<PortKey>) -> EndpointSubset {
    let (ready, other): (Vec<_>, Vec<_>) = addresses.into_values().partition(|(ready, _)| *ready);
    let list = |addresses: Vec<(bool, EndpointAddress)>| {
        let addresses: Vec<_> = addresses.into_iter().map(|(_, address)| address).collect();
        (!addresses.is_empty()).then_some(addresses)
    };
    let port = |(name, protocol, port, app_protocol): PortKey| EndpointPort {
        name: (!name.is_empty()).then_some(name),
        protocol: Some(protocol),
        port,
        app_protocol,
    };
    let ports: Vec<_> = ports.into_iter().map(port).collect();
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(other),
        ports: (!ports.is_empty()).then_some(ports),
    }
}
