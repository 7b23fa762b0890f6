//! The decision for one pod, a pure function of what is known: filter the nodes, score those that do, take the best.
//! When none does, the diagnosis says why, in upstream's words.

use std::borrow::Cow;
use std::collections::BTreeSet;

use coracle_api::meta::NodeName;

use crate::framework::{MAX_SCORE, Normalize, PreFilter, Profile, Rejection};
use crate::info::{NodeInfo, PodInfo};
use crate::snapshot::Snapshot;

/// Below so many nodes all are looked at; above, only until this many do, or a share that falls with the cluster's size.
const ENOUGH_NODES: usize = 100;
const LEAST_PERCENT: usize = 5;

/// Gives a number below its argument: the only chance in a decision (which of the best nodes; where a sample begins).
pub type Chance<'a> = &'a mut dyn FnMut(u64) -> u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Bind(NodeName),
    Unschedulable(Diagnosis),
}

/// Why no node does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    pub nodes: usize,
    /// A refusal before any node was looked at.
    pub refused: Option<&'static str>,
    pub rejections: Vec<(NodeName, Rejection)>,
    /// What keeps away the nodes that are not in `rejections`.
    pub others: Option<String>,
    /// The plugins, by their place in the profile, that a change would have to concern.
    pub refused_by: Vec<usize>,
}

impl Diagnosis {
    /// As users read it in the pod's condition and events.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        if let Some(refused) = self.refused {
            return format!("0/{} nodes are available: {refused}.", self.nodes);
        }
        let reasons = self.rejections.iter().flat_map(|(_, rejection)| &rejection.reasons);
        let others = self.others.as_deref().map(|reason| (reason, self.nodes - self.rejections.len()));
        none_available(self.nodes, reasons, others)
    }
}

/// "0/3 nodes are available: 1 this, 2 that."
pub(crate) fn none_available<'a>(
    nodes: usize,
    reasons: impl Iterator<Item = &'a Cow<'static, str>>,
    others: Option<(&str, usize)>,
) -> String {
    let mut counts: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_insert(0) += 1;
    }
    if let Some((reason, count)) = others.filter(|(_, count)| *count > 0) {
        *counts.entry(reason).or_insert(0) += count;
    }
    // Sorted as text, as upstream: "10 x" comes before "2 y".
    let mut texts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    match texts.is_empty() {
        true => format!("0/{nodes} nodes are available:"),
        false => format!("0/{nodes} nodes are available: {}.", texts.join(", ")),
    }
}

/// Decides where the pod goes.
pub fn schedule(snapshot: &Snapshot, pod: &PodInfo, profile: &Profile, chance: Chance<'_>) -> Decision {
    let mut diagnosis = Diagnosis { nodes: snapshot.nodes().len(), ..Diagnosis::default() };
    if diagnosis.nodes == 0 {
        return Decision::Unschedulable(diagnosis);
    }
    let Some(named) = pre_filter(pod, profile, &mut diagnosis) else {
        return Decision::Unschedulable(diagnosis);
    };
    // Room was made for it there: that is where it goes if it can.
    if let Some(node) = pod.nominated_node().and_then(|name| snapshot.node(name))
        && named.as_ref().is_none_or(|names| names.contains(&*node.name))
        && fits(snapshot, pod, node, profile).is_ok()
    {
        return Decision::Bind(node.name.clone());
    }
    let feasible = match &named {
        Some(names) => {
            let nodes: Vec<&NodeInfo> = names.iter().filter_map(|name| snapshot.node(name)).collect();
            filter(snapshot, pod, profile, &nodes, &mut diagnosis, chance)
        }
        None => {
            let nodes: Vec<&NodeInfo> = snapshot.nodes().iter().collect();
            filter(snapshot, pod, profile, &nodes, &mut diagnosis, chance)
        }
    };
    match best(snapshot, pod, profile, &feasible, chance) {
        Some(node) => Decision::Bind(node.name.clone()),
        None => Decision::Unschedulable(diagnosis),
    }
}

