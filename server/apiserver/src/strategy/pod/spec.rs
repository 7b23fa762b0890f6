//! What a pod's spec and a pod template must be.

use std::collections::HashSet;

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::check::{self, Labels, number, text};
use super::super::kind::Errors;
use super::super::resources;
use super::{containers, scheduling, security, volumes};

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const NO_WINDOWS: &str = "windows options cannot be set for a linux pod";
pub(super) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const DELETION_COST_ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A Pod as a whole: on create and on update.
pub(super) fn pod(pod: &Pod, errors: &mut Errors) {
    let Some(spec) = &pod.spec else {
        errors.push(FieldError::required(&FieldPath::new("spec"), ""));
        return;
    };
    annotations(&pod.metadata, Some(spec), &FieldPath::new("metadata.annotations"), errors);
    let path = FieldPath::new("spec");
    validate(spec, true, &path, errors);
    if text(&spec.service_account_name).is_empty() {
        tokens_without_account(spec, &path, errors);
    }
    for (field, list) in [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())] {
        let list_path = path.child(field);
        for (i, container) in list.into_iter().flatten().enumerate() {
            containers::image_padding(text(&container.image), &list_path.index(i), errors);
        }
    }
}

fn tokens_without_account(spec: &PodSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let list = path.child("volumes");
    for (v, volume) in spec.volumes.iter().flatten().enumerate() {
        let at = list.index(v);
        let sources = at.child("projected.sources");
        let given = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for (s, source) in given.enumerate() {
            if source.service_account_token.is_some() {
                let detail = "must not be specified when serviceAccountName is not set";
                errors.push(FieldError::forbidden(&sources.index(s).child("serviceAccountToken"), detail));
            }
        }
    }
}

fn annotations(meta: &ObjectMeta, spec: Option<&PodSpec>, path: &FieldPath<'_>, errors: &mut Errors) {
    let Some(given) = &meta.annotations else { return };
    if let (Some(value), Some(spec)) = (given.get(MIRROR_ANNOTATION), spec)
        && text(&spec.node_name).is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(FieldError::invalid(&path.key(MIRROR_ANNOTATION), value, detail));
    }
    if let Some(cost) = given.get(DELETION_COST_ANNOTATION)
        && !is_deletion_cost(cost)
    {
        let detail = "must be a 32bit integer";
        errors.push(FieldError::invalid(&path.key(DELETION_COST_ANNOTATION), cost, detail));
    }
}

/// Neither a plus sign nor leading zeros, so that a number has one spelling.
fn is_deletion_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits == "0" || !digits.starts_with(['0', '+']);
    plain && text.parse::<i32>().is_ok()
}

/// The template of a workload.
pub(in super::super) fn template(template: &PodTemplateSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let blank = ObjectMeta::default();
    let meta = template.metadata.as_ref().unwrap_or(&blank);
    check::labels(meta.labels.as_ref(), &path.child("labels"), errors);
    metadata_annotations(meta.annotations.as_ref(), &path.child("annotations"), errors);
    annotations(meta, None, &path.child("annotations"), errors);
    let blank = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&blank);
    validate(spec, false, &path.child("spec"), errors);
    if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(&path.child("spec.ephemeralContainers"), detail));
    }
}

fn metadata_annotations(annotations: Option<&Labels>, path: &FieldPath<'_>, errors: &mut Errors) {
    const MAX_BYTES: usize = 256 * 1024;
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        check::problems(names::qualified_name(&key.to_lowercase()), path, key, errors);
        size += key.len() + value.len();
    }
    if size > MAX_BYTES {
        errors.push(FieldError::too_long(path, MAX_BYTES));
    }
}

