//! Owns the rows of what makes pods: deployments, sets, jobs.

use coracle_api::object::{ConvertError, Object};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::duration::{human, since};
use super::view::{Condition, Labels, Meta, Selector, Template, View, is_true, labels, selector};
use super::{Context, Row, cells, parse};

/// The parts of a workload's spec that columns show; which of them a kind has differs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    replicas: Option<i64>,
    selector: Option<Selector>,
    template: Template,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    replicas: i64,
    ready_replicas: i64,
    updated_replicas: i64,
    available_replicas: i64,
    desired_number_scheduled: i64,
    current_number_scheduled: i64,
    number_ready: i64,
    updated_number_scheduled: i64,
    number_available: i64,
}

type Workload = View<Spec, Status>;

pub(super) fn deployment(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let Workload { metadata, spec, status } = parse(object)?;
    Ok(cells![
        metadata.name,
        format!("{}/{}", status.ready_replicas, spec.replicas.unwrap_or_default()),
        status.updated_replicas,
        status.available_replicas,
        since(metadata.creation_timestamp, context.now),
        spec.template.spec.names(),
        spec.template.spec.images(),
        // Upstream shows this one's empty selector as nothing at all.
        spec.selector.as_ref().map(Selector::text).unwrap_or_default(),
    ])
}

pub(super) fn replica_set(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let Workload { metadata, spec, status } = parse(object)?;
    Ok(cells![
        metadata.name,
        spec.replicas.unwrap_or_default(),
        status.replicas,
        status.ready_replicas,
        since(metadata.creation_timestamp, context.now),
        spec.template.spec.names(),
        spec.template.spec.images(),
        selector(spec.selector.as_ref()),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReplicationControllerSpec {
    replicas: Option<i64>,
    selector: Labels,
    template: Option<Template>,
}

pub(super) fn replication_controller(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<ReplicationControllerSpec, Status> { metadata, spec, status } = parse(object)?;
    let template = spec.template.unwrap_or_default().spec;
    Ok(cells![
        metadata.name,
        spec.replicas.unwrap_or_default(),
        status.replicas,
        status.ready_replicas,
        since(metadata.creation_timestamp, context.now),
        template.names(),
        template.images(),
        labels(&spec.selector),
    ])
}

pub(super) fn stateful_set(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let Workload { metadata, spec, status } = parse(object)?;
    Ok(cells![
        metadata.name,
        format!("{}/{}", status.ready_replicas, spec.replicas.unwrap_or_default()),
        since(metadata.creation_timestamp, context.now),
        spec.template.spec.names(),
        spec.template.spec.images(),
    ])
}

pub(super) fn daemon_set(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let Workload { metadata, spec, status } = parse(object)?;
    Ok(cells![
        metadata.name,
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_ready,
        status.updated_number_scheduled,
        status.number_available,
        labels(&spec.template.spec.node_selector),
        since(metadata.creation_timestamp, context.now),
        spec.template.spec.names(),
        spec.template.spec.images(),
        selector(spec.selector.as_ref()),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JobSpec {
    completions: Option<i64>,
    parallelism: Option<i64>,
    selector: Option<Selector>,
    template: Template,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct JobStatus {
    succeeded: i64,
    start_time: Option<Timestamp>,
    completion_time: Option<Timestamp>,
    conditions: Vec<Condition>,
}

pub(super) fn job(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<JobSpec, JobStatus> { metadata, spec, status } = parse(object)?;
    let completions = match (spec.completions, spec.parallelism.unwrap_or_default()) {
        (Some(wanted), _) => format!("{}/{wanted}", status.succeeded),
        (None, parallelism) if parallelism > 1 => format!("{}/1 of {parallelism}", status.succeeded),
        (None, _) => format!("{}/1", status.succeeded),
    };
    let duration = match (status.start_time, status.completion_time) {
        (None, _) => String::new(),
        (Some(start), end) => human(start.duration_until(end.unwrap_or(context.now))),
    };
    let has = |kind| is_true(&status.conditions, kind);
    let state = if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if metadata.deletion_timestamp.is_some() {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else if has("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    Ok(cells![
        metadata.name,
        state,
        completions,
        duration,
        since(metadata.creation_timestamp, context.now),
        spec.template.spec.names(),
        spec.template.spec.images(),
        selector(spec.selector.as_ref()),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CronJobSpec {
    schedule: String,
    time_zone: Option<String>,
    suspend: Option<bool>,
    job_template: JobTemplate,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JobTemplate {
    spec: JobSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CronJobStatus {
    active: Vec<IgnoredAny>,
    last_schedule_time: Option<Timestamp>,
}

pub(super) fn cron_job(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<CronJobSpec, CronJobStatus> { metadata, spec, status } = parse(object)?;
    let suspended = match spec.suspend {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match status.last_schedule_time {
        Some(last) => since(Some(last), context.now),
        None => "<none>".to_owned(),
    };
    let job = spec.job_template.spec;
    Ok(cells![
        metadata.name,
        spec.schedule,
        spec.time_zone.unwrap_or_else(|| "<none>".to_owned()),
        suspended,
        status.active.len(),
        last,
        since(metadata.creation_timestamp, context.now),
        job.template.spec.names(),
        job.template.spec.images(),
        selector(job.selector.as_ref()),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodTemplate {
    metadata: Meta,
    template: Template,
}

pub(super) fn pod_template(object: &Object, _context: &Context) -> Result<Row, ConvertError> {
    let PodTemplate { metadata, template } = parse(object)?;
    Ok(cells![metadata.name, template.spec.names(), template.spec.images(), labels(&template.metadata.labels)])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ControllerRevision {
    metadata: Meta,
    revision: i64,
}

pub(super) fn controller_revision(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let ControllerRevision { metadata, revision } = parse(object)?;
    let controller = metadata.owner_references.iter().find(|owner| owner.controller == Some(true));
    let controller = match controller {
        Some(owner) => {
            let kind = match owner.api_version.split_once('/') {
                Some((group, _)) => format!("{}.{group}", owner.kind),
                None => owner.kind.clone(),
            };
            format!("{}/{}", kind.to_lowercase(), owner.name)
        }
        None => "<none>".to_owned(),
    };
    Ok(cells![metadata.name, controller, revision, since(metadata.creation_timestamp, context.now)])
}

pub(super) fn scale(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<ScaleSpec, Status> { metadata, spec, status } = parse(object)?;
    Ok(cells![metadata.name, spec.replicas, status.replicas, since(metadata.creation_timestamp, context.now)])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ScaleSpec {
    replicas: i64,
}
