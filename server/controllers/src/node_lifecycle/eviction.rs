//! Which pod must leave a node for a taint of effect NoExecute, and how long it may stay. Pure.

use std::time::Duration;

use coracle_client::Pod;
use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::taints::{NO_EXECUTE, NOT_READY, UNREACHABLE};
use crate::pod;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Stay,
    /// So long after it first had to.
    LeaveAfter(Duration),
    LeaveNow,
}

pub(crate) fn judge(pod: &Pod, taints: &[Taint]) -> Verdict {
    if pod::is_deleting(pod) || pod::is_terminal(pod) {
        return Verdict::Stay;
    }
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or(&[]);
    let mut leave: Option<u64> = None;
    for taint in taints.iter().filter(|t| t.effect == NO_EXECUTE) {
        let mut matching = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if matching.peek().is_none() {
            // Nobody asked that the pod leave when the link is down: it runs on there, and a second one would be one too
            // many when the link is back. Admission gives pods a toleration of 300 s where that is wanted.
            if [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()) {
                continue;
            }
            return Verdict::LeaveNow;
        }
        if let Some(seconds) = matching.filter_map(|t| t.toleration_seconds).min() {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            leave = Some(leave.map_or(seconds, |l| l.min(seconds)));
        }
    }
    match leave {
        None => Verdict::Stay,
        Some(0) => Verdict::LeaveNow,
        Some(seconds) => Verdict::LeaveAfter(Duration::from_secs(seconds)),
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let empty = |text: &Option<String>| text.as_deref().unwrap_or("").is_empty();
    if !empty(&toleration.effect) && toleration.effect.as_deref() != Some(taint.effect.as_str()) {
        return false;
    }
    if !empty(&toleration.key) && toleration.key.as_deref() != Some(taint.key.as_str()) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            !empty(&toleration.key) && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("")
        }
        Some("Lt") => compare(toleration, taint).is_some_and(std::cmp::Ordering::is_lt),
        Some("Gt") => compare(toleration, taint).is_some_and(std::cmp::Ordering::is_gt),
        Some(_) => false,
    }
}

/// The taint's number against the toleration's; `None` if either is no number.
fn compare(toleration: &Toleration, taint: &Taint) -> Option<std::cmp::Ordering> {
    let number = |text: Option<&String>| text.and_then(|t| t.parse::<i64>().ok());
    Some(number(taint.value.as_ref())?.cmp(&number(toleration.value.as_ref())?))
}
