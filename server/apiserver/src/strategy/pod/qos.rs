//! What a pod asks for in all, and the class of service that follows from it.

use std::collections::BTreeMap;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::super::check::{Quantities, number};

type Totals = BTreeMap<String, Quantity>;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn class(spec: &PodSpec) -> &'static str {
    let mut requests = Totals::new();
    let mut limits = Totals::new();
    let mut guaranteed = true;
    let pod_level = spec.resources.as_ref().filter(|r| has_any(r.requests.as_ref()) || has_any(r.limits.as_ref()));
    if let Some(resources) = pod_level {
        add(&mut requests, resources.requests.as_ref());
        guaranteed = add(&mut limits, resources.limits.as_ref()) == 2;
    } else {
        for container in containers(spec) {
            let resources = container.resources.as_ref();
            add(&mut requests, resources.and_then(|r| r.requests.as_ref()));
            let limited = add(&mut limits, resources.and_then(|r| r.limits.as_ref()));
            guaranteed &= limited == 2;
        }
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests.iter().all(|(name, value)| limits.get(name) == Some(value)) && requests.len() == limits.len();
    if guaranteed && equal { "Guaranteed" } else { "Burstable" }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

fn has_any(quantities: Option<&Quantities>) -> bool {
    quantities.is_some_and(|q| !q.is_empty())
}

/// Adds up cpu and memory; returns how many of the two were given.
fn add(totals: &mut Totals, quantities: Option<&Quantities>) -> usize {
    let mut given = 0;
    for (name, wire) in quantities.into_iter().flatten() {
        let value = number(wire);
        if matches!(name.as_str(), "cpu" | "memory") && value > Quantity::ZERO {
            given += 1;
            *totals.entry(name.clone()).or_default() += value;
        }
    }
    given
}

/// What the containers request together: all that run at once, or the most demanding init container.
pub(super) fn aggregate_requests(spec: &PodSpec) -> Totals {
    let requests = |container: &Container| -> Totals {
        let given = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        given.into_iter().flatten().map(|(name, wire)| (name.clone(), number(wire))).collect()
    };
    let mut running = Totals::new();
    for container in &spec.containers {
        sum(&mut running, &requests(container));
    }
    let mut sidecars = Totals::new();
    let mut peak = Totals::new();
    for container in spec.init_containers.iter().flatten() {
        let own = requests(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sum(&mut running, &own);
            sum(&mut sidecars, &own);
            max(&mut peak, &sidecars);
        } else {
            let mut step = own;
            sum(&mut step, &sidecars);
            max(&mut peak, &step);
        }
    }
    max(&mut running, &peak);
    running
}

fn sum(totals: &mut Totals, more: &Totals) {
    for (name, value) in more {
        *totals.entry(name.clone()).or_default() += *value;
    }
}

fn max(totals: &mut Totals, other: &Totals) {
    for (name, value) in other {
        let slot = totals.entry(name.clone()).or_default();
        *slot = (*slot).max(*value);
    }
}
