//! What a plugin is, and a profile: the ordered list of plugins with their weights that one `schedulerName` stands for.

use std::borrow::Cow;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;

use crate::info::{NodeInfo, PodInfo};
use crate::plugins;
use crate::snapshot::Snapshot;

pub const MAX_SCORE: i64 = 100;
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Why a node does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// As upstream words them; a message counts nodes by reason.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether removing pods from the node could help.
    pub resolvable: bool,
}

impl Rejection {
    pub fn resolvable(reason: &'static str) -> Self {
        Self { reasons: vec![Cow::Borrowed(reason)], resolvable: true }
    }

    pub fn unresolvable(reason: &'static str) -> Self {
        Self { reasons: vec![Cow::Borrowed(reason)], resolvable: false }
    }
}

/// What a plugin says before any node is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreFilter {
    All,
    /// Only these nodes can do.
    Nodes(BTreeSet<String>),
    /// None can, whatever it is like.
    Reject(&'static str),
}

/// How a plugin's scores become 0..=100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// They are already.
    No,
    /// By the highest one.
    Highest,
    /// By the highest one, and the other way round: 0 is best.
    Lowest,
}

/// Something that happened in the cluster and could make a waiting pod fit.
#[derive(Clone, Copy, Debug)]
pub enum Happened<'a> {
    Node {
        old: Option<&'a Node>,
        new: &'a NodeInfo,
    },
    /// A pod left its node, or asks for less than before.
    PodLeft(&'a PodInfo),
}

/// One concern of scheduling. A plugin looks at one pod and one node and remembers nothing.
pub trait Plugin: Send + Sync {
    /// As upstream names it.
    fn name(&self) -> &'static str;

    fn pre_filter(&self, _pod: &PodInfo) -> PreFilter {
        PreFilter::All
    }

    fn filter(&self, _pod: &PodInfo, _node: &NodeInfo) -> Result<(), Rejection> {
        Ok(())
    }

    /// How to read this plugin's scores; `None` when it has no opinion on this pod.
    fn scores(&self, _pod: &PodInfo) -> Option<Normalize> {
        None
    }

    fn score(&self, _pod: &PodInfo, _node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        0
    }

    /// Whether a pod that this plugin kept from some node may fit after this. Too often yes costs time; a wrong no
    /// leaves a pod waiting.
    fn may_help(&self, pod: &PodInfo, happened: Happened<'_>) -> bool;
}

pub struct Configured {
    pub plugin: Box<dyn Plugin>,
    /// Of its score against those of the others.
    pub weight: i64,
}

pub struct Profile {
    pub scheduler_name: String,
    /// Filters run in this order, and the first that refuses names the reason.
    pub plugins: Vec<Configured>,
}

impl Profile {
    /// The plugins of upstream's default profile that are here, in its order and with its weights.
    pub fn standard() -> Self {
        let plugins: Vec<(Box<dyn Plugin>, i64)> = vec![
            (Box::new(plugins::NodeUnschedulable), 0),
            (Box::new(plugins::NodeNameFilter), 0),
            (Box::new(plugins::TaintToleration), 3),
            (Box::new(plugins::NodeAffinity), 2),
            (Box::new(plugins::NodePorts), 0),
            (Box::new(plugins::NodeResourcesFit), 1),
            (Box::new(plugins::BalancedAllocation), 1),
            (Box::new(plugins::ImageLocality), 1),
        ];
        Self {
            scheduler_name: DEFAULT_SCHEDULER.to_owned(),
            plugins: plugins.into_iter().map(|(plugin, weight)| Configured { plugin, weight }).collect(),
        }
    }

    /// The first refusal of a node.
    pub(crate) fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), (usize, Rejection)> {
        for (at, configured) in self.plugins.iter().enumerate() {
            configured.plugin.filter(pod, node).map_err(|rejection| (at, rejection))?;
        }
        Ok(())
    }

    /// Whether a pod that these plugins refused may fit now.
    pub(crate) fn may_help(&self, refused_by: &[usize], pod: &PodInfo, happened: Happened<'_>) -> bool {
        // Without a refusal it waits for any node at all.
        let none = refused_by.is_empty() && matches!(happened, Happened::Node { .. });
        none || refused_by.iter().any(|at| self.plugins[*at].plugin.may_help(pod, happened))
    }
}
