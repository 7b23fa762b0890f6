//! When the host runs out of something, and which pod has to go for it. Pure; the order and the words are kubelet's.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use coracle_api::Quantity;
use coracle_client::Pod;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::gauge::Levels;
use super::thresholds::Thresholds;
use crate::pod::qos;

/// A condition stays for so long after its last cause, so that it does not flap.
const TRANSITION: Duration = Duration::from_secs(300);
/// From this priority on a pod is critical and stays.
const CRITICAL: i32 = 2_000_000_000;

/// A pressure of the node, named as its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    Memory,
    Disk,
    Pid,
}

impl Pressure {
    pub const ALL: [Pressure; 3] = [Pressure::Memory, Pressure::Disk, Pressure::Pid];

    pub fn condition(self) -> &'static str {
        match self {
            Pressure::Memory => "MemoryPressure",
            Pressure::Disk => "DiskPressure",
            Pressure::Pid => "PIDPressure",
        }
    }

    /// Reason and message of the condition.
    pub fn words(self, is: bool) -> (&'static str, &'static str) {
        match (self, is) {
            (Pressure::Memory, true) => ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            (Pressure::Memory, false) => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            (Pressure::Disk, true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            (Pressure::Disk, false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            (Pressure::Pid, true) => ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            (Pressure::Pid, false) => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        }
    }
}

/// What has run out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) pressure: Pressure,
    /// As messages name it.
    pub(super) resource: &'static str,
    pub(super) threshold: u64,
    pub(super) available: u64,
}

impl Shortage {
    pub(super) fn amount(&self, value: u64) -> String {
        match self.resource {
            "inodes" | "pids" => value.to_string(),
            _ => Size(value).to_string(),
        }
    }
}

/// What is below its threshold, what matters most first.
pub(super) fn shortages(levels: &Levels, thresholds: &Thresholds) -> Vec<Shortage> {
    let short = thresholds.of(levels).filter(|(_, level, least)| level.capacity > 0 && level.available < *least);
    short
        .map(|(signal, level, threshold)| Shortage {
            pressure: signal.pressure(),
            resource: signal.resource(),
            threshold,
            available: level.available,
        })
        .collect()
}

/// How close the nearest threshold is, as a share of what there is: the closer, the sooner one looks again.
pub(super) fn slack(levels: &Levels, thresholds: &Thresholds) -> f64 {
    let known = thresholds.of(levels).filter(|(_, level, _)| level.capacity > 0);
    known
        .map(|(_, level, least)| level.available.saturating_sub(least) as f64 / level.capacity as f64)
        .fold(1.0, f64::min)
}

/// The node's pressures over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    last: BTreeMap<Pressure, Duration>,
}

impl Conditions {
    /// Takes one look in. Gives those that hold now.
    pub(super) fn observe(&mut self, shortages: &[Shortage], now: Duration) -> Vec<Pressure> {
        for shortage in shortages {
            self.last.insert(shortage.pressure, now);
        }
        self.last.retain(|_, last| now.saturating_sub(*last) < TRANSITION);
        self.last.keys().copied().collect()
    }
}

/// A pod and what it uses of what has run out.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) pod: &'a Pod,
    /// Bytes by container; for a disk the whole pod's under "".
    pub(super) usage: BTreeMap<String, u64>,
}

impl Candidate<'_> {
    fn used(&self) -> u64 {
        self.usage.values().sum()
    }

    fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
    }
}

/// Static pods, their mirrors and those of a system's priority stay whatever happens.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror"))
        || pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= CRITICAL)
}

/// The pod that has to go: one that uses more than it asked for, of the least priority, that uses most beyond its request.
pub(super) fn victim<'c, 'p>(shortage: &Shortage, candidates: &'c [Candidate<'p>]) -> Option<&'c Candidate<'p>> {
    let request = |candidate: &Candidate<'_>| requested(candidate.pod, shortage.resource);
    candidates.iter().filter(|candidate| !is_critical(candidate.pod)).min_by_key(|candidate| {
        let beyond = i128::from(candidate.used()) - i128::from(request(candidate));
        (beyond <= 0, candidate.priority(), Reverse(beyond), candidate.pod.metadata.name.clone())
    })
}

/// What a pod's containers ask for together.
fn requested(pod: &Pod, resource: &str) -> u64 {
    let spec = pod.spec.as_ref();
    spec.map_or(0, |spec| spec.containers.iter().map(|container| request(container, resource)).sum())
}

fn request(container: &Container, resource: &str) -> u64 {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    bytes(requests.and_then(|requests| requests.get(resource)))
}

