//! delete and deletecollection: preconditions, grace periods, finalizers, and at last the removal.
//!
//! ```text
//!            grace > 0, or finalizers           grace used up, no finalizers
//!  present ───────────────────────────► deleting ─────────────────────────────► gone
//!     └──────────────── neither ──────────────────────────────────────────────────┘
//! ```

use std::sync::Arc;

use coracle_api::meta::GroupResource;
use coracle_api::object::Object;
use coracle_api::status::{Status, StatusDetails};
use coracle_store::{CommitError, Entry, Op};
use jiff::{SignedDuration, Timestamp};

use super::catalog::Resource;
use super::codec;
use super::context::Context;
use super::facts::GarbageCollection;
use super::list::ListError;
use super::metadata::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER};
use super::options::{DeleteOptions, ListOptions, Propagation};
use super::{Registry, Written};

const ROUNDS: usize = 100;
/// Objects of a collection in one commit, which others wait for.
const BATCH: usize = 256;

/// What a deletion came to.
pub enum Deleted {
    /// Gone; `answer` is what the kind answers with.
    Gone(DeletedAnswer),
    /// Still there, marked for deletion (or marked before).
    Pending(Written),
}

pub enum DeletedAnswer {
    Object(Written),
    Status(Status),
}

/// What is to be done with the object as it is now.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Deletion is under way already and this request changes nothing.
    Keep,
    /// Store the object with these marks and wait.
    Mark(Object),
    /// Remove it; the object is what watchers see last.
    Remove(Object),
}

impl Registry {
    pub async fn delete(
        &self,
        context: &Context,
        resource: &Resource,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let key = resource.store_key(&context.namespace, &context.name);
        for _ in 0..ROUNDS {
            let Some(entry) = self.store.snapshot().get(&key).cloned() else {
                return Err(Status::not_found(&resource.group_resource(), &context.name));
            };
            let old = codec::object(&entry)?;
            check_preconditions(resource, &old, options)?;
            self.admission.validate(self, context, None, Some(&old))?;
            let plan = plan(resource, &old, options, context.now);
            let (gone, object) = match plan {
                Plan::Keep => return Ok(Deleted::Pending(Written::stored(entry, false))),
                Plan::Mark(object) => (false, object),
                Plan::Remove(object) => (true, object),
            };
            if context.dry_run {
                let written = Written::dry(resource, &object, false);
                return Ok(if gone {
                    Deleted::Gone(answer(resource, &entry, written))
                } else {
                    Deleted::Pending(written)
                });
            }
            let draft = resource.draft(&object);
            let expect = entry.revision;
            let op = if gone { Op::Delete { expect, last: draft } } else { Op::Update { expect, draft } };
            match self.store.commit(vec![(key.clone(), op)]).await {
                Ok(entries) => {
                    let entry = entries.into_iter().next().expect("a commit answers with one entry per operation");
                    let written = Written::stored(entry.clone(), false);
                    return Ok(if gone {
                        Deleted::Gone(answer(resource, &entry, written))
                    } else {
                        Deleted::Pending(written)
                    });
                }
                // The next round judges the newer object; a precondition that it breaks is reported then.
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(self.commit_failed(resource, &context.name, error)),
            }
        }
        Err(Status::modified(&resource.group_resource(), &context.name))
    }

