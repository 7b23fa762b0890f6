//! Leases: a strategy over the object itself, since they are written all the time.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;

use super::Strategy;
use super::check::{NEGATIVE, NOT_POSITIVE};
use super::kind::Errors;
use crate::registry::context::Context;

pub(super) struct Leases;

impl Strategy for Leases {
    fn validate_create(&self, _context: &Context, object: &Object) -> Errors {
        let mut errors = Errors::new();
        let spec = FieldPath::new("spec");
        if let Some(seconds) = object.int(&["spec", "leaseDurationSeconds"]).filter(|seconds| *seconds <= 0) {
            errors.push(FieldError::invalid(&spec.child("leaseDurationSeconds"), seconds, NOT_POSITIVE));
        }
        if let Some(count) = object.int(&["spec", "leaseTransitions"]).filter(|count| *count < 0) {
            errors.push(FieldError::invalid(&spec.child("leaseTransitions"), count, NEGATIVE));
        }
        errors
    }

    fn validate_update(&self, context: &Context, object: &Object, _old: &Object) -> Errors {
        self.validate_create(context, object)
    }
}
