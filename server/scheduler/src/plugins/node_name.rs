//! A pod may name its node itself.

use crate::framework::{Happened, Plugin, Rejection};
use crate::info::{NodeInfo, PodInfo};

pub struct NodeNameFilter;

impl Plugin for NodeNameFilter {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        match pod.node_name() {
            Some(name) if *name != *node.name => {
                Err(Rejection::unresolvable("node(s) didn't match the requested node name"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn may_help(&self, pod: &PodInfo, happened: Happened<'_>) -> bool {
        match happened {
            Happened::Node { old, new } => old.is_none() && self.filter(pod, new).is_ok(),
            Happened::PodLeft(_) => false,
        }
    }
}
