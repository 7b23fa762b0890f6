//! Namespaces.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;
use serde_json::json;

use super::kind::Errors;
use super::{Strategy, check, keep};
use crate::registry::context::Context;

const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZER: &str = "kubernetes";

/// A strategy over the object itself: there is little in a namespace.
pub(super) struct Namespaces;

impl Strategy for Namespaces {
    fn default(&self, object: &mut Object) {
        label(object);
        if object.field(&["status", "phase"]).unwrap_or_default().is_empty() {
            object.set(&["status", "phase"], "Active");
        }
    }

    fn prepare_for_create(&self, _context: &Context, object: &mut Object) {
        // A generated name is known only now.
        label(object);
        object.set(&["status"], json!({ "phase": "Active" }));
        let mut finalizers = object.list(&["spec", "finalizers"]).to_vec();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        object.set(&["spec", "finalizers"], finalizers);
    }

    fn prepare_for_update(&self, _context: &Context, object: &mut Object, old: &Object) {
        keep(object, old, "spec");
        keep(object, old, "status");
    }

    fn validate_create(&self, _context: &Context, object: &Object) -> Errors {
        let mut errors = Errors::new();
        let list = FieldPath::new("spec.finalizers");
        for (i, finalizer) in object.list(&["spec", "finalizers"]).iter().enumerate() {
            let finalizer = finalizer.as_str().unwrap_or_default();
            check::qualified_name(finalizer, &list.index(i), &mut errors);
            if !finalizer.contains('/') && finalizer != FINALIZER {
                let detail = "finalizer name is neither a standard finalizer name nor is it fully qualified";
                errors.push(FieldError::invalid(&list.index(i), finalizer, detail));
            }
        }
        errors
    }

    fn validate_update(&self, context: &Context, object: &Object, _old: &Object) -> Errors {
        self.validate_create(context, object)
    }

    fn validate_status_update(&self, _context: &Context, object: &Object, _old: &Object) -> Errors {
        let phase = object.field(&["status", "phase"]).unwrap_or_default();
        let (path, wanted) =
            (FieldPath::new("status.Phase"), if object.is_being_deleted() { "Terminating" } else { "Active" });
        if phase == wanted {
            return Errors::new();
        }
        let detail = if object.is_being_deleted() {
            "must be 'Terminating' if `deletionTimestamp` is not empty"
        } else {
            "may not be 'Terminating' if `deletionTimestamp` is empty"
        };
        if !object.is_being_deleted() && phase != "Terminating" {
            return Errors::new();
        }
        vec![FieldError::invalid(&path, phase, detail)]
    }
}

/// Lets selectors find a namespace by its name.
fn label(object: &mut Object) {
    if !object.name().is_empty() && object.label(NAME_LABEL) != Some(object.name()) {
        let name = object.name().to_owned();
        object.set_label(NAME_LABEL, &name);
    }
}
