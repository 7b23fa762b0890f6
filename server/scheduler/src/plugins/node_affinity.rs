//! `nodeSelector` and required node affinity decide which nodes do, preferred affinity which are liked.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Node, NodeAffinity as Affinity, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm,
};

use crate::framework::{Happened, Normalize, Plugin, PreFilter, Rejection};
use crate::info::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

const NAME_FIELD: &str = "metadata.name";

pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    /// Terms that all name nodes (as a DaemonSet's do) need no look at the other ones.
    fn pre_filter(&self, pod: &PodInfo) -> PreFilter {
        let mut all: Option<BTreeSet<String>> = None;
        for term in required(pod).unwrap_or_default() {
            match named_nodes(term) {
                Some(names) => all.get_or_insert_default().extend(names),
                // The terms are alternatives, and this one leaves the name open.
                None => return PreFilter::All,
            }
        }
        match all {
            None => PreFilter::All,
            Some(names) if names.is_empty() => PreFilter::Reject("pod affinity terms conflict"),
            Some(names) => PreFilter::Nodes(names),
        }
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        match matches(pod, &node.node) {
            true => Ok(()),
            false => Err(Rejection::unresolvable("node(s) didn't match Pod's node affinity/selector")),
        }
    }

    fn scores(&self, pod: &PodInfo) -> Option<Normalize> {
        (!preferred(pod).is_empty()).then_some(Normalize::Highest)
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        let liked = preferred(pod).iter().filter(|term| {
            // Unlike a required term, an empty preferred one likes every node.
            let term = &term.preference;
            let empty = term.match_expressions.as_ref().is_none_or(Vec::is_empty)
                && term.match_fields.as_ref().is_none_or(Vec::is_empty);
            empty || term_matches(term, &node.node)
        });
        liked.map(|term| i64::from(term.weight)).sum()
    }

    fn may_help(&self, pod: &PodInfo, happened: Happened<'_>) -> bool {
        match happened {
            Happened::Node { old, new } => matches(pod, &new.node) && old.is_none_or(|old| !matches(pod, old)),
            Happened::PodLeft(_) => false,
        }
    }
}

fn affinity(pod: &PodInfo) -> Option<&Affinity> {
    pod.spec()?.affinity.as_ref()?.node_affinity.as_ref()
}

fn required(pod: &PodInfo) -> Option<&[NodeSelectorTerm]> {
    let selector = affinity(pod)?.required_during_scheduling_ignored_during_execution.as_ref()?;
    Some(&selector.node_selector_terms)
}

fn preferred(pod: &PodInfo) -> &[PreferredSchedulingTerm] {
    let preferred = affinity(pod).and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_deref());
    preferred.unwrap_or_default()
}

fn named_nodes(term: &NodeSelectorTerm) -> Option<BTreeSet<String>> {
    let by_name = term.match_fields.iter().flatten().filter(|field| field.key == NAME_FIELD && field.operator == "In");
    by_name.map(|field| field.values.iter().flatten().cloned().collect::<BTreeSet<_>>()).reduce(|a, b| &a & &b)
}

fn matches(pod: &PodInfo, node: &Node) -> bool {
    let selector = pod.spec().and_then(|spec| spec.node_selector.as_ref());
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    selector.into_iter().flatten().all(|(key, value)| label(key) == Some(value))
        && required(pod).is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.metadata.labels.as_ref();
    expressions.iter().all(|it| holds(it, labels.and_then(|labels| labels.get(&it.key)).map(String::as_str)))
        && fields.iter().all(|it| {
            let name = node.metadata.name.as_deref().filter(|_| it.key == NAME_FIELD);
            // Only this field is served, and an object without a value for a field matches nothing.
            name.is_some() && holds(it, name)
        })
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let compare = |with: fn(&i64, &i64) -> bool| {
        let bound = values.first().filter(|_| values.len() == 1).and_then(|bound| bound.parse().ok());
        match (value.and_then(|value| value.parse::<i64>().ok()), bound) {
            (Some(value), Some(bound)) => with(&value, &bound),
            _ => false,
        }
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.iter().any(|allowed| allowed == value)),
        "NotIn" => value.is_none_or(|value| values.iter().all(|refused| refused != value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}
