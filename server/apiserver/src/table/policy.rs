//! Owns the rows of what sets limits and permissions: quotas, budgets, priorities, bindings, admission, autoscaling.

use std::collections::BTreeMap;

use coracle_api::object::{ConvertError, Object};
use serde::Deserialize;

use super::duration::since;
use super::view::{Meta, Nothing, Selector, View};
use super::{Context, Row, cells, parse};

/// A number or a percentage.
#[derive(Deserialize)]
#[serde(untagged)]
enum IntOrString {
    Int(i64),
    Text(String),
}

fn or_na(value: Option<IntOrString>) -> String {
    match value {
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::Text(text)) => text,
        None => "N/A".to_owned(),
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BudgetSpec {
    min_available: Option<IntOrString>,
    max_unavailable: Option<IntOrString>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BudgetStatus {
    disruptions_allowed: i64,
}

pub(super) fn pod_disruption_budget(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<BudgetSpec, BudgetStatus> { metadata, spec, status } = parse(object)?;
    Ok(cells![
        metadata.name,
        or_na(spec.min_available),
        or_na(spec.max_unavailable),
        status.disruptions_allowed,
        since(metadata.creation_timestamp, context.now),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct QuotaStatus {
    hard: BTreeMap<String, String>,
    used: BTreeMap<String, String>,
}

pub(super) fn resource_quota(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<Nothing, QuotaStatus> { metadata, spec: _, status } = parse(object)?;
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in &status.hard {
        let used = status.used.get(resource).map_or("0", String::as_str);
        let shown = format!("{resource}: {used}/{hard}");
        if resource.starts_with("limits.") { limits.push(shown) } else { requests.push(shown) }
    }
    let age = since(metadata.creation_timestamp, context.now);
    Ok(cells![metadata.name, requests.join(", "), limits.join(", "), age])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PriorityClass {
    metadata: Meta,
    value: i64,
    global_default: bool,
    preemption_policy: Option<String>,
}

pub(super) fn priority_class(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let class: PriorityClass = parse(object)?;
    let age = since(class.metadata.creation_timestamp, context.now);
    let policy = class.preemption_policy.unwrap_or_default();
    Ok(cells![class.metadata.name, class.value, class.global_default, age, policy])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Binding {
    metadata: Meta,
    role_ref: RoleRef,
    subjects: Vec<Subject>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

pub(super) fn role_binding(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let binding: Binding = parse(object)?;
    let (mut users, mut groups, mut accounts) = (Vec::new(), Vec::new(), Vec::new());
    for subject in binding.subjects {
        match subject.kind.as_str() {
            "User" => users.push(subject.name),
            "Group" => groups.push(subject.name),
            "ServiceAccount" => accounts.push(format!("{}/{}", subject.namespace, subject.name)),
            _unknown => {}
        }
    }
    Ok(cells![
        binding.metadata.name,
        format!("{}/{}", binding.role_ref.kind, binding.role_ref.name),
        since(binding.metadata.creation_timestamp, context.now),
        users.join(", "),
        groups.join(", "),
        accounts.join(", "),
    ])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Webhooks {
    metadata: Meta,
    webhooks: Vec<Nothing>,
}

pub(super) fn webhooks(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let Webhooks { metadata, webhooks } = parse(object)?;
    Ok(cells![metadata.name, webhooks.len(), since(metadata.creation_timestamp, context.now)])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PolicySpec {
    validations: Vec<Nothing>,
    mutations: Vec<Nothing>,
    param_kind: Option<ParamKind>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ParamKind {
    api_version: String,
    kind: String,
}

fn policy(metadata: &Meta, rules: usize, param: Option<ParamKind>, context: &Context) -> Row {
    let param = param.map_or_else(|| "<unset>".to_owned(), |param| format!("{}/{}", param.api_version, param.kind));
    cells![metadata.name.clone(), rules, param, since(metadata.creation_timestamp, context.now)]
}

pub(super) fn validating_policy(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<PolicySpec> { metadata, spec, status: _ } = parse(object)?;
    Ok(policy(&metadata, spec.validations.len(), spec.param_kind, context))
}

pub(super) fn mutating_policy(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<PolicySpec> { metadata, spec, status: _ } = parse(object)?;
    Ok(policy(&metadata, spec.mutations.len(), spec.param_kind, context))
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PolicyBindingSpec {
    policy_name: String,
    param_ref: Option<ParamRef>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ParamRef {
    name: String,
    namespace: String,
    selector: Option<Selector>,
}

pub(super) fn policy_binding(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<PolicyBindingSpec> { metadata, spec, status: _ } = parse(object)?;
    let param = match spec.param_ref {
        Some(ParamRef { name, namespace, .. }) if !name.is_empty() => {
            // Whether the parameter's kind is namespaced cannot be seen from here.
            if namespace.is_empty() { format!("*/{name}") } else { format!("{namespace}/{name}") }
        }
        Some(ParamRef { selector: Some(selector), .. }) => selector.go_string(),
        Some(_) | None => "<unset>".to_owned(),
    };
    Ok(cells![metadata.name, spec.policy_name, param, since(metadata.creation_timestamp, context.now)])
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AutoscalerSpec {
    scale_target_ref: RoleRef,
    min_replicas: Option<i64>,
    max_replicas: i64,
    metrics: Vec<Metric>,
    #[serde(rename = "targetCPUUtilizationPercentage")]
    target_cpu: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AutoscalerStatus {
    current_replicas: i64,
    current_metrics: Vec<Metric>,
    #[serde(rename = "currentCPUUtilizationPercentage")]
    current_cpu: Option<i64>,
}

/// A metric's spec or status: they differ in `target` and `current`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metric {
    #[serde(rename = "type")]
    kind: String,
    external: Option<Source>,
    pods: Option<Source>,
    object: Option<Source>,
    resource: Option<Source>,
    container_resource: Option<Source>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    name: String,
    #[serde(alias = "current")]
    target: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Value {
    value: Option<String>,
    average_value: Option<String>,
    average_utilization: Option<i64>,
}

impl Metric {
    fn source(&self, kind: &str) -> Option<&Source> {
        match kind {
            "External" => self.external.as_ref(),
            "Pods" => self.pods.as_ref(),
            "Object" => self.object.as_ref(),
            "Resource" => self.resource.as_ref(),
            "ContainerResource" => self.container_resource.as_ref(),
            _unknown => None,
        }
    }
}

fn metric(spec: &Metric, status: Option<&Metric>) -> String {
    const UNKNOWN: &str = "<unknown>";
    let kind = spec.kind.as_str();
    let Some(source) = spec.source(kind) else { return "<unknown type>".to_owned() };
    let current = status.and_then(|status| status.source(kind)).map(|source| &source.target);
    let quantity = |text: Option<&String>| text.map_or(UNKNOWN.to_owned(), String::clone);
    let average = quantity(current.and_then(|value| value.average_value.as_ref()));
    match (kind, &source.target.average_value) {
        ("External" | "Object", Some(target)) => format!("{average}/{target} (avg)"),
        ("External" | "Object", None) => {
            let now = quantity(current.and_then(|value| value.value.as_ref()));
            format!("{now}/{}", quantity(source.target.value.as_ref()))
        }
        ("Pods", target) => format!("{average}/{}", quantity(target.as_ref())),
        (_resource, Some(target)) => format!("{}: {average}/{target}", source.name),
        (_resource, None) => {
            let percent = |number: Option<i64>| number.map(|number| format!("{number}%"));
            let now = percent(current.and_then(|value| value.average_utilization));
            let target = percent(source.target.average_utilization);
            format!("{}: {}/{}", source.name, now.as_deref().unwrap_or(UNKNOWN), target.as_deref().unwrap_or("<auto>"))
        }
    }
}

pub(super) fn horizontal_pod_autoscaler(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let View::<AutoscalerSpec, AutoscalerStatus> { metadata, mut spec, mut status } = parse(object)?;
    // autoscaling/v1 knows one metric, the CPU's utilization, by two fields.
    if let Some(target) = spec.target_cpu {
        spec.metrics.insert(0, cpu_utilization(Some(target)));
        status.current_metrics.insert(0, cpu_utilization(status.current_cpu));
    }
    let shown: Vec<String> =
        spec.metrics.iter().enumerate().map(|(at, spec)| metric(spec, status.current_metrics.get(at))).collect();
    let targets = match shown.len() {
        0 => "<none>".to_owned(),
        1 | 2 => shown.join(", "),
        more => format!("{} + {} more...", shown[..2].join(", "), more - 2),
    };
    Ok(cells![
        metadata.name,
        format!("{}/{}", spec.scale_target_ref.kind, spec.scale_target_ref.name),
        targets,
        spec.min_replicas.map_or_else(|| "<unset>".to_owned(), |number| number.to_string()),
        spec.max_replicas,
        status.current_replicas,
        since(metadata.creation_timestamp, context.now),
    ])
}

fn cpu_utilization(percent: Option<i64>) -> Metric {
    let target = Value { average_utilization: percent, ..Value::default() };
    Metric {
        kind: "Resource".to_owned(),
        resource: Some(Source { name: "cpu".to_owned(), target }),
        ..Metric::default()
    }
}
