//! ReplicaSet and ReplicationController as one thing: so many pods of one template. Knows the two kinds, decides nothing.

use std::collections::BTreeMap;

use coracle_api::selector::LabelSelector;
use coracle_client::Kind;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController, ReplicationControllerCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use serde_json::{Value, json};

/// Status of either kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Status {
    pub(crate) observed_generation: i64,
    pub(crate) replicas: i32,
    pub(crate) fully_labeled: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    /// `None` for a kind that does not report it.
    pub(crate) terminating: Option<i32>,
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) since: Option<Time>,
}

/// A kind that keeps a number of pods.
pub(crate) trait Workload: Kind {
    /// Controller's name in events.
    const COMPONENT: &'static str;
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    /// `None` when there is none or it does not parse: then nothing is selected.
    fn selector(&self) -> Option<LabelSelector>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn status(&self) -> Status;
    /// Merge patch that makes the object's status this one.
    fn status_patch(&self, status: Status) -> Value;
}

impl Workload for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<LabelSelector> {
        LabelSelector::from_object(Some(&self.spec.as_ref()?.selector)).ok()
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> Status {
        let Some(status) = &self.status else { return Status { terminating: Some(0), ..Status::default() } };
        Status {
            observed_generation: status.observed_generation.unwrap_or(0),
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: Some(status.terminating_replicas.unwrap_or(0)),
            conditions: status.conditions.iter().flatten().map(Condition::from).collect(),
        }
    }

    fn status_patch(&self, status: Status) -> Value {
        let conditions = status.conditions.iter().cloned().map(ReplicaSetCondition::from).collect();
        patch::<ReplicaSetCondition>(&status, conditions)
    }
}

impl Workload for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<LabelSelector> {
        let labels: &BTreeMap<String, String> = self.spec.as_ref()?.selector.as_ref()?;
        (!labels.is_empty()).then(|| LabelSelector::from_map(labels))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> Status {
        let Some(status) = &self.status else { return Status::default() };
        Status {
            observed_generation: status.observed_generation.unwrap_or(0),
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: None,
            conditions: status.conditions.iter().flatten().map(Condition::from).collect(),
        }
    }

    fn status_patch(&self, status: Status) -> Value {
        let conditions = status.conditions.iter().cloned().map(ReplicationControllerCondition::from).collect();
        patch::<ReplicationControllerCondition>(&status, conditions)
    }
}

/// Counts of zero are not written, as upstream leaves them out, except `replicas`.
fn patch<C: Serialize>(status: &Status, conditions: Vec<C>) -> Value {
    let count = |n: i32| (n != 0).then_some(n);
    json!({
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas,
        "fullyLabeledReplicas": count(status.fully_labeled),
        "readyReplicas": count(status.ready),
        "availableReplicas": count(status.available),
        "terminatingReplicas": status.terminating,
        "conditions": (!conditions.is_empty()).then_some(conditions),
    })
}

/// The two kinds' conditions differ in their type's name only.
macro_rules! condition {
    ($theirs:ident) => {
        impl From<&$theirs> for Condition {
            fn from(c: &$theirs) -> Self {
                Self {
                    kind: c.type_.clone(),
                    status: c.status.clone(),
                    reason: c.reason.clone(),
                    message: c.message.clone(),
                    since: c.last_transition_time.clone(),
                }
            }
        }

        impl From<Condition> for $theirs {
            fn from(c: Condition) -> Self {
                Self {
                    type_: c.kind,
                    status: c.status,
                    reason: c.reason,
                    message: c.message,
                    last_transition_time: c.since,
                }
            }
        }
    };
}

condition!(ReplicaSetCondition);
condition!(ReplicationControllerCondition);
