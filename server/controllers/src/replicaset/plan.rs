//! Decides how a ReplicaSet's (or ReplicationController's) pods come to be as many as wanted. Pure: sees the cache, what
//! this controller did that the cache does not show yet, and the time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use coracle_api::selector::LabelSelector;
use coracle_client::Pod;
use jiff::Timestamp;

use super::outstanding::Outstanding;
use super::rank::{self, Colocated};
use super::workload::{Condition, Status, Workload};
use crate::owner::{self, Claim};
use crate::pod::{self, Availability};
use crate::time::whole_seconds;

/// No more pods than this are made or removed in one go; the rest follows when these are through.
const BURST: usize = 500;

pub(crate) struct Observed<'a, W> {
    pub(crate) owner: &'a W,
    pub(crate) selector: &'a LabelSelector,
    /// Pods of the namespace that are controlled by the owner, or by nobody.
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) outstanding: &'a Outstanding,
    pub(crate) now: Timestamp,
}

#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) adopt: Vec<Arc<Pod>>,
    pub(crate) release: Vec<Arc<Pod>>,
    pub(crate) create: usize,
    pub(crate) delete: Vec<Arc<Pod>>,
}

/// `colocated` is asked only when pods are to be removed.
pub(crate) fn plan<W: Workload>(observed: &Observed<'_, W>, colocated: impl FnOnce() -> Colocated) -> Plan {
    let mut plan = Plan::default();
    let mut mine = Vec::new();
    for pod in observed.pods {
        match owner::claim(observed.owner.metadata(), observed.selector, &pod.metadata, pod::is_terminal(pod)) {
            Claim::Own => mine.push(pod.clone()),
            Claim::Adopt => {
                plan.adopt.push(pod.clone());
                mine.push(pod.clone());
            }
            Claim::Release => plan.release.push(pod.clone()),
            Claim::Ignore => {}
        }
    }
    if observed.owner.metadata().deletion_timestamp.is_some() {
        return plan;
    }
    mine.extend(observed.outstanding.created().cloned());
    mine.retain(|p| pod::is_active(p) && !observed.outstanding.is_deleting(owner::uid(&p.metadata)));
    let have = mine.len() + observed.outstanding.unanswered().count();
    let want = usize::try_from(observed.owner.replicas()).unwrap_or(0);
    if have < want {
        plan.create = (want - have).min(BURST);
    } else if have > want {
        rank::sort(&mut mine, &colocated(), observed.now);
        mine.truncate((have - want).min(BURST));
        plan.delete = mine;
    }
    plan
}

/// What went wrong while the plan was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Create,
    Delete,
}

/// The status that `observed` deserves, and the time at which it will deserve another one by itself.
pub(crate) fn status<W: Workload>(
    observed: &Observed<'_, W>,
    failure: Option<(Failure, &str)>,
) -> (Status, Option<Timestamp>) {
    let owner = observed.owner;
    let mut status = Status { observed_generation: owner.metadata().generation.unwrap_or(0), ..Status::default() };
    let template = owner.template().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
    let (mut terminating, mut wake) = (0, None::<Timestamp>);
    for pod in observed.pods.iter().chain(observed.outstanding.created()) {
        if owner::claim(owner.metadata(), observed.selector, &pod.metadata, pod::is_terminal(pod)) != Claim::Own {
            continue;
        }
        if pod::is_terminal(pod) {
            continue;
        }
        if pod::is_deleting(pod) || observed.outstanding.is_deleting(owner::uid(&pod.metadata)) {
            terminating += 1;
            continue;
        }
        status.replicas += 1;
        status.fully_labeled += i32::from(template.is_none_or(|t| has_labels(pod, t)));
        status.ready += i32::from(pod::is_ready(pod));
        match pod::availability(pod, owner.min_ready_seconds(), observed.now) {
            Availability::Available => status.available += 1,
            Availability::At(at) => wake = Some(wake.map_or(at, |w| w.min(at))),
            Availability::Unavailable => {}
        }
    }
    let old = owner.status();
    status.terminating = old.terminating.map(|_| terminating);
    status.conditions = conditions(old.conditions, failure, observed.now);
    (status, wake)
}

fn has_labels(pod: &Pod, wanted: &BTreeMap<String, String>) -> bool {
    let labels = pod.metadata.labels.as_ref();
    wanted.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

/// `ReplicaFailure` stays as it was first reported until a pass goes well.
fn conditions(mut old: Vec<Condition>, failure: Option<(Failure, &str)>, now: Timestamp) -> Vec<Condition> {
    const KIND: &str = "ReplicaFailure";
    let Some((failure, message)) = failure else {
        old.retain(|c| c.kind != KIND);
        return old;
    };
    if !old.iter().any(|c| c.kind == KIND) {
        let reason = match failure {
            Failure::Create => "FailedCreate",
            Failure::Delete => "FailedDelete",
        };
        old.push(Condition {
            kind: KIND.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            since: Some(whole_seconds(now)),
        });
    }
    old
}

/// How many to create at once: 1, 2, 4, … so that what fails for all is not tried for all.
pub(crate) fn slow_start(count: usize) -> impl Iterator<Item = usize> {
    const LARGEST: usize = 64;
    let (mut left, mut next) = (count, 1);
    std::iter::from_fn(move || {
        let batch = left.min(next);
        left -= batch;
        next = (next * 2).min(LARGEST);
        (batch > 0).then_some(batch)
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (verb, pods) in [("adopt", &self.adopt), ("release", &self.release), ("delete", &self.delete)] {
            for pod in pods {
                writeln!(f, "{verb} Pod {}", owner::name(&pod.metadata))?;
            }
        }
        if self.create > 0 {
            writeln!(f, "create {} pods", self.create)?;
        }
        Ok(())
    }
}