/// A spec; `is_pod` rather than a template's.
fn validate(spec: &PodSpec, is_pod: bool, path: &FieldPath<'_>, errors: &mut Errors) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.push(FieldError::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let known = volumes::validate(spec.volumes.as_deref().unwrap_or_default(), &path.child("volumes"), errors);
    claims(spec, &path.child("resourceClaims"), errors);
    containers::validate(spec, &known, path, errors);
    if let Some(given) = &spec.resources {
        pod_resources(spec, given, &path.child("resources"), errors);
    }
    host_network_ports(spec, is_pod, path, errors);
    check::one_of(text(&spec.restart_policy), RESTART_POLICIES, &path.child("restartPolicy"), errors);
    check::one_of(text(&spec.dns_policy), DNS_POLICIES, &path.child("dnsPolicy"), errors);
    check::labels(spec.node_selector.as_ref(), &path.child("nodeSelector"), errors);
    if let Some(context) = &spec.security_context {
        security::pod(context, spec, &path.child("securityContext"), errors);
    }
    if let Some(affinity) = &spec.affinity {
        scheduling::affinity(affinity, &path.child("affinity"), errors);
    }
    dns_config(spec.dns_config.as_ref(), text(&spec.dns_policy), &path.child("dnsConfig"), errors);
    gates(spec, path, errors);
    let spread = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    scheduling::spread(spread, &path.child("topologySpreadConstraints"), errors);
    host_users(spec, path, errors);
    names(spec, path, errors);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    scheduling::tolerations(tolerations, &path.child("tolerations"), errors);
    host_aliases(spec, &path.child("hostAliases"), errors);
    let policies = &["PreemptLowerPriority", "Never"];
    check::one_of_opt(&spec.preemption_policy, policies, &path.child("preemptionPolicy"), errors);
    let overhead = path.child("overhead.limits");
    for (name, amount) in spec.overhead.iter().flatten() {
        resources::container_resource_name(name, &overhead.key(name), errors);
        resources::amount(name, amount, &overhead.key(name), errors);
    }
    operating_system(spec, path, errors);
}

/// Names of other objects, and numbers.
fn names(spec: &PodSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let subdomains = [
        ("serviceAccountName", text(&spec.service_account_name)),
        ("nodeName", text(&spec.node_name)),
        ("priorityClassName", text(&spec.priority_class_name)),
    ];
    for (field, name) in subdomains {
        if !name.is_empty() {
            check::dns_subdomain(name, &path.child(field), errors);
        }
    }
    if let Some(name) = &spec.runtime_class_name {
        check::dns_subdomain(name, &path.child("runtimeClassName"), errors);
    }
    for (field, name) in [("hostname", text(&spec.hostname)), ("subdomain", text(&spec.subdomain))] {
        if !name.is_empty() {
            check::dns_label(name, &path.child(field), errors);
        }
    }
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
    }
}

fn claims(spec: &PodSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, claim) in spec.resource_claims.iter().flatten().enumerate() {
        let at = path.index(i);
        if claim.name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else if !seen.insert(&claim.name) {
            errors.push(FieldError::duplicate(&at.child("name"), &claim.name));
        } else {
            check::dns_label(&claim.name, &at.child("name"), errors);
        }
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.push(FieldError::invalid(&at, claim, detail));
            }
            (None, None) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.push(FieldError::invalid(&at, claim, detail));
            }
            (Some(name), None) => check::dns_subdomain(name, &at.child("resourceClaimName"), errors),
            (None, Some(name)) => check::dns_subdomain(name, &at.child("resourceClaimTemplateName"), errors),
        }
    }
}

fn pod_resources(
    spec: &PodSpec,
    given: &k8s_openapi::api::core::v1::ResourceRequirements,
    path: &FieldPath<'_>,
    errors: &mut Errors,
) {
    if given.claims.is_some() {
        let detail = "claims cannot be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&path.child("claims"), detail));
    }
    resources::requirements(given, path, errors);
    let requests = path.child("requests");
    for (name, total) in super::qos::aggregate_requests(spec) {
        let own = given.requests.as_ref().and_then(|r| r.get(&name)).map(number).unwrap_or_default();
        if total > own {
            let detail = format!("must be greater than or equal to aggregate container requests of {total}");
            errors.push(FieldError::invalid(&requests.key(&name), own, detail));
        }
    }
    let list = path.child("containers");
    for (i, container) in spec.containers.iter().enumerate() {
        let limits = container.resources.iter().flat_map(|r| r.limits.iter().flatten());
        for (name, limit) in limits {
            let whole = given.limits.as_ref().and_then(|limits| limits.get(name));
            if let Some(whole) = whole.filter(|whole| number(limit) > number(whole)) {
                let at = list.index(i);
                let at = at.key(name);
                let detail = format!("must be less than or equal to pod limits of {}", whole.0);
                errors.push(FieldError::invalid(&at.child("limits"), &limit.0, detail));
            }
        }
    }
}

