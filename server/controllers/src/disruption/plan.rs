//! What a budget's status is to say of the pods at hand. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::Pod;
use coracle_client::events::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::scale::Scale;
use crate::{owner, pod};

/// An evicted pod counts as gone for so long before its deletion is seen; after that it counts again.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(2 * 60);
/// A mark of a disruption that is followed by no deletion is taken back after so long.
const MARK_TIMEOUT: SignedDuration = SignedDuration::from_secs(2 * 60);
pub(super) const DISRUPTION_TARGET: &str = "DisruptionTarget";
const ALLOWED: &str = "DisruptionAllowed";

pub(super) struct Observed<'a> {
    pub(super) budget: &'a PodDisruptionBudget,
    /// Those that the budget selects.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) scale_of: &'a (dyn Fn(&Pod) -> Scale + Sync),
    pub(super) now: Timestamp,
}

#[derive(Default)]
pub(super) struct Plan {
    /// None: it says so already.
    pub(super) status: Option<PodDisruptionBudgetStatus>,
    /// About the budget.
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// Pods that were evicted and are still there.
    pub(super) undeleted: Vec<Arc<Pod>>,
    /// When to look again although nothing changed.
    pub(super) wake: Option<Timestamp>,
}

pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let before = observed.budget.status.clone().unwrap_or_default();
    if observed.pods.is_empty() {
        plan.events.push((EventType::Normal, "NoPods", "No matching pods found".to_owned()));
    }
    let blank = PodDisruptionBudgetSpec::default();
    let spec = observed.budget.spec.as_ref().unwrap_or(&blank);
    let wanted = match wanted(spec, observed) {
        Ok(wanted) => wanted,
        Err(problem) => {
            let message = format!("Failed to calculate the number of expected pods: {problem}");
            plan.events.push((EventType::Warning, "CalculateExpectedPodCountFailed", message));
            plan.status = closed(&before, problem, observed.now).filter(|status| *status != before);
            return plan;
        }
    };
    if wanted.unmanaged {
        plan.events.push((EventType::Warning, "UnmanagedPods", unmanaged_message(spec.selector.as_ref())));
    }
    let disrupted = still_expected(observed, &before, &mut plan);
    let healthy = observed.pods.iter().filter(|pod| {
        !pod::is_deleting(pod) && !disrupted.contains_key(owner::name(&pod.metadata)) && pod::is_ready(pod)
    });
    let current_healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    // While there are no pods none may go: the first ones come before this controller sees them.
    let spare = if wanted.expected > 0 { current_healthy.saturating_sub(wanted.healthy).max(0) } else { 0 };
    let generation = observed.budget.metadata.generation;
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(current_healthy),
        desired_healthy: Some(wanted.healthy),
        expected_pods: Some(wanted.expected),
        disruptions_allowed: Some(spare),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: generation,
        conditions: Some(allowed_condition(&before, spare, generation, observed.now)),
    };
    plan.status = (status != before).then_some(status);
    plan
}

struct Wanted {
    expected: i32,
    healthy: i32,
    /// There are pods that nobody manages and the budget cannot count them.
    unmanaged: bool,
}

fn wanted(spec: &PodDisruptionBudgetSpec, observed: &Observed<'_>) -> Result<Wanted, String> {
    let (expected, healthy, unmanaged) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let (expected, unmanaged) = scales(observed)?;
            (expected, (expected - scaled(most, expected)?).max(0), unmanaged)
        }
        (None, Some(IntOrString::Int(least))) => {
            (i32::try_from(observed.pods.len()).unwrap_or(i32::MAX), *least, false)
        }
        (None, Some(least @ IntOrString::String(_))) => {
            let (expected, unmanaged) = scales(observed)?;
            (expected, scaled(least, expected)?, unmanaged)
        }
        (None, None) => (0, 0, false),
    };
    Ok(Wanted { expected, healthy, unmanaged })
}

