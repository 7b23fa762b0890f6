//! Ingresses, IngressClasses and NetworkPolicies.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, IPBlock, Ingress, IngressBackend, IngressClass, IngressSpec, NetworkPolicy, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::check::{self, fill, text};
use super::kind::{Errors, Kind};
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const BAD_IN_PATHS: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const BAD_AT_ENDS: &[&str] = &["/..", "/."];

pub(super) struct Ingresses;

impl Kind for Ingresses {
    type Type = Ingress;
    const DEFAULTS: bool = false;

    fn validate_create(&self, _context: &Context, ingress: &Ingress, errors: &mut Errors) {
        let blank = IngressSpec::default();
        let spec = ingress.spec.as_ref().unwrap_or(&blank);
        if spec.rules.as_ref().is_none_or(Vec::is_empty) && spec.default_backend.is_none() {
            let detail = "either `defaultBackend` or `rules` must be specified";
            errors.push(FieldError::invalid(&SPEC, &spec.rules, detail));
        }
        if let Some(backend) = &spec.default_backend {
            self::backend(backend, &SPEC.child("defaultBackend"), errors);
        }
        rules(spec, errors);
        let list = SPEC.child("tls");
        for (i, tls) in spec.tls.iter().flatten().enumerate() {
            let at = list.index(i);
            let hosts = at.child("hosts");
            for (h, host) in tls.hosts.iter().flatten().enumerate() {
                self::host(host, &hosts.index(h), errors);
            }
            let secret = text(&tls.secret_name);
            if !secret.is_empty() {
                check::dns_subdomain(secret, &at.child("secretName"), errors);
            }
        }
        if let Some(class) = &spec.ingress_class_name {
            check::dns_subdomain(class, &SPEC.child("ingressClassName"), errors);
        }
    }

    fn validate_update(&self, context: &Context, new: &Ingress, _old: &Ingress, errors: &mut Errors) {
        self.validate_create(context, new, errors);
    }

    fn validate_status_update(&self, _context: &Context, new: &Ingress, _old: &Ingress, errors: &mut Errors) {
        let list = FieldPath::new("status.loadBalancer.ingress");
        let balancer = new.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
        for (i, one) in ingress.iter().enumerate() {
            let at = list.index(i);
            if !text(&one.ip).is_empty() {
                check::ip(text(&one.ip), &at.child("ip"), errors);
            }
            if !text(&one.hostname).is_empty() {
                check::dns_subdomain(text(&one.hostname), &at.child("hostname"), errors);
            }
        }
    }
}

fn rules(spec: &IngressSpec, errors: &mut Errors) {
    let list = SPEC.child("rules");
    for (i, rule) in spec.rules.iter().flatten().enumerate() {
        let at = list.index(i);
        let host = text(&rule.host);
        if !host.is_empty() {
            if check::is_ip(host) {
                let detail = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(&at.child("host"), host, detail));
            }
            self::host(host, &at.child("host"), errors);
        }
        let Some(http) = &rule.http else { continue };
        let paths = at.child("http.paths");
        if http.paths.is_empty() {
            errors.push(FieldError::required(&paths, ""));
        }
        for (p, path) in http.paths.iter().enumerate() {
            http_path(path, &paths.index(p), errors);
        }
    }
}

fn host(host: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    if host.contains('*') {
        check::problems(names::wildcard_dns1123_subdomain(host), path, host, errors);
    } else {
        check::dns_subdomain(host, path, errors);
    }
}

fn http_path(path: &HTTPIngressPath, at: &FieldPath<'_>, errors: &mut Errors) {
    let value = text(&path.path);
    let here = at.child("path");
    match path.path_type.as_str() {
        "" => errors.push(FieldError::required(&at.child("pathType"), "pathType must be specified")),
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errors.push(FieldError::invalid(&here, value, "must be an absolute path"));
            }
            for bad in BAD_IN_PATHS.iter().filter(|bad| value.contains(**bad)) {
                errors.push(FieldError::invalid(&here, value, format!("must not contain '{bad}'")));
            }
            for bad in BAD_AT_ENDS.iter().filter(|bad| value.ends_with(**bad)) {
                errors.push(FieldError::invalid(&here, value, format!("cannot end with '{bad}'")));
            }
        }
        "ImplementationSpecific" if !value.is_empty() && !value.starts_with('/') => {
            errors.push(FieldError::invalid(&here, value, "must be an absolute path"));
        }
        "ImplementationSpecific" => {}
        other => errors.push(FieldError::not_supported(&at.child("pathType"), other, PATH_TYPES)),
    }
    backend(&path.backend, &at.child("backend"), errors);
}

