//! Environment variables and where their values come from.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector};

use super::super::check::{self, number, text};
use super::super::kind::Errors;

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that exist but not everywhere: naming one where it is not allowed is "unsupported", any other is unknown.
const POD_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.hostname",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
const BYTE_DIVISORS_SHOWN: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";

pub(super) fn validate(vars: &[EnvVar], path: &FieldPath<'_>, errors: &mut Errors) {
    for (i, var) in vars.iter().enumerate() {
        let at = path.index(i);
        if var.name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            check::problems(names::relaxed_env_var_name(&var.name), &at.child("name"), &var.name, errors);
        }
        if let Some(from) = &var.value_from {
            value_from(from, text(&var.value), &at.child("valueFrom"), errors);
        }
    }
}

fn value_from(from: &EnvVarSource, value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    if let Some(field) = &from.field_ref {
        field_selector(field, ENV_FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &from.resource_field_ref {
        resource_selector(resource, false, &path.child("resourceFieldRef"), errors);
    }
    if let Some(key) = &from.config_map_key_ref {
        key_selector(&key.name, &key.key, &path.child("configMapKeyRef"), errors);
    }
    if let Some(key) = &from.secret_key_ref {
        key_selector(&key.name, &key.key, &path.child("secretKeyRef"), errors);
    }
    let sources = [
        from.field_ref.is_some(),
        from.resource_field_ref.is_some(),
        from.config_map_key_ref.is_some(),
        from.secret_key_ref.is_some(),
        from.file_key_ref.is_some(),
    ];
    let detail = match sources.into_iter().filter(|given| *given).count() {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        _ if !value.is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, "", detail));
}

fn key_selector(name: &str, key: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    check::dns_subdomain(name, &path.child("name"), errors);
    if key.is_empty() {
        errors.push(FieldError::required(&path.child("key"), ""));
    } else {
        check::problems(names::config_map_key(key), &path.child("key"), key, errors);
    }
}

pub(super) fn field_selector(
    selector: &ObjectFieldSelector,
    allowed: &[&str],
    path: &FieldPath<'_>,
    errors: &mut Errors,
) {
    let version = text(&selector.api_version);
    let field_path = path.child("fieldPath");
    if version.is_empty() {
        errors.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    if selector.field_path.is_empty() {
        errors.push(FieldError::required(&field_path, ""));
        return;
    }
    let field = selector.field_path.as_str();
    let subscript = field.split_once("['").and_then(|(name, rest)| Some((name, rest.strip_suffix("']")?)));
    let name = subscript.map_or(field, |(name, _)| name);
    if version != "v1" || !POD_FIELDS.contains(&name) {
        let why = if version == "v1" {
            format!("error converting fieldPath: field label not supported: {field}")
        } else {
            format!("error converting fieldPath: unsupported pod version: {version}")
        };
        errors.push(FieldError::invalid(&field_path, field, why));
        return;
    }
    match subscript {
        Some(("metadata.annotations", key)) => check::qualified_name(&key.to_lowercase(), path, errors),
        Some(("metadata.labels", key)) => check::qualified_name(key, path, errors),
        Some((other, _)) => errors.push(FieldError::invalid(path, other, "does not support subscript")),
        None if !allowed.contains(&field) => errors.push(FieldError::not_supported(&field_path, field, allowed)),
        None => {}
    }
}

/// `volume`: the file of a volume must name its container.
pub(super) fn resource_selector(
    selector: &ResourceFieldSelector,
    volume: bool,
    path: &FieldPath<'_>,
    errors: &mut Errors,
) {
    let resource = selector.resource.as_str();
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if volume && text(&selector.container_name).is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.push(FieldError::not_supported(&path.child("resource"), resource, RESOURCES));
    }
    let Some(divisor) = selector.divisor.as_ref().filter(|divisor| !number(divisor).is_zero()) else { return };
    let (allowed, detail): (&[&str], String) = match resource {
        "limits.cpu" | "requests.cpu" => {
            (&["1m", "1"], "only divisor's values 1m and 1 are supported with the cpu resource".to_owned())
        }
        "limits.memory" | "requests.memory" => (BYTE_DIVISORS, bytes("memory")),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (BYTE_DIVISORS, bytes("local ephemeral storage")),
        _ if huge => (BYTE_DIVISORS, bytes("hugepages")),
        _ => return,
    };
    if !allowed.contains(&divisor.0.as_str()) {
        errors.push(FieldError::invalid(&path.child("divisor"), resource, detail));
    }
}

fn bytes(what: &str) -> String {
    format!("only divisor's values {BYTE_DIVISORS_SHOWN} are supported with the {what} resource")
}

pub(super) fn validate_from(sources: &[EnvFromSource], path: &FieldPath<'_>, errors: &mut Errors) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            check::problems(names::relaxed_env_var_name(prefix), &at.child("prefix"), prefix, errors);
        }
        if let Some(config) = &source.config_map_ref {
            check::required_name(&config.name, &at.child("configMapRef.name"), errors);
        }
        if let Some(secret) = &source.secret_ref {
            check::required_name(&secret.name, &at.child("secretRef.name"), errors);
        }
        match (source.config_map_ref.is_some(), source.secret_ref.is_some()) {
            (false, false) => {
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(FieldError::invalid(path, "", detail));
            }
            (true, true) => {
                let detail = "may not have more than one field specified at a time";
                errors.push(FieldError::invalid(path, "", detail));
            }
            (true, false) | (false, true) => {}
        }
    }
}