    /// Deletes what a list selects; answers with the objects as they were. Each is judged by itself, as a deletion of its
    /// own would be, and many are committed at once. Where that does not work out, because somebody else changed one of
    /// them or one is refused, those are done one by one, so that each answers for itself alone.
    pub async fn delete_collection(
        &self,
        context: &Context,
        resource: &Resource,
        list: ListOptions,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Entry>>, ListError> {
        let page = self.list(resource, &context.namespace, list)?;
        for entries in page.entries.chunks(BATCH) {
            if self.delete_together(context, resource, entries, options).await? {
                continue;
            }
            for entry in entries {
                match self.delete(&context.for_object(&entry.key), resource, options).await {
                    Ok(_) => {}
                    // Somebody else deleted it meanwhile.
                    Err(status) if status.code == 404 => {}
                    Err(status) => return Err(status.into()),
                }
            }
        }
        Ok(page.entries)
    }

    /// Whether all of these were deleted or marked, in one commit; otherwise none was touched.
    async fn delete_together(
        &self,
        context: &Context,
        resource: &Resource,
        entries: &[Arc<Entry>],
        options: &DeleteOptions,
    ) -> Result<bool, Status> {
        if context.dry_run {
            return Ok(false);
        }
        let mut ops = Vec::with_capacity(entries.len());
        for entry in entries {
            let old = codec::object(entry)?;
            let context = context.for_object(&entry.key);
            let refused = check_preconditions(resource, &old, options).is_err()
                || self.admission.validate(self, &context, None, Some(&old)).is_err();
            if refused {
                return Ok(false);
            }
            let expect = entry.revision;
            match plan(resource, &old, options, context.now) {
                Plan::Keep => {}
                Plan::Mark(object) => {
                    ops.push((entry.key.clone(), Op::Update { expect, draft: resource.draft(&object) }));
                }
                Plan::Remove(object) => {
                    ops.push((entry.key.clone(), Op::Delete { expect, last: resource.draft(&object) }));
                }
            }
        }
        if ops.is_empty() {
            return Ok(true);
        }
        match self.store.commit(ops).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(error) => Err(self.commit_failed(resource, &context.name, error)),
        }
    }
}

pub(super) fn check_preconditions(resource: &Resource, old: &Object, options: &DeleteOptions) -> Result<(), Status> {
    let conflict = |message: String| {
        // Upstream names the kind here, not the resource.
        let subject = GroupResource::new(&*resource.def.group, &*resource.def.kind);
        Err(Status::conflict(&subject, old.name(), message))
    };
    if let Some(uid) = &options.uid
        && uid != old.uid_str()
    {
        return conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            old.uid_str()
        ));
    }
    if let Some(version) = &options.resource_version
        && version != old.resource_version()
    {
        return conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            old.resource_version()
        ));
    }
    Ok(())
}

fn plan(resource: &Resource, old: &Object, options: &DeleteOptions, now: Timestamp) -> Plan {
    if resource.holds_spec_finalizers() {
        return plan_namespace(resource, old, options, now);
    }
    let mut object = old.clone();
    let graceful = match grace(resource, old, options) {
        Grace::None => None,
        Grace::Pending => return Plan::Keep,
        Grace::Shorten(seconds) => {
            let before = old.deletion_grace_period_seconds().unwrap_or(0);
            let start = old.deletion_timestamp().map_or(now, |at| after(at, before.saturating_neg()));
            object.set_deletion(after(start, seconds), seconds);
            Some(seconds)
        }
        Grace::Begin(seconds) => {
            object.set_deletion(after(now, seconds), seconds);
            bump_generation(&mut object);
            Some(seconds)
        }
    };
    set_finalizers(resource, &mut object, options);
    if !object.finalizers().is_empty() {
        if graceful.is_none() {
            mark(&mut object, now);
        }
        return if object == *old { Plan::Keep } else { Plan::Mark(object) };
    }
    match graceful {
        Some(seconds) if seconds > 0 => Plan::Mark(object),
        Some(_) | None => Plan::Remove(object),
    }
}

/// A namespace is first marked as terminating, and goes when its spec.finalizers are empty.
fn plan_namespace(resource: &Resource, old: &Object, options: &DeleteOptions, now: Timestamp) -> Plan {
    let mut object = old.clone();
    if !old.is_being_deleted() {
        bump_generation(&mut object);
        object.set_deletion(now, 0);
        object.remove(&["metadata", "deletionGracePeriodSeconds"]);
        object.set(&["status", "phase"], "Terminating");
        set_finalizers(resource, &mut object, options);
        let nothing_holds = object.finalizers().is_empty() && object.list(&["spec", "finalizers"]).is_empty();
        return if nothing_holds { Plan::Remove(object) } else { Plan::Mark(object) };
    }
    if !old.list(&["spec", "finalizers"]).is_empty() || !old.finalizers().is_empty() {
        return Plan::Keep;
    }
    Plan::Remove(object)
}

