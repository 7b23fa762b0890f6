//! Defaults of pods and of pod templates. A template gets less: what only makes sense on a Pod is filled in when the
//! Pod is made from it, so that templates of old clients stay equal to themselves.

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, ObjectFieldSelector, Pod, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

use super::super::check::{Quantities, fill, number, text};

const FILE_MODE: i32 = 0o644;
const TOKEN_EXPIRATION_SECONDS: i64 = 3600;

pub(in super::super) fn pod(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        requests_from_limits(container.resources.get_or_insert_default());
    }
    spec.enable_service_links.get_or_insert(true);
    if spec.host_network == Some(true) {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            container.ports.iter_mut().flatten().for_each(host_port);
        }
    }
    pod_spec(spec);
    pod_level_requests(spec);
}

pub(in super::super) fn template(template: &mut PodTemplateSpec) {
    pod_spec(template.spec.get_or_insert_default());
}

pub(in super::super) fn pod_spec(spec: &mut PodSpec) {
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(30);
    service_account(spec);
    spec.volumes.iter_mut().flatten().for_each(volume);
    for one in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container(one);
    }
    spec.ephemeral_containers.iter_mut().flatten().for_each(ephemeral_container);
    if let Some(overhead) = &mut spec.overhead {
        round_up_to_milli(overhead);
    }
    if let Some(resources) = &mut spec.resources {
        round_up(resources);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`: both are always written.
pub(in super::super) fn service_account(spec: &mut PodSpec) {
    if text(&spec.service_account_name).is_empty() {
        spec.service_account_name = spec.service_account.take().filter(|name| !name.is_empty());
    }
    spec.service_account = spec.service_account_name.clone();
}

macro_rules! default_container {
    ($container:expr) => {{
        let container = $container;
        let policy = if is_latest(text(&container.image)) { "Always" } else { "IfNotPresent" };
        fill(&mut container.image_pull_policy, policy);
        fill(&mut container.termination_message_path, "/dev/termination-log");
        fill(&mut container.termination_message_policy, "File");
        container.ports.iter_mut().flatten().for_each(|port| fill(&mut port.protocol, "TCP"));
        container.env.iter_mut().flatten().for_each(env);
        round_up(container.resources.get_or_insert_default());
        container.liveness_probe.iter_mut().for_each(probe);
        container.readiness_probe.iter_mut().for_each(probe);
        container.startup_probe.iter_mut().for_each(probe);
        container.lifecycle.iter_mut().for_each(lifecycle);
    }};
}

fn container(container: &mut Container) {
    default_container!(container);
}

fn ephemeral_container(container: &mut EphemeralContainer) {
    default_container!(container);
}

/// No tag and no digest, or the tag `latest` itself.
pub(in super::super) fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    // A colon before the last slash is a registry's port.
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn env(env: &mut EnvVar) {
    let field = env.value_from.as_mut().and_then(|from| from.field_ref.as_mut());
    field.into_iter().for_each(field_selector);
    if let Some(resource) = env.value_from.as_mut().and_then(|from| from.resource_field_ref.as_mut()) {
        resource.divisor.get_or_insert_with(|| WireQuantity("0".to_owned()));
    }
}

fn field_selector(selector: &mut ObjectFieldSelector) {
    fill(&mut selector.api_version, "v1");
}

fn probe(probe: &mut Probe) {
    let positive = |slot: &mut Option<i32>, value| {
        if slot.unwrap_or(0) == 0 {
            *slot = Some(value);
        }
    };
    positive(&mut probe.timeout_seconds, 1);
    positive(&mut probe.period_seconds, 10);
    positive(&mut probe.success_threshold, 1);
    positive(&mut probe.failure_threshold, 3);
    probe.http_get.iter_mut().for_each(http_get);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn lifecycle(lifecycle: &mut Lifecycle) {
    for handler in lifecycle.post_start.iter_mut().chain(lifecycle.pre_stop.iter_mut()) {
        handler.http_get.iter_mut().for_each(http_get);
    }
}

fn http_get(action: &mut HTTPGetAction) {
    fill(&mut action.path, "/");
    fill(&mut action.scheme, "HTTP");
}

fn host_port(port: &mut ContainerPort) {
    if port.host_port.unwrap_or(0) == 0 {
        port.host_port = Some(port.container_port);
    }
}

fn volume(volume: &mut Volume) {
    if super::volumes::source_count(volume) == 0 {
        volume.empty_dir = Some(Default::default());
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(image) = &mut volume.image {
        let policy = if is_latest(text(&image.reference)) { "Always" } else { "IfNotPresent" };
        fill(&mut image.pull_policy, policy);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        let fields = downward.items.iter_mut().flatten().filter_map(|item| item.field_ref.as_mut());
        fields.for_each(field_selector);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
        for source in projected.sources.iter_mut().flatten() {
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(TOKEN_EXPIRATION_SECONDS);
            }
            let items = source.downward_api.iter_mut().flat_map(|d| d.items.iter_mut().flatten());
            items.filter_map(|item| item.field_ref.as_mut()).for_each(field_selector);
        }
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        fill(&mut template.spec.volume_mode, "Filesystem");
    }
}

fn requests_from_limits(resources: &mut ResourceRequirements) {
    let Some(limits) = resources.limits.as_ref().filter(|limits| !limits.is_empty()) else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// Requests of the pod as a whole, where it has limits as a whole: what its containers request, else the limit.
fn pod_level_requests(spec: &mut PodSpec) {
    let containers = super::qos::aggregate_requests(spec);
    let Some(resources) = &mut spec.resources else { return };
    let Some(limits) = resources.limits.as_ref().filter(|limits| !limits.is_empty()) else { return };
    let supported = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    let requests = resources.requests.get_or_insert_default();
    for (name, total) in containers {
        if supported(&name) && !name.starts_with("hugepages-") {
            requests.entry(name).or_insert_with(|| total.into());
        }
    }
    for (name, limit) in limits {
        if supported(name) {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

fn round_up(resources: &mut ResourceRequirements) {
    resources.limits.iter_mut().for_each(round_up_to_milli);
    resources.requests.iter_mut().for_each(round_up_to_milli);
}

/// Amounts of resources are kept in thousandths at the finest.
fn round_up_to_milli(quantities: &mut Quantities) {
    const MILLI: i128 = 1_000_000;
    for wire in quantities.values_mut() {
        let finer = wire.0.ends_with(['n', 'u']) || wire.0.contains("e-");
        if finer {
            let exact = number(wire);
            let rest = exact.nanos().rem_euclid(MILLI);
            if rest != 0 {
                *wire = Quantity::from_nanos(exact.nanos() + MILLI - rest, exact.format()).into();
            }
        }
    }
}