fn backend(backend: &IngressBackend, path: &FieldPath<'_>, errors: &mut Errors) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(path, "", "cannot set both resource and service backends"));
        }
        (Some(resource), None) => {
            check::required_text(&resource.kind, &path.child("resource.kind"), errors);
            check::required_text(&resource.name, &path.child("resource.name"), errors);
        }
        (None, Some(service)) => {
            let name = path.child("service.name");
            if service.name.is_empty() {
                errors.push(FieldError::required(&name, ""));
            } else {
                check::problems(names::dns1035_label(&service.name), &name, &service.name, errors);
            }
            let port = service.port.clone().unwrap_or_default();
            let (port_name, number) = (text(&port.name), port.number.unwrap_or(0));
            match (port_name.is_empty(), number == 0) {
                (false, false) => {
                    let detail = "cannot set both port name & port number";
                    errors.push(FieldError::invalid(path, "", detail));
                }
                (false, true) => {
                    check::problems(names::port_name(port_name), &path.child("service.port.name"), port_name, errors);
                }
                (true, false) => check::port_number(number, &path.child("service.port.number"), errors),
                (true, true) => errors.push(FieldError::required(path, "port name or number is required")),
            }
        }
        (None, None) => errors.push(FieldError::required(path, "resource or service backend is required")),
    }
}

pub(super) struct IngressClasses;

impl Kind for IngressClasses {
    type Type = IngressClass;

    fn default(&self, class: &mut IngressClass) {
        if let Some(parameters) = class.spec.as_mut().and_then(|spec| spec.parameters.as_mut()) {
            fill(&mut parameters.scope, "Cluster");
        }
    }

    fn validate_create(&self, _context: &Context, class: &IngressClass, errors: &mut Errors) {
        let controller = class.spec.as_ref().map_or("", |spec| text(&spec.controller));
        let path = SPEC.child("controller");
        if controller.len() > 250 {
            errors.push(FieldError::too_long(&path, 250));
        }
        if !controller.contains('/') && !controller.is_empty() {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(&path, controller, detail));
        }
        check::required_text(controller, &path, errors);
    }

    fn validate_update(&self, _context: &Context, new: &IngressClass, old: &IngressClass, errors: &mut Errors) {
        let controller = |class: &IngressClass| class.spec.as_ref().and_then(|spec| spec.controller.clone());
        check::immutable(&controller(new), &controller(old), &SPEC.child("controller"), errors);
    }
}

pub(super) struct NetworkPolicies;

impl Kind for NetworkPolicies {
    type Type = NetworkPolicy;

