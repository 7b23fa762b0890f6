//! Cluster addresses and node ports of Services: which a Service gets, keeps and loses. What is free is known by the
//! `book` of what is taken; this file must not know how that is kept.

mod book;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;
use coracle_api::status::Status;
use coracle_store::Key;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::ServicePort;
use serde_json::{Value, json};

use super::Registry;
use super::context::Context;
pub use book::Claim;
use book::{Book, Taken};

pub struct ServiceAddresses {
    network: Ipv4Net,
    ports: RangeInclusive<u16>,
    book: Arc<Book>,
}

const SPEC: FieldPath<'static> = FieldPath::new("spec");

impl ServiceAddresses {
    pub fn new(network: Ipv4Net, ports: RangeInclusive<u16>) -> Self {
        Self { network, ports, book: Arc::default() }
    }

    /// The address of the `kubernetes` Service.
    pub(super) fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network.network()).saturating_add(1))
    }

    pub(super) fn for_create(
        &self,
        registry: &Registry,
        context: &Context,
        service: &mut Object,
    ) -> Result<Option<Claim>, Status> {
        if !is_service(context) {
            return Ok(None);
        }
        self.fill(registry, context, service)
    }

    pub(super) fn for_update(
        &self,
        registry: &Registry,
        context: &Context,
        service: &mut Object,
        old: &Object,
    ) -> Result<Option<Claim>, Status> {
        if !is_service(context) {
            return Ok(None);
        }
        carry_over(service, old);
        drop_what_the_type_had(service, old);
        let was = old.field(&["spec", "clusterIP"]).unwrap_or_default();
        let wants = service.field(&["spec", "clusterIP"]).unwrap_or_default();
        if has_address(old) && has_address(service) && !was.is_empty() && wants != was {
            let list = json!([wants]);
            let error = FieldError::invalid(&SPEC.child("clusterIPs").index(0), list, "may not change once set");
            return Err(invalid(service, error));
        }
        self.fill(registry, context, service)
    }

    /// Gives the Service what its type needs and it lacks; refuses what another has.
    fn fill(&self, registry: &Registry, context: &Context, service: &mut Object) -> Result<Option<Claim>, Status> {
        if !has_address(service) {
            return Ok(None);
        }
        let key = Key::new("services", context.namespace.clone(), service.name());
        let claim = self.book.claim(&registry.store, &key, |taken| {
            self.fill_address(registry, service, taken)?;
            set_families(service);
            if has_node_ports(service) {
                self.fill_ports(registry, service, taken)?;
            }
            Ok(book::numbers_of(service))
        })?;
        Ok(Some(claim))
    }

    fn fill_address(&self, registry: &Registry, service: &mut Object, taken: &Taken<'_>) -> Result<(), Status> {
        let asked = service.field(&["spec", "clusterIP"]).unwrap_or_default().to_owned();
        let asked = if asked.is_empty() {
            service.list(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or_default().to_owned()
        } else {
            asked
        };
        let address = match asked.as_str() {
            "" => self.free_address(registry, taken)?.to_string(),
            "None" => asked,
            text => {
                self.check_address(text, taken).map_err(|detail| {
                    let detail = format!("failed to allocate IP {text}: {detail}");
                    invalid(service, FieldError::invalid(&SPEC.child("clusterIPs"), json!([text]), detail))
                })?;
                asked
            }
        };
        service.set(&["spec", "clusterIP"], address.as_str());
        service.set(&["spec", "clusterIPs"], json!([address]));
        Ok(())
    }

    fn check_address(&self, text: &str, taken: &Taken<'_>) -> Result<(), String> {
        let range = self.network;
        match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) if self.contains(address) && !taken.address(address) => Ok(()),
            Ok(IpAddr::V4(address)) if self.contains(address) => Err("provided IP is already allocated".to_owned()),
            Ok(address) => {
                Err(format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"))
            }
            Err(_) => Err("not a valid IP".to_owned()),
        }
    }

    /// Neither the network's own address nor its broadcast address may be given out.
    fn contains(&self, address: Ipv4Addr) -> bool {
        self.network.contains(&address) && address != self.network.network() && address != self.network.broadcast()
    }

    /// A random free address. The lower end is left to those who choose their address, until nothing else is left.
    fn free_address(&self, registry: &Registry, taken: &Taken<'_>) -> Result<Ipv4Addr, Status> {
        let first = u32::from(self.network.network()) + 1;
        let size = u64::from(u32::from(self.network.broadcast()).saturating_sub(first));
        let reserved = (size / 16).clamp(16, 256).min(size);
        let upper = size - reserved;
        let pick = |offset: u64| u32::try_from(offset).ok().map(|offset| Ipv4Addr::from(first + offset));
        let start = if upper == 0 { 0 } else { registry.ids.below(upper) };
        let dynamic = (0..upper).map(|step| reserved + (start + step) % upper);
        dynamic
            .chain(0..reserved)
            .filter_map(pick)
            .find(|address| !taken.address(*address))
            .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
    }

    fn fill_ports(&self, registry: &Registry, service: &mut Object, taken: &Taken<'_>) -> Result<(), Status> {
        let ports =
            service.typed_at::<Vec<ServicePort>>(&["spec", "ports"]).map_err(Status::internal)?.unwrap_or_default();
        let named = |port: &ServicePort| port.node_port.filter(|number| *number != 0);
        let mut given: Vec<u16> = Vec::with_capacity(ports.len());
        for (at, port) in ports.iter().enumerate() {
            // Protocols that share a port share its node port.
            let earlier = ports[..at].iter().position(|other| other.port == port.port).map(|place| given[place]);
            let later = || ports[at..].iter().filter(|other| other.port == port.port).find_map(named);
            let number = match (named(port), earlier) {
                (None, Some(number)) => number,
                (Some(asked), Some(number)) if asked == i32::from(number) => number,
                (asked, _) => match asked.or_else(later) {
                    None => self.free_port(registry, taken, &given)?,
                    Some(asked) => self.check_port(asked, taken, &given).map_err(|detail| {
                        let path = SPEC.child("ports");
                        let path = path.index(at);
                        invalid(service, FieldError::invalid(&path.child("nodePort"), asked, detail))
                    })?,
                },
            };
            given.push(number);
        }
        if let Some(Value::Array(list)) = service.path_mut(&["spec", "ports"]) {
            for (port, number) in list.iter_mut().filter_map(Value::as_object_mut).zip(&given) {
                port.insert("nodePort".to_owned(), Value::from(*number));
            }
        }
        self.fill_health_port(registry, service, taken, &given)
    }

    /// A load balancer that sends to this node's pods only asks each node whether it has any.
    fn fill_health_port(
        &self,
        registry: &Registry,
        service: &mut Object,
        taken: &Taken<'_>,
        given: &[u16],
    ) -> Result<(), Status> {
        let path = ["spec", "healthCheckNodePort"];
        let local = service.field(&["spec", "externalTrafficPolicy"]) == Some("Local");
        if service_type(service) != "LoadBalancer" || !local {
            return Ok(());
        }
        let number = match service.int(&path).and_then(|asked| i32::try_from(asked).ok()).filter(|asked| *asked != 0) {
            None => self.free_port(registry, taken, given)?,
            Some(asked) => self.check_port(asked, taken, given).map_err(|detail| {
                invalid(service, FieldError::invalid(&SPEC.child("healthCheckNodePort"), asked, detail))
            })?,
        };
        service.set(&path, number);
        Ok(())
    }

    fn check_port(&self, asked: i32, taken: &Taken<'_>, given: &[u16]) -> Result<u16, String> {
        let (low, high) = (self.ports.start(), self.ports.end());
        let number = u16::try_from(asked).ok().filter(|number| self.ports.contains(number)).ok_or_else(|| {
            format!("provided port is not in the valid range. The range of valid ports is {low}-{high}")
        })?;
        let has = taken.port(number) || given.contains(&number);
        if has { Err("provided port is already allocated".to_owned()) } else { Ok(number) }
    }

    fn free_port(&self, registry: &Registry, taken: &Taken<'_>, given: &[u16]) -> Result<u16, Status> {
        let size = u64::from(*self.ports.end() - *self.ports.start()) + 1;
        let start = registry.ids.below(size);
        let offsets = (0..size).filter_map(|step| u16::try_from((start + step) % size).ok());
        let mut numbers = offsets.map(|offset| self.ports.start() + offset);
        numbers
            .find(|number| !taken.port(*number) && !given.contains(number))
            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
    }
}

