//! What a namespace that is being deleted says about it: its conditions, with upstream's reasons and messages. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};

use crate::time::whole_seconds;

/// What one attempt at emptying the namespace found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    pub(crate) discovery_error: Option<String>,
    /// Errors of deleting or listing.
    pub(crate) errors: Vec<String>,
    /// `pods.` or `deployments.apps` to the number of objects that are left.
    pub(crate) remaining: BTreeMap<String, usize>,
    /// Finalizer to the number of objects that wait for it.
    pub(crate) finalizers: BTreeMap<String, usize>,
    /// The longest time that what is left was given to end.
    pub(crate) grace_seconds: i64,
}

impl Sweep {
    pub(crate) fn is_clean(&self) -> bool {
        self.discovery_error.is_none() && self.errors.is_empty() && self.remaining.is_empty()
    }

    /// The status that tells of this sweep; a condition that says nothing new keeps its time.
    pub(crate) fn status(&self, old: Option<&NamespaceStatus>, now: Timestamp) -> NamespaceStatus {
        let mut conditions = old.and_then(|s| s.conditions.clone()).unwrap_or_default();
        for (kind, bad, good) in self.findings() {
            let (status, (reason, message)) = match bad {
                Some(bad) => ("True", bad),
                None => ("False", good),
            };
            set(&mut conditions, kind, status, reason, message, now);
        }
        NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: Some(conditions) }
    }

    #[expect(clippy::type_complexity, reason = "a table of one function")]
    fn findings(&self) -> [(&'static str, Option<(&'static str, String)>, (&'static str, String)); 5] {
        let count = |map: &BTreeMap<String, usize>, form: fn(&str, usize) -> String| {
            map.iter().map(|(name, n)| form(name, *n)).collect::<Vec<_>>().join(", ")
        };
        let errors = (!self.errors.is_empty()).then(|| {
            let mut errors = self.errors.clone();
            errors.sort();
            (
                "ContentDeletionFailed",
                format!("Failed to delete all resource types, {} remaining: {}", errors.len(), errors.join(", ")),
            )
        });
        let remaining = (!self.remaining.is_empty()).then(|| {
            let list = count(&self.remaining, |name, n| format!("{name} has {n} resource instances"));
            ("SomeResourcesRemain", format!("Some resources are remaining: {list}"))
        });
        let finalizers = (!self.finalizers.is_empty()).then(|| {
            let list = count(&self.finalizers, |name, n| format!("{name} in {n} resource instances"));
            ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {list}"))
        });
        let discovery = self
            .discovery_error
            .as_ref()
            .map(|e| ("DiscoveryFailed", format!("Discovery failed for some groups, 1 failing: {e}")));
        let good = |reason: &'static str, message: &str| (reason, message.to_owned());
        [
            (
                "NamespaceDeletionDiscoveryFailure",
                discovery,
                good("ResourcesDiscovered", "All resources successfully discovered"),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                None,
                good("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            ),
            (
                "NamespaceDeletionContentFailure",
                errors,
                good("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            ),
            ("NamespaceContentRemaining", remaining, good("ContentRemoved", "All content successfully removed")),
            (
                "NamespaceFinalizersRemaining",
                finalizers,
                good("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            ),
        ]
    }
}

fn set(
    conditions: &mut Vec<NamespaceCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let old = conditions.iter_mut().find(|c| c.type_ == kind);
    let since = old.as_ref().filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    let condition = NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since.or_else(|| Some(whole_seconds(now))),
    };
    match old {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}
