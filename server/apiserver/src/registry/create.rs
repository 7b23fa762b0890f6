//! create: names, system fields, defaults, admission, validation, commit.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::meta::Uid;
use coracle_api::object::Object;
use coracle_api::status::Status;
use coracle_store::{CommitError, Entry, Held, Op};

use super::catalog::Resource;
use super::context::Context;
use super::facts::Generation;
use super::{Registry, Written, codec, metadata};

/// Names that are tried for a generateName before the client is told to try again.
const NAME_ATTEMPTS: usize = 8;
/// A generated name is the prefix, cut to this, and five characters.
const GENERATED_PREFIX_BYTES: usize = 58;

pub const DUPLICATE_OWNERS: &str = ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: ";

impl Registry {
    /// Stores a new object, given in the stored version with its namespace settled.
    pub async fn create(&self, context: &Context, resource: &Resource, mut object: Object) -> Result<Written, Status> {
        let duplicates = metadata::dedup_owners(&mut object);
        if !duplicates.is_empty() {
            context.warn(format!("{DUPLICATE_OWNERS}{}", duplicates.join(", ")));
        }
        resource.strategy.default(&mut object);
        self.admission.settle(self, context, &object).await;
        self.admission.mutate(self, context, &mut object, None)?;
        let generates = object.name().is_empty() && !object.generate_name().is_empty();
        let attempts = if generates { NAME_ATTEMPTS } else { 1 };
        let mut last = None;
        for _ in 0..attempts {
            let mut candidate = object.clone();
            if generates {
                let prefix = cut(object.generate_name(), GENERATED_PREFIX_BYTES);
                candidate.set_name(&format!("{prefix}{}", self.ids.suffix(5)));
            }
            match self.create_once(context, resource, candidate).await? {
                Ok(written) => return Ok(written),
                Err(existing) => last = Some(existing),
            }
        }
        let existing = last.expect("at least one attempt was made, and none succeeded");
        Err(exists(resource, &existing, generates))
    }

    /// `Ok(Err(entry))`: the name is taken.
    async fn create_once(
        &self,
        context: &Context,
        resource: &Resource,
        mut object: Object,
    ) -> Result<Result<Written, std::sync::Arc<Entry>>, Status> {
        let claim = self.addresses.for_create(self, context, &mut object)?;
        self.prepare_create(context, resource, &mut object)?;
        let key = resource.store_key(&context.namespace, object.name());
        if context.dry_run {
            return Ok(match self.store.snapshot().get(&key) {
                Some(existing) => Err(existing.clone()),
                None => Ok(Written::dry(resource, &object, true)),
            });
        }
        let draft = resource.draft(&object);
        let held = claim.map(|claim| Box::new(claim) as Held);
        match self.store.commit_holding(vec![(key, Op::Create(draft))], held).await {
            Ok(entries) => {
                let entry = entries.into_iter().next().expect("a commit answers with one entry per operation");
                Ok(Ok(Written::stored(entry, true)))
            }
            Err(CommitError::Exists(existing)) => Ok(Err(existing)),
            Err(error) => Err(self.commit_failed(resource, object.name(), error)),
        }
    }

    /// Everything between admission and the commit.
    fn prepare_create(&self, context: &Context, resource: &Resource, object: &mut Object) -> Result<(), Status> {
        object.set_gvk(&resource.stored.gvk());
        object.set_creation_timestamp(context.now);
        object.set_uid(&Uid::from(self.ids.uuid()));
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
            object.remove(&["metadata", field]);
        }
        match resource.facts.generation {
            Generation::None => {
                object.remove(&["metadata", "generation"]);
            }
            Generation::Spec | Generation::SpecAndAnnotations => object.set_generation(1),
        }
        resource.strategy.prepare_for_create(context, object);
        let mut errors = metadata::validate(object, resource.def.namespaced, &resource.facts)?;
        errors.extend(resource.strategy.validate_create(context, object));
        if !errors.is_empty() {
            return Err(Status::invalid(&resource.group_kind(), object.name(), errors));
        }
        for text in resource.strategy.warnings(context, object, None) {
            context.warn(text);
        }
        self.admission.validate(self, context, Some(object), None)
    }
}

/// An object that a creator has not named is told which field it lacks; one with a resourceVersion is refused.
pub fn check_new(resource: &Resource, object: &Object) -> Result<(), Status> {
    if !object.resource_version().is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if object.name().is_empty() && object.generate_name().is_empty() {
        let path = FieldPath::new("metadata");
        let error = FieldError::required(&path.child("name"), "name or generateName is required");
        return Err(Status::invalid(&resource.group_kind(), "", vec![error]));
    }
    Ok(())
}

fn exists(resource: &Resource, existing: &Entry, generated: bool) -> Status {
    let (gr, name) = (resource.group_resource(), &*existing.key.name);
    let mut status = Status::already_exists(&gr, name);
    if generated {
        status.message.push_str(", the server was not able to generate a unique name for the object");
        return status.with_retry_after(1);
    }
    if codec::object(existing).is_ok_and(|object| object.is_being_deleted()) {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}

fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}