/// The time so many seconds later, or the last there is: a client may ask for any number.
fn after(time: Timestamp, seconds: i64) -> Timestamp {
    let end = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(end)
}

/// How the grace period stands.
enum Grace {
    /// The kind has none, or it is used up.
    None,
    /// Deletion is under way and the request does not shorten it.
    Pending,
    Shorten(i64),
    Begin(i64),
}

fn grace(resource: &Resource, old: &Object, options: &DeleteOptions) -> Grace {
    if !resource.facts.graceful {
        return Grace::None;
    }
    if !old.is_being_deleted() {
        return Grace::Begin(pod_grace(old, options.grace_period_seconds));
    }
    match (
        old.deletion_grace_period_seconds().map(|seconds| if seconds < 0 { 1 } else { seconds }),
        options.grace_period_seconds,
    ) {
        (None | Some(0), _) => Grace::None,
        (Some(left), Some(asked)) if asked < left => Grace::Shorten(asked),
        (Some(_), Some(_) | None) => Grace::Pending,
    }
}

/// A pod that no node has, or that is over, waits for nobody.
fn pod_grace(pod: &Object, asked: Option<i64>) -> i64 {
    let unscheduled = pod.field(&["spec", "nodeName"]).unwrap_or_default().is_empty();
    let over = matches!(pod.field(&["status", "phase"]), Some("Succeeded" | "Failed"));
    if unscheduled || over {
        return 0;
    }
    let seconds = asked.or_else(|| pod.int(&["spec", "terminationGracePeriodSeconds"])).unwrap_or(0);
    if seconds < 0 { 1 } else { seconds }
}

/// Marks an object without graceful deletion: it waits only for its finalizers.
fn mark(object: &mut Object, now: Timestamp) {
    let before = object.deletion_timestamp();
    if before.is_none() {
        bump_generation(object);
    }
    object.set_deletion(before.map_or(now, |at| at.min(now)), 0);
}

fn bump_generation(object: &mut Object) {
    if object.generation() > 0 {
        object.set_generation(object.generation() + 1);
    }
}

/// Puts the garbage collector's finalizers to what the options, or else the object itself, ask for.
fn set_finalizers(resource: &Resource, object: &mut Object, options: &DeleteOptions) {
    if resource.facts.garbage_collection == GarbageCollection::Unsupported {
        return;
    }
    let has = |name: &str| object.finalizers().contains(&name);
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(Propagation::Orphan)) => (true, false),
        (None, Some(Propagation::Background)) => (false, false),
        (None, Some(Propagation::Foreground)) => (false, true),
        (None, None) if has(ORPHAN_FINALIZER) => (true, false),
        (None, None) => (false, has(FOREGROUND_FINALIZER)),
    };
    let all: Vec<String> = object.finalizers().into_iter().map(str::to_owned).collect();
    let mut wanted: Vec<&str> =
        all.iter().map(String::as_str).filter(|one| !matches!(*one, ORPHAN_FINALIZER | FOREGROUND_FINALIZER)).collect();
    if orphan {
        wanted.push(ORPHAN_FINALIZER);
    }
    if foreground {
        wanted.push(FOREGROUND_FINALIZER);
    }
    let same = wanted.len() == all.len() && wanted.iter().all(|one| all.iter().any(|own| own == one));
    if !same {
        object.set_finalizers(&wanted);
    }
}

fn answer(resource: &Resource, entry: &Entry, written: Written) -> DeletedAnswer {
    if resource.facts.returns_deleted {
        return DeletedAnswer::Object(written);
    }
    DeletedAnswer::Status(Status::success(Some(StatusDetails {
        name: entry.key.name.to_string(),
        group: resource.def.group.to_string(),
        kind: resource.def.plural.to_string(),
        uid: entry.uid.to_string(),
        ..StatusDetails::default()
    })))
}