fn bytes(quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> u64 {
    let parsed = quantity.and_then(|text| text.0.parse::<Quantity>().ok());
    parsed.and_then(|amount| u64::try_from(amount.value()).ok()).unwrap_or(0)
}

/// What the pod's status and event say.
pub(super) fn message(shortage: &Shortage, candidate: &Candidate<'_>) -> String {
    let mut text = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        shortage.resource,
        shortage.amount(shortage.threshold),
        shortage.amount(shortage.available)
    );
    for container in candidate.pod.spec.iter().flat_map(|spec| &spec.containers) {
        let asked = request(container, shortage.resource);
        let Some(used) = candidate.usage.get(&container.name).filter(|used| **used > asked) else { continue };
        text.push_str(&format!(
            "Container {} was using {}, request is {}, has larger consumption of {}. ",
            container.name,
            shortage.amount(*used),
            shortage.amount(asked),
            shortage.resource
        ));
    }
    text
}

/// Bytes as kubelet writes its measures, in whole Ki.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            bytes => write!(f, "{}Ki", bytes.div_ceil(1024)),
        }
    }
}

/// Why a pod may not start under these pressures.
pub(crate) fn refusal(pod: &Pod, pressures: &[Pressure]) -> Option<String> {
    if pressures.is_empty() || is_critical(pod) {
        return None;
    }
    let spec = pod.spec.as_ref()?;
    if pressures == [Pressure::Memory] && (qos::class(spec) != "BestEffort" || tolerates_memory(spec)) {
        return None;
    }
    let names: Vec<_> = pressures.iter().map(|pressure| pressure.condition()).collect();
    Some(format!("Pod was rejected: The node had condition: [{}]. ", names.join(" ")))
}

fn tolerates_memory(spec: &PodSpec) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| {
        let key = toleration.key.as_deref().unwrap_or_default();
        let fits =
            toleration.operator.as_deref() == Some("Exists") || toleration.value.as_deref().unwrap_or("").is_empty();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        fits && (key.is_empty() || key == "node.kubernetes.io/memory-pressure") && matches!(effect, "" | "NoSchedule")
    })
}

/// The first limit of its own that a pod's files exceed. `folder` gives the bytes of one of its volumes, or of all its
/// files for "".
pub(super) fn beyond_limit(pod: &Pod, folder: impl Fn(&str) -> u64) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|empty| empty.size_limit.as_ref()) else { continue };
        let most = bytes(Some(limit));
        if most > 0 && folder(&volume.name) > most {
            return Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", volume.name, limit.0));
        }
    }
    let limit = |container: &Container| {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        limits.and_then(|limits| limits.get("ephemeral-storage")).map(|limit| bytes(Some(limit)))
    };
    // The pod as a whole has a limit only if each of its containers has one.
    let limits: Option<Vec<u64>> = spec.containers.iter().map(limit).collect();
    let total: u64 = limits.filter(|limits| !limits.is_empty())?.iter().sum();
    (folder("") > total).then(|| {
        format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            Quantity::from_bytes(i64::try_from(total).unwrap_or(i64::MAX))
        )
    })
}

