//! Wasm pods name config maps and secrets in an annotation, as their `wasi:config`. They get them as a projected volume,
//! so that everything that holds for volumes holds for these: nodes may read what their pods refer to and no more, what
//! changes is followed, what is missing is said, and the pod shows what it has.

use coracle_api::object::Object;
use coracle_api::status::Status;
use serde_json::{Value, json};

use super::{Plugin, creates_pod, edit_each, elements, forbidden, push};
use crate::registry::Registry;
use crate::registry::context::Context;

pub(super) struct WasmConfig;

/// For all containers; with `.NAME` behind it for one, which then has only these.
const ANNOTATION: &str = "coracle.dev/config";
const VOLUME_PREFIX: &str = "coracle-config";
/// Where the Wasm runtime looks for it.
const MOUNT_PATH: &str = "/run/coracle/config";
const MIRROR: &str = "kubernetes.io/config.mirror";

impl Plugin for WasmConfig {
    fn mutate(&self, _: &Registry, context: &Context, pod: &mut Object, _: Option<&Object>) -> Result<(), Status> {
        if !creates_pod(context) || pod.annotation(MIRROR).is_some() {
            return Ok(());
        }
        let mut volumes: Vec<Value> = Vec::new();
        let of_pod = wanted(context, pod, ANNOTATION)?;
        let names: Vec<String> = ["initContainers", "containers"]
            .iter()
            .flat_map(|list| elements(pod, &["spec", list]))
            .filter_map(|container| container.field(&["name"]).map(str::to_owned))
            .collect();
        let mut mounts: Vec<(String, String)> = Vec::new();
        for name in names {
            let own = wanted(context, pod, &format!("{ANNOTATION}.{name}"))?;
            let (volume, sources) = match (own, &of_pod) {
                (Some(own), _) => (format!("{VOLUME_PREFIX}-{}", volumes.len()), own),
                (None, Some(of_pod)) => (VOLUME_PREFIX.to_owned(), of_pod.clone()),
                (None, None) => continue,
            };
            if !volumes.iter().any(|known| known["name"] == volume.as_str()) {
                volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": sources}}));
            }
            mounts.push((name, volume));
        }
        for list in ["initContainers", "containers"] {
            edit_each(pod, &["spec", list], |container| {
                let Some((_, volume)) = mounts.iter().find(|(name, _)| container.field(&["name"]) == Some(name)) else {
                    return;
                };
                let path = ["volumeMounts"];
                let taken = |mount: &Object| mount.field(&["mountPath"]) == Some(MOUNT_PATH);
                if !elements(container, &path).iter().any(taken) {
                    push(container, &path, json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                }
            });
        }
        for volume in volumes {
            push(pod, &["spec", "volumes"], volume);
        }
        Ok(())
    }
}

/// `configmap/NAME,secret/NAME`: of a key that several have, the last one counts.
fn wanted(context: &Context, pod: &Object, annotation: &str) -> Result<Option<Vec<Value>>, Status> {
    let Some(text) = pod.annotation(annotation) else { return Ok(None) };
    let source = |word: &str| match word.trim().split_once('/') {
        Some(("configmap", name)) if !name.is_empty() => Some(json!({"configMap": {"name": name}})),
        Some(("secret", name)) if !name.is_empty() => Some(json!({"secret": {"name": name}})),
        Some(_) | None => None,
    };
    let sources = text.split(',').filter(|word| !word.trim().is_empty());
    let sources: Option<Vec<Value>> = sources.map(source).collect();
    match sources.filter(|sources| !sources.is_empty()) {
        Some(sources) => Ok(Some(sources)),
        None => Err(forbidden(
            context,
            pod,
            format!("annotation {annotation}: {text:?} must be a list such as configmap/NAME,secret/NAME"),
        )),
    }
}
