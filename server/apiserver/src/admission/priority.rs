//! A pod's priority is the number of its PriorityClass, and only one class may be the default.

use coracle_api::object::Object;
use coracle_api::status::Status;
use coracle_store::Prefix;

use super::{Plugin, creates_pod, forbidden};
use crate::http::request_info::Verb;
use crate::registry::context::Context;
use crate::registry::{Registry, codec};

pub(super) struct Priority;

const CLASSES: &str = "priorityclasses.scheduling.k8s.io";
const SYSTEM: [&str; 2] = ["system-cluster-critical", "system-node-critical"];
const DEFAULT_POLICY: &str = "PreemptLowerPriority";

impl Plugin for Priority {
    fn mutate(&self, look: &Registry, context: &Context, pod: &mut Object, old: Option<&Object>) -> Result<(), Status> {
        if creates_pod(context) {
            return admit_pod(look, context, pod);
        }
        if let Some(old) = old.filter(|_| context.is("", "pods") && context.subresource.is_empty()) {
            for field in ["priority", "preemptionPolicy"] {
                let path = ["spec", field];
                if pod.path(&path).is_none() {
                    crate::strategy::keep_at(pod, old, &path);
                }
            }
        }
        Ok(())
    }

    fn validate(
        &self,
        look: &Registry,
        context: &Context,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let goes = old.filter(|_| object.is_none() && context.is("scheduling.k8s.io", "priorityclasses"));
        if let Some(class) = goes.filter(|class| SYSTEM.contains(&class.name())) {
            return Err(forbidden(context, class, "this is a system priority class and cannot be deleted"));
        }
        let writes = matches!(context.verb, Verb::Create | Verb::Update | Verb::Patch);
        let Some(class) = object.filter(|_| writes && context.is("scheduling.k8s.io", "priorityclasses")) else {
            return Ok(());
        };
        if class.flag(&["globalDefault"]) != Some(true) {
            return Ok(());
        }
        match global_default(look)? {
            Some(other) if other.name() != class.name() => {
                let text =
                    format!("PriorityClass {} is already marked as default. Only one default can exist", other.name());
                Err(forbidden(context, class, text))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn admit_pod(look: &Registry, context: &Context, pod: &mut Object) -> Result<(), Status> {
    let name = pod.field(&["spec", "priorityClassName"]).unwrap_or_default();
    let class = if name.is_empty() {
        global_default(look)?
    } else {
        let class = look.object(CLASSES, "", name)?;
        let missing = || forbidden(context, pod, format!("no PriorityClass with name {name} was found"));
        Some(class.ok_or_else(missing)?)
    };
    let priority = class.as_ref().and_then(|class| class.int(&["value"])).unwrap_or(0);
    let policy = class.as_ref().and_then(|class| class.field(&["preemptionPolicy"])).unwrap_or(DEFAULT_POLICY);
    if let Some(given) = pod.int(&["spec", "priority"])
        && given != priority
    {
        let text = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        );
        return Err(forbidden(context, pod, text));
    }
    if let Some(given) = pod.field(&["spec", "preemptionPolicy"])
        && given != policy
    {
        let text = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(forbidden(context, pod, text));
    }
    if let Some(class) = &class {
        pod.set(&["spec", "priorityClassName"], class.name());
    }
    pod.set(&["spec", "priority"], priority);
    pod.set(&["spec", "preemptionPolicy"], policy);
    Ok(())
}

/// The class for pods that name none; of several (made by force) the least.
fn global_default(look: &Registry) -> Result<Option<Object>, Status> {
    let snapshot = look.store.snapshot();
    let mut least: Option<Object> = None;
    for entry in snapshot.range(&Prefix::resource(CLASSES), None) {
        let class = codec::object(entry)?;
        let lower = least.as_ref().is_none_or(|least| class.int(&["value"]) < least.int(&["value"]));
        if class.flag(&["globalDefault"]) == Some(true) && lower {
            least = Some(class);
        }
    }
    Ok(least)
}
