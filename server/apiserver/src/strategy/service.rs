//! Services. Cluster addresses and node ports are given out by the registry before this validates.

use std::collections::{BTreeMap, HashSet};

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use coracle_api::object::Object;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::check::{self, fill, text};
use super::keep;
use super::kind::{Errors, Kind};
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: &[&str] = &["Cluster", "Local"];
const AFFINITY_SECONDS: i32 = 10_800;
const AFFINITY_SECONDS_MAX: i32 = 86_400;
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

pub(super) struct Services;

impl Kind for Services {
    type Type = Service;

    fn default(&self, service: &mut Service) {
        let spec = service.spec.get_or_insert_default();
        fill(&mut spec.type_, "ClusterIP");
        affinity_defaults(spec);
        for port in spec.ports.iter_mut().flatten() {
            fill(&mut port.protocol, "TCP");
            let unset = match &port.target_port {
                None | Some(IntOrString::Int(0)) => true,
                Some(IntOrString::String(name)) => name.is_empty(),
                Some(IntOrString::Int(_)) => false,
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        let external = is_external(spec);
        if external {
            fill(&mut spec.external_traffic_policy, "Cluster");
        }
        let kind = text(&spec.type_);
        let balanced = kind == "LoadBalancer";
        if matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
            spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
        }
        if balanced {
            spec.allocate_load_balancer_node_ports.get_or_insert(true);
            let balancer = service.status.as_mut().and_then(|status| status.load_balancer.as_mut());
            for ingress in balancer.into_iter().flat_map(|balancer| balancer.ingress.iter_mut().flatten()) {
                if !text(&ingress.ip).is_empty() {
                    ingress.ip_mode.get_or_insert_with(|| "VIP".to_owned());
                }
            }
        }
    }

    fn prepare_for_create(&self, _context: &Context, object: &mut Object) {
        object.set(&["status"], json!({ "loadBalancer": {} }));
    }

    fn prepare_for_update(&self, _context: &Context, object: &mut Object, old: &Object) {
        keep(object, old, "status");
        if let (Ok(now), Ok(before)) = (object.typed::<Service>(), old.typed::<Service>()) {
            let (now, before) = (now.spec.unwrap_or_default(), before.spec.unwrap_or_default());
            for field in outlived(&now, &before) {
                object.remove(&["spec", field]);
            }
        }
    }

    fn validate_create(&self, _context: &Context, service: &Service, errors: &mut Errors) {
        let blank = ServiceSpec::default();
        spec(service.spec.as_ref().unwrap_or(&blank), errors);
    }

    fn validate_update(&self, context: &Context, new: &Service, old: &Service, errors: &mut Errors) {
        self.validate_create(context, new, errors);
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
        let balanced = |spec: &ServiceSpec| text(&spec.type_) == "LoadBalancer";
        if balanced(new) && balanced(old) && new.load_balancer_class != old.load_balancer_class {
            let detail = "may not change once set";
            errors.push(FieldError::invalid(&SPEC.child("loadBalancerClass"), &new.load_balancer_class, detail));
        }
        let changed = new.health_check_node_port != old.health_check_node_port;
        if needs_health_check(new) && needs_health_check(old) && changed {
            errors.push(FieldError::forbidden(&SPEC.child("healthCheckNodePort"), check::IMMUTABLE));
        }
    }

    fn validate_status_update(&self, _context: &Context, new: &Service, _old: &Service, errors: &mut Errors) {
        let list = FieldPath::new("status.loadBalancer.ingress");
        let ingress = new.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = ingress.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
        let kind = new.spec.as_ref().map_or("", |spec| text(&spec.type_));
        if kind != "LoadBalancer" && !ingress.is_empty() {
            errors.push(FieldError::forbidden(&list, "may only be used when `spec.type` is \"LoadBalancer\""));
            return;
        }
        for (i, one) in ingress.iter().enumerate() {
            let at = list.index(i);
            if !text(&one.ip).is_empty() {
                check::ip(text(&one.ip), &at.child("ip"), errors);
                check::one_of_opt(&one.ip_mode, &["Proxy", "VIP"], &at.child("ipMode"), errors);
            }
            let hostname = text(&one.hostname);
            if !hostname.is_empty() {
                check::dns_subdomain(hostname, &at.child("hostname"), errors);
                if check::is_ip(hostname) {
                    let detail = "must be a DNS name, not an IP address";
                    errors.push(FieldError::invalid(&at.child("hostname"), hostname, detail));
                }
            }
        }
    }
}

fn affinity_defaults(spec: &mut ServiceSpec) {
    fill(&mut spec.session_affinity, "None");
    match text(&spec.session_affinity) {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let client = spec.session_affinity_config.get_or_insert_default().client_ip.get_or_insert_default();
            client.timeout_seconds.get_or_insert(AFFINITY_SECONDS);
        }
        _ => {}
    }
}

