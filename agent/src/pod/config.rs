//! A pod and its containers as the runtime is told of them.
//!
//! Owns labels, annotations, DNS, security and resources, as kubelet sets them. Pure: what is made depends on nothing
//! but its arguments, so an agent that restarts tells a runtime the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use coracle_api::Quantity;
use coracle_client::Pod;
use coracle_cri::v1::*;
use k8s_openapi::api::core::v1::{self as core, PodSpec};

use super::env::expand;
use super::machine::ImageInfo;
use super::qos;
use crate::config::Resolver;
use crate::runtime::POD_UID;
use crate::volumes::PodDirs;

const CPU_PERIOD: i64 = 100_000;

/// What every pod of the node has in common.
#[derive(Clone, Debug)]
pub struct NodeView<'a> {
    pub node_name: &'a str,
    pub cluster_domain: &'a str,
    pub cluster_dns: Option<SocketAddr>,
    pub resolver: &'a Resolver,
    pub memory_bytes: i64,
}

/// The sandbox of a pod.
pub fn sandbox(pod: &Pod, node: &NodeView<'_>, dirs: &PodDirs, attempt: u32) -> Result<PodSandboxConfig, String> {
    let meta = &pod.metadata;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.extend(identity(pod));
    // All of them, as kubelet has it: a runtime passes over those without a host port where it is about these.
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let port_mappings = ports.map(port_mapping).collect();
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: text(&meta.name),
            uid: text(&meta.uid),
            namespace: text(&meta.namespace),
            attempt,
        }),
        hostname: if spec.host_network == Some(true) {
            node.node_name.to_owned()
        } else {
            hostname(pod, node.cluster_domain)?
        },
        log_directory: dirs.logs.display().to_string(),
        dns_config: Some(dns(pod, &spec, node)),
        port_mappings,
        labels,
        annotations: meta.annotations.clone().unwrap_or_default(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(sandbox_security(&spec)),
            sysctls: sysctls(&spec),
            resources: Some(sandbox_resources(&spec, node)),
            ..LinuxPodSandboxConfig::default()
        }),
    })
}

fn port_mapping(port: &core::ContainerPort) -> PortMapping {
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) | None => Protocol::Tcp,
    };
    PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port,
        host_port: port.host_port.unwrap_or(0),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    }
}

/// The labels by which a runtime's sandboxes and containers are known to belong to a pod.
fn identity(pod: &Pod) -> BTreeMap<String, String> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    BTreeMap::from([
        ("io.kubernetes.pod.name".to_owned(), text(&pod.metadata.name)),
        ("io.kubernetes.pod.namespace".to_owned(), text(&pod.metadata.namespace)),
        (POD_UID.to_owned(), text(&pod.metadata.uid)),
    ])
}

/// The host name of a pod, in full if it asks for that.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let spec = pod.spec.as_deref();
    let given = |name: fn(&PodSpec) -> Option<&str>| spec.and_then(name).filter(|name| !name.is_empty());
    if let Some(name) = given(|spec| spec.hostname_override.as_deref()) {
        return Ok(name.to_owned());
    }
    let name = given(|spec| spec.hostname.as_deref()).or(pod.metadata.name.as_deref()).unwrap_or_default();
    let short: String = name.chars().take(63).collect();
    let short = short.trim_end_matches(['-', '.']).to_owned();
    if spec.and_then(|spec| spec.set_hostname_as_fqdn) != Some(true) {
        return Ok(short);
    }
    let domain = host_domain(pod, cluster_domain);
    let full = if domain.is_empty() { short } else { format!("{short}.{domain}") };
    if full.len() > 64 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long (64 characters is the max, {} characters requested)",
            full.len()
        ));
    }
    Ok(full)
}

/// The domain of a pod with a subdomain.
pub fn host_domain(pod: &Pod, cluster_domain: &str) -> String {
    let subdomain = pod.spec.as_ref().and_then(|spec| spec.subdomain.as_deref()).unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if subdomain.is_empty() { String::new() } else { format!("{subdomain}.{namespace}.svc.{cluster_domain}") }
}

fn dns(pod: &Pod, spec: &PodSpec, node: &NodeView<'_>) -> DnsConfig {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let host_network = spec.host_network == Some(true);
    let host = || DnsConfig {
        servers: node.resolver.servers.clone(),
        searches: node.resolver.searches.clone(),
        options: node.resolver.options.clone(),
    };
    let mut config = match (policy, node.cluster_dns) {
        ("None", _) => DnsConfig::default(),
        ("ClusterFirst", Some(server)) if !host_network => cluster_dns(pod, node, server),
        ("ClusterFirstWithHostNet", Some(server)) => cluster_dns(pod, node, server),
        (_, _) => host(),
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let line = match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            };
            config.options.retain(|known| known.split(':').next() != Some(&name));
            config.options.push(line);
        }
    }
    unique(&mut config.servers);
    unique(&mut config.searches);
    config
}

