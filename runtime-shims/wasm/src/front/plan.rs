//! From CRI's configuration and an image to what a guest gets: arguments, environment, port, limits, names. Decided
//! here without I/O; refusals name the field and say what would be right.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use coracle_cri::v1::{ContainerConfig, PodSandboxConfig, Protocol};
use serde::Deserialize;

use super::limits::plan_limits;
use crate::compile::GuestKind;
use crate::images::Image;
use crate::wire::{GuestLimits, HttpSpec, NetSpec, StdinMode};

/// Pod annotations that are read, alone or with `.CONTAINER` behind them.
const HTTP_PORT: &str = "coracle.dev/http-port";
const HTTP_CONCURRENCY: &str = "coracle.dev/http-concurrency";
const HTTP_TIMEOUT: &str = "coracle.dev/http-timeout-seconds";
const HTTP_KEEP: &str = "coracle.dev/http-keep-instances";

const WASI3: &str = "coracle.dev/wasi-0.3";

/// A container's `ports` as kubelet passes them on, in JSON.
const OWN_PORTS: &str = "io.kubernetes.container.ports";
/// On every container that a kubelet makes.
const OF_KUBELET: &str = "io.kubernetes.container.restartCount";

const DEFAULT_PORT: u16 = 8080;
const DEFAULT_CONCURRENCY: usize = 128;
const CONCURRENCY_MAX: usize = 10_000;
const DEFAULT_TIMEOUT_MS: u64 = 300_000;

/// What a guest gets, but for what must be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuestPlan {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) working_dir: Option<String>,
    pub(super) stdin: StdinMode,
    pub(super) memory_bytes: Option<u64>,
    pub(super) limits: GuestLimits,
    pub(super) http: Option<HttpPlan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpPlan {
    pub(super) port: u16,
    pub(super) concurrency: usize,
    pub(super) timeout_ms: u64,
    pub(super) keep_instances: bool,
}

impl HttpPlan {
    /// For the worker; `listener` is where the socket is among the descriptors that go with it.
    pub(super) fn spec(&self, listener: usize) -> HttpSpec {
        let HttpPlan { port: _, concurrency, timeout_ms, keep_instances } = *self;
        HttpSpec { listener, concurrency, timeout_ms, keep_instances }
    }
}

/// Guests of WASI 0.3 run where somebody has asked for it: `allowed` on the node, or by the pod.
pub(super) fn check_release(
    sandbox: &PodSandboxConfig,
    config: &ContainerConfig,
    kind: GuestKind,
    allowed: bool,
) -> Result<(), String> {
    if !kind.is_concurrent() {
        return Ok(());
    }
    match annotation(sandbox, config, WASI3) {
        Some((_, "true")) => Ok(()),
        Some((_, "false")) | None if !allowed => Err(format!(
            "the component is for WASI 0.3, which is off: set the annotation {WASI3}: \"true\" on the pod, or start the \
             Wasm runtime with --wasi-0.3 on, or build it for 0.2"
        )),
        Some((_, "false")) => Err(format!("the component is for WASI 0.3, which annotation {WASI3} turns off")),
        None => Ok(()),
        Some((key, text)) => Err(format!("annotation {key}: {text:?} is neither true nor false")),
    }
}

