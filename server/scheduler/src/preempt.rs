//! When no node does: would removing less important pods make one do? Pure, as the decision is. Follows upstream's
//! DefaultPreemption: spare what can be spared, respect disruption budgets where possible, disturb as little as can be.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::meta::{NodeName, PodKey};
use coracle_api::selector::LabelSelector;
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::framework::{Profile, Rejection};
use crate::info::{NodeInfo, PodInfo};
use crate::schedule::{Chance, Diagnosis, fits, none_available};
use crate::snapshot::Snapshot;

/// A tenth of the nodes, but at least this many, are tried as candidates.
const LEAST_CANDIDATES: usize = 100;

#[derive(Clone, Debug)]
pub enum Preemption {
    /// These pods shall go, and the room is the pod's.
    Victims { node: NodeName, victims: Vec<Arc<PodInfo>> },
    /// Nothing to gain; the text ends the message that the pod gets.
    None(String),
}

/// What a PodDisruptionBudget allows.
#[derive(Clone, Debug)]
pub struct Budget {
    namespace: String,
    selector: LabelSelector,
    allowed: i32,
    /// Already counted by whoever disrupted them.
    disrupted: BTreeSet<String>,
}

impl Budget {
    /// `None` when it selects nothing.
    pub fn of(budget: &PodDisruptionBudget) -> Option<Self> {
        let spec = budget.spec.as_ref()?;
        let selector = LabelSelector::from_object(Some(spec.selector.as_ref()?)).ok()?;
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        Some(Self {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector,
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
            disrupted: disrupted.into_iter().flat_map(BTreeMap::keys).cloned().collect(),
        })
    }

    fn covers(&self, pod: &PodInfo) -> bool {
        *self.namespace == *pod.key.namespace
            && !self.disrupted.contains(&*pod.key.name)
            && pod.pod.metadata.labels.as_ref().is_some_and(|labels| self.selector.matches(labels))
    }
}

struct Candidate {
    node: NodeName,
    /// The most important first.
    victims: Vec<Arc<PodInfo>>,
    violations: usize,
}

pub fn preempt(
    snapshot: &Snapshot,
    pod: &PodInfo,
    profile: &Profile,
    diagnosis: &Diagnosis,
    budgets: &[Budget],
    chance: Chance<'_>,
) -> Preemption {
    if let Some(why) = not_eligible(snapshot, pod, diagnosis) {
        return Preemption::None(why.to_owned());
    }
    let hopeful: Vec<&NodeInfo> = diagnosis
        .rejections
        .iter()
        .filter(|(_, rejection)| rejection.resolvable)
        .filter_map(|(name, _)| snapshot.node(name))
        .collect();
    let enough = (hopeful.len() / 10).max(LEAST_CANDIDATES);
    let start = if hopeful.len() > enough { usize::try_from(chance(hopeful.len() as u64)).unwrap_or(0) } else { 0 };
    let mut candidates = Vec::new();
    let mut rejections = Vec::new();
    for node in hopeful[start..].iter().chain(&hopeful[..start]) {
        match select_victims(snapshot, pod, node, profile, budgets) {
            Ok(candidate) => candidates.push(candidate),
            Err(rejection) => rejections.push(rejection),
        }
        if candidates.len() >= enough {
            break;
        }
    }
    match candidates.into_iter().min_by_key(disturbance) {
        Some(Candidate { node, victims, violations: _ }) => Preemption::Victims { node, victims },
        None => {
            let others = ("Preemption is not helpful for scheduling", diagnosis.nodes - rejections.len());
            let reasons = rejections.iter().flat_map(|rejection| &rejection.reasons);
            Preemption::None(none_available(diagnosis.nodes, reasons, Some(others)))
        }
    }
}

fn not_eligible(snapshot: &Snapshot, pod: &PodInfo, diagnosis: &Diagnosis) -> Option<&'static str> {
    let policy = pod.spec().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let node = pod.nominated_node().and_then(|name| snapshot.node(name))?;
    let lost = diagnosis.rejections.iter().any(|(name, rejection)| *name == node.name && !rejection.resolvable);
    let leaving = node.pods.values().any(|other| other.is_terminating() && other.priority < pod.priority);
    (leaving && !lost).then_some("not eligible due to a terminating pod on the nominated node.")
}

/// The fewest and least important pods of the node without which the pod fits.
fn select_victims(
    snapshot: &Snapshot,
    pod: &PodInfo,
    node: &NodeInfo,
    profile: &Profile,
    budgets: &[Budget],
) -> Result<Candidate, Rejection> {
    let mut lesser: Vec<Arc<PodInfo>> =
        node.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if lesser.is_empty() {
        return Err(Rejection::unresolvable("No preemption victims found for incoming pod"));
    }
    let mut left = node.clone();
    for other in &lesser {
        left.remove(&other.key);
    }
    fits(snapshot, pod, &left, profile).map_err(|(_, rejection)| rejection)?;
    lesser.sort_by_key(|other| importance(other));
    let violating = violating(&lesser, budgets);
    // Those whose going would break a budget get the first chance to stay.
    let (protected, free): (Vec<_>, Vec<_>) = lesser.into_iter().partition(|other| violating.contains(&other.key));
    let mut victims = Vec::new();
    let mut violations = 0;
    for other in protected.into_iter().chain(free) {
        left.add(other.clone());
        if fits(snapshot, pod, &left, profile).is_err() {
            left.remove(&other.key);
            violations += usize::from(violating.contains(&other.key));
            victims.push(other);
        }
    }
    victims.sort_by_key(|other| importance(other));
    Ok(Candidate { node: node.name.clone(), victims, violations })
}

/// Orders the most important first: by priority, then whoever has run longer.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.priority), pod.started().unwrap_or(Timestamp::MAX))
}

/// The pods, taken in order, beyond what their budgets allow.
fn violating(pods: &[Arc<PodInfo>], budgets: &[Budget]) -> BTreeSet<PodKey> {
    let mut allowed: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    let mut violating = BTreeSet::new();
    for pod in pods {
        for (budget, allowed) in budgets.iter().zip(&mut allowed) {
            if budget.covers(pod) {
                *allowed -= 1;
                if *allowed < 0 {
                    violating.insert(pod.key.clone());
                }
            }
        }
    }
    violating
}

/// Less is better: budgets broken, the highest priority hit, their sum, their number, and last whoever ran longest.
fn disturbance(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
    let highest = candidate.victims.first().map_or(i32::MIN, |pod| pod.priority);
    // Shifted to be positive, or many pods of negative priority would count for less than one.
    let sum = candidate.victims.iter().map(|pod| i64::from(pod.priority) + i64::from(i32::MAX) + 1).sum();
    let of_highest = candidate.victims.iter().filter(|pod| pod.priority == highest);
    let earliest = of_highest.filter_map(|pod| pod.started()).min().unwrap_or(Timestamp::MAX);
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
}
