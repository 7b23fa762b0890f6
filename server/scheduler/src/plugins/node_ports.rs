//! Two pods cannot have the same port of a node.

use crate::framework::{Happened, Plugin, Rejection};
use crate::info::{NodeInfo, PodInfo};

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if pod.ports.is_empty() {
            return Ok(());
        }
        let taken = node.pods.values().any(|other| conflict(pod, other));
        match taken {
            true => Err(Rejection::resolvable("node(s) didn't have free ports for the requested pod ports")),
            false => Ok(()),
        }
    }

    fn may_help(&self, pod: &PodInfo, happened: Happened<'_>) -> bool {
        match happened {
            Happened::Node { old, new: _ } => old.is_none(),
            Happened::PodLeft(other) => conflict(pod, other),
        }
    }
}

fn conflict(pod: &PodInfo, other: &PodInfo) -> bool {
    pod.ports.iter().any(|wanted| other.ports.iter().any(|taken| wanted.conflicts_with(taken)))
}
