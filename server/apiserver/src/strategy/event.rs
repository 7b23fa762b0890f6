//! Events (of core/v1, which is how all are stored): a strategy over the object itself, since there are many. What comes
//! by events.k8s.io/v1 is judged strictly, what comes by core/v1 as leniently as ever.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::object::Object;

use super::Strategy;
use super::kind::Errors;
use crate::registry::context::Context;

pub(super) struct Events;

const WORD_MAX: usize = 128;
const MESSAGE_MAX: usize = 1024;

/// What an update by events.k8s.io/v1 may not change, as it is stored and as errors name it.
const FIXED: [(&str, &str); 13] = [
    ("involvedObject", "involvedObject"),
    ("reason", "reason"),
    ("message", "message"),
    ("source", "source"),
    ("firstTimestamp", "firstTimestamp"),
    ("lastTimestamp", "lastTimestamp"),
    ("count", "count"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

impl Strategy for Events {
    fn validate_create(&self, context: &Context, object: &Object) -> Errors {
        let mut errors = Errors::new();
        always(object, &mut errors);
        if is_strict(context) {
            series(object, &mut errors);
            strict(object, &mut errors);
        }
        errors
    }

    fn validate_update(&self, context: &Context, object: &Object, old: &Object) -> Errors {
        let mut errors = Errors::new();
        always(object, &mut errors);
        if is_strict(context) {
            if object.path(&["series"]) != old.path(&["series"]) {
                series(object, &mut errors);
            }
            for (field, shown) in FIXED {
                let now = object.path(&[field]);
                if now != old.path(&[field]) {
                    errors.push(FieldError::invalid(&FieldPath::new(shown), now, "field is immutable"));
                }
            }
        }
        errors
    }
}

fn is_strict(context: &Context) -> bool {
    context.served.group == "events.k8s.io"
}

fn text<'a>(object: &'a Object, field: &str) -> &'a str {
    object.field(&[field]).unwrap_or_default()
}

fn always(object: &Object, errors: &mut Errors) {
    let about = object.field(&["involvedObject", "namespace"]).unwrap_or_default();
    let is_new = object.path(&["eventTime"]).is_some();
    // What happens to objects of the cluster is told in the default namespace, by new events also in the system's.
    let fits = match (about.is_empty(), is_new) {
        (true, false) => object.namespace() == "default",
        (true, true) => matches!(object.namespace(), "default" | "kube-system"),
        (false, false) => about == object.namespace(),
        (false, true) => true,
    };
    if !fits {
        let path = FieldPath::new("involvedObject.namespace");
        errors.push(FieldError::invalid(&path, about, "does not match event.namespace"));
    }
    if !is_new {
        return;
    }
    let path = FieldPath::new("reportingController");
    let reporter = text(object, "reportingComponent");
    if reporter.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    super::check::qualified_name(reporter, &path, errors);
    for (field, max) in [("reportingInstance", WORD_MAX), ("action", WORD_MAX), ("reason", WORD_MAX)] {
        let (path, value) = (FieldPath::new(field), text(object, field));
        if value.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        at_most(value, max, &path, errors);
    }
    at_most(text(object, "message"), MESSAGE_MAX, &FieldPath::new("message"), errors);
}

fn at_most(value: &str, max: usize, path: &FieldPath<'_>, errors: &mut Errors) {
    if value.len() > max {
        errors.push(FieldError::invalid(path, "", format!("can have at most {max} characters")));
    }
}

fn series(object: &Object, errors: &mut Errors) {
    if object.path(&["series"]).is_none() {
        return;
    }
    if object.int(&["series", "count"]).unwrap_or(0) < 2 {
        errors.push(FieldError::invalid(&FieldPath::new("series.count"), "", "should be at least 2"));
    }
    if object.path(&["series", "lastObservedTime"]).is_none() {
        errors.push(FieldError::required(&FieldPath::new("series.lastObservedTime"), ""));
    }
}

fn strict(object: &Object, errors: &mut Errors) {
    if object.path(&["eventTime"]).is_none() {
        errors.push(FieldError::required(&FieldPath::new("eventTime"), ""));
    }
    let kind = text(object, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid(&FieldPath::new("type"), "", format!("has invalid value: {kind}")));
    }
    for field in ["firstTimestamp", "lastTimestamp"] {
        if object.path(&[field]).is_some() {
            errors.push(FieldError::invalid(&FieldPath::new(field), "", "needs to be unset"));
        }
    }
    if object.int(&["count"]).unwrap_or(0) != 0 {
        errors.push(FieldError::invalid(&FieldPath::new("count"), "", "needs to be unset"));
    }
    if ["component", "host"].iter().any(|part| object.field(&["source", part]).is_some_and(|text| !text.is_empty())) {
        errors.push(FieldError::invalid(&FieldPath::new("source"), "", "needs to be unset"));
    }
}
