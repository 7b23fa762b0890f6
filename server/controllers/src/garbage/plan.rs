//! Decides what becomes of one object because of its owners or its dependents. Pure.
//!
//! ```text
//!   deleted, background: owner gone ─────────────► dependents have no owner left ─► deleted
//!   deleted, foreground: owner waits (finalizer) ─► dependents deleted ─► blocking ones gone ─► finalizer off
//!   deleted, orphan:     owner waits (finalizer) ─► dependents lose the reference ─► finalizer off
//! ```

use std::collections::BTreeSet;
use std::fmt;

use coracle_client::Propagation;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// What is known of an object that another one names as its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerState {
    Present,
    /// Is being deleted in the foreground: waits until its dependents are gone.
    Waiting,
    Absent,
    /// Its kind is not served, or it could never be an owner of this object: then nobody may conclude that it is gone.
    Unknowable,
}

/// An object that names the item as its owner.
pub(crate) struct Dependent<'a> {
    pub(crate) meta: &'a ObjectMeta,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing to do, or nothing to do yet.
    Keep,
    /// Take the references to these UIDs off: other owners remain.
    Disown(BTreeSet<String>),
    Delete(Propagation),
    /// Stop blocking the owners first: a dependent waits too, and in a circle each would wait for the other.
    UnblockAndDelete,
    /// Take the finalizer off: what it stood for is done.
    Release(&'static str),
    /// Take the references to the item off its dependents, then the finalizer off the item.
    OrphanDependents,
}

pub(crate) fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| f == finalizer))
}

/// Waits for its dependents to be deleted.
pub(crate) fn is_waiting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND)
}

/// Waits for its dependents to be orphaned.
pub(crate) fn is_orphaning(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, ORPHAN)
}

pub(crate) fn references(meta: &ObjectMeta) -> &[OwnerReference] {
    meta.owner_references.as_deref().unwrap_or(&[])
}

/// Whether the collector may ever have something to do for an object like this.
pub(crate) fn is_of_interest(meta: &ObjectMeta) -> bool {
    !references(meta).is_empty() || is_waiting(meta) || is_orphaning(meta)
}

pub(crate) fn judge(
    item: &ObjectMeta,
    owner: impl Fn(&OwnerReference) -> OwnerState,
    dependents: &[Dependent<'_>],
) -> Verdict {
    if is_orphaning(item) {
        return Verdict::OrphanDependents;
    }
    if is_waiting(item) {
        let uid = item.uid.as_deref().unwrap_or("");
        let blocking = dependents.iter().any(|d| blocks(d.meta, uid));
        return if blocking { Verdict::Keep } else { Verdict::Release(FOREGROUND) };
    }
    if item.deletion_timestamp.is_some() || references(item).is_empty() {
        return Verdict::Keep;
    }
    let (mut present, mut waiting, mut absent) = (false, BTreeSet::new(), BTreeSet::new());
    for reference in references(item) {
        match owner(reference) {
            OwnerState::Present => present = true,
            OwnerState::Waiting => drop(waiting.insert(reference.uid.clone())),
            OwnerState::Absent => drop(absent.insert(reference.uid.clone())),
            OwnerState::Unknowable => return Verdict::Keep,
        }
    }
    if present {
        waiting.append(&mut absent);
        return if waiting.is_empty() { Verdict::Keep } else { Verdict::Disown(waiting) };
    }
    if !waiting.is_empty() && !dependents.is_empty() {
        let circle = dependents.iter().any(|d| is_waiting(d.meta)) && references(item).iter().any(is_blocking);
        return if circle { Verdict::UnblockAndDelete } else { Verdict::Delete(Propagation::Foreground) };
    }
    // Nobody said how: the object's own finalizers do, else its dependents follow it.
    Verdict::Delete(if has_finalizer(item, ORPHAN) {
        Propagation::Orphan
    } else if has_finalizer(item, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}

fn is_blocking(reference: &OwnerReference) -> bool {
    reference.block_owner_deletion == Some(true)
}

fn blocks(dependent: &ObjectMeta, owner_uid: &str) -> bool {
    references(dependent).iter().any(|r| r.uid == owner_uid && is_blocking(r))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Disown(uids) => write!(f, "disown {}", uids.iter().cloned().collect::<Vec<_>>().join(",")),
            Self::Delete(propagation) => write!(f, "delete {propagation:?}"),
            Self::UnblockAndDelete => f.write_str("unblock and delete Foreground"),
            Self::Release(finalizer) => write!(f, "release {finalizer}"),
            Self::OrphanDependents => f.write_str("orphan dependents"),
        }
    }
}