/// `taken` are the ports of the sandbox's other containers.
pub(super) fn plan_guest(
    sandbox: &PodSandboxConfig,
    config: &ContainerConfig,
    image: &Image,
    kind: GuestKind,
    taken: &[u16],
) -> Result<GuestPlan, String> {
    if !config.devices.is_empty() {
        return Err("devices: Wasm containers have no devices; remove them from the container".to_owned());
    }
    let http = match kind {
        GuestKind::Http | GuestKind::Http3 => Some(plan_http(sandbox, config, taken)?),
        GuestKind::Module | GuestKind::Command | GuestKind::Command3 => None,
    };
    let working_dir = [&config.working_dir, &image.working_dir].into_iter().find(|dir| !dir.is_empty()).cloned();
    if let Some(dir) = &working_dir
        && !dir.starts_with('/')
    {
        return Err(format!("workingDir {dir:?}: must be an absolute path"));
    }
    let mut env = environment(config, image)?;
    // WASI 0.1 has no working directory; Go's programs and some others take it from here.
    if let Some(dir) = &working_dir
        && !env.iter().any(|(key, _)| key == "PWD")
    {
        env.push(("PWD".to_owned(), dir.clone()));
    }
    Ok(GuestPlan {
        args: arguments(config, image),
        env,
        working_dir,
        stdin: if config.stdin { StdinMode::Open { once: config.stdin_once } } else { StdinMode::Closed },
        memory_bytes: memory(config)?,
        limits: plan_limits(sandbox, config)?,
        http,
    })
}

/// The limit in CRI's terms: 0 and less is none.
fn memory(config: &ContainerConfig) -> Result<Option<u64>, String> {
    let bytes =
        config.linux.as_ref().and_then(|linux| linux.resources.as_ref()).map_or(0, |all| all.memory_limit_in_bytes);
    Ok(u64::try_from(bytes).ok().filter(|bytes| *bytes > 0))
}

/// `command` replaces the image's entrypoint, `args` its arguments; a guest always has a name for itself.
fn arguments(config: &ContainerConfig, image: &Image) -> Vec<String> {
    let names_file = |words: &[String]| words.first().is_some_and(|word| word.ends_with(".wasm"));
    let (program, rest): (Vec<String>, &[String]) = if !config.command.is_empty() {
        (config.command.clone(), &[])
    } else if !image.entrypoint.is_empty() {
        (image.entrypoint.clone(), &image.cmd)
    } else if names_file(&image.cmd) {
        (image.cmd.clone(), &[])
    } else {
        (vec![default_name(image)], &image.cmd)
    };
    let rest = if config.args.is_empty() { rest } else { &config.args };
    program.into_iter().chain(rest.iter().cloned()).collect()
}

/// `docker.io/library/hello:dev` runs as `hello.wasm`.
fn default_name(image: &Image) -> String {
    let base = image.name.rsplit('/').next().unwrap_or(&image.name);
    let base = base.split(['@', ':']).next().unwrap_or(base);
    format!("{base}.wasm")
}

/// The image's, then the container's; the later one of a name wins and keeps the earlier one's place.
fn environment(config: &ContainerConfig, image: &Image) -> Result<Vec<(String, String)>, String> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |key: String, value: String| match env.iter_mut().find(|(known, _)| *known == key) {
        Some(entry) => entry.1 = value,
        None => env.push((key, value)),
    };
    for entry in &image.env {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(key.to_owned(), value.to_owned());
    }
    for entry in &config.envs {
        let value = String::from_utf8(entry.value.clone())
            .map_err(|_| format!("env {}: its value is not UTF-8, which WASI cannot carry", entry.key))?;
        if entry.key.contains('\0') || value.contains('\0') {
            return Err(format!("env {}: a zero byte cannot be carried", entry.key.escape_debug()));
        }
        set(entry.key.clone(), value);
    }
    Ok(env)
}

