//! The environment of a container, as kubelet makes it.
//!
//! Owns the order of precedence, `$(NAME)` references and the variables that name services. Must not know: where
//! config maps and secrets come from (it is handed a look-up).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_client::Pod;
use k8s_openapi::api::core::v1::{Container, Service};

use super::downward::{self, PodFacts};
use crate::sources::{Source, SourceError, SourceKey, SourceKind};

/// What the environment is made from.
pub struct EnvInput<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub facts: &'a PodFacts,
    /// Variables that name services.
    pub services: &'a BTreeMap<String, String>,
    pub sources: &'a BTreeMap<SourceKey, Result<Arc<Source>, SourceError>>,
}

/// The variables of a container. The error is what its status shows with CreateContainerConfigError.
pub fn environment(input: &EnvInput<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    from_sources(input, &mut env)?;
    for variable in input.container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => {
                Some(expand(value, |name| env.get(name).or_else(|| input.services.get(name)).cloned()))
            }
            (_, Some(from)) => referred(input, from)?,
            (_, None) => Some(String::new()),
        };
        // An optional reference to what is not there sets nothing.
        if let Some(value) = value {
            env.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in input.services {
        env.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(env)
}

fn from_sources(input: &EnvInput<'_>, env: &mut BTreeMap<String, String>) -> Result<(), String> {
    for from in input.container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let reference = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => (SourceKind::ConfigMap, &map.name, map.optional),
            (None, Some(secret)) => (SourceKind::Secret, &secret.name, secret.optional),
            (None, None) => continue,
        };
        let (kind, name, optional) = reference;
        let Some(source) = source(input, kind, name, optional)? else { continue };
        for (key, value) in &source.values {
            let name = format!("{prefix}{key}");
            // Kubelet leaves out what cannot be a variable.
            if let Ok(value) = std::str::from_utf8(value)
                && is_variable(&name)
            {
                env.insert(name, value.to_owned());
            }
        }
    }
    Ok(())
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') && !name.contains('=')
}

fn referred(input: &EnvInput<'_>, from: &k8s_openapi::api::core::v1::EnvVarSource) -> Result<Option<String>, String> {
    if let Some(field) = &from.field_ref {
        return downward::field(input.pod, input.facts, &field.field_path).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return downward::resource(input.pod, input.container, input.facts, resource).map(Some);
    }
    let (kind, name, key, optional) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(map), _) => (SourceKind::ConfigMap, &map.name, &map.key, map.optional),
        (None, Some(secret)) => (SourceKind::Secret, &secret.name, &secret.key, secret.optional),
        (None, None) => return Err("the variable's valueFrom names no source that this node knows".to_owned()),
    };
    let Some(source) = source(input, kind, name, optional)? else { return Ok(None) };
    match source.values.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional == Some(true) => Ok(None),
        None => {
            let noun = match kind {
                SourceKind::ConfigMap => "ConfigMap",
                SourceKind::Secret => "Secret",
            };
            let namespace = input.pod.metadata.namespace.as_deref().unwrap_or_default();
            Err(format!("couldn't find key {key} in {noun} {namespace}/{name}"))
        }
    }
}

fn source(
    input: &EnvInput<'_>,
    kind: SourceKind,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<Arc<Source>>, String> {
    let namespace = input.pod.metadata.namespace.as_deref().unwrap_or_default();
    let key = SourceKey { kind, namespace: namespace.into(), name: name.into() };
    match input.sources.get(&key) {
        Some(Ok(source)) => Ok(Some(source.clone())),
        Some(Err(SourceError::NotFound { .. })) if optional == Some(true) => Ok(None),
        Some(Err(error)) => Err(error.to_string()),
        None => Err(format!("{} \"{name}\" was not asked for", kind.noun())),
    }
}

/// The config maps and secrets that a container's environment refers to.
pub fn references(namespace: &str, container: &Container) -> BTreeSet<SourceKey> {
    let key = |kind, name: &str| SourceKey { kind, namespace: namespace.into(), name: name.into() };
    let mut keys = BTreeSet::new();
    for from in container.env_from.iter().flatten() {
        keys.extend(from.config_map_ref.as_ref().map(|map| key(SourceKind::ConfigMap, &map.name)));
        keys.extend(from.secret_ref.as_ref().map(|secret| key(SourceKind::Secret, &secret.name)));
    }
    for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        keys.extend(from.config_map_key_ref.as_ref().map(|map| key(SourceKind::ConfigMap, &map.name)));
        keys.extend(from.secret_key_ref.as_ref().map(|secret| key(SourceKind::Secret, &secret.name)));
    }
    keys
}

/// Replaces `$(NAME)` by what `look_up` gives; `$$` is a dollar, and a name that is not known stays as it is.
pub fn expand(text: &str, look_up: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match look_up(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The variables that name services: `default/kubernetes` for every pod, those of its namespace if it wants them.
pub fn service_variables(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for service in services {
        let meta = &service.metadata;
        let (name, own) = (meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref().unwrap_or_default());
        let master = own == "default" && name == "kubernetes";
        if !(master || (links && own == namespace)) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let ports: Vec<_> = spec.ports.iter().flatten().collect();
        let Some(first) = ports.first() else { continue };
        let upper = name.to_uppercase().replace('-', "_");
        env.insert(format!("{upper}_SERVICE_HOST"), ip.to_owned());
        env.insert(format!("{upper}_SERVICE_PORT"), first.port.to_string());
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let protocol = |port: &k8s_openapi::api::core::v1::ServicePort| port.protocol.clone().unwrap_or("TCP".into());
        let url = |port| format!("{}://{host}:{}", protocol(port).to_lowercase(), port.port);
        env.insert(format!("{upper}_PORT"), url(first));
        for port in &ports {
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let key = format!("{upper}_SERVICE_PORT_{}", port_name.to_uppercase().replace('-', "_"));
                env.insert(key, port.port.to_string());
            }
            let key = format!("{upper}_PORT_{}_{}", port.port, protocol(port).to_uppercase());
            env.insert(key.clone(), url(port));
            env.insert(format!("{key}_PROTO"), protocol(port).to_lowercase());
            env.insert(format!("{key}_PORT"), port.port.to_string());
            env.insert(format!("{key}_ADDR"), ip.to_owned());
        }
    }
    env
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
