//! Regular, init and ephemeral containers.

use std::collections::HashSet;

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use k8s_openapi::api::core::v1::{Container, ContainerPort, ContainerResizePolicy, EphemeralContainer, PodSpec};

use super::super::check::{self, text};
use super::super::kind::Errors;
use super::super::resources;
use super::volumes::{self, Known};
use super::{env, probes, security};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];
const NO_INIT: &str = "may not be set for init containers without restartPolicy=Always";
const NO_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// All containers of a pod.
pub(super) fn validate(spec: &PodSpec, known: &Known<'_>, path: &FieldPath<'_>, errors: &mut Errors) {
    let list = path.child("containers");
    if spec.containers.is_empty() {
        errors.push(FieldError::required(&list, ""));
    }
    let mut names = HashSet::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let at = list.index(i);
        common(container, spec, known, &at, errors);
        if !names.insert(container.name.as_str()) {
            errors.push(FieldError::duplicate(&at.child("name"), &container.name));
        }
        probes::validate(container, spec, &at, errors);
        if container.restart_policy.is_some() && container.restart_policy_rules.is_none() {
            restart_policy(container, &at, errors);
        }
    }
    host_ports(&spec.containers, &list, errors);
    init_containers(spec, known, &mut names, &path.child("initContainers"), errors);
    ephemeral_containers(spec, known, &mut names, &path.child("ephemeralContainers"), errors);
}

fn restart_policy(container: &Container, at: &FieldPath<'_>, errors: &mut Errors) {
    let policies = &["Always", "OnFailure", "Never"];
    check::one_of_opt(&container.restart_policy, policies, &at.child("restartPolicy"), errors);
}

fn init_containers<'a>(
    spec: &'a PodSpec,
    known: &Known<'_>,
    names: &mut HashSet<&'a str>,
    list: &FieldPath<'_>,
    errors: &mut Errors,
) {
    for (i, container) in spec.init_containers.iter().flatten().enumerate() {
        let at = list.index(i);
        common(container, spec, known, &at, errors);
        if container.restart_policy_rules.is_none() {
            restart_policy(container, &at, errors);
        }
        if !container.name.is_empty() && !names.insert(container.name.as_str()) {
            errors.push(FieldError::duplicate(&at.child("name"), &container.name));
        }
        host_ports(std::slice::from_ref(container), list, errors);
        if is_sidecar(container) {
            probes::validate(container, spec, &at, errors);
            continue;
        }
        let forbidden = [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ];
        for (field, given) in forbidden {
            if given {
                errors.push(FieldError::forbidden(&at.child(field), NO_INIT));
            }
        }
    }
}

fn ephemeral_containers<'a>(
    spec: &'a PodSpec,
    known: &Known<'_>,
    names: &mut HashSet<&'a str>,
    list: &FieldPath<'_>,
    errors: &mut Errors,
) {
    let others = names.clone();
    for (i, ephemeral) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let at = list.index(i);
        common(&as_container(ephemeral), spec, known, &at, errors);
        image_padding(text(&ephemeral.image), &at, errors);
        if !names.insert(ephemeral.name.as_str()) {
            errors.push(FieldError::duplicate(&at.child("name"), &ephemeral.name));
        }
        let target = text(&ephemeral.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(&at.child("targetContainerName"), target));
        }
        let blank = ephemeral.resources.as_ref().is_none_or(|resources| *resources == Default::default());
        let forbidden = [
            ("ports", ephemeral.ports.is_some()),
            ("resources", !blank),
            ("livenessProbe", ephemeral.liveness_probe.is_some()),
            ("readinessProbe", ephemeral.readiness_probe.is_some()),
            ("startupProbe", ephemeral.startup_probe.is_some()),
            ("lifecycle", ephemeral.lifecycle.is_some()),
            ("resizePolicy", ephemeral.resize_policy.is_some()),
            ("restartPolicy", ephemeral.restart_policy.is_some()),
        ];
        for (field, given) in forbidden {
            if given {
                errors.push(FieldError::forbidden(&at.child(field), NO_EPHEMERAL));
            }
        }
        let mounts = at.child("volumeMounts");
        for (m, mount) in ephemeral.volume_mounts.iter().flatten().enumerate() {
            for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if !text(value).is_empty() {
                    errors.push(FieldError::forbidden(&mounts.index(m).child(field), NO_EPHEMERAL));
                }
            }
        }
    }
}

/// An ephemeral container has the fields of a container, and the rules that all containers share.
fn as_container(e: &EphemeralContainer) -> Container {
    Container {
        name: e.name.clone(),
        image: e.image.clone(),
        command: e.command.clone(),
        args: e.args.clone(),
        ports: e.ports.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        resources: e.resources.clone(),
        resize_policy: e.resize_policy.clone(),
        volume_mounts: e.volume_mounts.clone(),
        volume_devices: e.volume_devices.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        security_context: e.security_context.clone(),
        ..Container::default()
    }
}

