//! Pod templates: whether two are the same, and the hash that tells a Deployment's ReplicaSets apart. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// Whether both describe the same pods, whatever their hash labels say.
pub(crate) fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let (a, b) = (without_hash(a), without_hash(b));
    a == b || canonical(a.into_owned()) == canonical(b.into_owned())
}

fn without_hash(template: &PodTemplateSpec) -> Cow<'_, PodTemplateSpec> {
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    if !labels.is_some_and(|l| l.contains_key(HASH_LABEL)) {
        return Cow::Borrowed(template);
    }
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    Cow::Owned(template)
}

/// The one way of writing what can be written in several: `1000m` and `1`, an empty map and none.
fn canonical(mut template: PodTemplateSpec) -> PodTemplateSpec {
    if let Some(meta) = &mut template.metadata {
        drop_empty(&mut meta.labels);
        drop_empty(&mut meta.annotations);
        meta.creation_timestamp = None;
    }
    if let Some(spec) = &mut template.spec {
        canonical_spec(spec);
    }
    template
}

fn canonical_spec(spec: &mut PodSpec) {
    drop_empty(&mut spec.node_selector);
    quantities(spec.overhead.as_mut());
    resources(spec.resources.as_mut());
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for container in containers {
        canonical_container(container);
    }
    if spec.volumes.as_ref().is_some_and(Vec::is_empty) {
        spec.volumes = None;
    }
    if spec.tolerations.as_ref().is_some_and(Vec::is_empty) {
        spec.tolerations = None;
    }
    for volume in spec.volumes.iter_mut().flatten() {
        if let Some(limit) = volume.empty_dir.as_mut().and_then(|e| e.size_limit.as_mut()) {
            quantity(limit);
        }
    }
}

fn canonical_container(container: &mut Container) {
    resources(container.resources.as_mut());
    if container.resources == Some(ResourceRequirements::default()) {
        container.resources = None;
    }
    for list in [&mut container.args, &mut container.command] {
        if list.as_ref().is_some_and(Vec::is_empty) {
            *list = None;
        }
    }
    if container.env.as_ref().is_some_and(Vec::is_empty) {
        container.env = None;
    }
}

fn resources(resources: Option<&mut ResourceRequirements>) {
    let Some(resources) = resources else { return };
    quantities(resources.limits.as_mut());
    quantities(resources.requests.as_mut());
    drop_empty(&mut resources.limits);
    drop_empty(&mut resources.requests);
}

fn quantities(map: Option<&mut BTreeMap<String, QuantityText>>) {
    map.into_iter().flatten().for_each(|(_, q)| quantity(q));
}

/// Leaves alone what does not parse: it is then compared as text.
fn quantity(text: &mut QuantityText) {
    if let Ok(parsed) = text.0.parse::<Quantity>() {
        text.0 = parsed.nanos().to_string();
    }
}

fn drop_empty<V>(map: &mut Option<BTreeMap<String, V>>) {
    if map.as_ref().is_some_and(BTreeMap::is_empty) {
        *map = None;
    }
}

/// Upstream's idea (32 bit FNV-1a over template and collision count, spelled without vowels) over the template's JSON.
/// The value only has to differ between templates: a ReplicaSet is found again by its template, not by its name.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const OFFSET: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let fnv = |state: u32, bytes: &[u8]| bytes.iter().fold(state, |h, b| (h ^ u32::from(*b)).wrapping_mul(PRIME));
    let json = serde_json::to_vec(&*without_hash(template)).expect("a typed template is always JSON");
    let mut sum = fnv(OFFSET, &json);
    if let Some(collisions) = collisions {
        sum = fnv(sum, &collisions.to_le_bytes());
    }
    let digits = sum.to_string();
    digits.bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}
