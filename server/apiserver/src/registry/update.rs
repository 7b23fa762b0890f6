//! update: one loop for PUT, patches and every subresource that changes an object. It reads the current object, lets the
//! caller make the new one, checks it and commits with the revision that was read; if somebody else was faster and the
//! caller named no revision of its own, it starts over.

use std::sync::Arc;

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::meta::GroupKind;
use coracle_api::object::Object;
use coracle_api::status::{Reason, Status};
use coracle_store::{CommitError, Entry, Held, Key, Op};

use super::catalog::Resource;
use super::context::Context;
use super::create::DUPLICATE_OWNERS;
use super::facts::Generation;
use super::{Registry, Written, codec, metadata};
use crate::auth::authz::forbidden;
use crate::hooks::{Attributes, Decision};
use crate::http::request_info::Verb;

/// Rounds before a writer that named no revision is told of the conflict after all. Each lost round means that another
/// writer succeeded, so this is far beyond what contention explains.
const ROUNDS: usize = 100;

/// Which part of the object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but status.
    Main,
    /// Status (and labels and annotations).
    Status,
    /// Exactly what the caller changed: subresources with rules of their own (binding, scale, finalize…).
    Given,
}

/// Makes the new object from the current one (None if there is none and a PUT may create). Called once per round.
pub type Make<'a> = &'a mut (dyn FnMut(Option<&Object>) -> Result<Object, Status> + Send);

impl Registry {
    pub async fn update(
        &self,
        context: &Context,
        resource: &Resource,
        part: Part,
        make: Make<'_>,
    ) -> Result<Written, Status> {
        let key = resource.store_key(&context.namespace, &context.name);
        for _ in 0..ROUNDS {
            let current = self.store.snapshot().get(&key).cloned();
            let round = match current {
                Some(entry) => self.update_once(context, resource, part, &key, entry, make).await?,
                None => return self.create_by_update(context, resource, part, make).await,
            };
            if let Some(written) = round {
                return Ok(written);
            }
        }
        Err(Status::modified(&resource.group_resource(), &context.name))
    }

    /// PUT on a name that does not exist, where the kind allows it.
    async fn create_by_update(
        &self,
        context: &Context,
        resource: &Resource,
        part: Part,
        make: Make<'_>,
    ) -> Result<Written, Status> {
        let not_found = || Status::not_found(&resource.group_resource(), &context.name);
        if !(part == Part::Main && resource.facts.create_on_update && context.verb == Verb::Update) {
            return Err(not_found());
        }
        let object = make(None)?;
        if !object.uid_str().is_empty() {
            let message =
                format!("Precondition failed: UID in precondition: {}, UID in object meta: ", object.uid_str());
            return Err(Status::conflict(&resource.group_resource(), &context.name, message));
        }
        if !object.resource_version().is_empty() {
            return Err(not_found());
        }
        let create = context.as_create();
        self.authorize_create(&create)?;
        let written = self.create(&create, resource, object).await;
        create.take_warnings().into_iter().for_each(|text| context.warn(text));
        written
    }

    /// Who may update may not for that reason create.
    fn authorize_create(&self, context: &Context) -> Result<(), Status> {
        let asked = Attributes {
            verb: "create",
            namespace: &context.namespace,
            group: &context.served.group,
            version: &context.served.version,
            resource: &context.served.plural,
            name: &context.name,
            resource_request: true,
            ..Attributes::default()
        };
        match self.authorizer.authorize(&context.user, &asked) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) | Decision::Deny(reason) => Err(forbidden(&context.user, &asked, &reason)),
        }
    }

    /// One round; None: somebody else was faster, and the caller has no revision of its own that this would break.
    async fn update_once(
        &self,
        context: &Context,
        resource: &Resource,
        part: Part,
        key: &Key,
        entry: Arc<Entry>,
        make: Make<'_>,
    ) -> Result<Option<Written>, Status> {
        let old = codec::object(&entry)?;
        let mut new = make(Some(&old))?;
        settle_revision(context, resource, &mut new, &old)?;
        let duplicates = metadata::dedup_owners(&mut new);
        if !duplicates.is_empty() {
            context.warn(format!("{DUPLICATE_OWNERS}{}", duplicates.join(", ")));
        }
        resource.strategy.default(&mut new);
        self.admission.mutate(self, context, &mut new, Some(&old))?;
        let claim = self.addresses.for_update(self, context, &mut new, &old)?;
        self.prepare_update(context, resource, part, &mut new, &old)?;
        let last = finishes_deletion(resource, &new, &old);
        // Both carry the same revision by now: if nothing else differs there is nothing to store.
        if new == old && !last {
            return Ok(Some(Written::stored(entry, false)));
        }
        if context.dry_run {
            return Ok(Some(Written::dry(resource, &new, false)));
        }
        let draft = resource.draft(&new);
        let op = if last {
            Op::Delete { expect: entry.revision, last: draft }
        } else {
            Op::Update { expect: entry.revision, draft }
        };
        let held = claim.map(|claim| Box::new(claim) as Held);
        match self.store.commit_holding(vec![(key.clone(), op)], held).await {
            Ok(entries) => {
                let entry = entries.into_iter().next().expect("a commit answers with one entry per operation");
                Ok(Some(Written::stored(entry, false)))
            }
            // The next round finds out whether the caller insists on the revision that has just passed.
            Err(CommitError::Conflict { .. }) => Ok(None),
            Err(error) => Err(self.commit_failed(resource, &context.name, error)),
        }
    }

    fn prepare_update(
        &self,
        context: &Context,
        resource: &Resource,
        part: Part,
        new: &mut Object,
        old: &Object,
    ) -> Result<(), Status> {
        new.set_gvk(&resource.stored.gvk());
        new.remove(&["metadata", "selfLink"]);
        keep_system_fields(new, old);
        match part {
            Part::Main => resource.strategy.prepare_for_update(context, new, old),
            Part::Status => resource.strategy.prepare_status_update(context, new, old),
            Part::Given => {}
        }
        if may_count(context, part) && counts_as_change(resource.facts.generation, new, old) {
            new.set_generation(old.generation() + 1);
        }
        let mut errors = metadata::validate(new, resource.def.namespaced, &resource.facts)?;
        errors.extend(metadata::validate_update(new, old));
        errors.extend(match part {
            Part::Main | Part::Given => resource.strategy.validate_update(context, new, old),
            Part::Status => resource.strategy.validate_status_update(context, new, old),
        });
        if !errors.is_empty() {
            return Err(Status::invalid(&resource.group_kind(), &context.name, errors));
        }
        for text in resource.strategy.warnings(context, new, Some(old)) {
            context.warn(text);
        }
        self.admission.validate(self, context, Some(new), Some(old))
    }
}

