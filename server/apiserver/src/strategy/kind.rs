//! Strategies over typed structs: a `Kind` says what is special in terms of k8s_openapi's types, `Typed` turns it into
//! a `Strategy` over objects. Kinds for which the conversion would cost more than it tells (ConfigMaps, Leases) are
//! strategies over `Object` themselves.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Strategy, keep, keep_all_but_status};
use crate::registry::context::Context;

pub(super) type Errors = Vec<FieldError>;

#[allow(unused_variables)]
pub(super) trait Kind: Send + Sync + 'static {
    type Type: Serialize + DeserializeOwned;

    /// Whether `default` does anything.
    const DEFAULTS: bool = true;

    fn default(&self, object: &mut Self::Type) {}

    fn prepare_for_create(&self, context: &Context, object: &mut Object) {
        if context.def.has_status() {
            object.remove(&["status"]);
        }
    }

    fn prepare_for_update(&self, context: &Context, object: &mut Object, old: &Object) {
        if context.def.has_status() {
            keep(object, old, "status");
        }
    }

    fn prepare_status_update(&self, context: &Context, object: &mut Object, old: &Object) {
        keep_all_but_status(object, old);
    }

    fn validate_create(&self, context: &Context, object: &Self::Type, errors: &mut Errors) {}

    fn validate_update(&self, context: &Context, object: &Self::Type, old: &Self::Type, errors: &mut Errors) {}

    fn validate_status_update(&self, context: &Context, object: &Self::Type, old: &Self::Type, errors: &mut Errors) {}

    fn warnings(&self, context: &Context, object: &Self::Type, warnings: &mut Vec<String>) {}

    /// Whether `warnings` does anything.
    const WARNINGS: bool = false;
}

pub(super) struct Typed<K>(pub(super) K);

impl<K: Kind> Typed<K> {
    /// An object that was decoded by schema always reads as its typed struct; what was stored by another version may
    /// not, and then the client is told and nothing is lost.
    fn read(object: &Object, errors: &mut Errors) -> Option<K::Type> {
        object.typed().map_err(|error| errors.push(FieldError::internal(&FieldPath::new(""), chain(&error)))).ok()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl<K: Kind> Strategy for Typed<K> {
    fn default(&self, object: &mut Object) {
        if !K::DEFAULTS {
            return;
        }
        // What can't be read stays as it is: validation will say what is wrong with it.
        let Ok(mut typed) = object.typed::<K::Type>() else { return };
        self.0.default(&mut typed);
        if let Ok(defaulted) = Object::from_typed(&typed) {
            *object = defaulted;
        }
    }

    fn prepare_for_create(&self, context: &Context, object: &mut Object) {
        self.0.prepare_for_create(context, object);
    }

    fn prepare_for_update(&self, context: &Context, object: &mut Object, old: &Object) {
        self.0.prepare_for_update(context, object, old);
    }

    fn prepare_status_update(&self, context: &Context, object: &mut Object, old: &Object) {
        self.0.prepare_status_update(context, object, old);
    }

    fn validate_create(&self, context: &Context, object: &Object) -> Errors {
        let mut errors = Errors::new();
        if let Some(typed) = Self::read(object, &mut errors) {
            self.0.validate_create(context, &typed, &mut errors);
        }
        errors
    }

    fn validate_update(&self, context: &Context, object: &Object, old: &Object) -> Errors {
        let mut errors = Errors::new();
        let (typed, old) = (Self::read(object, &mut errors), Self::read(old, &mut errors));
        if let (Some(typed), Some(old)) = (typed, old) {
            self.0.validate_update(context, &typed, &old, &mut errors);
        }
        errors
    }

    fn validate_status_update(&self, context: &Context, object: &Object, old: &Object) -> Errors {
        let mut errors = Errors::new();
        let (typed, old) = (Self::read(object, &mut errors), Self::read(old, &mut errors));
        if let (Some(typed), Some(old)) = (typed, old) {
            self.0.validate_status_update(context, &typed, &old, &mut errors);
        }
        errors
    }

    fn warnings(&self, context: &Context, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        if K::WARNINGS
            && let Ok(typed) = object.typed::<K::Type>()
        {
            self.0.warnings(context, &typed, &mut warnings);
        }
        warnings
    }
}
