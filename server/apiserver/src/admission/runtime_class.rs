//! A pod that names a RuntimeClass gets its overhead and its scheduling constraints.

use coracle_api::object::Object;
use coracle_api::status::Status;
use serde_json::Value;

use super::{Plugin, creates_pod, elements, forbidden, push};
use crate::registry::Registry;
use crate::registry::context::Context;

pub(super) struct RuntimeClass;

const CLASSES: &str = "runtimeclasses.node.k8s.io";

impl Plugin for RuntimeClass {
    fn mutate(
        &self,
        look: &Registry,
        context: &Context,
        pod: &mut Object,
        _old: Option<&Object>,
    ) -> Result<(), Status> {
        if !creates_pod(context) {
            return Ok(());
        }
        let name = pod.field(&["spec", "runtimeClassName"]).unwrap_or_default().to_owned();
        if name.is_empty() {
            return match pod.path(&["spec", "overhead"]) {
                Some(_) => {
                    let text = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
                    Err(forbidden(context, pod, text))
                }
                None => Ok(()),
            };
        }
        let Some(class) = look.object(CLASSES, "", &name)? else {
            return Err(forbidden(context, pod, format!("pod rejected: RuntimeClass {name:?} not found")));
        };
        set_overhead(context, pod, &class)?;
        set_scheduling(context, pod, &class)
    }
}

fn set_overhead(context: &Context, pod: &mut Object, class: &Object) -> Result<(), Status> {
    let wanted = class.path(&["overhead", "podFixed"]);
    match (pod.path(&["spec", "overhead"]), wanted) {
        (Some(given), Some(wanted)) if given != wanted => {
            let text = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            Err(forbidden(context, pod, text))
        }
        (Some(_), None) => {
            let text = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            Err(forbidden(context, pod, text))
        }
        (None, Some(wanted)) => {
            pod.set(&["spec", "overhead"], wanted.clone());
            Ok(())
        }
        (Some(_), Some(_)) | (None, None) => Ok(()),
    }
}

fn set_scheduling(context: &Context, pod: &mut Object, class: &Object) -> Result<(), Status> {
    for (key, wanted) in class.string_map(&["scheduling", "nodeSelector"]) {
        let path = ["spec", "nodeSelector", key.as_str()];
        if let Some(given) = pod.field(&path)
            && given != wanted
        {
            let text = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {given}"
            );
            return Err(forbidden(context, pod, text));
        }
        pod.set(&path, wanted);
    }
    for toleration in class.list(&["scheduling", "tolerations"]) {
        let has = elements(pod, &["spec", "tolerations"]).into_iter().any(|own| own.into_value() == *toleration);
        if !has {
            push(pod, &["spec", "tolerations"], Value::clone(toleration));
        }
    }
    Ok(())
}