/// The names of the only nodes that come into question, `Some(None)` for all; `None` when the pod is refused.
fn pre_filter(pod: &PodInfo, profile: &Profile, diagnosis: &mut Diagnosis) -> Option<Option<BTreeSet<String>>> {
    let mut named: Option<BTreeSet<String>> = None;
    let mut namers = BTreeSet::new();
    for (at, configured) in profile.plugins.iter().enumerate() {
        match configured.plugin.pre_filter(pod) {
            PreFilter::All => {}
            PreFilter::Nodes(names) => {
                namers.insert(configured.plugin.name());
                diagnosis.refused_by.push(at);
                named = Some(match named {
                    None => names,
                    Some(before) => &before & &names,
                });
            }
            PreFilter::Reject(reason) => {
                diagnosis.refused = Some(reason);
                diagnosis.refused_by = vec![at];
                return None;
            }
        }
    }
    if named.is_some() {
        let namers: Vec<&str> = namers.into_iter().collect();
        diagnosis.others = Some(format!("node(s) didn't satisfy plugin(s) [{}]", namers.join(" ")));
    }
    Some(named)
}

fn filter<'s>(
    snapshot: &'s Snapshot,
    pod: &PodInfo,
    profile: &Profile,
    nodes: &[&'s NodeInfo],
    diagnosis: &mut Diagnosis,
    chance: Chance<'_>,
) -> Vec<&'s NodeInfo> {
    let enough = enough_of(nodes.len());
    // A sample begins anywhere, so that all nodes get their share of pods.
    let start = if enough < nodes.len() { to_index(chance(nodes.len() as u64)) } else { 0 };
    let mut feasible = Vec::new();
    for node in nodes[start..].iter().chain(&nodes[..start]) {
        match fits(snapshot, pod, node, profile) {
            Ok(()) => feasible.push(*node),
            Err((plugin, rejection)) => {
                if !diagnosis.refused_by.contains(&plugin) {
                    diagnosis.refused_by.push(plugin);
                }
                diagnosis.rejections.push((node.name.clone(), rejection));
            }
        }
        if feasible.len() >= enough {
            break;
        }
    }
    feasible
}

/// How many nodes that do are enough to choose from.
fn enough_of(nodes: usize) -> usize {
    if nodes < ENOUGH_NODES {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(LEAST_PERCENT);
    (nodes * percent / 100).max(ENOUGH_NODES)
}

/// Runs the filters, once more beside the pods that have been promised room there and are not less important.
pub(crate) fn fits(
    snapshot: &Snapshot,
    pod: &PodInfo,
    node: &NodeInfo,
    profile: &Profile,
) -> Result<(), (usize, Rejection)> {
    let mut promised = snapshot
        .nominated(&node.name)
        .filter(|other| other.priority >= pod.priority && other.uid != pod.uid)
        .peekable();
    if promised.peek().is_some() {
        let mut fuller = node.clone();
        promised.for_each(|other| fuller.add(other.clone()));
        profile.filter(pod, &fuller)?;
    }
    profile.filter(pod, node)
}

fn best<'s>(
    snapshot: &Snapshot,
    pod: &PodInfo,
    profile: &Profile,
    feasible: &[&'s NodeInfo],
    chance: Chance<'_>,
) -> Option<&'s NodeInfo> {
    if feasible.len() <= 1 {
        return feasible.first().copied();
    }
    let mut totals = vec![0_i64; feasible.len()];
    for configured in profile.plugins.iter().filter(|configured| configured.weight > 0) {
        let Some(normalize) = configured.plugin.scores(pod) else { continue };
        let mut scores: Vec<i64> = feasible.iter().map(|node| configured.plugin.score(pod, node, snapshot)).collect();
        normalized(&mut scores, normalize);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * configured.weight;
        }
    }
    let top = totals.iter().copied().max()?;
    let tied: Vec<&NodeInfo> =
        totals.iter().zip(feasible).filter(|(total, _)| **total == top).map(|(_, node)| *node).collect();
    let chosen = if tied.len() == 1 { 0 } else { to_index(chance(tied.len() as u64)) };
    tied.get(chosen).copied()
}

fn normalized(scores: &mut [i64], normalize: Normalize) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = match normalize {
            Normalize::No => *score,
            Normalize::Highest if highest == 0 => 0,
            Normalize::Lowest if highest == 0 => MAX_SCORE,
            Normalize::Highest => MAX_SCORE * *score / highest,
            Normalize::Lowest => MAX_SCORE - MAX_SCORE * *score / highest,
        };
    }
}

fn to_index(number: u64) -> usize {
    usize::try_from(number).expect("chance stays below a length")
}