/// Reachable from outside the cluster.
fn is_external(spec: &ServiceSpec) -> bool {
    let kind = text(&spec.type_);
    let addresses = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    matches!(kind, "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && addresses)
}

fn needs_health_check(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == "LoadBalancer" && text(&spec.external_traffic_policy) == "Local"
}

pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).map(String::as_str);
    text(&spec.cluster_ip) == "None" || first == Some("None")
}

/// Fields that the old type had, the new one has not, and the client did not change: it only changed the type.
fn outlived(new: &ServiceSpec, old: &ServiceSpec) -> Vec<&'static str> {
    let mut fields = Vec::new();
    if needs_health_check(old) && !needs_health_check(new) && new.health_check_node_port == old.health_check_node_port {
        fields.push("healthCheckNodePort");
    }
    let balanced = |spec: &ServiceSpec| text(&spec.type_) == "LoadBalancer";
    if balanced(old) && !balanced(new) {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            fields.push("allocateLoadBalancerNodePorts");
        }
        if new.load_balancer_class == old.load_balancer_class {
            fields.push("loadBalancerClass");
        }
    }
    if is_external(old) && !is_external(new) && new.external_traffic_policy == old.external_traffic_policy {
        fields.push("externalTrafficPolicy");
    }
    fields
}

fn spec(spec: &ServiceSpec, errors: &mut Errors) {
    let kind = text(&spec.type_);
    let headless = is_headless(spec);
    let service_ports = spec.ports.as_deref().unwrap_or_default();
    if service_ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(&SPEC.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let list = SPEC.child("clusterIPs");
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(&list.index(0), "None", detail));
        }
        "ExternalName" => external_name(spec, errors),
        _ => {}
    }
    ports(service_ports, kind, errors);
    check::labels(spec.selector.as_ref(), &SPEC.child("selector"), errors);
    check::one_of(text(&spec.session_affinity), &["ClientIP", "None"], &SPEC.child("sessionAffinity"), errors);
    affinity(spec, errors);
    let list = SPEC.child("externalIPs");
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        check::ip(ip, &list.index(i), errors);
        check::non_special_ip(ip, &list.index(i), errors);
    }
    check::one_of(kind, TYPES, &SPEC.child("type"), errors);
    balancer(spec, kind, errors);
    traffic(spec, kind, errors);
    families(spec, errors);
}

fn external_name(spec: &ServiceSpec, errors: &mut Errors) {
    let given = [
        ("clusterIPs", spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty())),
        ("ipFamilies", spec.ip_families.as_ref().is_some_and(|families| !families.is_empty())),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ];
    for (field, _) in given.into_iter().filter(|(_, given)| *given) {
        errors.push(FieldError::forbidden(&SPEC.child(field), "may not be set for ExternalName services"));
    }
    let name = text(&spec.external_name);
    let name = name.strip_suffix('.').unwrap_or(name);
    check::required_name(name, &SPEC.child("externalName"), errors);
}

fn ports(ports: &[ServicePort], kind: &str, errors: &mut Errors) {
    let list = SPEC.child("ports");
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = list.index(i);
        let name = text(&port.name);
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else if !name.is_empty() {
            check::dns_label(name, &at.child("name"), errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        check::port_number(port.port, &at.child("port"), errors);
        check::one_of(text(&port.protocol), PROTOCOLS, &at.child("protocol"), errors);
        if let Some(target) = &port.target_port {
            check::port_or_name(target, &at.child("targetPort"), errors);
        }
        if let Some(protocol) = &port.app_protocol {
            check::problems(names::qualified_name(protocol), &at.child("appProtocol"), protocol, errors);
        }
    }
    let node_port = |port: &ServicePort| port.node_port.filter(|number| *number != 0);
    for (i, port) in ports.iter().enumerate() {
        let at = list.index(i);
        let before = &ports[..i];
        if let Some(number) = node_port(port) {
            if kind == "ClusterIP" {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(&at.child("nodePort"), detail));
            }
            if before.iter().any(|other| node_port(other) == Some(number) && other.protocol == port.protocol) {
                errors.push(FieldError::duplicate(&at.child("nodePort"), number));
            }
        }
        if before.iter().any(|other| (other.port, &other.protocol) == (port.port, &port.protocol)) {
            let shown = json!({ "port": port.port, "protocol": port.protocol });
            errors.push(FieldError::duplicate(&at, shown));
        }
    }
}

