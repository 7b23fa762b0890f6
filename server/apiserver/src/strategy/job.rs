//! Jobs and CronJobs.

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use coracle_api::object::Object;
use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::json;

use super::check::{self, Labels, fill, is_blank, text};
use super::kind::{Errors, Kind};
use super::workload::{Counts, NO_MATCH, template_labels};
use super::{pod, schedule};
use crate::registry::context::Context;

const SPEC: FieldPath<'static> = FieldPath::new("spec");
const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const OLD_UID_LABEL: &str = "controller-uid";
const OLD_NAME_LABEL: &str = "job-name";
const MAX_PARALLEL_INDEXED: i32 = 100_000;
/// A CronJob appends 11 characters to its name for its jobs'.
const CRON_JOB_NAME_MAX: usize = 52;

pub(super) struct Jobs;

impl Kind for Jobs {
    type Type = Job;

    fn default(&self, job: &mut Job) {
        let spec = job.spec.get_or_insert_default();
        default_spec(spec);
        let blank = job.metadata.labels.as_ref().is_none_or(Labels::is_empty);
        if blank && let Some(labels) = template_labels(&spec.template).filter(|labels| !labels.is_empty()) {
            job.metadata.labels = Some(labels.clone());
        }
    }

    /// The selector is the job's uid: no two jobs can get at each other's pods.
    fn prepare_for_create(&self, context: &Context, object: &mut Object) {
        if context.def.has_status() {
            object.remove(&["status"]);
        }
        if object.flag(&["spec", "manualSelector"]) == Some(true) {
            return;
        }
        let (uid, name) = (object.uid_str().to_owned(), object.name().to_owned());
        let labels = [(UID_LABEL, &uid), (NAME_LABEL, &name), (OLD_UID_LABEL, &uid), (OLD_NAME_LABEL, &name)];
        for (key, value) in labels {
            object.set(&["spec", "template", "metadata", "labels", key], value.as_str());
        }
        let none = object.string_map(&["spec", "selector", "matchLabels"]).is_empty();
        if none && object.list(&["spec", "selector", "matchExpressions"]).is_empty() {
            object.set(&["spec", "selector"], json!({ "matchLabels": { UID_LABEL: uid } }));
        }
    }

    fn validate_create(&self, _context: &Context, job: &Job, errors: &mut Errors) {
        let blank = JobSpec::default();
        let spec = job.spec.as_ref().unwrap_or(&blank);
        generated_selector(job, spec, errors);
        validate_spec(spec, &SPEC, errors);
        selector(spec, &SPEC, errors);
    }

    fn validate_update(&self, _context: &Context, new: &Job, old: &Job, errors: &mut Errors) {
        let blank = JobSpec::default();
        let (spec, before) = (new.spec.as_ref().unwrap_or(&blank), old.spec.as_ref().unwrap_or(&blank));
        validate_spec(spec, &SPEC, errors);
        selector(spec, &SPEC, errors);
        completions(spec, before, errors);
        check::immutable(&spec.selector, &before.selector, &SPEC.child("selector"), errors);
        template(old, spec, before, errors);
        check::immutable(&spec.completion_mode, &before.completion_mode, &SPEC.child("completionMode"), errors);
        let path = SPEC.child("podFailurePolicy");
        check::immutable(&spec.pod_failure_policy, &before.pod_failure_policy, &path, errors);
        let path = SPEC.child("backoffLimitPerIndex");
        check::immutable(&spec.backoff_limit_per_index, &before.backoff_limit_per_index, &path, errors);
        check::immutable(&spec.managed_by, &before.managed_by, &SPEC.child("managedBy"), errors);
        check::immutable(&spec.success_policy, &before.success_policy, &SPEC.child("successPolicy"), errors);
    }

    fn validate_status_update(&self, _context: &Context, new: &Job, _old: &Job, errors: &mut Errors) {
        let blank = JobStatus::default();
        let status = new.status.as_ref().unwrap_or(&blank);
        let number = |value: Option<i32>| i64::from(value.unwrap_or(0));
        Counts { path: FieldPath::new("status") }.none_negative(
            &[
                ("active", number(status.active)),
                ("succeeded", number(status.succeeded)),
                ("failed", number(status.failed)),
                ("ready", number(status.ready)),
                ("terminating", number(status.terminating)),
            ],
            errors,
        );
    }
}

