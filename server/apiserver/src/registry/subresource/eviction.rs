//! pods/eviction: a deletion that a PodDisruptionBudget may refuse.

use std::sync::Arc;

use coracle_api::meta::GroupResource;
use coracle_api::object::Object;
use coracle_api::selector::LabelSelector;
use coracle_api::status::{Reason, Status};
use coracle_api::time::format_time;
use coracle_store::{CommitError, Entry, Op, Prefix};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::json;

use super::action::set_condition;
use crate::registry::catalog::Resource;
use crate::registry::context::Context;
use crate::registry::delete::check_preconditions;
use crate::registry::options::DeleteOptions;
use crate::registry::update::Part;
use crate::registry::{Registry, codec};

const BUDGETS: &str = "poddisruptionbudgets.policy";
const CAUSE: &str = "DisruptionBudget";
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// Evictions that the budget's controller has not taken notice of yet.
const UNCONFIRMED_MAX: usize = 2000;
const ROUNDS: usize = 20;

impl Registry {
    pub async fn evict(&self, context: &Context, resource: &Resource, options: DeleteOptions) -> Result<(), Status> {
        for _ in 0..ROUNDS {
            let Some(pod) = self.object("pods", &context.namespace, &context.name)? else {
                return Err(Status::not_found(&resource.group_resource(), &context.name));
            };
            let mut options = options.clone();
            let ignores = matches!(pod.field(&["status", "phase"]), Some("Succeeded" | "Failed" | "Pending") | None);
            if !ignores && !pod.is_being_deleted() {
                match self.take_from_budget(context, &pod).await? {
                    Taken::Yes | Taken::NoBudget => {}
                    Taken::NotNeeded => {
                        options.resource_version.get_or_insert_with(|| pod.resource_version().to_owned());
                    }
                    Taken::Again => continue,
                }
            }
            if !context.dry_run {
                self.tell_disruption(context, resource, &mut options).await?;
            }
            return self.delete(context, resource, &options).await.map(drop);
        }
        let message = "couldn't update PodDisruptionBudget due to conflicts";
        Err(Status::timeout(message, 10))
    }

    /// Says in the pod's status why it goes. This is a new revision, which a precondition then has to follow.
    async fn tell_disruption(
        &self,
        context: &Context,
        resource: &Resource,
        options: &mut DeleteOptions,
    ) -> Result<(), Status> {
        let mut make = |pod: Option<&Object>| {
            let Some(pod) = pod else { return Err(Status::not_found(&resource.group_resource(), &context.name)) };
            check_preconditions(resource, pod, options)?;
            let mut told = pod.clone();
            let condition = json!({
                "type": "DisruptionTarget", "status": "True",
                "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            });
            set_condition(&mut told, condition, context);
            Ok(told)
        };
        let written = self.update(context, resource, Part::Given, &mut make).await?;
        if options.resource_version.is_some() {
            let told: Object = serde_json::from_slice(&written.json).map_err(Status::internal)?;
            options.resource_version = Some(told.resource_version().to_owned());
        }
        Ok(())
    }

    async fn take_from_budget(&self, context: &Context, pod: &Object) -> Result<Taken, Status> {
        let mut budgets = self.budgets_of(pod)?;
        if budgets.len() > 1 {
            let text =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, Reason::InternalError, text));
        }
        let Some((entry, mut budget)) = budgets.pop() else { return Ok(Taken::NoBudget) };
        let number = |field: &str| budget.int(&["status", field]).unwrap_or(0);
        let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
        let always = budget.field(&["spec", "unhealthyPodEvictionPolicy"]) == Some("AlwaysAllow");
        if !is_ready(pod) && (always || (desired > 0 && healthy >= desired)) {
            return Ok(Taken::NotNeeded);
        }
        let (name, gr) = (budget.name().to_owned(), GroupResource::new("policy", "poddisruptionbudgets"));
        if number("observedGeneration") < budget.generation() {
            let text = format!("The disruption budget {name} is still being processed by the server.");
            return Err(Status::too_many_requests(REFUSED, 10).with_cause(CAUSE, text));
        }
        let allowed = number("disruptionsAllowed");
        if allowed < 0 {
            return Err(Status::forbidden(&gr, &name, "pdb disruptions allowed is negative"));
        }
        let disrupted = ["status", "disruptedPods"];
        let unconfirmed = budget.path(&disrupted).and_then(|map| map.as_object()).map_or(0, serde_json::Map::len);
        if unconfirmed > UNCONFIRMED_MAX {
            let text = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
            return Err(Status::forbidden(&gr, &name, text));
        }
        if allowed == 0 {
            let text = format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
            return Err(Status::too_many_requests(REFUSED, 0).with_cause(CAUSE, text));
        }
        if context.dry_run {
            return Ok(Taken::Yes);
        }
        budget.set(&["status", "disruptionsAllowed"], allowed - 1);
        budget.set(&["status", "disruptedPods", pod.name()], format_time(context.now));
        let resource = self.catalog.find("policy", "poddisruptionbudgets").ok_or_else(Status::no_such_path)?;
        let op = Op::Update { expect: entry.revision, draft: resource.draft(&budget) };
        match self.store.commit(vec![(entry.key.clone(), op)]).await {
            Ok(_) => Ok(Taken::Yes),
            Err(CommitError::Conflict { .. }) => Ok(Taken::Again),
            Err(error) => Err(self.commit_failed(&resource, &name, error)),
        }
    }

    /// The budgets that select the pod. An empty selector selects all pods of the namespace, an absent one none.
    fn budgets_of(&self, pod: &Object) -> Result<Vec<(Arc<Entry>, Object)>, Status> {
        let snapshot = self.store.snapshot();
        let labels = pod.labels();
        let mut found = Vec::new();
        for entry in snapshot.range(&Prefix::namespaced(BUDGETS, pod.namespace()), None) {
            let budget = codec::object(entry)?;
            let selector = budget.typed_at::<meta::LabelSelector>(&["spec", "selector"]).map_err(Status::internal)?;
            let Some(selector) = selector else { continue };
            // A selector that cannot be read selects nothing, as upstream has it.
            if LabelSelector::from_object(Some(&selector)).is_ok_and(|selector| selector.matches(&labels)) {
                found.push((entry.clone(), budget));
            }
        }
        Ok(found)
    }
}

enum Taken {
    Yes,
    NoBudget,
    /// The pod is not healthy, so its loss disrupts nothing.
    NotNeeded,
    /// The budget changed meanwhile.
    Again,
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.list(&["status", "conditions"]).iter().cloned();
    let mut conditions = conditions.filter_map(|one| Object::from_value(one).ok());
    conditions.any(|one| one.field(&["type"]) == Some("Ready") && one.field(&["status"]) == Some("True"))
}