/// How many pods the owners of these pods want, and whether some have none.
fn scales(observed: &Observed<'_>) -> Result<(i32, bool), String> {
    let mut known: BTreeMap<String, i32> = BTreeMap::new();
    let mut unmanaged = false;
    for pod in observed.pods {
        match (observed.scale_of)(pod) {
            Scale::Unmanaged => unmanaged = true,
            Scale::Unknown => return Err(format!("found no controllers for pod {:?}", owner::name(&pod.metadata))),
            Scale::Of { uid, replicas } => drop(known.insert(uid, replicas)),
        }
    }
    Ok((known.values().fold(0, |sum: i32, one| sum.saturating_add(*one)), unmanaged))
}

/// A number, or so many percent of `total`, rounded up.
fn scaled(value: &IntOrString, total: i32) -> Result<i32, String> {
    match value {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok());
            let percent = percent.ok_or_else(|| {
                format!("invalid value for IntOrString: invalid type: string is not a percentage: {text:?}")
            })?;
            let part = (percent * i64::from(total) + 99).div_euclid(100);
            i32::try_from(part).map_err(|_| format!("{text} of {total} is no number of pods"))
        }
    }
}

/// The evictions whose deletions may yet be seen.
fn still_expected(
    observed: &Observed<'_>,
    before: &PodDisruptionBudgetStatus,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut expected = BTreeMap::new();
    let Some(evicted) = &before.disrupted_pods else { return expected };
    for pod in observed.pods.iter().filter(|pod| !pod::is_deleting(pod)) {
        let name = owner::name(&pod.metadata);
        let Some(at) = evicted.get(name) else { continue };
        let until = at.0.saturating_add(DELETION_TIMEOUT).unwrap_or(Timestamp::MAX);
        if until <= observed.now {
            plan.undeleted.push(pod.clone());
        } else {
            plan.wake = Some(plan.wake.map_or(until, |wake| wake.min(until)));
            expected.insert(name.to_owned(), at.clone());
        }
    }
    expected
}

/// With nothing to go by no pod may go.
fn closed(before: &PodDisruptionBudgetStatus, problem: String, now: Timestamp) -> Option<PodDisruptionBudgetStatus> {
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: "False".to_owned(),
        reason: "SyncFailed".to_owned(),
        message: problem,
        observed_generation: before.observed_generation,
        last_transition_time: Time(now),
    };
    let conditions = Some(with_condition(before, condition));
    Some(PodDisruptionBudgetStatus { disruptions_allowed: Some(0), conditions, ..before.clone() })
}

fn allowed_condition(
    before: &PodDisruptionBudgetStatus,
    spare: i32,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let (status, reason) = if spare > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    with_condition(before, condition)
}

/// The conditions with this one in its place, which keeps the time of its last change if its status does not change.
fn with_condition(before: &PodDisruptionBudgetStatus, mut condition: Condition) -> Vec<Condition> {
    let mut conditions = before.conditions.clone().unwrap_or_default();
    match conditions.iter_mut().find(|one| one.type_ == condition.type_) {
        Some(one) => {
            if one.status == condition.status {
                condition.last_transition_time = one.last_transition_time.clone();
            }
            *one = condition;
        }
        None => conditions.push(condition),
    }
    conditions
}

fn unmanaged_message(selector: Option<&LabelSelector>) -> String {
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
        shown(selector)
    )
}

/// A selector as Go prints it.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels: String =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: String = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|one| {
            let values = one.values.as_deref().unwrap_or_default().join(" ");
            format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", one.key, one.operator)
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

/// When the mark of a disruption of this pod is to be taken back if the pod is still there; None: it has none, or one
/// that the node made, which may take its time.
pub(super) fn stale_mark(pod: &Pod) -> Option<Timestamp> {
    if pod::is_deleting(pod) || pod::is_terminal(pod) {
        return None;
    }
    let condition = pod::condition(pod, DISRUPTION_TARGET)?;
    if condition.status != "True" || condition.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
    Some(since.saturating_add(MARK_TIMEOUT).unwrap_or(Timestamp::MAX))
}
