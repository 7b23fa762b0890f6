//! What the cluster's DNS answers: a pure function over Services and EndpointSlices, after the Kubernetes DNS-based service
//! discovery specification and CoreDNS, where that leaves room.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use coracle_api::meta::ObjectKey;
use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
};
use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};

/// Seconds an answer may be kept, negative ones too.
pub const TTL: u32 = 5;
/// The version of the specification, asked for as `dns-version`.
const SPECIFICATION: &str = "1.1.0";

/// What is served with authority.
#[derive(Debug, Clone)]
pub struct Zone {
    /// `cluster.local.`
    pub domain: Name,
    /// Addresses whose names are known here or nowhere.
    pub networks: Vec<IpNet>,
    /// Of the DNS server itself.
    pub address: IpAddr,
}

/// Where the facts come from.
pub trait Records {
    fn service(&self, key: &ObjectKey) -> Option<Arc<Service>>;
    fn slices(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>>;
    /// Services with this cluster address.
    fn services_at(&self, address: IpAddr) -> Vec<Arc<Service>>;
    /// Slices with an endpoint at this address.
    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>>;
    fn has_services_in(&self, namespace: &str) -> bool;
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name is another's; ask for that one.
    Alias {
        record: Box<Record>,
        target: Name,
    },
    /// The name exists, with no such record.
    NoData,
    /// There is no such name.
    NoName,
    /// It is not for this zone to say.
    Elsewhere,
}

impl Answer {
    fn of(answers: Vec<Record>) -> Self {
        if answers.is_empty() { Self::NoData } else { Self::Records { answers, additionals: Vec::new() } }
    }
}

/// Answers a question for `name`.
pub fn lookup(zone: &Zone, records: &impl Records, name: &Name, kind: RecordType) -> Answer {
    let name = name.to_lowercase();
    if let Ok(network) = name.parse_arpa_name() {
        return reverse(zone, records, &name, network, kind);
    }
    if !zone.domain.zone_of(&name) {
        return Answer::Elsewhere;
    }
    let labels: Vec<_> = name.iter().map(String::from_utf8_lossy).collect();
    let inside: Vec<&str> = labels[..labels.len() - zone.domain.iter().count()].iter().map(|label| &**label).collect();
    let question = Question { zone, records, name: &name, kind };
    match inside[..] {
        [] => question.apex(),
        ["dns-version"] => Answer::of(match kind {
            RecordType::TXT => vec![record(&name, RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()])))],
            _ => Vec::new(),
        }),
        ["dns"] | ["svc"] | ["pod"] => Answer::NoData,
        ["ns", "dns"] => question.addresses(&[zone.address]),
        [ip, _, "pod"] => match dashed(ip) {
            Some(address) => question.addresses(&[address]),
            None => Answer::NoName,
        },
        [namespace, "svc"] if records.has_services_in(namespace) => Answer::NoData,
        [_, "pod"] => Answer::NoData,
        [.., service, namespace, "svc"] => question.service(service, namespace, &inside[..inside.len() - 3]),
        _ => Answer::NoName,
    }
}

/// The record that says until when a negative answer holds.
pub(super) fn soa(zone: &Zone) -> Record {
    let under = |label: &str| Name::from_ascii(label).and_then(|name| name.append_domain(&zone.domain));
    let (server, master) = (under("ns.dns"), under("hostmaster"));
    // A domain so long that nothing fits before it names itself.
    let or_domain = |name: Result<Name, _>| name.unwrap_or_else(|_| zone.domain.clone());
    // Nobody may transfer the zone, so that its serial number says nothing.
    record(&zone.domain, RData::SOA(SOA::new(or_domain(server), or_domain(master), 1, 7200, 1800, 86_400, TTL)))
}

struct Question<'a, R> {
    zone: &'a Zone,
    records: &'a R,
    name: &'a Name,
    kind: RecordType,
}

/// An endpoint of a headless service.
struct Host {
    name: Name,
    addresses: Vec<IpAddr>,
    ports: Vec<(String, String, u16)>,
}