fn host_network_ports(spec: &PodSpec, is_pod: bool, path: &FieldPath<'_>, errors: &mut Errors) {
    if spec.host_network != Some(true) {
        return;
    }
    let list = path.child("containers");
    for (c, container) in spec.containers.iter().enumerate() {
        let at = list.index(c);
        let ports = at.child("ports");
        for (p, port) in container.ports.iter().flatten().enumerate() {
            let host = port.host_port.unwrap_or(0);
            if (is_pod || host != 0) && host != port.container_port {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&ports.index(p).child("hostPort"), host, detail));
            }
        }
    }
}

fn dns_config(config: Option<&PodDNSConfig>, policy: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    let servers = config.and_then(|c| c.nameservers.as_deref()).unwrap_or_default();
    if policy == "None" && config.is_none() {
        errors.push(FieldError::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
        return;
    }
    if policy == "None" && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(&path.child("nameservers"), detail));
        return;
    }
    let Some(config) = config else { return };
    let list = path.child("nameservers");
    if servers.len() > 3 {
        errors.push(FieldError::invalid(&list, servers, "must not have more than 3 nameservers"));
    }
    for (i, server) in servers.iter().enumerate() {
        check::ip(server, &list.index(i), errors);
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    let list = path.child("searches");
    if searches.len() > 32 {
        errors.push(FieldError::invalid(&list, searches, "must not have more than 32 search paths"));
    }
    if searches.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.push(FieldError::invalid(&list, searches, detail));
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        check::problems(names::dns1123_subdomain_with_underscore(search), &list.index(i), search, errors);
    }
    let list = path.child("options");
    for (i, option) in config.options.iter().flatten().enumerate() {
        if text(&option.name).is_empty() {
            errors.push(FieldError::required(&list.index(i), "must not be empty"));
        }
    }
}

fn gates(spec: &PodSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let list = path.child("readinessGates");
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        check::qualified_name(&gate.condition_type, &list.index(i).child("conditionType"), errors);
    }
    let list = path.child("schedulingGates");
    let mut seen = HashSet::new();
    for (i, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        check::qualified_name(&gate.name, &list.index(i), errors);
        if !seen.insert(&gate.name) {
            errors.push(FieldError::duplicate(&list.index(i), &gate.name));
        }
    }
}

fn host_users(spec: &PodSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    if spec.host_users != Some(false) {
        return;
    }
    let shared = [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)];
    for (field, _) in shared.into_iter().filter(|(_, given)| *given == Some(true)) {
        errors.push(FieldError::forbidden(&path.child(field), "when `pod.Spec.HostUsers` is false"));
    }
}

fn host_aliases(spec: &PodSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let at = path.index(i);
        check::ip(&alias.ip, &at.child("ip"), errors);
        let list = at.child("hostnames");
        for (h, hostname) in alias.hostnames.iter().flatten().enumerate() {
            check::dns_subdomain(hostname, &list.index(h), errors);
        }
    }
}

fn operating_system(spec: &PodSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let Some(os) = &spec.os else { return };
    check::one_of(&os.name, &["linux", "windows"], &path.child("os.name"), errors);
    if os.name != "linux" {
        return;
    }
    if spec.security_context.as_ref().is_some_and(|context| context.windows_options.is_some()) {
        errors.push(FieldError::forbidden(&path.child("securityContext.windowsOptions"), NO_WINDOWS));
    }
    for (field, list) in [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())] {
        let list_path = path.child(field);
        for (i, container) in list.into_iter().flatten().enumerate() {
            if container.security_context.as_ref().is_some_and(|context| context.windows_options.is_some()) {
                let at = list_path.index(i);
                errors.push(FieldError::forbidden(&at.child("securityContext.windowsOptions"), NO_WINDOWS));
            }
        }
    }
}
