//! Decides which EndpointSlices a Service has. Pure. Changes as few slices as it can: a slice is sent to every node, so
//! one more write costs more than one slice that is not full.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use coracle_client::Pod;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{backend, owner, pod};

pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
const MAX_ENDPOINTS: usize = 100;

/// What is known of a pod's node.
pub(crate) enum NodeOf {
    Known { zone: Option<String> },
    Missing,
}

pub(crate) struct Observed<'a> {
    pub(crate) service: &'a Service,
    /// Pods of the namespace that the Service selects.
    pub(crate) pods: &'a [Arc<Pod>],
    /// The Service's slices that this controller made.
    pub(crate) slices: &'a [Arc<EndpointSlice>],
    pub(crate) node: &'a dyn Fn(&str) -> NodeOf,
}

#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn of(address: &str) -> Self {
        if address.contains(':') { Self::V6 } else { Self::V4 }
    }
}

/// Ports of a slice in one order, so that equal sets are equal.
type Ports = Vec<PortKey>;
/// Address and pod UID.
type EndpointKey = (String, String);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PortKey {
    name: String,
    protocol: String,
    port: i32,
    app_protocol: Option<String>,
}

pub(crate) fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let families = families(observed.service);
    for slice in observed.slices {
        let wanted = families.iter().any(|f| f.name() == slice.address_type);
        if !wanted || slice.metadata.deletion_timestamp.is_some() {
            plan.delete.push(slice.clone());
        }
    }
    plan.delete.retain(|s| s.metadata.deletion_timestamp.is_none());
    for family in families {
        let existing: Vec<&Arc<EndpointSlice>> = observed
            .slices
            .iter()
            .filter(|s| s.address_type == family.name() && s.metadata.deletion_timestamp.is_none())
            .collect();
        plan_family(observed, family, &existing, &mut plan);
    }
    plan
}

fn families(service: &Service) -> BTreeSet<Family> {
    let spec = service.spec.as_ref();
    let named = |family: &String| if family == "IPv6" { Family::V6 } else { Family::V4 };
    let listed: BTreeSet<Family> = spec.and_then(|s| s.ip_families.as_ref()).into_iter().flatten().map(named).collect();
    if !listed.is_empty() {
        return listed;
    }
    let ip = spec.and_then(|s| s.cluster_ip.as_deref()).filter(|ip| !matches!(*ip, "" | "None"));
    BTreeSet::from([ip.map_or(Family::V4, Family::of)])
}

fn plan_family(observed: &Observed<'_>, family: Family, existing: &[&Arc<EndpointSlice>], plan: &mut Plan) {
    let mut desired = desired(observed, family);
    let mut by_ports: BTreeMap<Ports, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    let mut moves = Moves::default();
    for slice in existing {
        let ports = port_keys(slice);
        if desired.contains_key(&ports) {
            by_ports.entry(ports).or_default().push(slice);
        } else {
            moves.delete.push((*slice).clone());
        }
    }
    while let Some((ports, endpoints)) = desired.pop_first() {
        let slices = by_ports.remove(&ports).unwrap_or_default();
        moves.arrange(observed.service, family, &ports, &slices, endpoints);
    }
    if moves.delete.len() == existing.len() && moves.create.is_empty() {
        // A Service always has a slice, so that who reads them knows that it was looked at.
        let empty = new_slice(observed.service, family, &Vec::new());
        match moves.delete.as_slice() {
            [only] if says_the_same(only, &empty) => moves.delete.clear(),
            _ => moves.create.push(empty),
        }
    }
    moves.recycle();
    plan.create.append(&mut moves.create);
    plan.update.append(&mut moves.update);
    plan.delete.append(&mut moves.delete);
}