fn default_spec(spec: &mut JobSpec) {
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    spec.parallelism.get_or_insert(1);
    let unlimited = spec.backoff_limit_per_index.is_some();
    spec.backoff_limit.get_or_insert(if unlimited { i32::MAX } else { 6 });
    fill(&mut spec.completion_mode, "NonIndexed");
    spec.suspend.get_or_insert(false);
    spec.manual_selector.get_or_insert(false);
    if text(&spec.pod_replacement_policy).is_empty() {
        let policy = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        fill(&mut spec.pod_replacement_policy, policy);
    }
    for rule in spec.pod_failure_policy.iter_mut().flat_map(|policy| &mut policy.rules) {
        for pattern in rule.on_pod_conditions.iter_mut().flatten() {
            fill(&mut pattern.status, "True");
        }
    }
    pod::defaults::template(&mut spec.template);
}

fn generated_selector(job: &Job, spec: &JobSpec, errors: &mut Errors) {
    if spec.manual_selector == Some(true) {
        return;
    }
    let path = SPEC.child("template.metadata.labels");
    let labels = template_labels(&spec.template);
    let wanted = [(UID_LABEL, &job.metadata.uid), (NAME_LABEL, &job.metadata.name)];
    for (key, value) in wanted {
        let (value, found) = (text(value), labels.and_then(|labels| labels.get(key)));
        if found.map(String::as_str) != Some(value) {
            let detail = format!("must be '{value}'");
            errors.push(FieldError::invalid(&path.key(key), labels, detail));
        }
    }
    let own = LabelSelector {
        match_labels: Some([(UID_LABEL.to_owned(), text(&job.metadata.uid).to_owned())].into()),
        ..LabelSelector::default()
    };
    let given = spec.selector.as_ref();
    if given != Some(&own) && !given.is_some_and(|given| is_old_selector(given, text(&job.metadata.uid))) {
        let detail = "`selector` not auto-generated";
        errors.push(FieldError::invalid(&SPEC.child("selector"), given, detail));
    }
}

fn is_old_selector(selector: &LabelSelector, uid: &str) -> bool {
    let label = selector.match_labels.as_ref().and_then(|labels| labels.get(OLD_UID_LABEL));
    label.is_some_and(|label| label == uid)
}

fn selector(spec: &JobSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let selector_path = path.child("selector");
    let Some(selector) = spec.selector.as_ref().filter(|selector| !is_blank(selector)) else {
        errors.push(FieldError::required(&selector_path, ""));
        return;
    };
    check::label_selector(selector, &selector_path, errors);
    let labels = template_labels(&spec.template);
    if !check::selects(selector, labels) {
        let shown = labels.map_or(json!({}), |labels| json!(labels));
        errors.push(FieldError::invalid(&path.child("template.metadata.labels"), shown, NO_MATCH));
    }
}

fn validate_spec(spec: &JobSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let numbers = [
        ("parallelism", spec.parallelism),
        ("completions", spec.completions),
        ("backoffLimit", spec.backoff_limit),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ];
    for (field, value) in numbers {
        check::nonnegative_opt(value, &path.child(field), errors);
    }
    check::nonnegative_opt(spec.active_deadline_seconds, &path.child("activeDeadlineSeconds"), errors);
    completion_mode(spec, path, errors);
    if let Some(manager) = &spec.managed_by {
        let here = path.child("managedBy");
        check::qualified_name(manager, &here, errors);
        if !manager.contains('/') {
            errors.push(FieldError::invalid(
                &here,
                manager,
                "must be a domain-prefixed path (such as \"acme.io/foo\")",
            ));
        }
    }
    let policies = &["Failed", "TerminatingOrFailed"];
    check::one_of_opt(&spec.pod_replacement_policy, policies, &path.child("podReplacementPolicy"), errors);
    pod::spec::template(&spec.template, &path.child("template"), errors);
    let policy = spec.template.spec.as_ref().map_or("", |spec| text(&spec.restart_policy));
    let here = path.child("template.spec.restartPolicy");
    if !["OnFailure", "Never"].contains(&policy) {
        errors.push(FieldError::required(&here, "valid values: \"OnFailure\", \"Never\""));
    } else if policy != "Never" && spec.pod_failure_policy.is_some() {
        let detail = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.push(FieldError::invalid(&here, policy, detail));
    }
}

fn completion_mode(spec: &JobSpec, path: &FieldPath<'_>, errors: &mut Errors) {
    let mode = text(&spec.completion_mode);
    check::one_of_opt(&spec.completion_mode, &["Indexed", "NonIndexed"], &path.child("completionMode"), errors);
    if mode == "Indexed" {
        if spec.completions.is_none() {
            let detail = "when completion mode is Indexed";
            errors.push(FieldError::required(&path.child("completions"), detail));
        }
        if let Some(parallelism) = spec.parallelism.filter(|n| *n > MAX_PARALLEL_INDEXED) {
            let detail =
                format!("must be less than or equal to {MAX_PARALLEL_INDEXED} when completion mode is Indexed");
            errors.push(FieldError::invalid(&path.child("parallelism"), parallelism, detail));
        }
        return;
    }
    let only_indexed =
        [("backoffLimitPerIndex", spec.backoff_limit_per_index), ("maxFailedIndexes", spec.max_failed_indexes)];
    for (field, value) in only_indexed {
        if let Some(value) = value {
            let detail = "requires indexed completion mode";
            errors.push(FieldError::invalid(&path.child(field), value, detail));
        }
    }
}