fn affinity(spec: &ServiceSpec, errors: &mut Errors) {
    let path = SPEC.child("sessionAffinityConfig");
    match (text(&spec.session_affinity), &spec.session_affinity_config) {
        ("ClientIP", config) => {
            let seconds = config.as_ref().and_then(|c| c.client_ip.as_ref()).and_then(|c| c.timeout_seconds);
            let path = path.child("clientIP.timeoutSeconds");
            match seconds {
                None => errors.push(FieldError::required(&path, "when session affinity type is ClientIP")),
                Some(seconds) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => {
                    let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                    errors.push(FieldError::invalid(&path, seconds, detail));
                }
                Some(_) => {}
            }
        }
        ("None", Some(_)) => {
            let detail = "must not be set when session affinity is None";
            errors.push(FieldError::forbidden(&path, detail));
        }
        (_, _) => {}
    }
}

fn balancer(spec: &ServiceSpec, kind: &str, errors: &mut Errors) {
    let balanced = kind == "LoadBalancer";
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let list = SPEC.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() && !balanced {
        errors.push(FieldError::forbidden(&list, ONLY_LOAD_BALANCER));
    }
    for (i, range) in ranges.iter().enumerate() {
        check::cidr(range.trim(), &list.index(i), errors);
    }
    if spec.allocate_load_balancer_node_ports.is_some() && !balanced {
        errors.push(FieldError::forbidden(&SPEC.child("allocateLoadBalancerNodePorts"), ONLY_LOAD_BALANCER));
    }
    if let Some(class) = &spec.load_balancer_class {
        let path = SPEC.child("loadBalancerClass");
        if !balanced {
            errors.push(FieldError::forbidden(&path, ONLY_LOAD_BALANCER));
        }
        check::qualified_name(class, &path, errors);
    }
}

fn traffic(spec: &ServiceSpec, kind: &str, errors: &mut Errors) {
    let policy = text(&spec.external_traffic_policy);
    let path = SPEC.child("externalTrafficPolicy");
    if is_external(spec) {
        check::one_of(policy, POLICIES, &path, errors);
    } else if !policy.is_empty() {
        errors.push(FieldError::invalid(&path, policy, "may only be set for externally-accessible services"));
    }
    let path = SPEC.child("healthCheckNodePort");
    if let Some(port) = spec.health_check_node_port.filter(|port| *port != 0) {
        if needs_health_check(spec) {
            check::port_number(port, &path, errors);
        } else {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(FieldError::invalid(&path, port, detail));
        }
    }
    let path = SPEC.child("internalTrafficPolicy");
    if spec.internal_traffic_policy.is_none() && matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        errors.push(FieldError::required(&path, ""));
    }
    check::one_of_opt(&spec.internal_traffic_policy, POLICIES, &path, errors);
    let supported = &["PreferClose", "PreferSameNode", "PreferSameZone"];
    check::one_of_opt(&spec.traffic_distribution, supported, &SPEC.child("trafficDistribution"), errors);
}

fn families(spec: &ServiceSpec, errors: &mut Errors) {
    let list = SPEC.child("ipFamilies");
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (i, family) in families.iter().enumerate() {
        if !["IPv4", "IPv6"].contains(&family.as_str()) {
            errors.push(FieldError::not_supported(&list.index(i), family, &["IPv4", "IPv6"]));
        }
        if families[..i].contains(family) {
            errors.push(FieldError::duplicate(&list.index(i), family));
        }
    }
    let policies = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    let policy = SPEC.child("ipFamilyPolicy");
    check::one_of_opt(&spec.ip_family_policy, policies, &policy, errors);
    // Without a selector a headless Service may have endpoints of any family; else the cluster's only one is IPv4.
    let is_free = text(&spec.cluster_ip) == "None" && spec.selector.as_ref().is_none_or(BTreeMap::is_empty);
    if !is_free {
        if text(&spec.ip_family_policy) == "RequireDualStack" {
            let detail = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid(&policy, &spec.ip_family_policy, detail));
        }
        for (i, family) in families.iter().enumerate().filter(|(_, family)| *family == "IPv6") {
            errors.push(FieldError::invalid(&list.index(i), family, "not configured on this cluster"));
        }
    }
    let list = SPEC.child("clusterIPs");
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    if ips.len() > 2 {
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid(&list, ips, detail));
    }
    for (i, ip) in ips.iter().enumerate().filter(|(_, ip)| *ip != "None") {
        check::ip(ip, &list.index(i), errors);
    }
    if let Some(first) = ips.first()
        && !text(&spec.cluster_ip).is_empty()
        && text(&spec.cluster_ip) != first
    {
        errors.push(FieldError::invalid(&list, ips, "first value must match `clusterIP`"));
    }
}