#[derive(Default)]
struct Moves {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

impl Moves {
    /// Places `desired` into `slices` and new ones, all of the same ports.
    fn arrange(
        &mut self,
        service: &Service,
        family: Family,
        ports: &Ports,
        slices: &[&Arc<EndpointSlice>],
        mut desired: BTreeMap<EndpointKey, Endpoint>,
    ) {
        let model = new_slice(service, family, ports);
        let (mut kept, mut changed): (Vec<EndpointSlice>, Vec<EndpointSlice>) = (Vec::new(), Vec::new());
        for slice in slices {
            let mut next = (***slice).clone();
            let left: Vec<_> = endpoints(slice).iter().filter_map(|e| desired.remove(&endpoint_key(e))).collect();
            let relabelled = relabel(&mut next, &model);
            let (same, empty) = (left == endpoints(slice), left.is_empty());
            next.endpoints = Some(left);
            if same && !relabelled {
                kept.push(next);
            } else if empty {
                self.delete.push((*slice).clone());
            } else {
                changed.push(next);
            }
        }
        // What has to be written anyway takes in the new ones, the fullest first.
        changed.sort_by_key(|s| std::cmp::Reverse(endpoints(s).len()));
        for slice in &mut changed {
            fill(slice, &mut desired);
        }
        while !desired.is_empty() {
            let fits = |s: &&mut EndpointSlice| endpoints(s).len() + desired.len() <= MAX_ENDPOINTS;
            let fullest = kept.iter_mut().filter(fits).max_by_key(|s| endpoints(s).len());
            if let Some(slice) = fullest {
                fill(slice, &mut desired);
                changed.push(slice.clone());
            } else {
                let mut slice = model.clone();
                fill(&mut slice, &mut desired);
                self.create.push(slice);
            }
        }
        self.update.append(&mut changed);
    }

    /// A slice that would go and one that would come make one that changes.
    fn recycle(&mut self) {
        while !self.delete.is_empty() && !self.create.is_empty() {
            let (old, mut next) = (self.delete.remove(0), self.create.remove(0));
            let labels = next.metadata.labels.take();
            next.metadata = ObjectMeta { labels, ..old.metadata.clone() };
            self.update.push(next);
        }
    }
}

fn endpoints(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or(&[])
}

fn fill(slice: &mut EndpointSlice, desired: &mut BTreeMap<EndpointKey, Endpoint>) {
    let endpoints = slice.endpoints.get_or_insert_default();
    while endpoints.len() < MAX_ENDPOINTS {
        let Some((_, endpoint)) = desired.pop_first() else { return };
        endpoints.push(endpoint);
    }
}

fn says_the_same(slice: &EndpointSlice, model: &EndpointSlice) -> bool {
    let ports = |s: &EndpointSlice| port_keys(s);
    endpoints(slice) == endpoints(model)
        && ports(slice) == ports(model)
        && slice.metadata.labels == model.metadata.labels
}

/// Gives the slice the labels and the owner of `model`; says whether that changed anything.
fn relabel(slice: &mut EndpointSlice, model: &EndpointSlice) -> bool {
    let (labels, owners) = (&model.metadata.labels, &model.metadata.owner_references);
    if slice.metadata.labels == *labels && slice.metadata.owner_references == *owners {
        return false;
    }
    slice.metadata.labels.clone_from(labels);
    slice.metadata.owner_references.clone_from(owners);
    true
}

fn new_slice(service: &Service, family: Family, ports: &Ports) -> EndpointSlice {
    let name = owner::name(&service.metadata);
    let mut labels = backend::labels(service, &[SERVICE_LABEL, MANAGED_BY_LABEL]);
    labels.insert(SERVICE_LABEL.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner::reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.name().to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports.iter().map(endpoint_port).collect()),
    }
}

fn endpoint_port(key: &PortKey) -> EndpointPort {
    EndpointPort {
        name: Some(key.name.clone()),
        protocol: Some(key.protocol.clone()),
        port: Some(key.port),
        app_protocol: key.app_protocol.clone(),
    }
}

fn port_keys(slice: &EndpointSlice) -> Ports {
    let key = |port: &EndpointPort| PortKey {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        port: port.port.unwrap_or(0),
        app_protocol: port.app_protocol.clone(),
    };
    let mut keys: Ports = slice.ports.iter().flatten().map(key).collect();
    keys.sort();
    keys
}