fn plan_http(sandbox: &PodSandboxConfig, config: &ContainerConfig, taken: &[u16]) -> Result<HttpPlan, String> {
    let port = match annotation(sandbox, config, HTTP_PORT) {
        Some((key, text)) => match text.parse() {
            Ok(port) if port > 0 => port,
            Ok(_) | Err(_) => return Err(format!("annotation {key}: {text:?} is no port (1 to 65535)")),
        },
        None => {
            ports(sandbox, config).into_iter().find(|port| *port > 0 && !taken.contains(port)).unwrap_or(DEFAULT_PORT)
        }
    };
    if taken.contains(&port) {
        return Err(format!(
            "port {port} is another container's of this pod; give this one its own in annotation {HTTP_PORT}.{}",
            config.metadata.as_ref().map_or("CONTAINER", |metadata| metadata.name.as_str()),
        ));
    }
    let number = |key: &str, default: u64, max: u64| match annotation(sandbox, config, key) {
        None => Ok(default),
        Some((key, text)) => match text.parse() {
            Ok(value) if (1..=max).contains(&value) => Ok(value),
            Ok(_) | Err(_) => Err(format!("annotation {key}: {text:?} is no number from 1 to {max}")),
        },
    };
    let concurrency = number(HTTP_CONCURRENCY, DEFAULT_CONCURRENCY as u64, CONCURRENCY_MAX as u64)?;
    let timeout_seconds = number(HTTP_TIMEOUT, DEFAULT_TIMEOUT_MS / 1000, 86_400)?;
    let keep_instances = match annotation(sandbox, config, HTTP_KEEP) {
        None | Some((_, "false")) => false,
        Some((_, "true")) => true,
        Some((key, text)) => return Err(format!("annotation {key}: {text:?} is neither true nor false")),
    };
    Ok(HttpPlan {
        port,
        keep_instances,
        concurrency: usize::try_from(concurrency).unwrap_or(CONCURRENCY_MAX),
        timeout_ms: timeout_seconds * 1000,
    })
}

/// TCP ports that may be the container's. CRI itself does not say which container of a pod a port belongs to, but kubelet
/// does, in an annotation of containers that have ports. From others every container may take what is left of the pod's.
fn ports(sandbox: &PodSandboxConfig, config: &ContainerConfig) -> Vec<u16> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ContainerPort {
        container_port: u16,
        #[serde(default)]
        protocol: Option<String>,
    }
    let own = config.annotations.get(OWN_PORTS).map(|text| serde_json::from_str::<Vec<ContainerPort>>(text));
    match own {
        Some(Ok(own)) => own
            .into_iter()
            .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
            .map(|port| port.container_port)
            .collect(),
        // Kubelet says nothing of ports where there are none.
        None if config.annotations.contains_key(OF_KUBELET) => Vec::new(),
        Some(Err(_)) | None => sandbox
            .port_mappings
            .iter()
            .filter(|mapping| mapping.protocol() == Protocol::Tcp)
            .filter_map(|mapping| u16::try_from(mapping.container_port).ok())
            .collect(),
    }
}

/// The container's own annotation, else the pod's for this container, else the pod's.
pub(super) fn annotation<'a>(
    sandbox: &'a PodSandboxConfig,
    config: &'a ContainerConfig,
    key: &str,
) -> Option<(String, &'a str)> {
    let own = config.metadata.as_ref().map(|metadata| format!("{key}.{}", metadata.name));
    let look = |map: &'a BTreeMap<String, String>, key: &str| map.get(key).map(|text| (key.to_owned(), text.trim()));
    look(&config.annotations, key)
        .or_else(|| own.and_then(|own| look(&sandbox.annotations, &own)))
        .or_else(|| look(&sandbox.annotations, key))
}

/// What the guest's network looks like.
pub(super) fn plan_net(sandbox: &PodSandboxConfig, ip: Option<IpAddr>) -> Result<NetSpec, String> {
    let dns = sandbox.dns_config.clone().unwrap_or_default();
    let dns_servers = dns
        .servers
        .iter()
        .map(|text| server(text).ok_or_else(|| format!("DNS server {text:?}: not an address, nor an address and port")))
        .collect::<Result<Vec<SocketAddr>, String>>()?;
    let ndots = dns.options.iter().filter_map(|option| option.strip_prefix("ndots:")).next_back();
    Ok(NetSpec {
        ip,
        dns_servers,
        dns_searches: dns.searches,
        dns_ndots: ndots.and_then(|text| text.parse().ok()).unwrap_or(1).min(15),
    })
}

fn server(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| text.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 53)))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