fn is_service(context: &Context) -> bool {
    context.subresource.is_empty() && context.is("", "services")
}

fn service_type(service: &Object) -> &str {
    service.field(&["spec", "type"]).unwrap_or("ClusterIP")
}

fn has_address(service: &Object) -> bool {
    matches!(service_type(service), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn has_node_ports(service: &Object) -> bool {
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => service.flag(&["spec", "allocateLoadBalancerNodePorts"]).unwrap_or(true),
        _ => false,
    }
}

/// One family: this cluster has IPv4 addresses only.
fn set_families(service: &mut Object) {
    if service.path(&["spec", "ipFamilies"]).is_none() {
        service.set(&["spec", "ipFamilies"], json!(["IPv4"]));
    }
    if service.path(&["spec", "ipFamilyPolicy"]).is_none() {
        service.set(&["spec", "ipFamilyPolicy"], "SingleStack");
    }
}

/// A change of type lets go of what only the old type had, unless the client changed it on purpose.
fn drop_what_the_type_had(service: &mut Object, old: &Object) {
    if has_address(old) && !has_address(service) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let path = ["spec", field];
            if service.path(&path) == old.path(&path) {
                service.remove(&path);
            }
        }
    }
    if service.int(&["spec", "healthCheckNodePort"]) == old.int(&["spec", "healthCheckNodePort"])
        && (service_type(service) != "LoadBalancer"
            || service.field(&["spec", "externalTrafficPolicy"]) != Some("Local"))
    {
        service.remove(&["spec", "healthCheckNodePort"]);
    }
    if has_node_ports(old) && !has_node_ports(service) {
        let before: Vec<Option<i64>> = node_ports(old);
        let now = node_ports(service);
        if let Some(Value::Array(list)) = service.path_mut(&["spec", "ports"]) {
            for (port, number) in list.iter_mut().zip(now) {
                if before.contains(&number)
                    && let Value::Object(port) = port
                {
                    port.remove("nodePort");
                }
            }
        }
    }
}