/// An indexed job may grow and shrink as long as parallelism goes with it.
fn completions(spec: &JobSpec, before: &JobSpec, errors: &mut Errors) {
    let path = SPEC.child("completions");
    let elastic = text(&spec.completion_mode) == "Indexed" && before.completions.is_some();
    if spec.completions == before.completions {
        return;
    }
    if !elastic {
        check::immutable(&spec.completions, &before.completions, &path, errors);
    } else if spec.completions != spec.parallelism {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid(&path, spec.completions, detail));
    }
}

/// A job that has not started, because it is suspended, may still be told where to run.
fn template(old: &Job, spec: &JobSpec, before: &JobSpec, errors: &mut Errors) {
    let mut wanted = before.template.clone();
    let not_started = old.status.as_ref().is_none_or(|status| status.start_time.is_none());
    if before.suspend == Some(true)
        && not_started
        && let (Some(wanted), Some(now)) = (&mut wanted.spec, &spec.template.spec)
    {
        if let Some(node_affinity) = now.affinity.as_ref().map(|affinity| affinity.node_affinity.clone()) {
            wanted.affinity.get_or_insert_default().node_affinity = node_affinity;
        }
        wanted.node_selector = now.node_selector.clone();
        wanted.tolerations = now.tolerations.clone();
        wanted.scheduling_gates = now.scheduling_gates.clone();
    }
    if before.suspend == Some(true) && not_started {
        wanted.metadata = spec.template.metadata.clone();
    }
    check::immutable(&spec.template, &wanted, &SPEC.child("template"), errors);
}

pub(super) struct CronJobs;

impl Kind for CronJobs {
    type Type = CronJob;

    fn default(&self, job: &mut CronJob) {
        let spec = &mut job.spec;
        fill(&mut spec.concurrency_policy, "Allow");
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(3);
        spec.failed_jobs_history_limit.get_or_insert(1);
        // Only the pods' defaults: those of the Job come when it is made.
        pod::defaults::template(&mut spec.job_template.spec.get_or_insert_default().template);
    }

    fn validate_create(&self, context: &Context, job: &CronJob, errors: &mut Errors) {
        self.validate_update(context, job, job, errors);
        let name = text(&job.metadata.name);
        if name.len() > CRON_JOB_NAME_MAX {
            let detail = format!("must be no more than {CRON_JOB_NAME_MAX} characters");
            errors.push(FieldError::invalid(&FieldPath::new("metadata.name"), name, detail));
        }
    }

    fn validate_update(&self, _context: &Context, job: &CronJob, _old: &CronJob, errors: &mut Errors) {
        let spec = &job.spec;
        let path = SPEC.child("schedule");
        if spec.schedule.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if let Some(why) = schedule::problem(&spec.schedule) {
            errors.push(FieldError::invalid(&path, &spec.schedule, why));
        } else if spec.schedule.contains("TZ") {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.push(FieldError::invalid(&path, &spec.schedule, detail));
        }
        if let Some(zone) = &spec.time_zone
            && !is_zone_name(zone)
        {
            errors.push(FieldError::invalid(&SPEC.child("timeZone"), zone, format!("unknown time zone {zone}")));
        }
        let policies = &["Allow", "Forbid", "Replace"];
        check::one_of(text(&spec.concurrency_policy), policies, &SPEC.child("concurrencyPolicy"), errors);
        check::nonnegative_opt(spec.starting_deadline_seconds, &SPEC.child("startingDeadlineSeconds"), errors);
        let limits = [
            ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
            ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
        ];
        for (field, limit) in limits {
            check::nonnegative_opt(limit, &SPEC.child(field), errors);
        }
        let blank = JobSpec::default();
        let template = spec.job_template.spec.as_ref().unwrap_or(&blank);
        let path = SPEC.child("jobTemplate.spec");
        validate_spec(template, &path, errors);
        if template.selector.is_some() {
            let detail = "`selector` will be auto-generated";
            errors.push(FieldError::invalid(&path.child("selector"), &template.selector, detail));
        }
        if template.manual_selector == Some(true) {
            errors.push(FieldError::not_supported(&path.child("manualSelector"), true, &["nil", "false"]));
        }
    }
}

/// Whether the time zone database knows it, is found out when the schedule is followed.
fn is_zone_name(zone: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-_".contains(&c));
    zone != "Local" && names::path_segment(zone).iter().all(|p| p.contains('/')) && zone.split('/').all(part)
}
