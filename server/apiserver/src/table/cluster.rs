//! Owns the rows of kinds that run the cluster itself: leases, certificates, flow control, devices, migrations.

use coracle_api::object::{ConvertError, Object};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::duration::{human, since};
use super::view::{Condition, Meta, Named, Nothing, View, first_three, or};
use super::{Context, Row, cells, parse};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Any {
    metadata: Meta,
}

/// The row of a kind that shows nothing of its own.
pub(super) fn name_and_age(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let Any { metadata } = parse(object)?;
    Ok(cells![metadata.name, since(metadata.creation_timestamp, context.now)])
}

/// The row of a kind this server knows nothing of: when it was made, in full.
pub(super) fn name_and_created(object: &Object, _context: &Context) -> Result<Row, ConvertError> {
    let Any { metadata } = parse(object)?;
    let created = metadata.creation_timestamp.map(|at| at.to_string());
    Ok(cells![metadata.name, created.unwrap_or_else(|| "<unknown>".to_owned())])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LeaseSpec {
    holder_identity: String,
}

pub(super) fn lease(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<LeaseSpec> { metadata, spec, status: _ } = parse(object)?;
    Ok(cells![metadata.name, spec.holder_identity, since(metadata.creation_timestamp, context.now)])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CandidateSpec {
    lease_name: String,
    binary_version: String,
    emulation_version: String,
}

pub(super) fn lease_candidate(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<CandidateSpec> { metadata, spec, status: _ } = parse(object)?;
    let age = since(metadata.creation_timestamp, context.now);
    Ok(cells![metadata.name, spec.lease_name, spec.binary_version, spec.emulation_version, age])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SigningSpec {
    signer_name: String,
    username: String,
    expiration_seconds: Option<i64>,
    pod_name: String,
    service_account_name: String,
    node_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SigningStatus {
    conditions: Vec<Condition>,
    certificate: String,
}

pub(super) fn certificate_signing_request(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<SigningSpec, SigningStatus> { metadata, spec, status } = parse(object)?;
    let has = |kind: &str| status.conditions.iter().any(|condition| condition.kind == kind);
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state += ",Failed";
    }
    if !status.certificate.is_empty() {
        state += ",Issued";
    }
    let duration = spec.expiration_seconds.map(|seconds| human(SignedDuration::from_secs(seconds)));
    Ok(cells![
        metadata.name,
        since(metadata.creation_timestamp, context.now),
        or(spec.signer_name, "<none>"),
        spec.username,
        duration.unwrap_or_else(|| "<none>".to_owned()),
        state,
    ])
}

pub(super) fn cluster_trust_bundle(object: &Object, _context: &Context) -> Result<Row, ConvertError> {
    let View::<SigningSpec> { metadata, spec, status: _ } = parse(object)?;
    Ok(cells![metadata.name, or(spec.signer_name, "<none>")])
}

pub(super) fn pod_certificate_request(object: &Object, _context: &Context) -> Result<Row, ConvertError> {
    let View::<SigningSpec, SigningStatus> { metadata, spec, status } = parse(object)?;
    let state = status.conditions.iter().rev().map(|condition| condition.kind.as_str());
    let state = state.into_iter().find(|kind| matches!(*kind, "Issued" | "Denied" | "Failed")).unwrap_or("Pending");
    Ok(cells![metadata.name, spec.pod_name, spec.service_account_name, spec.node_name, spec.signer_name, state])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RuntimeClass {
    metadata: Meta,
    handler: String,
}

pub(super) fn runtime_class(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let RuntimeClass { metadata, handler } = parse(object)?;
    Ok(cells![metadata.name, handler, since(metadata.creation_timestamp, context.now)])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FlowSchemaSpec {
    priority_level_configuration: Named,
    matching_precedence: i64,
    distinguisher_method: Option<Distinguisher>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Distinguisher {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conditions {
    conditions: Vec<Condition>,
}

pub(super) fn flow_schema(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<FlowSchemaSpec, Conditions> { metadata, spec, status } = parse(object)?;
    let dangling = status.conditions.into_iter().find(|condition| condition.kind == "Dangling");
    Ok(cells![
        metadata.name,
        spec.priority_level_configuration.name,
        spec.matching_precedence,
        spec.distinguisher_method.map_or_else(|| "<none>".to_owned(), |method| method.kind),
        since(metadata.creation_timestamp, context.now),
        dangling.map_or_else(|| "?".to_owned(), |condition| condition.status),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PriorityLevelSpec {
    #[serde(rename = "type")]
    kind: String,
    limited: Option<Limited>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Limited {
    nominal_concurrency_shares: i64,
    limit_response: LimitResponse,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LimitResponse {
    queuing: Option<Queuing>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Queuing {
    queues: i64,
    hand_size: i64,
    queue_length_limit: i64,
}

pub(super) fn priority_level(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<PriorityLevelSpec> { metadata, spec, status: _ } = parse(object)?;
    let number = |number: Option<i64>| number.map_or_else(|| Value::from("<none>"), Value::from);
    let shares = spec.limited.as_ref().map(|limited| limited.nominal_concurrency_shares);
    let queuing = spec.limited.and_then(|limited| limited.limit_response.queuing);
    Ok(cells![
        metadata.name,
        spec.kind,
        number(shares),
        number(queuing.as_ref().map(|queuing| queuing.queues)),
        number(queuing.as_ref().map(|queuing| queuing.hand_size)),
        number(queuing.as_ref().map(|queuing| queuing.queue_length_limit)),
        since(metadata.creation_timestamp, context.now),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StorageVersionStatus {
    common_encoding_version: Option<String>,
    storage_versions: Vec<ServerStorageVersion>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServerStorageVersion {
    #[serde(rename = "apiServerID")]
    api_server_id: String,
    encoding_version: String,
}

pub(super) fn storage_version(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<Nothing, StorageVersionStatus> { metadata, spec: _, status } = parse(object)?;
    let versions: Vec<String> =
        status.storage_versions.iter().map(|one| format!("{}={}", one.api_server_id, one.encoding_version)).collect();
    Ok(cells![
        metadata.name,
        status.common_encoding_version.unwrap_or_else(|| "<unset>".to_owned()),
        or(first_three(&versions), "<unset>"),
        since(metadata.creation_timestamp, context.now),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClaimStatus {
    allocation: Option<Nothing>,
    reserved_for: Vec<IgnoredAny>,
}

pub(super) fn resource_claim(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<Nothing, ClaimStatus> { metadata, spec: _, status } = parse(object)?;
    let mut states = Vec::new();
    if metadata.deletion_timestamp.is_some() {
        states.push("deleted");
    }
    match status.allocation {
        Some(_) => {
            states.push("allocated");
            if !status.reserved_for.is_empty() {
                states.push("reserved");
            }
        }
        None if metadata.deletion_timestamp.is_none() => states.push("pending"),
        None => {}
    }
    Ok(cells![metadata.name, states.join(","), since(metadata.creation_timestamp, context.now)])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SliceSpec {
    node_name: String,
    driver: String,
    pool: Named,
}

pub(super) fn resource_slice(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<SliceSpec> { metadata, spec, status: _ } = parse(object)?;
    let age = since(metadata.creation_timestamp, context.now);
    Ok(cells![metadata.name, spec.node_name, spec.driver, spec.pool.name, age])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TaintRuleSpec {
    taint: Taint,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Taint {
    key: String,
    value: String,
    effect: String,
    time_added: Option<Timestamp>,
}

pub(super) fn device_taint_rule(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<TaintRuleSpec> { metadata, spec: TaintRuleSpec { taint }, status: _ } = parse(object)?;
    let added = taint.time_added.map(|at| since(Some(at), context.now)).unwrap_or_default();
    let age = since(metadata.creation_timestamp, context.now);
    Ok(cells![metadata.name, taint.key, taint.value, taint.effect, added, age])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MigrationSpec {
    resource: GroupResource,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GroupResource {
    group: String,
    resource: String,
}

pub(super) fn storage_version_migration(object: &Object, _context: &Context) -> Result<Row, ConvertError> {
    let View::<MigrationSpec> { metadata, spec, status: _ } = parse(object)?;
    Ok(cells![metadata.name, format!("{}.{}", spec.resource.resource, spec.resource.group)])
}