fn cluster_dns(pod: &Pod, node: &NodeView<'_>, server: SocketAddr) -> DnsConfig {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = node.cluster_domain;
    let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    DnsConfig {
        servers: vec![server_text(server)],
        searches: own.into_iter().chain(node.resolver.searches.iter().cloned()).collect(),
        options: vec!["ndots:5".to_owned()],
    }
}

/// The address alone on DNS' own port, as resolv.conf has it, else with the port.
fn server_text(server: SocketAddr) -> String {
    match (server.port(), server.ip()) {
        (53, ip) => ip.to_string(),
        (port, IpAddr::V4(ip)) => format!("{ip}:{port}"),
        (port, IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
    }
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|entry| seen.insert(entry.clone()));
}

fn sysctls(spec: &PodSpec) -> BTreeMap<String, String> {
    let context = spec.security_context.as_ref();
    let list = context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
    list.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect()
}

fn namespaces(spec: &PodSpec) -> NamespaceOption {
    let of = |host: Option<bool>, otherwise| if host == Some(true) { NamespaceMode::Node } else { otherwise };
    let shared = if spec.share_process_namespace == Some(true) { NamespaceMode::Pod } else { NamespaceMode::Container };
    NamespaceOption {
        network: of(spec.host_network, NamespaceMode::Pod).into(),
        pid: of(spec.host_pid, shared).into(),
        ipc: of(spec.host_ipc, NamespaceMode::Pod).into(),
        ..NamespaceOption::default()
    }
}

fn sandbox_security(spec: &PodSpec) -> LinuxSandboxSecurityContext {
    let context = spec.security_context.clone().unwrap_or_default();
    let privileged = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(|container| container.security_context.as_ref().and_then(|context| context.privileged) == Some(true));
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)),
        selinux_options: context.se_linux_options.as_ref().map(selinux),
        run_as_user: context.run_as_user.map(|value| Int64Value { value }),
        run_as_group: context.run_as_group.map(|value| Int64Value { value }),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context).into(),
        privileged,
        seccomp: Some(seccomp(context.seccomp_profile.as_ref())),
        ..LinuxSandboxSecurityContext::default()
    }
}

fn groups(context: &core::PodSecurityContext) -> Vec<i64> {
    context.fs_group.into_iter().chain(context.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(context: &core::PodSecurityContext) -> SupplementalGroupsPolicy {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => SupplementalGroupsPolicy::Strict,
        Some(_) | None => SupplementalGroupsPolicy::Merge,
    }
}

fn selinux(options: &core::SELinuxOptions) -> SeLinuxOption {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

fn seccomp(profile: Option<&core::SeccompProfile>) -> SecurityProfile {
    use security_profile::ProfileType;
    let kind = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => ProfileType::RuntimeDefault,
        Some("Localhost") => ProfileType::Localhost,
        Some(_) | None => ProfileType::Unconfined,
    };
    let localhost_ref = profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default();
    SecurityProfile { profile_type: kind.into(), localhost_ref }
}

/// What a container is made from.
pub struct ContainerInput<'a> {
    pub pod: &'a Pod,
    pub container: &'a core::Container,
    pub attempt: u32,
    pub image: &'a ImageInfo,
    pub handler: &'a str,
    pub env: &'a BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    pub node: &'a NodeView<'a>,
}

/// A container. The error is what its status shows with CreateContainerConfigError.
pub fn container(input: ContainerInput<'_>) -> Result<ContainerConfig, String> {
    let ContainerInput { pod, container, attempt, image, handler, env, mounts, node } = input;
    let spec = pod.spec.clone().unwrap_or_default();
    verify_non_root(&spec, container)?;
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, |name| env.get(name).cloned())).collect()
    };
    let mut labels = identity(pod);
    labels.insert("io.kubernetes.container.name".to_owned(), container.name.clone());
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt }),
        image: Some(ImageSpec {
            image: image.reference.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            runtime_handler: handler.to_owned(),
            ..ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone().into_bytes() }).collect(),
        mounts,
        labels,
        annotations: annotations(&spec, container, attempt),
        log_path: PodDirs::log_path(&container.name, attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(container_resources(&spec, container, node)),
            security_context: Some(container_security(&spec, container)),
        }),
        stop_signal: stop_signal(container).into(),
        ..ContainerConfig::default()
    })
}

