//! The quality-of-service class of a pod, from its requests and limits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

type Amounts = BTreeMap<String, Quantity>;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(spec: &PodSpec) -> &'static str {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut any = false;
    let mut guaranteed = true;
    let pod_level = spec
        .resources
        .as_ref()
        .filter(|resources| is_set(resources.requests.as_ref()) || is_set(resources.limits.as_ref()));
    let all: Vec<Option<&ResourceRequirements>> = match pod_level {
        Some(resources) => vec![Some(resources)],
        None => containers.map(|container| container.resources.as_ref()).collect(),
    };
    for resources in all {
        let empty = Amounts::new();
        let requests = resources.and_then(|resources| resources.requests.as_ref()).unwrap_or(&empty);
        let limits = resources.and_then(|resources| resources.limits.as_ref()).unwrap_or(&empty);
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount(requests, name), amount(limits, name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.as_ref().is_none_or(|request| Some(request) == limit.as_ref());
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn is_set(amounts: Option<&Amounts>) -> bool {
    amounts.is_some_and(|amounts| ["cpu", "memory"].iter().any(|name| amount(amounts, name).is_some()))
}

/// An amount that is not zero.
fn amount(amounts: &Amounts, name: &str) -> Option<coracle_api::Quantity> {
    let quantity: coracle_api::Quantity = amounts.get(name)?.0.parse().ok()?;
    (quantity.milli() > 0).then_some(quantity)
}