    fn default(&self, policy: &mut NetworkPolicy) {
        let spec = policy.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let mut types = vec!["Ingress".to_owned()];
            if spec.egress.as_ref().is_some_and(|egress| !egress.is_empty()) {
                types.push("Egress".to_owned());
            }
            spec.policy_types = Some(types);
        }
        let ingress = spec.ingress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
        let egress = spec.egress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
        ingress.chain(egress).for_each(|port| fill(&mut port.protocol, "TCP"));
    }

    fn validate_create(&self, _context: &Context, policy: &NetworkPolicy, errors: &mut Errors) {
        let blank = NetworkPolicySpec::default();
        let spec = policy.spec.as_ref().unwrap_or(&blank);
        if let Some(selector) = &spec.pod_selector {
            check::label_selector(selector, &SPEC.child("podSelector"), errors);
        }
        let list = SPEC.child("ingress");
        for (i, rule) in spec.ingress.iter().flatten().enumerate() {
            let at = list.index(i);
            ports(rule.ports.as_deref(), &at.child("ports"), errors);
            peers(rule.from.as_deref(), &at.child("from"), errors);
        }
        let list = SPEC.child("egress");
        for (i, rule) in spec.egress.iter().flatten().enumerate() {
            let at = list.index(i);
            ports(rule.ports.as_deref(), &at.child("ports"), errors);
            peers(rule.to.as_deref(), &at.child("to"), errors);
        }
        let list = SPEC.child("policyTypes");
        let types = spec.policy_types.as_deref().unwrap_or_default();
        if types.len() > 2 {
            errors.push(FieldError::invalid(&list, types, "may not specify more than two policyTypes"));
        }
        for (i, one) in types.iter().enumerate() {
            if !["Egress", "Ingress"].contains(&one.as_str()) {
                errors.push(FieldError::not_supported(&list.index(i), one, &["Egress", "Ingress"]));
            }
        }
    }

    fn validate_update(&self, context: &Context, new: &NetworkPolicy, _old: &NetworkPolicy, errors: &mut Errors) {
        self.validate_create(context, new, errors);
    }
}

fn ports(ports: Option<&[NetworkPolicyPort]>, list: &FieldPath<'_>, errors: &mut Errors) {
    for (i, port) in ports.into_iter().flatten().enumerate() {
        let at = list.index(i);
        check::one_of(text(&port.protocol), PROTOCOLS, &at.child("protocol"), errors);
        match (&port.port, port.end_port) {
            (Some(IntOrString::Int(first)), end) => {
                check::port_number(*first, &at.child("port"), errors);
                if let Some(end) = end {
                    if end < *first {
                        let detail = "must be greater than or equal to `port`";
                        errors.push(FieldError::invalid(&at.child("endPort"), end, detail));
                    }
                    check::port_number(end, &at.child("endPort"), errors);
                }
            }
            (Some(IntOrString::String(name)), end) => {
                check::problems(names::port_name(name), &at.child("port"), name, errors);
                if let Some(end) = end {
                    let detail = "may not be specified when `port` is non-numeric";
                    errors.push(FieldError::invalid(&at.child("endPort"), end, detail));
                }
            }
            (None, Some(end)) => {
                let detail = "may not be specified when `port` is not specified";
                errors.push(FieldError::invalid(&at.child("endPort"), end, detail));
            }
            (None, None) => {}
        }
    }
}

fn peers(peers: Option<&[NetworkPolicyPeer]>, list: &FieldPath<'_>, errors: &mut Errors) {
    for (i, peer) in peers.into_iter().flatten().enumerate() {
        let at = list.index(i);
        for (field, selector) in [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)]
        {
            if let Some(selector) = selector {
                check::label_selector(selector, &at.child(field), errors);
            }
        }
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            Some(_) if selects => {
                let detail = "may not specify both ipBlock and another peer";
                errors.push(FieldError::forbidden(&at, detail));
            }
            Some(block) => ip_block(block, &at.child("ipBlock"), errors),
            None if !selects => errors.push(FieldError::required(&at, "must specify a peer")),
            None => {}
        }
    }
}

fn ip_block(block: &IPBlock, path: &FieldPath<'_>, errors: &mut Errors) {
    if block.cidr.is_empty() {
        errors.push(FieldError::required(&path.child("cidr"), ""));
        return;
    }
    check::cidr(&block.cidr, &path.child("cidr"), errors);
    let Ok(whole) = block.cidr.parse::<ipnet::IpNet>() else { return };
    let list = path.child("except");
    for (i, except) in block.except.iter().flatten().enumerate() {
        match except.parse::<ipnet::IpNet>() {
            Err(_) => check::cidr(except, &list.index(i), errors),
            Ok(part) if !whole.contains(&part.network()) || part.prefix_len() <= whole.prefix_len() => {
                let detail = "must be a strict subset of `cidr`";
                errors.push(FieldError::invalid(&list.index(i), except, detail));
            }
            Ok(_) => {}
        }
    }
}
