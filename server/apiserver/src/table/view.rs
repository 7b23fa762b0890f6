//! Owns what printers read of an object: only the fields they show, so that a long list is read in one pass without
//! building whole objects. Missing fields read as their zero value.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

pub(super) type Labels = BTreeMap<String, String>;

/// An object with a spec and a status.
#[derive(Deserialize)]
#[serde(default)]
pub(super) struct View<S, T = Nothing> {
    pub(super) metadata: Meta,
    pub(super) spec: S,
    pub(super) status: T,
}

// Derived, this would ask for `S: Default` where serde needs it anyway; written out it states why.
impl<S: Default, T: Default> Default for View<S, T> {
    fn default() -> Self {
        View { metadata: Meta::default(), spec: S::default(), status: T::default() }
    }
}

/// A part that no column shows.
#[derive(Default, Deserialize)]
pub(super) struct Nothing {}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) creation_timestamp: Option<Timestamp>,
    pub(super) deletion_timestamp: Option<Timestamp>,
    pub(super) labels: Labels,
    pub(super) annotations: Labels,
    pub(super) owner_references: Vec<Owner>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Owner {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) controller: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    pub(super) name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) error: String,
}

/// Whether the condition `kind` is there and `True`.
pub(super) fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.kind == kind && condition.status == "True")
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) image: String,
    #[serde(rename = "restartPolicy")]
    pub(super) restart_policy: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Template {
    pub(super) metadata: Meta,
    pub(super) spec: TemplateSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct TemplateSpec {
    pub(super) containers: Vec<Container>,
    pub(super) node_selector: Labels,
}

impl TemplateSpec {
    pub(super) fn names(&self) -> String {
        join(self.containers.iter().map(|container| container.name.as_str()), ",")
    }

    pub(super) fn images(&self) -> String {
        join(self.containers.iter().map(|container| container.image.as_str()), ",")
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Selector {
    pub(super) match_labels: Labels,
    pub(super) match_expressions: Vec<Requirement>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Requirement {
    pub(super) key: String,
    pub(super) operator: String,
    pub(super) values: Vec<String>,
}

impl Selector {
    /// As a query string, ordered by key; empty when it selects everything.
    pub(super) fn text(&self) -> String {
        let mut parts: Vec<(&str, String)> =
            self.match_labels.iter().map(|(key, value)| (key.as_str(), format!("{key}={value}"))).collect();
        for Requirement { key, operator, values } in &self.match_expressions {
            let mut values = values.clone();
            values.sort();
            let values = values.join(",");
            parts.push((
                key,
                match operator.as_str() {
                    "In" => format!("{key} in ({values})"),
                    "NotIn" => format!("{key} notin ({values})"),
                    "DoesNotExist" => format!("!{key}"),
                    _exists => key.clone(),
                },
            ));
        }
        parts.sort_by(|one, other| one.0.cmp(other.0));
        join(parts.iter().map(|(_, text)| text.as_str()), ",")
    }

    /// As Go prints the structure; upstream shows it so for a policy binding's parameters.
    pub(super) fn go_string(&self) -> String {
        let labels: String = self.match_labels.iter().map(|(key, value)| format!("{key}: {value},")).collect();
        let expressions: String = self
            .match_expressions
            .iter()
            .map(|r| {
                format!(
                    "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},",
                    r.key,
                    r.operator,
                    r.values.join(" ")
                )
            })
            .collect();
        format!(
            "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
        )
    }
}

/// `<none>` when nothing is selected by name.
pub(super) fn selector(selector: Option<&Selector>) -> String {
    or(selector.map(Selector::text).unwrap_or_default(), "<none>")
}

/// `a=b,c=d`, `<none>` when there are none.
pub(super) fn labels(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    or(pairs.join(","), "<none>")
}

/// `text`, or `instead` when it is empty.
pub(super) fn or(text: String, instead: &str) -> String {
    if text.is_empty() { instead.to_owned() } else { text }
}

pub(super) fn join<'a>(parts: impl Iterator<Item = &'a str>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}

/// The first three, then how many more there are.
pub(super) fn first_three(all: &[String]) -> String {
    let shown = all[..all.len().min(3)].join(",");
    if all.len() > 3 { format!("{shown} + {} more...", all.len() - 3) } else { shown }
}