impl<R: Records> Question<'_, R> {
    fn apex(&self) -> Answer {
        let soa = soa(self.zone);
        match (self.kind, &soa.data) {
            (RecordType::SOA, _) => Answer::of(vec![soa]),
            (RecordType::NS, RData::SOA(facts)) => Answer::Records {
                answers: vec![record(&self.zone.domain, RData::NS(NS(facts.mname.clone())))],
                additionals: vec![address_record(&facts.mname, self.zone.address)],
            },
            _ => Answer::NoData,
        }
    }

    /// A name at or below a service; `below` are its labels before the service's.
    fn service(&self, service: &str, namespace: &str, below: &[&str]) -> Answer {
        let key = ObjectKey::new(namespace, service);
        let Some(object) = self.records.service(&key) else { return Answer::NoName };
        let Some(spec) = &object.spec else { return Answer::NoName };
        if spec.type_.as_deref() == Some("ExternalName") {
            return if below.is_empty() { self.external(spec.external_name.as_deref()) } else { Answer::NoName };
        }
        let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let mut own: Vec<IpAddr> = all.filter_map(|address| address.parse().ok()).collect();
        own.sort_unstable();
        own.dedup();
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let base = self.name.trim_to(self.name.iter().count() - below.len());
        let hosts = if headless {
            hosts(&self.records.slices(&key), &base)
        } else {
            let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
                let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
                Some((port.name.clone().unwrap_or_default(), protocol, u16::try_from(port.port).ok()?))
            };
            let ports = spec.ports.iter().flatten().filter_map(port).collect();
            vec![Host { name: base, addresses: own, ports }]
        };
        match *below {
            [] if self.kind == RecordType::SRV => self.srv(&hosts, None),
            [] => self.addresses(&hosts.iter().flat_map(|host| host.addresses.clone()).collect::<Vec<_>>()),
            ["_tcp" | "_udp" | "_sctp"] => Answer::NoData,
            [hostname] if headless => {
                let found = hosts.iter().find(|host| host.name.iter().next() == Some(hostname.as_bytes()));
                found.map_or(Answer::NoName, |host| self.addresses(&host.addresses))
            }
            [port, protocol] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => self.srv(&hosts, Some((port, protocol))),
                _ => Answer::NoName,
            },
            _ => Answer::NoName,
        }
    }

    fn external(&self, target: Option<&str>) -> Answer {
        let target = target.unwrap_or_default();
        if let Ok(address) = target.parse() {
            return self.addresses(&[address]);
        }
        let Ok(mut target) = Name::from_ascii(target) else { return Answer::NoData };
        target.set_fqdn(true);
        let record = Box::new(record(self.name, RData::CNAME(CNAME(target.clone()))));
        Answer::Alias { record, target }
    }

    /// Those of the addresses that the question is for.
    fn addresses(&self, addresses: &[IpAddr]) -> Answer {
        let wanted = addresses.iter().filter(|address| match self.kind {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            _ => false,
        });
        Answer::of(wanted.map(|address| address_record(self.name, *address)).collect())
    }

    /// A record for each host and port; with the hosts' addresses, so that nobody has to ask again.
    fn srv(&self, hosts: &[Host], wanted: Option<(&str, &str)>) -> Answer {
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        // As CoreDNS: the weights of all add up to 100.
        let weight = u16::try_from(100 / hosts.len().max(1)).unwrap_or(1).max(1);
        for host in hosts {
            let before = answers.len();
            for (name, protocol, port) in &host.ports {
                if wanted.is_none_or(|wanted| wanted == (name, protocol)) {
                    let target = SRV::new(0, weight, *port, host.name.clone());
                    answers.push(record(self.name, RData::SRV(target)));
                }
            }
            if answers.len() > before {
                additionals.extend(host.addresses.iter().map(|address| address_record(&host.name, *address)));
            }
        }
        match (answers.is_empty(), wanted) {
            (true, Some(_)) => Answer::NoName,
            (true, None) => Answer::NoData,
            (false, _) if self.kind != RecordType::SRV => Answer::NoData,
            (false, _) => Answer::Records { answers, additionals },
        }
    }
}

fn reverse(zone: &Zone, records: &impl Records, name: &Name, network: IpNet, kind: RecordType) -> Answer {
    let ours = zone.networks.iter().any(|ours| ours.contains(&network));
    let is_host = network.prefix_len() == network.max_prefix_len();
    if !is_host {
        return if ours { Answer::NoData } else { Answer::Elsewhere };
    }
    let address = network.addr();
    let service_name = |key: &ObjectKey| {
        let name = Name::from_ascii(format!("{}.{}.svc", key.name, key.namespace)).ok()?;
        name.append_domain(&zone.domain).ok()
    };
    let mut names: Vec<Name> =
        records.services_at(address).iter().filter_map(|s| service_name(&ObjectKey::of(&**s))).collect();
    if names.is_empty() {
        for slice in records.slices_at(address) {
            let Some(base) = service_of(&slice).and_then(|key| service_name(&key)) else { continue };
            let found = hosts(std::slice::from_ref(&slice), &base);
            names.extend(found.into_iter().filter(|host| host.addresses.contains(&address)).map(|host| host.name));
        }
        names.sort_unstable();
        names.dedup();
    }
    match (names.is_empty(), ours) {
        (true, true) => Answer::NoName,
        (true, false) => Answer::Elsewhere,
        (false, _) if kind != RecordType::PTR => Answer::NoData,
        (false, _) => Answer::of(names.into_iter().map(|target| record(name, RData::PTR(PTR(target)))).collect()),
    }
}

/// The service a slice belongs to.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let service = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref()?, service.as_str()))
}

/// The ready endpoints under `base`, ordered by name. Endpoints of several slices with one name are one host.
fn hosts(slices: &[Arc<EndpointSlice>], base: &Name) -> Vec<Host> {
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    for slice in slices {
        let ports: Vec<_> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
                Some((port.name.clone().unwrap_or_default(), protocol, u16::try_from(port.port?).ok()?))
            })
            .collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let is_ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            let addresses: Vec<IpAddr> = endpoint.addresses.iter().filter_map(|address| address.parse().ok()).collect();
            let (true, Some(label)) = (is_ready, host_label(endpoint, &addresses)) else { continue };
            let Ok(name) = Name::from_ascii(&label).and_then(|name| name.append_domain(base)) else { continue };
            let host = hosts.entry(label).or_insert(Host { name, addresses: Vec::new(), ports: Vec::new() });
            for address in addresses {
                if !host.addresses.contains(&address) {
                    host.addresses.push(address);
                }
            }
            for port in &ports {
                if !host.ports.contains(port) {
                    host.ports.push(port.clone());
                }
            }
        }
    }
    hosts.into_values().collect()
}

/// Its hostname, or its address with dashes.
fn host_label(endpoint: &Endpoint, addresses: &[IpAddr]) -> Option<String> {
    match endpoint.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        Some(hostname) => Some(hostname.to_ascii_lowercase()),
        None => addresses.first().map(|address| address.to_string().replace(['.', ':'], "-")),
    }
}

/// `1-2-3-4` or `2001-db8--1`.
fn dashed(label: &str) -> Option<IpAddr> {
    label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4).ok().or_else(|| label.replace('-', ":").parse().ok())
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    record(
        name,
        match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        },
    )
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}