fn annotations(spec: &PodSpec, container: &core::Container, attempt: u32) -> BTreeMap<String, String> {
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    let path = container.termination_message_path.clone().unwrap_or_default();
    let policy = container.termination_message_policy.clone().unwrap_or_default();
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    let ports = ports.and_then(|ports| serde_json::to_string(ports).ok());
    let mut annotations = BTreeMap::from([
        ("io.kubernetes.container.restartCount".to_owned(), attempt.to_string()),
        ("io.kubernetes.container.terminationMessagePath".to_owned(), path),
        ("io.kubernetes.container.terminationMessagePolicy".to_owned(), policy),
        ("io.kubernetes.pod.terminationGracePeriod".to_owned(), grace.to_string()),
    ]);
    // CRI has no other place that says whose a port is.
    annotations.extend(ports.map(|ports| ("io.kubernetes.container.ports".to_owned(), ports)));
    annotations
}

fn stop_signal(container: &core::Container) -> Signal {
    let name = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    name.and_then(|name| Signal::from_str_name(&format!("SIGNAL_{name}"))).unwrap_or(Signal::RuntimeDefault)
}

fn verify_non_root(spec: &PodSpec, container: &core::Container) -> Result<(), String> {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let wanted = own.and_then(|c| c.run_as_non_root).or(pod.and_then(|c| c.run_as_non_root));
    let user = own.and_then(|c| c.run_as_user).or(pod.and_then(|c| c.run_as_user));
    if wanted == Some(true) && user == Some(0) {
        return Err(format!("container's runAsUser breaks non-root policy (container: {})", container.name));
    }
    Ok(())
}

fn container_security(spec: &PodSpec, container: &core::Container) -> LinuxContainerSecurityContext {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.as_ref().map(|capabilities| Capability {
        add_capabilities: capabilities.add.clone().unwrap_or_default(),
        drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    });
    let privileged = own.privileged == Some(true);
    let mask = !privileged && own.proc_mount.as_deref() != Some("Unmasked");
    let paths = |list: &[&str]| if mask { list.iter().map(|path| (*path).to_owned()).collect() } else { Vec::new() };
    LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces(spec)),
        selinux_options: own.se_linux_options.as_ref().or(pod.se_linux_options.as_ref()).map(selinux),
        run_as_user: own.run_as_user.or(pod.run_as_user).map(|value| Int64Value { value }),
        run_as_group: own.run_as_group.or(pod.run_as_group).map(|value| Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&pod),
        supplemental_groups_policy: groups_policy(&pod).into(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&[
            "/proc/asound",
            "/proc/acpi",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
            "/sys/devices/virtual/powercap",
        ]),
        readonly_paths: paths(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()))),
        ..LinuxContainerSecurityContext::default()
    }
}

type Amounts = Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>;

fn amount(amounts: &Amounts, name: &str) -> Option<Quantity> {
    amounts.as_ref()?.get(name)?.0.parse().ok()
}

pub(super) fn container_resources(
    spec: &PodSpec,
    container: &core::Container,
    node: &NodeView<'_>,
) -> LinuxContainerResources {
    let resources = container.resources.clone().unwrap_or_default();
    let cpu_limit = amount(&resources.limits, "cpu");
    let cpu_request = amount(&resources.requests, "cpu").or(cpu_limit);
    let memory_limit = amount(&resources.limits, "memory");
    let memory_request = amount(&resources.requests, "memory").or(memory_limit);
    let millis = cpu_request.map_or(0, Quantity::milli);
    LinuxContainerResources {
        cpu_period: cpu_limit.map_or(0, |_| CPU_PERIOD),
        cpu_quota: cpu_limit.map_or(0, |limit| (limit.milli() * CPU_PERIOD / 1000).max(1000)),
        cpu_shares: (millis * 1024 / 1000).clamp(2, 262_144),
        memory_limit_in_bytes: memory_limit.map_or(0, Quantity::value),
        oom_score_adj: oom_score(spec, memory_request.map_or(0, Quantity::value), node.memory_bytes),
        ..LinuxContainerResources::default()
    }
}

/// What a pod's containers ask for together.
pub(super) fn requested(spec: &PodSpec, resource: &str) -> Quantity {
    let amounts = spec.containers.iter().filter_map(|container| {
        let resources = container.resources.as_ref()?;
        amount(&resources.requests, resource).or_else(|| amount(&resources.limits, resource))
    });
    amounts.fold(Quantity::from_value(0), |sum, amount| sum + amount)
}

/// Who is killed first when memory runs out: kubelet's formula.
fn oom_score(spec: &PodSpec, request: i64, capacity: i64) -> i64 {
    match qos::class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => (1000 - (1000 * request) / capacity.max(1)).clamp(3, 999),
    }
}

fn sandbox_resources(spec: &PodSpec, node: &NodeView<'_>) -> LinuxContainerResources {
    let mut sum = LinuxContainerResources::default();
    for container in &spec.containers {
        let own = container_resources(spec, container, node);
        sum.cpu_shares += own.cpu_shares;
        sum.cpu_quota += own.cpu_quota;
        sum.memory_limit_in_bytes += own.memory_limit_in_bytes;
        sum.cpu_period = sum.cpu_period.max(own.cpu_period);
    }
    sum
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