/// What holds of every container.
fn common(container: &Container, spec: &PodSpec, known: &Known<'_>, at: &FieldPath<'_>, errors: &mut Errors) {
    if container.name.is_empty() {
        errors.push(FieldError::required(&at.child("name"), ""));
    } else {
        check::dns_label(&container.name, &at.child("name"), errors);
    }
    check::required_text(text(&container.image), &at.child("image"), errors);
    let policy = text(&container.termination_message_policy);
    check::one_of(policy, MESSAGE_POLICIES, &at.child("terminationMessagePolicy"), errors);
    ports(container.ports.as_deref().unwrap_or_default(), &at.child("ports"), errors);
    env::validate(container.env.as_deref().unwrap_or_default(), &at.child("env"), errors);
    env::validate_from(container.env_from.as_deref().unwrap_or_default(), &at.child("envFrom"), errors);
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let privileged = container.security_context.as_ref().and_then(|sc| sc.privileged).unwrap_or(false);
    volumes::mounts(mounts, devices, known, privileged, at, errors);
    check::one_of(text(&container.image_pull_policy), PULL_POLICIES, &at.child("imagePullPolicy"), errors);
    if let Some(given) = &container.resources {
        resources::requirements(given, &at.child("resources"), errors);
        resource_claims(container, spec, &at.child("resources.claims"), errors);
    }
    let resize = container.resize_policy.as_deref().unwrap_or_default();
    resize_policies(resize, text(&spec.restart_policy), &at.child("resizePolicy"), errors);
    if let Some(context) = &container.security_context {
        security::container(context, &at.child("securityContext"), errors);
    }
}

pub(super) fn image_padding(image: &str, at: &FieldPath<'_>, errors: &mut Errors) {
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&at.child("image"), image, detail));
    }
}

fn ports(ports: &[ContainerPort], path: &FieldPath<'_>, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if !wrong.is_empty() {
                check::problems(wrong, &at.child("name"), name, errors);
            } else if !names.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        if port.container_port == 0 {
            errors.push(FieldError::required(&at.child("containerPort"), ""));
        } else {
            check::port_number(port.container_port, &at.child("containerPort"), errors);
        }
        if let Some(host) = port.host_port.filter(|host| *host != 0) {
            check::port_number(host, &at.child("hostPort"), errors);
        }
        check::one_of(text(&port.protocol), PROTOCOLS, &at.child("protocol"), errors);
    }
}

fn host_ports(containers: &[Container], list: &FieldPath<'_>, errors: &mut Errors) {
    let mut taken = HashSet::new();
    for (c, container) in containers.iter().enumerate() {
        for (p, port) in container.ports.iter().flatten().enumerate() {
            let Some(host) = port.host_port.filter(|host| *host != 0) else { continue };
            let claim = format!("{}/{}/{host}", text(&port.protocol), text(&port.host_ip));
            if taken.contains(&claim) {
                let at = list.index(c);
                let ports = at.child("ports");
                errors.push(FieldError::duplicate(&ports.index(p).child("hostPort"), claim));
            } else {
                taken.insert(claim);
            }
        }
    }
}

fn resource_claims(container: &Container, spec: &PodSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let claims = container.resources.as_ref().and_then(|r| r.claims.as_deref()).unwrap_or_default();
    let known: Vec<&str> = spec.resource_claims.iter().flatten().map(|claim| claim.name.as_str()).collect();
    let mut seen = HashSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let at = path.index(i);
        if claim.name.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        if !seen.insert((&claim.name, &claim.request)) {
            errors.push(FieldError::duplicate(&at, &claim.name));
        }
        if !known.contains(&claim.name.as_str()) {
            let mut error = FieldError::not_found(&at, &claim.name);
            error.detail = if known.is_empty() {
                "must be one of the names in pod.spec.resourceClaims which is empty".to_owned()
            } else {
                format!("must be one of the names in pod.spec.resourceClaims: {}", known.join(", "))
            };
            errors.push(error);
        }
    }
}

fn resize_policies(
    policies: &[ContainerResizePolicy],
    pod_restart_policy: &str,
    path: &FieldPath<'_>,
    errors: &mut Errors,
) {
    let mut seen = HashSet::new();
    for (i, policy) in policies.iter().enumerate() {
        if !seen.insert(&policy.resource_name) {
            errors.push(FieldError::duplicate(&path.index(i), &policy.resource_name));
        }
        check::one_of(&policy.resource_name, &["cpu", "memory"], path, errors);
        check::one_of(&policy.restart_policy, &["NotRequired", "RestartContainer"], path, errors);
        if pod_restart_policy == "Never" && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, &policy.restart_policy, detail));
        }
    }
}