/// Whether any file of the pod has a limit at all: only then is it measured.
pub(super) fn has_limit(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let sized = |empty: &k8s_openapi::api::core::v1::EmptyDirVolumeSource| empty.size_limit.is_some();
    spec.volumes.iter().flatten().any(|volume| volume.empty_dir.as_ref().is_some_and(sized))
        || spec.containers.iter().all(|container| {
            let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
            limits.is_some_and(|limits| limits.contains_key("ephemeral-storage"))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::gauge::Level;
    use super::*;

    const GIB: u64 = 1 << 30;

    fn plenty() -> Levels {
        let level = Level { available: 50 * GIB, capacity: 100 * GIB };
        let memory = Level { available: GIB, capacity: 2 * GIB };
        Levels { memory, disk: level, inodes: level, processes: level }
    }

    fn pod(name: &str, priority: i32, memory: &str) -> Pod {
        let spec = json!({ "priority": priority, "containers": [
            { "name": "web", "resources": { "requests": { "memory": memory, "ephemeral-storage": memory } } },
        ] });
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
    }

    #[test]
    fn what_is_below_its_threshold_is_short() {
        let shortages = |levels: &Levels| super::shortages(levels, &Thresholds::default());
        assert_eq!(shortages(&plenty()), []);
        let mut levels = plenty();
        levels.memory.available = (100 << 20) - 1;
        levels.disk.available = 5 * GIB - 1;
        levels.processes.available = 4 * GIB;
        let found: Vec<_> = shortages(&levels).into_iter().map(|short| (short.pressure, short.resource)).collect();
        let expected = [(Pressure::Memory, "memory"), (Pressure::Disk, "ephemeral-storage"), (Pressure::Pid, "pids")];
        assert_eq!(found, expected);
        // A host of 128 MiB is not under pressure from the start.
        levels.memory = Level { available: 70 << 20, capacity: 128 << 20 };
        assert!(!shortages(&levels).iter().any(|short| short.pressure == Pressure::Memory));
    }

    #[test]
    fn the_nearest_threshold_counts() {
        let at = |text: &str| slack(&plenty(), &Thresholds::given(&[text.parse().unwrap()]));
        assert_eq!(at("nodefs.available<45%"), 0.05);
        assert_eq!(at("nodefs.available<60%"), 0.0);
        assert_eq!(slack(&plenty(), &Thresholds::default()), 0.45, "that of the disk");
    }

    #[test]
    fn a_condition_outlives_its_cause_by_five_minutes() {
        let mut levels = plenty();
        levels.disk.available = 0;
        let (short, mut conditions) = (shortages(&levels, &Thresholds::default()), Conditions::default());
        let at = Duration::from_secs;
        assert_eq!(conditions.observe(&[], at(0)), []);
        assert_eq!(conditions.observe(&short, at(10)), [Pressure::Disk]);
        assert_eq!(conditions.observe(&[], at(309)), [Pressure::Disk]);
        assert_eq!(conditions.observe(&[], at(310)), []);
    }

    #[test]
    fn who_uses_more_than_it_asked_for_goes_first() {
        let mut levels = plenty();
        levels.memory.available = 10 << 20;
        let short = shortages(&levels, &Thresholds::default()).remove(0);
        let pods = [
            pod("modest", 0, "1Gi"),
            pod("greedy", 100, "10Mi"),
            pod("greedier", 100, "10Mi"),
            pod("system", CRITICAL, "0"),
        ];
        let usage = [100_u64 << 20, 100 << 20, 200 << 20, 900 << 20];
        let candidate = |(pod, used): (_, &u64)| Candidate { pod, usage: BTreeMap::from([("web".to_owned(), *used)]) };
        let candidates: Vec<_> = pods.iter().zip(&usage).map(candidate).collect();
        let name = |candidates: &[Candidate<'_>]| victim(&short, candidates)?.pod.metadata.name.clone();
        assert_eq!(name(&candidates).as_deref(), Some("greedier"));
        assert_eq!(
            name(&candidates[..2]).as_deref(),
            Some("greedy"),
            "a request that is kept protects more than priority"
        );
        assert_eq!(name(&candidates[3..]), None);
        assert_eq!(
            message(&short, &candidates[2]),
            "The node was low on resource: memory. Threshold quantity: 102400Ki, available: 10240Ki. Container web was \
             using 204800Ki, request is 10240Ki, has larger consumption of memory. "
        );
    }

    #[test]
    fn under_pressure_only_some_pods_start() {
        let (asks, best_effort) = (pod("a", 0, "1Mi"), pod("b", 0, "0"));
        assert_eq!(refusal(&asks, &[]), None);
        assert_eq!(refusal(&asks, &[Pressure::Memory]), None);
        assert_eq!(refusal(&pod("c", CRITICAL, "0"), &[Pressure::Disk]), None);
        let refused = refusal(&best_effort, &[Pressure::Memory]).unwrap();
        assert_eq!(refused, "Pod was rejected: The node had condition: [MemoryPressure]. ");
        let refused = refusal(&asks, &[Pressure::Memory, Pressure::Disk]).unwrap();
        assert_eq!(refused, "Pod was rejected: The node had condition: [MemoryPressure DiskPressure]. ");
        let mut tolerant = best_effort;
        let toleration = json!([{ "key": "node.kubernetes.io/memory-pressure", "operator": "Exists" }]);
        std::sync::Arc::make_mut(tolerant.spec.as_mut().unwrap()).tolerations =
            serde_json::from_value(toleration).unwrap();
        assert_eq!(refusal(&tolerant, &[Pressure::Memory]), None);
    }

    #[test]
    fn a_volume_has_its_own_limit() {
        let spec = json!({
            "containers": [{ "name": "web", "resources": { "limits": { "ephemeral-storage": "20Mi" } } }],
            "volumes": [{ "name": "tmp", "emptyDir": { "sizeLimit": "10Mi" } }],
        });
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
        assert!(has_limit(&pod));
        let with =
            |tmp: u64, all: u64| beyond_limit(&pod, |volume| if volume == "tmp" { tmp << 20 } else { all << 20 });
        assert_eq!(with(10, 20), None);
        assert_eq!(with(11, 11).unwrap(), "Usage of EmptyDir volume \"tmp\" exceeds the limit \"10Mi\". ");
        let all = with(1, 21).unwrap();
        assert_eq!(all, "Pod ephemeral local storage usage exceeds the total limit of containers 20Mi. ");
        assert!(!has_limit(&super::tests::pod("a", 0, "0")));
    }
}