/// Checks the uid and revision that the new object names. A `make` that starts from the current object leaves both in
/// place; a caller that named a revision itself will be told of the conflict as soon as it is not the current one.
fn settle_revision(context: &Context, resource: &Resource, new: &mut Object, old: &Object) -> Result<(), Status> {
    let (gr, name) = (resource.group_resource(), &*context.name);
    if !new.uid_str().is_empty() && new.uid_str() != old.uid_str() {
        let (wanted, found) = (new.uid_str(), old.uid_str());
        let message = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        return Err(Status::conflict(&gr, name, message));
    }
    match new.resource_version() {
        "" | "0" => {
            let main_put = context.verb == Verb::Update && context.subresource.is_empty();
            if main_put && !resource.facts.unconditional_update {
                let path = FieldPath::new("metadata");
                let detail = "must be specified for an update";
                let mut error = FieldError::invalid(&path.child("resourceVersion"), 0, detail);
                // As Go shows an unsigned zero.
                error.value = Some("0x0".to_owned());
                let kind = GroupKind::new(&*resource.def.group, &*resource.def.plural);
                return Err(Status::invalid(&kind, name, vec![error]));
            }
            new.set_revision(old.revision());
            Ok(())
        }
        asked if asked == old.resource_version() => Ok(()),
        // Upstream answers with the parser's own words, and no reason.
        asked if asked.parse::<u64>().is_err() => {
            let text = format!("strconv.ParseUint: parsing {asked:?}: invalid syntax");
            Err(Status::new(500, Reason::Unknown, text))
        }
        _ => Err(Status::modified(&gr, name)),
    }
}

/// What an update can neither set nor remove.
fn keep_system_fields(new: &mut Object, old: &Object) {
    for field in ["generation", "creationTimestamp"] {
        let path = ["metadata", field];
        match old.path(&path) {
            Some(value) => new.set(&path, value.clone()),
            None => {
                new.remove(&path);
            }
        }
    }
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let path = ["metadata", field];
        if let Some(value) = old.path(&path)
            && (field == "deletionTimestamp" || new.path(&path).is_none())
        {
            new.set(&path, value.clone());
        }
    }
}

/// Whether the generation looks at this write at all. A status is an answer to a generation and makes none, whatever
/// annotations come with it; and a pod's binding, which upstream writes past its strategy, is no change of what was
/// asked for.
fn may_count(context: &Context, part: Part) -> bool {
    match part {
        Part::Main => true,
        Part::Given => context.subresource != "binding",
        Part::Status => false,
    }
}

fn counts_as_change(generation: Generation, new: &Object, old: &Object) -> bool {
    let annotations = match generation {
        Generation::None => return false,
        Generation::Spec => false,
        Generation::SpecAndAnnotations => true,
    };
    let path = ["metadata", "annotations"];
    (annotations && new.path(&path) != old.path(&path)) || !same_but(new, old, &["metadata", "status"])
}

/// Equal but for the named top-level fields.
fn same_but(new: &Object, old: &Object, but: &[&str]) -> bool {
    let keys = new.0.keys().chain(old.0.keys());
    keys.filter(|key| !but.contains(&key.as_str())).all(|key| new.path(&[key]) == old.path(&[key]))
}

/// The last finalizer of an object that waits for nothing else is gone: the update removes it.
fn finishes_deletion(resource: &Resource, new: &Object, old: &Object) -> bool {
    // A namespace has finalizers of its own in its spec.
    let holds = resource.holds_spec_finalizers() && !new.list(&["spec", "finalizers"]).is_empty();
    let waits = old.deletion_grace_period_seconds().unwrap_or(0) > 0;
    old.is_being_deleted() && new.finalizers().is_empty() && !holds && !waits
}