fn node_ports(service: &Object) -> Vec<Option<i64>> {
    let ports = service.list(&["spec", "ports"]).iter().cloned().map(|port| Object::from_value(port).ok());
    ports.map(|port| port.and_then(|port| port.int(&["nodePort"]))).collect()
}

/// A client that sends a manifest again does not know what was allocated: it stays.
fn carry_over(service: &mut Object, old: &Object) {
    if has_address(old) && has_address(service) {
        let named = |object: &Object, field: &str| {
            object
                .path(&["spec", field])
                .is_some_and(|value| value.as_str() != Some("") && value.as_array().is_none_or(|list| !list.is_empty()))
        };
        for (field, other) in [("clusterIP", "clusterIPs"), ("clusterIPs", "clusterIP")] {
            if !named(service, field) && !named(service, other) {
                for field in ["clusterIP", "clusterIPs"] {
                    crate::strategy::keep_at(service, old, &["spec", field]);
                }
            }
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if !named(service, field) {
                crate::strategy::keep_at(service, old, &["spec", field]);
            }
        }
    }
    if service.int(&["spec", "healthCheckNodePort"]).unwrap_or(0) == 0 {
        crate::strategy::keep_at(service, old, &["spec", "healthCheckNodePort"]);
    }
    if has_node_ports(old) && has_node_ports(service) {
        let before = old.typed_at::<Vec<ServicePort>>(&["spec", "ports"]).ok().flatten().unwrap_or_default();
        let now = service.typed_at::<Vec<ServicePort>>(&["spec", "ports"]).ok().flatten().unwrap_or_default();
        let protocol = |port: &ServicePort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let used: Vec<i32> = now.iter().filter_map(|port| port.node_port).collect();
        let Some(Value::Array(list)) = service.path_mut(&["spec", "ports"]) else { return };
        for (raw, port) in list.iter_mut().zip(&now) {
            let same = before.iter().find(|other| other.port == port.port && protocol(other) == protocol(port));
            let kept = same.and_then(|other| other.node_port).filter(|number| !used.contains(number));
            if port.node_port.unwrap_or(0) == 0
                && let (Some(number), Value::Object(raw)) = (kept, raw)
            {
                raw.insert("nodePort".to_owned(), Value::from(number));
            }
        }
    }
}

fn invalid(service: &Object, error: FieldError) -> Status {
    Status::invalid(&coracle_api::meta::GroupKind::new("", "Service"), service.name(), vec![error])
}
