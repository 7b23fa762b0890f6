//! Names of resources (cpu, memory, example.com/gpu) and amounts of them.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

use super::check::{self, number};
use super::kind::Errors;

const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
/// Amounts of these are whole numbers.
const INTEGERS: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

pub(super) fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Unprefixed, or of kubernetes.io.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether more may be asked for than there is: requests may be below limits.
pub(super) fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

fn resource_name(name: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    let before = errors.len();
    check::problems(names::qualified_name(name), path, name, errors);
    let standard = CONTAINER.contains(&name)
        || QUOTA.contains(&name)
        || name == "storage"
        || is_huge_pages(name)
        || name.starts_with("requests.hugepages-");
    if errors.len() == before && !name.contains('/') && !standard {
        errors.push(FieldError::invalid(path, name, "must be a standard resource type or fully qualified"));
    }
}

pub(super) fn container_resource_name(name: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    resource_name(name, path, errors);
    if !name.contains('/') {
        if !CONTAINER.contains(&name) && !is_huge_pages(name) {
            errors.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

pub(super) fn quota_resource_name(name: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    resource_name(name, path, errors);
    let standard = QUOTA.contains(&name) || is_huge_pages(name) || name.starts_with("requests.hugepages-");
    if !name.contains('/') && !standard {
        errors.push(FieldError::invalid(path, name, "must be a standard resource for quota"));
    }
}

/// Any resource of a LimitRange that is not about pods or containers.
pub(super) fn any_resource_name(name: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    resource_name(name, path, errors);
}

pub(super) fn amount(name: &str, value: &WireQuantity, path: &FieldPath<'_>, errors: &mut Errors) {
    check::nonnegative_quantity(value, path, errors);
    let integer = INTEGERS.contains(&name) || is_extended(name);
    if integer && !number(value).is_integer() {
        errors.push(FieldError::invalid(path, &value.0, "must be an integer"));
    }
}

/// The requests and limits of a container.
pub(super) fn requirements(resources: &ResourceRequirements, path: &FieldPath<'_>, errors: &mut Errors) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let limits = || resources.limits.iter().flatten();
    let requests = || resources.requests.iter().flatten();
    for (name, value) in limits() {
        let at = limits_path.key(name);
        container_resource_name(name, &at, errors);
        amount(name, value, &at, errors);
    }
    for (name, value) in requests() {
        let at = requests_path.key(name);
        container_resource_name(name, &at, errors);
        amount(name, value, &at, errors);
        let limit = resources.limits.as_ref().and_then(|limits| limits.get(name));
        match limit {
            Some(limit) if number(value) != number(limit) && !is_overcommit_allowed(name) => {
                let detail = format!("must be equal to {name} limit of {}", limit.0);
                errors.push(FieldError::invalid(&requests_path, &value.0, detail));
            }
            Some(limit) if number(value) > number(limit) => {
                let detail = format!("must be less than or equal to {name} limit of {}", limit.0);
                errors.push(FieldError::invalid(&requests_path, &value.0, detail));
            }
            None if !is_overcommit_allowed(name) => {
                errors.push(FieldError::required(&limits_path, "Limit must be set for non overcommitable resources"));
            }
            Some(_) | None => {}
        }
    }
    let names = || limits().chain(requests()).map(|(name, _)| name.as_str());
    if names().any(is_huge_pages) && !names().any(|name| matches!(name, "cpu" | "memory")) {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}
