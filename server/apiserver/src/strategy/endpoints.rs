//! Endpoints and EndpointSlices.

use std::collections::HashSet;

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::check::{self, fill, text};
use super::kind::{Errors, Kind};
use crate::registry::context::Context;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;

pub(super) struct EndpointsKind;

impl Kind for EndpointsKind {
    type Type = Endpoints;

    fn default(&self, endpoints: &mut Endpoints) {
        let ports = endpoints.subsets.iter_mut().flatten().flat_map(|subset| subset.ports.iter_mut().flatten());
        ports.for_each(|port| fill(&mut port.protocol, "TCP"));
    }

    fn validate_create(&self, _context: &Context, endpoints: &Endpoints, errors: &mut Errors) {
        let list = FieldPath::new("subsets");
        for (i, one) in endpoints.subsets.iter().flatten().enumerate() {
            subset(one, &list.index(i), errors);
        }
    }

    fn validate_update(&self, context: &Context, new: &Endpoints, old: &Endpoints, errors: &mut Errors) {
        // Subsets that were let in once may stay.
        if new.subsets != old.subsets {
            self.validate_create(context, new, errors);
        }
    }
}

fn subset(subset: &EndpointSubset, at: &FieldPath<'_>, errors: &mut Errors) {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    if count(&subset.addresses) + count(&subset.not_ready_addresses) == 0 {
        errors.push(FieldError::required(at, "must specify `addresses` or `notReadyAddresses`"));
    }
    for (field, list) in [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)] {
        let list_path = at.child(field);
        for (i, one) in list.iter().flatten().enumerate() {
            address(one, &list_path.index(i), errors);
        }
    }
    let list = at.child("ports");
    let several = subset.ports.as_ref().is_some_and(|ports| ports.len() > 1);
    for (i, one) in subset.ports.iter().flatten().enumerate() {
        port(one, several, &list.index(i), errors);
    }
}

fn address(address: &EndpointAddress, at: &FieldPath<'_>, errors: &mut Errors) {
    check::ip(&address.ip, &at.child("ip"), errors);
    check::non_special_ip(&address.ip, &at.child("ip"), errors);
    if !text(&address.hostname).is_empty() {
        check::dns_label(text(&address.hostname), &at.child("hostname"), errors);
    }
    if let Some(node) = &address.node_name {
        check::dns_subdomain(node, &at.child("nodeName"), errors);
    }
}

fn port(port: &EndpointPort, named: bool, at: &FieldPath<'_>, errors: &mut Errors) {
    let name = text(&port.name);
    if named && name.is_empty() {
        errors.push(FieldError::required(&at.child("name"), ""));
    } else if !name.is_empty() {
        check::dns_label(name, &at.child("name"), errors);
    }
    check::port_number(port.port, &at.child("port"), errors);
    check::one_of(text(&port.protocol), PROTOCOLS, &at.child("protocol"), errors);
    if let Some(protocol) = &port.app_protocol {
        check::qualified_name(protocol, &at.child("appProtocol"), errors);
    }
}

pub(super) struct EndpointSlices;

impl Kind for EndpointSlices {
    type Type = EndpointSlice;

    fn default(&self, slice: &mut EndpointSlice) {
        for port in slice.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            fill(&mut port.protocol, "TCP");
        }
    }

    fn validate_create(&self, _context: &Context, slice: &EndpointSlice, errors: &mut Errors) {
        let types = &["FQDN", "IPv4", "IPv6"];
        check::one_of(&slice.address_type, types, &FieldPath::new("addressType"), errors);
        slice_endpoints(slice, errors);
        slice_ports(slice, errors);
    }

    fn validate_update(&self, context: &Context, new: &EndpointSlice, old: &EndpointSlice, errors: &mut Errors) {
        self.validate_create(context, new, errors);
        check::immutable(&new.address_type, &old.address_type, &FieldPath::new("addressType"), errors);
    }
}

fn slice_endpoints(slice: &EndpointSlice, errors: &mut Errors) {
    let list = FieldPath::new("endpoints");
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(FieldError::too_many(&list, endpoints.len(), MAX_ENDPOINTS));
        return;
    }
    for (i, one) in endpoints.iter().enumerate() {
        slice_endpoint(one, &slice.address_type, &list.index(i), errors);
    }
}

fn slice_endpoint(endpoint: &Endpoint, family: &str, at: &FieldPath<'_>, errors: &mut Errors) {
    let list = at.child("addresses");
    if endpoint.addresses.is_empty() {
        errors.push(FieldError::required(&list, "must contain at least 1 address"));
    } else if endpoint.addresses.len() > MAX_ADDRESSES {
        errors.push(FieldError::too_many(&list, endpoint.addresses.len(), MAX_ADDRESSES));
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        let at = list.index(i);
        match family {
            "FQDN" => fqdn(address, &at, errors),
            "IPv4" if address.parse::<std::net::Ipv4Addr>().is_err() => {
                errors.push(FieldError::invalid(&at, address, "must be a valid IPv4 address"));
            }
            "IPv6" if address.parse::<std::net::Ipv6Addr>().is_err() => {
                errors.push(FieldError::invalid(&at, address, "must be a valid IPv6 address"));
            }
            _ => check::non_special_ip(address, &at, errors),
        }
    }
    if let Some(node) = &endpoint.node_name {
        check::dns_subdomain(node, &at.child("nodeName"), errors);
    }
    let topology = at.child("deprecatedTopology");
    for key in ["topology.kubernetes.io/zone", "kubernetes.io/hostname"] {
        if endpoint.deprecated_topology.as_ref().is_some_and(|map| map.contains_key(key)) {
            let detail = if key.ends_with("hostname") {
                "may not be set in deprecatedTopology: use nodeName instead"
            } else {
                "may not be set in deprecatedTopology: use zone instead"
            };
            errors.push(FieldError::invalid(&topology.key(key), key, detail));
        }
    }
    if let Some(hostname) = &endpoint.hostname {
        check::dns_label(hostname, &at.child("hostname"), errors);
    }
}

fn fqdn(address: &str, at: &FieldPath<'_>, errors: &mut Errors) {
    let name = address.strip_suffix('.').unwrap_or(address);
    check::dns_subdomain(name, at, errors);
    if !name.contains('.') {
        errors.push(FieldError::invalid(
            at,
            address,
            "should be a domain with at least two segments separated by dots",
        ));
    }
}

fn slice_ports(slice: &EndpointSlice, errors: &mut Errors) {
    let list = FieldPath::new("ports");
    let ports = slice.ports.as_deref().unwrap_or_default();
    if ports.len() > MAX_PORTS {
        errors.push(FieldError::too_many(&list, ports.len(), MAX_PORTS));
        return;
    }
    let mut seen = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = list.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            check::problems(names::dns1123_label(name), &at.child("name"), name, errors);
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        check::one_of(text(&port.protocol), PROTOCOLS, &at.child("protocol"), errors);
        if let Some(number) = port.port {
            check::port_number(number, &at.child("port"), errors);
        }
        if let Some(protocol) = &port.app_protocol {
            check::qualified_name(protocol, &at.child("appProtocol"), errors);
        }
    }
}
