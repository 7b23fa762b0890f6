//! Small cluster-wide classes: PriorityClasses and RuntimeClasses.

use coracle_api::fields::{FieldError, FieldPath};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::check::{self, fill};
use super::kind::{Errors, Kind};
use super::{pod, resources};
use crate::registry::context::Context;

const SYSTEM_PREFIX: &str = "system-";
const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;
/// The classes that may be above it: theirs are known values.
const SYSTEM_CLASSES: [(&str, i32); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(super) struct PriorityClasses;

impl Kind for PriorityClasses {
    type Type = PriorityClass;

    fn default(&self, class: &mut PriorityClass) {
        fill(&mut class.preemption_policy, "PreemptLowerPriority");
        class.value.get_or_insert(0);
    }

    fn validate_create(&self, _context: &Context, class: &PriorityClass, errors: &mut Errors) {
        let name = class.metadata.name.as_deref().unwrap_or_default();
        let value = class.value.unwrap_or(0);
        if name.starts_with(SYSTEM_PREFIX) {
            let known = SYSTEM_CLASSES.iter().find(|(system, _)| *system == name);
            let why = match known {
                None => "only system PriorityClasses may have names with the prefix 'system-'. error: it is not a known system priority class".to_owned(),
                Some((_, wanted)) if *wanted != value => format!(
                    "only system PriorityClasses may have names with the prefix 'system-'. error: value of {name} PriorityClass must be {wanted}"
                ),
                Some(_) => String::new(),
            };
            if !why.is_empty() {
                errors.push(FieldError::forbidden(&FieldPath::new("metadata.name"), why));
            }
        } else if value > HIGHEST_USER_PRIORITY {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
            errors.push(FieldError::forbidden(&FieldPath::new("value"), detail));
        }
        let policies = &["Never", "PreemptLowerPriority"];
        check::one_of_opt(&class.preemption_policy, policies, &FieldPath::new("preemptionPolicy"), errors);
    }

    fn validate_update(&self, _context: &Context, new: &PriorityClass, old: &PriorityClass, errors: &mut Errors) {
        if new.value != old.value {
            errors.push(FieldError::forbidden(&FieldPath::new("value"), "may not be changed in an update."));
        }
        let path = FieldPath::new("preemptionPolicy");
        check::immutable(&new.preemption_policy, &old.preemption_policy, &path, errors);
    }
}

pub(super) struct RuntimeClasses;

impl Kind for RuntimeClasses {
    type Type = RuntimeClass;
    const DEFAULTS: bool = false;

    fn validate_create(&self, _context: &Context, class: &RuntimeClass, errors: &mut Errors) {
        check::dns_label(&class.handler, &FieldPath::new("handler"), errors);
        let path = FieldPath::new("overhead");
        for (name, amount) in class.overhead.iter().flat_map(|overhead| overhead.pod_fixed.iter().flatten()) {
            resources::container_resource_name(name, &path.child("limits").key(name), errors);
            resources::amount(name, amount, &path.child("limits").key(name), errors);
        }
        if let Some(scheduling) = &class.scheduling {
            let path = FieldPath::new("scheduling");
            check::labels(scheduling.node_selector.as_ref(), &path.child("nodeSelector"), errors);
            let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
            pod::scheduling::tolerations(tolerations, &path.child("tolerations"), errors);
        }
    }

    fn validate_update(&self, _context: &Context, new: &RuntimeClass, old: &RuntimeClass, errors: &mut Errors) {
        check::immutable(&new.handler, &old.handler, &FieldPath::new("handler"), errors);
    }
}