fn endpoint_key(endpoint: &Endpoint) -> EndpointKey {
    let uid = endpoint.target_ref.as_ref().and_then(|r| r.uid.clone()).unwrap_or_default();
    (endpoint.addresses.first().cloned().unwrap_or_default(), uid)
}

fn desired(observed: &Observed<'_>, family: Family) -> BTreeMap<Ports, BTreeMap<EndpointKey, Endpoint>> {
    let mut desired: BTreeMap<Ports, BTreeMap<EndpointKey, Endpoint>> = BTreeMap::new();
    for pod in observed.pods {
        let address = backend::addresses(pod, true).into_iter().find(|a| Family::of(a) == family);
        let Some(address) = address else { continue };
        let Some(endpoint) = endpoint(observed, pod, address) else { continue };
        let mut ports: Ports = backend::ports(observed.service)
            .iter()
            .filter_map(|port| {
                Some(PortKey {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: backend::protocol(port).to_owned(),
                    port: backend::target_port(pod, port)?,
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        ports.sort();
        desired.entry(ports).or_default().insert(endpoint_key(&endpoint), endpoint);
    }
    desired
}

/// `None` while the pod's node is unknown: its address may be someone else's by now.
fn endpoint(observed: &Observed<'_>, pod: &Pod, address: &str) -> Option<Endpoint> {
    let not_ready_too = backend::publishes_not_ready(observed.service);
    let node_name = pod::node_name(pod);
    let zone = match node_name.map(|n| (observed.node)(n)) {
        None => None,
        Some(NodeOf::Known { zone }) => zone,
        Some(NodeOf::Missing) if not_ready_too => None,
        Some(NodeOf::Missing) => return None,
    };
    let (serving, terminating) = (pod::is_ready(pod), pod::is_deleting(pod));
    Some(Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(not_ready_too || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: backend::hostname(pod, observed.service).map(str::to_owned),
        node_name: node_name.map(str::to_owned),
        target_ref: Some(pod_reference(pod)),
        zone,
        ..Endpoint::default()
    })
}

pub(crate) fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (verb, slices) in [("create", &self.create), ("update", &self.update)] {
            for slice in slices {
                let meta = &slice.metadata;
                let name = meta.name.as_deref().or(meta.generate_name.as_deref()).unwrap_or("");
                let ports: Vec<String> = port_keys(slice)
                    .into_iter()
                    .map(|p| {
                        if p.name.is_empty() {
                            format!("{}/{}", p.port, p.protocol)
                        } else {
                            format!("{}:{}/{}", p.name, p.port, p.protocol)
                        }
                    })
                    .collect();
                writeln!(f, "{verb} {} {name} ports={}", slice.address_type, ports.join(","))?;
                endpoints(slice).iter().try_for_each(|e| show_endpoint(f, e))?;
            }
        }
        for slice in &self.delete {
            writeln!(f, "delete {}", owner::name(&slice.metadata))?;
        }
        Ok(())
    }
}

fn show_endpoint(f: &mut fmt::Formatter<'_>, endpoint: &Endpoint) -> fmt::Result {
    let is = |flag: fn(&EndpointConditions) -> Option<bool>| endpoint.conditions.as_ref().and_then(flag) == Some(true);
    write!(f, "  {}", endpoint.addresses.join(","))?;
    let conditions =
        [("ready", is(|c| c.ready)), ("serving", is(|c| c.serving)), ("terminating", is(|c| c.terminating))];
    conditions.iter().filter(|(_, on)| *on).try_for_each(|(name, _)| write!(f, " {name}"))?;
    let facts = [("node", &endpoint.node_name), ("zone", &endpoint.zone), ("hostname", &endpoint.hostname)];
    facts.iter().filter_map(|(n, v)| v.as_ref().map(|v| (n, v))).try_for_each(|(n, v)| write!(f, " {n}={v}"))?;
    writeln!(f)
}
