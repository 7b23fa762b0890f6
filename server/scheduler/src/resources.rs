//! Amounts of resources: what a pod asks for, what a node has, and their arithmetic. Follows upstream's
//! `component-helpers/resource`: containers add up, init containers run one after another beside the sidecars before
//! them, pod-level requests replace the sum, overhead comes on top.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

pub(crate) const CPU: &str = "cpu";
pub(crate) const MEMORY: &str = "memory";
pub(crate) const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
const PODS: &str = "pods";
const HUGE_PAGES: &str = "hugepages-";

/// What a container without requests is taken to use when nodes are compared: it is not free.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

type List = BTreeMap<String, Wire>;

/// Amounts by resource. Everything but cpu is in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages, ordered by name; mostly empty.
    pub scalars: Vec<(Arc<str>, i64)>,
}

impl Resources {
    pub(crate) fn of(list: Option<&List>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            resources.set(name, quantity);
        }
        resources
    }

    fn set(&mut self, name: &str, quantity: &Wire) {
        // The API has validated it: what does not parse was written by something else and counts for nothing.
        let Ok(quantity) = quantity.0.parse::<Quantity>() else { return };
        match name {
            CPU => self.milli_cpu = quantity.milli(),
            MEMORY => self.memory = quantity.value(),
            EPHEMERAL_STORAGE => self.ephemeral_storage = quantity.value(),
            PODS => {}
            name => *self.scalar_mut(name) = quantity.value(),
        }
    }

    fn scalar_mut(&mut self, name: &str) -> &mut i64 {
        let at = match self.scalars.binary_search_by(|(known, _)| (**known).cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                self.scalars.insert(at, (Arc::from(name), 0));
                at
            }
        };
        &mut self.scalars[at].1
    }

    pub fn scalar(&self, name: &str) -> i64 {
        self.scalars.binary_search_by(|(known, _)| (**known).cmp(name)).map_or(0, |at| self.scalars[at].1)
    }

    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.scalars.iter().all(|(_, amount)| *amount == 0)
    }

    pub(crate) fn add(&mut self, other: &Resources) {
        self.merge(other, i64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, other: &Resources) {
        self.merge(other, i64::saturating_sub);
    }

    fn raise_to(&mut self, other: &Resources) {
        self.merge(other, i64::max);
    }

    fn merge(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalars {
            let own = self.scalar_mut(name);
            *own = with(*own, *amount);
        }
    }

    /// Any amount here is larger than there.
    pub(crate) fn exceeds(&self, other: &Resources) -> bool {
        self.milli_cpu > other.milli_cpu
            || self.memory > other.memory
            || self.ephemeral_storage > other.ephemeral_storage
            || self.scalars.iter().any(|(name, amount)| *amount > other.scalar(name))
    }
}

/// What a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub exact: Resources,
    /// With defaults for containers that ask for no cpu or no memory; used to compare nodes, never to refuse one.
    pub assumed: Resources,
}

impl Requests {
    pub(crate) fn of(spec: &PodSpec) -> Self {
        Self { exact: pod_requests(spec, false), assumed: pod_requests(spec, true) }
    }
}

fn pod_requests(spec: &PodSpec, assume: bool) -> Resources {
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&container_requests(container, assume));
    }
    // The sidecars so far run beside each later init container, and beside the containers.
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut own = container_requests(container, assume);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&own);
            own = Resources::default();
        }
        own.add(&sidecars);
        peak.raise_to(&own);
    }
    total.add(&sidecars);
    total.raise_to(&peak);
    for (name, quantity) in spec.resources.iter().filter_map(|resources| resources.requests.as_ref()).flatten() {
        if name == CPU || name == MEMORY || name.starts_with(HUGE_PAGES) {
            total.set(name, quantity);
        }
    }
    total.add(&Resources::of(spec.overhead.as_ref()));
    total
}

fn container_requests(container: &Container, assume: bool) -> Resources {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let mut resources = Resources::of(requests);
    let asks = |name: &str| requests.is_some_and(|requests| requests.contains_key(name));
    if assume && !asks(CPU) {
        resources.milli_cpu = DEFAULT_MILLI_CPU;
    }
    if assume && !asks(MEMORY) {
        resources.memory = DEFAULT_MEMORY_BYTES;
    }
    resources
}

/// How many pods a node takes.
pub(crate) fn allowed_pods(allocatable: Option<&List>) -> i64 {
    allocatable.and_then(|list| list.get(PODS)).and_then(|quantity| quantity.0.parse::<Quantity>().ok()).map_or(
        0,
        // A node that does not say takes none, as upstream.
        Quantity::value,
    )
}
