//! What the proxy should listen on and where to it should forward: pure functions over Services and EndpointSlices.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use coracle_api::meta::{NodeName, ObjectKey, Uid};
use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    discovery::v1::{Endpoint, EndpointSlice},
};

use crate::socket::Protocol;

/// Upstream's default for ClientIP affinity: three hours.
const AFFINITY_SECONDS: i32 = 10_800;
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Services and slices with these labels are somebody else's.
const OTHER_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What the plan needs to know of the node.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    pub name: NodeName,
    pub node_port_addresses: Vec<IpAddr>,
}

/// An address and port that clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
}

impl Listener {
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.socket_address(), self.protocol)
    }
}

/// Where a listener forwards to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backends {
    pub service: ObjectKey,
    /// Of the service, for its events; "" if it has none.
    pub uid: Uid,
    /// "" if the service has one port without a name.
    pub port_name: String,
    /// Ordered, each once; never empty.
    pub endpoints: Vec<SocketAddr>,
    /// A client's connections go to the same endpoint until it was away for so long.
    pub affinity: Option<Duration>,
}

/// One step from what is to what should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Open(Listener, Backends),
    Update(Listener, Backends),
    Close(Listener),
}

/// What should be listened on. A service port without an endpoint is not in it: nothing listens there, so that the kernel
/// refuses connections, as upstream's REJECT does.
pub fn desired(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    facts: &NodeFacts,
) -> BTreeMap<Listener, Backends> {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        let label = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
        if let (Some(namespace), Some(service), None) =
            (slice.metadata.namespace.as_deref(), label(SERVICE_NAME_LABEL), label(HEADLESS_LABEL))
        {
            by_service.entry((namespace, service)).or_default().push(slice);
        }
    }
    let mut listeners = BTreeMap::new();
    for service in services {
        let key = ObjectKey::of(&**service);
        if let Some(slices) = by_service.get(&(&*key.namespace, &*key.name)) {
            plan_service(&key, service, slices, facts, &mut listeners);
        }
    }
    listeners
}

/// The steps from `current` to `desired`; what is closed comes first.
pub fn diff(current: &BTreeMap<Listener, Backends>, desired: &BTreeMap<Listener, Backends>) -> Vec<Change> {
    let closed = current.keys().filter(|listener| !desired.contains_key(listener)).map(|l| Change::Close(*l));
    let rest = desired.iter().filter_map(|(listener, backends)| match current.get(listener) {
        None => Some(Change::Open(*listener, backends.clone())),
        Some(old) if old != backends => Some(Change::Update(*listener, backends.clone())),
        Some(_) => None,
    });
    closed.chain(rest).collect()
}

fn plan_service(
    key: &ObjectKey,
    service: &Service,
    slices: &[&EndpointSlice],
    facts: &NodeFacts,
    listeners: &mut BTreeMap<Listener, Backends>,
) {
    let labels = service.metadata.labels.as_ref();
    let Some(spec) = &service.spec else { return };
    if labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY_LABEL))
        || spec.type_.as_deref() == Some("ExternalName")
    {
        return;
    }
    let cluster_addresses = cluster_addresses(spec);
    if cluster_addresses.is_empty() {
        return;
    }
    let is_node_port = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
        let mut add = |address: IpAddr, number: i32, local: bool| {
            let Ok(number) = u16::try_from(number) else { return };
            let endpoints = endpoints(slices, port, protocol, address.is_ipv4(), local.then_some(&facts.name));
            if number == 0 || endpoints.is_empty() {
                return;
            }
            let backends = Backends {
                service: key.clone(),
                uid: service.metadata.uid.as_deref().unwrap_or_default().into(),
                port_name: port.name.clone().unwrap_or_default(),
                endpoints,
                affinity: affinity(spec),
            };
            // The API server gives a port out once. Should it not, the first service by name keeps it.
            listeners.entry(Listener { address, port: number, protocol }).or_insert(backends);
        };
        for address in &cluster_addresses {
            add(*address, port.port, spec.internal_traffic_policy.as_deref() == Some("Local"));
        }
        if is_node_port && let Some(node_port) = port.node_port {
            for address in &facts.node_port_addresses {
                add(*address, node_port, spec.external_traffic_policy.as_deref() == Some("Local"));
            }
        }
    }
}

fn cluster_addresses(spec: &ServiceSpec) -> BTreeSet<IpAddr> {
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    all.filter_map(|address| address.parse().ok()).collect()
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|client_ip| client_ip.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The endpoints of a service port: those that are ready, or, if none is, those that serve although they terminate.
fn endpoints(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    protocol: Protocol,
    v4: bool,
    on_node: Option<&NodeName>,
) -> Vec<SocketAddr> {
    let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices.iter().filter(|slice| slice.address_type == if v4 { "IPv4" } else { "IPv6" }) {
        let number = slice.ports.iter().flatten().find_map(|candidate| {
            let same_name = candidate.name.as_deref().unwrap_or("") == port.name.as_deref().unwrap_or("");
            let same_protocol = Protocol::parse(candidate.protocol.as_deref()) == Some(protocol);
            (same_name && same_protocol).then_some(candidate.port?)
        });
        let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            if on_node.is_some_and(|node| endpoint.node_name.as_deref() != Some(node.as_str())) {
                continue;
            }
            let state = state(endpoint);
            // Upstream too takes the first address only: they all are of one endpoint.
            let Some(address) = endpoint.addresses.first().and_then(|address| address.parse().ok()) else { continue };
            match state {
                State::Ready => drop(ready.insert(SocketAddr::new(address, number))),
                State::ServingTerminating => drop(ending.insert(SocketAddr::new(address, number))),
                State::Away => {}
            }
        }
    }
    (if ready.is_empty() { ending } else { ready }).into_iter().collect()
}

enum State {
    Ready,
    ServingTerminating,
    Away,
}

/// As upstream: an unset `ready` is yes, an unset `serving` is what `ready` is, an unset `terminating` is no.
fn state(endpoint: &Endpoint) -> State {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    if ready {
        State::Ready
    } else if serving && terminating {
        State::ServingTerminating
    } else {
        State::Away
    }
}

#[cfg(test)]
mod tests;
