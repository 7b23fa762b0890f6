//! Events (of core/v1, which is how all are stored): a strategy over the object itself, since there are many.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;

use super::Strategy;
use super::kind::Errors;
use crate::registry::context::Context;

pub(super) struct Events;

impl Strategy for Events {
    fn validate_create(&self, _context: &Context, object: &Object) -> Errors {
        let about = object.field(&["involvedObject", "namespace"]).unwrap_or_default();
        let path = FieldPath::new("involvedObject.namespace");
        let mut errors = Errors::new();
        // What happens to objects of the cluster is told in the default namespace.
        let fits = if about.is_empty() {
            matches!(object.namespace(), "default" | "kube-system")
        } else {
            about == object.namespace()
        };
        if !fits {
            errors.push(FieldError::invalid(&path, about, "does not match event.namespace"));
        }
        let reporter = object.field(&["reportingComponent"]).unwrap_or_default();
        if !reporter.is_empty() && object.path(&["eventTime"]).is_some() {
            super::check::qualified_name(reporter, &FieldPath::new("reportingController"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, context: &Context, object: &Object, _old: &Object) -> Errors {
        self.validate_create(context, object)
    }
}
