//! What a Pod's status may say, and become.

use coracle_api::fields::{FieldError, FieldPath};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus};

use super::super::check::{self, text};
use super::super::kind::Errors;
use super::containers;

const STATUS: FieldPath<'static> = FieldPath::new("status");
const NO_RESURRECTION: &str = "may not be transitioned to non-terminated state";

pub(super) fn update(new: &Pod, old: &Pod, errors: &mut Errors) {
    let blank = PodStatus::default();
    let (status, before) = (new.status.as_ref().unwrap_or(&blank), old.status.as_ref().unwrap_or(&blank));
    let blank = PodSpec::default();
    let spec = old.spec.as_ref().unwrap_or(&blank);
    conditions(status, errors);
    let nominated = text(&status.nominated_node_name);
    if status.nominated_node_name != before.nominated_node_name && !nominated.is_empty() {
        check::dns_subdomain(nominated, &STATUS.child("nominatedNodeName"), errors);
    }
    check::immutable(&status.qos_class, &before.qos_class, &STATUS.child("qosClass"), errors);
    let policy = text(&spec.restart_policy);
    transitions(
        &status.container_statuses,
        &before.container_statuses,
        policy,
        |_| false,
        &STATUS.child("containerStatuses"),
        errors,
    );
    let sidecar = |name: &str| {
        spec.init_containers.iter().flatten().any(|init| init.name == name && containers::is_sidecar(init))
    };
    transitions(
        &status.init_container_statuses,
        &before.init_container_statuses,
        policy,
        sidecar,
        &STATUS.child("initContainerStatuses"),
        errors,
    );
    transitions(
        &status.ephemeral_container_statuses,
        &before.ephemeral_container_statuses,
        "Never",
        |_| false,
        &STATUS.child("ephemeralContainerStatuses"),
        errors,
    );
    addresses(status, errors);
}

fn conditions(status: &PodStatus, errors: &mut Errors) {
    // Upstream looks for them below metadata, too.
    let path = FieldPath::new("metadata.conditions");
    for (i, condition) in status.conditions.iter().flatten().enumerate() {
        if !["PodScheduled", "Ready", "Initialized"].contains(&condition.type_.as_str()) {
            check::qualified_name(&condition.type_, &path.index(i).child("Type"), errors);
        }
    }
}

/// Where nothing is restarted, what has terminated stays so.
fn transitions(
    new: &Option<Vec<ContainerStatus>>,
    old: &Option<Vec<ContainerStatus>>,
    restart_policy: &str,
    restarts_anyway: impl Fn(&str) -> bool,
    path: &FieldPath<'_>,
    errors: &mut Errors,
) {
    if restart_policy == "Always" {
        return;
    }
    let terminated = |status: &ContainerStatus| status.state.as_ref().and_then(|state| state.terminated.clone());
    for (i, before) in old.iter().flatten().enumerate() {
        let Some(end) = terminated(before) else { continue };
        if (end.exit_code != 0 && restart_policy == "OnFailure") || restarts_anyway(&before.name) {
            continue;
        }
        for now in new.iter().flatten() {
            if now.name == before.name && terminated(now).is_none() {
                errors.push(FieldError::forbidden(&path.index(i).child("state"), NO_RESURRECTION));
            }
        }
    }
}

fn addresses(status: &PodStatus, errors: &mut Errors) {
    let list = STATUS.child("podIPs");
    let pod_ips: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    several(&pod_ips, &list, errors);
    let list = STATUS.child("hostIPs");
    let host_ips: Vec<&str> = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if let Some(first) = host_ips.first()
        && *first != text(&status.host_ip)
    {
        errors.push(FieldError::invalid(&list.index(0).child("ip"), first, "must be equal to `hostIP`"));
    }
    several(&host_ips, &list, errors);
}

/// One address of each family at most.
fn several(ips: &[&str], list: &FieldPath<'_>, errors: &mut Errors) {
    for (i, ip) in ips.iter().enumerate() {
        check::ip(ip, &list.index(i), errors);
        if ips[..i].contains(ip) {
            errors.push(FieldError::duplicate(&list.index(i), serde_json::json!({ "ip": ip })));
        }
    }
    let v6 = ips.iter().filter(|ip| ip.contains(':')).count();
    if ips.len() > 2 || v6 > 1 || ips.len() - v6 > 1 {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(list, ips, detail));
    }
}
