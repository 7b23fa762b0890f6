//! How many pods a Deployment may have, must have, and how they are shared out among its ReplicaSets. Pure arithmetic
//! over the objects, rounding as upstream does.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision::{MAX_REPLICAS, annotation};

pub(crate) fn spec(deployment: &Deployment) -> Option<&DeploymentSpec> {
    deployment.spec.as_ref()
}

pub(crate) fn wanted(deployment: &Deployment) -> i32 {
    spec(deployment).and_then(|s| s.replicas).unwrap_or(1)
}

pub(crate) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(crate) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

pub(crate) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

pub(crate) fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    RollingUpdate,
    Recreate,
}

pub(crate) fn strategy(deployment: &Deployment) -> Strategy {
    let kind = spec(deployment).and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref());
    if kind == Some("Recreate") { Strategy::Recreate } else { Strategy::RollingUpdate }
}

/// How far a rolling update may go above and below the wanted number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leeway {
    pub(crate) surge: i32,
    pub(crate) unavailable: i32,
}

pub(crate) fn leeway(deployment: &Deployment) -> Leeway {
    if strategy(deployment) == Strategy::Recreate {
        return Leeway { surge: 0, unavailable: 0 };
    }
    let wanted = wanted(deployment);
    let rolling = spec(deployment).and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let surge = rolling.and_then(|r| r.max_surge.as_ref()).map_or(0, |v| scaled(v, wanted, Round::Up));
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).map_or(0, |v| scaled(v, wanted, Round::Down));
    // Both being zero would leave no way to move: a percentage may round to nothing.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Leeway { surge, unavailable: unavailable.min(wanted) }
}

#[derive(Clone, Copy)]
enum Round {
    Up,
    Down,
}

/// A percentage that does not parse counts as none: validation let it pass nowhere.
fn scaled(value: &IntOrString, of: i32, round: Round) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).unwrap_or(0);
            let product = percent.saturating_mul(i64::from(of));
            let whole = match round {
                Round::Up => product.div_euclid(100) + i64::from(product.rem_euclid(100) > 0),
                Round::Down => product.div_euclid(100),
            };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

pub(crate) fn total<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i32 {
    sets.into_iter().map(size).sum()
}

/// What the newest set may grow to while the others are as they are.
pub(crate) fn new_set_size(deployment: &Deployment, total: i32, current: i32) -> i32 {
    match strategy(deployment) {
        Strategy::Recreate => wanted(deployment),
        Strategy::RollingUpdate => {
            let most = wanted(deployment) + leeway(deployment).surge;
            if total >= most { current } else { current + (most - total).min(wanted(deployment) - current) }
        }
    }
}

/// How many of the `to_add` (negative: to remove) pods fall to `set` by its share, `added` having been given out.
pub(crate) fn share(set: &ReplicaSet, deployment: &Deployment, to_add: i32, added: i32) -> i32 {
    if size(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(set, deployment);
    let allowed = to_add - added;
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(set: &ReplicaSet, deployment: &Deployment) -> i32 {
    let wanted = wanted(deployment);
    if wanted == 0 {
        return -size(set);
    }
    let most = wanted + leeway(deployment).surge;
    let noted = annotation(&set.metadata, MAX_REPLICAS).and_then(|v| v.parse::<i32>().ok()).filter(|v| *v != 0);
    let before = noted.or_else(|| deployment.status.as_ref().and_then(|s| s.replicas)).unwrap_or(0);
    if before == 0 {
        return 0;
    }
    // Round half away from zero, in whole numbers.
    let (numerator, denominator) = (i64::from(size(set)) * i64::from(most), i64::from(before));
    let rounded = (2 * numerator + denominator).div_euclid(2 * denominator);
    i32::try_from(rounded).unwrap_or(i32::MAX) - size(set)
}
