//! Owns the rows of volumes, claims, storage classes and CSI's kinds.

use std::collections::BTreeMap;

use coracle_api::object::{ConvertError, Object};
use serde::Deserialize;

use super::duration::since;
use super::view::{Meta, Nothing, View, or};
use super::{Context, Row, cells, parse};

/// `ReadWriteOnce` and `ReadOnlyMany` as `RWO,ROX`, in upstream's order.
fn access_modes(modes: &[String]) -> String {
    const SHORT: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let shown: Vec<&str> =
        SHORT.iter().filter(|(mode, _)| modes.iter().any(|given| given == mode)).map(|(_, short)| *short).collect();
    shown.join(",")
}

/// The class of a volume or claim; before it had a field it was an annotation.
fn class(metadata: &Meta, class: Option<String>) -> String {
    match metadata.annotations.get("volume.beta.kubernetes.io/storage-class") {
        Some(annotated) => annotated.clone(),
        None => class.unwrap_or_default(),
    }
}

fn or_unset(text: Option<String>) -> String {
    text.unwrap_or_else(|| "<unset>".to_owned())
}

type Capacity = BTreeMap<String, String>;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct VolumeSpec {
    capacity: Capacity,
    access_modes: Vec<String>,
    persistent_volume_reclaim_policy: String,
    claim_ref: Option<ClaimRef>,
    storage_class_name: Option<String>,
    volume_attributes_class_name: Option<String>,
    volume_mode: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ClaimRef {
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct VolumeStatus {
    phase: String,
    reason: String,
    access_modes: Vec<String>,
    capacity: Capacity,
}

fn phase(metadata: &Meta, phase: String) -> String {
    if metadata.deletion_timestamp.is_some() { "Terminating".to_owned() } else { phase }
}

fn storage(capacity: &Capacity) -> String {
    capacity.get("storage").map_or("0", String::as_str).to_owned()
}

pub(super) fn persistent_volume(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<VolumeSpec, VolumeStatus> { metadata, spec, status } = parse(object)?;
    let claim = spec.claim_ref.map(|claim| format!("{}/{}", claim.namespace, claim.name));
    Ok(cells![
        metadata.name.clone(),
        storage(&spec.capacity),
        access_modes(&spec.access_modes),
        spec.persistent_volume_reclaim_policy,
        phase(&metadata, status.phase),
        claim.unwrap_or_default(),
        class(&metadata, spec.storage_class_name),
        or_unset(spec.volume_attributes_class_name),
        status.reason,
        since(metadata.creation_timestamp, context.now),
        or_unset(spec.volume_mode),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClaimSpec {
    volume_name: String,
    storage_class_name: Option<String>,
    volume_attributes_class_name: Option<String>,
    volume_mode: Option<String>,
}

pub(super) fn persistent_volume_claim(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<ClaimSpec, VolumeStatus> { metadata, spec, status } = parse(object)?;
    // What it got is shown once it is bound, not what it asked for.
    let (capacity, modes) = if spec.volume_name.is_empty() {
        (String::new(), String::new())
    } else {
        (storage(&status.capacity), access_modes(&status.access_modes))
    };
    Ok(cells![
        metadata.name.clone(),
        phase(&metadata, status.phase),
        spec.volume_name,
        capacity,
        modes,
        class(&metadata, spec.storage_class_name),
        or_unset(spec.volume_attributes_class_name),
        since(metadata.creation_timestamp, context.now),
        or_unset(spec.volume_mode),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StorageClass {
    metadata: Meta,
    provisioner: String,
    reclaim_policy: Option<String>,
    volume_binding_mode: Option<String>,
    allow_volume_expansion: bool,
}

pub(super) fn storage_class(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let class: StorageClass = parse(object)?;
    let is_default =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|key| class.metadata.annotations.get(*key).is_some_and(|value| value == "true"));
    let mut name = class.metadata.name;
    if is_default {
        name += " (default)";
    }
    Ok(cells![
        name,
        class.provisioner,
        class.reclaim_policy.unwrap_or_else(|| "Delete".to_owned()),
        class.volume_binding_mode.unwrap_or_else(|| "Immediate".to_owned()),
        class.allow_volume_expansion,
        since(class.metadata.creation_timestamp, context.now),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct VolumeAttributesClass {
    metadata: Meta,
    driver_name: String,
}

pub(super) fn volume_attributes_class(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let VolumeAttributesClass { metadata, driver_name } = parse(object)?;
    Ok(cells![metadata.name, driver_name, since(metadata.creation_timestamp, context.now)])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AttachmentSpec {
    attacher: String,
    node_name: String,
    source: AttachmentSource,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AttachmentSource {
    persistent_volume_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AttachmentStatus {
    attached: bool,
}

pub(super) fn volume_attachment(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<AttachmentSpec, AttachmentStatus> { metadata, spec, status } = parse(object)?;
    Ok(cells![
        metadata.name,
        spec.attacher,
        spec.source.persistent_volume_name.unwrap_or_default(),
        spec.node_name,
        status.attached,
        since(metadata.creation_timestamp, context.now),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CsiNodeSpec {
    drivers: Vec<Nothing>,
}

pub(super) fn csi_node(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<CsiNodeSpec> { metadata, spec, status: _ } = parse(object)?;
    Ok(cells![metadata.name, spec.drivers.len(), since(metadata.creation_timestamp, context.now)])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CsiDriverSpec {
    attach_required: Option<bool>,
    pod_info_on_mount: bool,
    storage_capacity: bool,
    token_requests: Option<Vec<TokenRequest>>,
    requires_republish: bool,
    volume_lifecycle_modes: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenRequest {
    audience: String,
}

pub(super) fn csi_driver(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<CsiDriverSpec> { metadata, spec, status: _ } = parse(object)?;
    let tokens = spec.token_requests.map(|requests| {
        let audiences: Vec<String> = requests.into_iter().map(|request| request.audience).collect();
        audiences.join(",")
    });
    Ok(cells![
        metadata.name,
        spec.attach_required.unwrap_or(true),
        spec.pod_info_on_mount,
        spec.storage_capacity,
        or_unset(tokens),
        spec.requires_republish,
        or(spec.volume_lifecycle_modes.join(","), "<none>"),
        since(metadata.creation_timestamp, context.now),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CsiStorageCapacity {
    metadata: Meta,
    storage_class_name: String,
    capacity: Option<String>,
}

pub(super) fn csi_storage_capacity(object: &Object, _context: &Context) -> Result<Row, ConvertError> {
    let CsiStorageCapacity { metadata, storage_class_name, capacity } = parse(object)?;
    Ok(cells![metadata.name, storage_class_name, or_unset(capacity)])
}
