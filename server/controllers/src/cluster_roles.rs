//! Writes into each ClusterRole that aggregates others the rules it has from them, so that whoever reads the role sees
//! what it grants. Owns the `rules` of such roles and nothing else.

use std::sync::Arc;

use coracle_api::selector::LabelSelector;
use coracle_client::{Change, Error, Informer, Outcome, WorkQueue, drive};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;

use crate::answer::{unless_conflict, unless_gone};
use crate::context::Context;
use crate::owner;

/// One is enough: the roles that aggregate are few, and one's rules may be another's.
const WORKERS: usize = 1;

pub(crate) fn start(context: Context) {
    let roles = context.informers.get::<ClusterRole>();
    let synced = {
        let roles = roles.clone();
        async move { roles.synced().await }
    };
    context.clone().when(synced, move || run(context, roles));
}

fn run(context: Context, roles: Informer<ClusterRole>) {
    let queue = WorkQueue::new();
    let (all, into) = (roles.clone(), queue.clone());
    // Any role may have come among those that another aggregates, or left them.
    context.feed("clusterroles", &roles, move |change| match change {
        Change::Applied { .. } | Change::Deleted(_) | Change::Resync => {
            let aggregating = all.list().into_iter().filter(|role| role.aggregation_rule.is_some());
            aggregating.for_each(|role| into.add(owner::name(&role.metadata).to_owned()));
        }
    });
    let (scope, name) = (context.scope.clone(), "sync");
    drive(&scope, name, &queue, WORKERS, move |name| {
        let (context, roles) = (context.clone(), roles.clone());
        async move { unless_conflict(reconcile(&context, &roles, &name).await) }
    });
}

async fn reconcile(context: &Context, roles: &Informer<ClusterRole>, name: &str) -> Result<Outcome, Error> {
    let all = roles.list();
    let Some(role) = all.iter().find(|role| owner::name(&role.metadata) == name) else { return Ok(Outcome::Done) };
    let Some(rules) = plan(role, &all) else { return Ok(Outcome::Done) };
    let meta = &role.metadata;
    let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version}, "rules": rules});
    unless_gone(context.client.all::<ClusterRole>().merge_patch(name, &patch).await)?;
    Ok(Outcome::Done)
}

/// The rules that `role` is to have, if they are others than it has: those of each selector's roles by name, each once.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        // One that cannot be read selects nothing.
        let Ok(selector) = LabelSelector::from_object(Some(selector)) else { continue };
        // The informer's order is that of names.
        let selected = all.iter().filter(|other| {
            owner::name(&other.metadata) != owner::name(&role.metadata)
                && selector.matches_opt(other.metadata.labels.as_ref())
        });
        for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use k8s_openapi::api::rbac::v1::AggregationRule;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;

    use super::*;
    use crate::testing::{Line, lines};

    /// `role NAME labels=… from=LABEL:VALUE rules=a,b` (a rule is the resource it lets get).
    fn role(line: &Line) -> Arc<ClusterRole> {
        let rule = |resource: &str| PolicyRule {
            resources: Some(vec![resource.to_owned()]),
            verbs: vec!["get".to_owned()],
            ..PolicyRule::default()
        };
        let selector = |labels| Selector { match_labels: Some(labels), ..Selector::default() };
        Arc::new(ClusterRole {
            metadata: line.meta(),
            aggregation_rule: line
                .map("from")
                .map(|labels| AggregationRule { cluster_role_selectors: Some(vec![selector(labels)]) }),
            rules: line.text("rules").map(|rules| rules.split(',').map(rule).collect()),
        })
    }

    fn check_plan(text: &str, expected: Expect) {
        let all: Vec<Arc<ClusterRole>> = lines(text).iter().map(role).collect();
        let show = |role: &Arc<ClusterRole>| {
            let rules = plan(role, &all)?;
            let names: Vec<String> = rules.iter().flat_map(|rule| rule.resources.clone().unwrap_or_default()).collect();
            Some(format!("{}: {}", owner::name(&role.metadata), names.join(" ")))
        };
        expected.assert_eq(&all.iter().filter_map(show).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn rules_come_from_all_selected_roles_each_once() {
        check_plan(
            "role a labels=to:edit rules=pods,services
             role b labels=to:edit rules=services,secrets
             role c rules=nodes
             role edit from=to:edit",
            expect!["edit: pods services secrets"],
        );
    }

    #[test]
    fn what_is_right_stays_and_what_is_not_from_others_goes() {
        check_plan(
            "role a labels=to:edit rules=pods
             role done from=to:edit rules=pods
             role own from=to:edit rules=pods,nodes
             role none from=to:nobody rules=pods
             role circle labels=to:edit from=to:edit",
            expect![[r#"
                own: pods
                none: 
                circle: pods"#]],
        );
    }
}
