//! Giving a container that runs other amounts of CPU and memory.
//!
//! Owns what each container is known to have, when another amount is asked of the runtime, and what the pod's conditions
//! say meanwhile.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};

use super::slot::{Applied, Run, Slot, container, resources};
use super::types::*;
use super::{Phase, PodMachine, RETRY};

const RESIZED: [&str; 2] = ["cpu", "memory"];

/// Where a container's change stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Resize {
    #[default]
    None,
    /// The runtime is being told.
    UnderWay,
    Failed {
        message: String,
    },
    /// The node has not as much. Not tried again before something else is asked for.
    Infeasible {
        wanted: Box<ResourceRequirements>,
        message: String,
    },
}

/// What the pod's conditions say of changes: type, reason and message.
pub(in crate::pod) fn condition(slots: &[Slot]) -> Option<(&'static str, Option<&'static str>, Option<String>)> {
    slots.iter().find_map(|slot| match &slot.resize {
        Resize::None => None,
        Resize::UnderWay => Some(("PodResizeInProgress", None, None)),
        Resize::Failed { message } => Some(("PodResizeInProgress", Some("Error"), Some(message.clone()))),
        Resize::Infeasible { message, .. } => Some(("PodResizePending", Some("Infeasible"), Some(message.clone()))),
    })
}

impl PodMachine {
    /// Asks for what has changed since the runtime was told last.
    pub(super) fn step_resizes(&mut self, now: Now) {
        let Some(spec) = self.pod.spec.clone() else { return };
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let Run::Running { id, stopping: None, .. } = &slot.run else { continue };
            let (name, id) = (slot.name.clone(), id.clone());
            let Some(declared) = container(&spec, &name) else { continue };
            let wanted = resources(&spec, &name);
            let Some(applied) = slot.resources() else {
                self.slots[index].applied = Some(Applied::Declared(spec.clone()));
                continue;
            };
            let changed: Vec<&str> = RESIZED.into_iter().filter(|what| differs(applied, wanted, what)).collect();
            let waits = match &slot.resize {
                Resize::UnderWay => true,
                Resize::Infeasible { wanted: refused, .. } => **refused == *wanted,
                Resize::None | Resize::Failed { .. } => slot.resize_at.is_some_and(|at| at > now.at),
            };
            if changed.is_empty() && slot.resize != Resize::UnderWay {
                self.slots[index].resize = Resize::None;
                self.slots[index].resize_at = None;
            }
            if changed.is_empty() || waits {
                continue;
            }
            if changed.iter().any(|what| needs_restart(declared, what)) {
                let message = format!("Container {name} resize requires restart");
                self.kill(index, message, self.pod_grace(), now);
                continue;
            }
            self.slots[index].resize = Resize::UnderWay;
            self.out.push(Effect::Resize { container: name, id });
        }
    }

    pub(super) fn resized(
        &mut self,
        name: &str,
        id: &str,
        outcome: Result<ResourceRequirements, ResizeFault>,
        now: Now,
    ) {
        let Some(index) = self.index(name) else { return };
        let spec = self.pod.spec.clone();
        let slot = &mut self.slots[index];
        if slot.id().is_none_or(|live| &**live != id) {
            return;
        }
        let container: Option<Arc<str>> = Some(slot.name.clone());
        match outcome {
            Ok(applied) => {
                slot.applied = Some(Applied::new(applied, spec.as_ref(), name));
                slot.resize = Resize::None;
                slot.resize_at = None;
                self.event(false, "ResizeCompleted", "Pod resize completed".to_owned(), container);
            }
            Err(ResizeFault::Infeasible { message }) => {
                let wanted = spec.map(|spec| resources(&spec, name).clone()).unwrap_or_default();
                slot.resize = Resize::Infeasible { wanted: Box::new(wanted), message: message.clone() };
                self.event(true, "ResizeInfeasible", format!("Pod resize Infeasible: {message}"), container);
            }
            Err(ResizeFault::Runtime { message }) => {
                slot.resize = Resize::Failed { message: message.clone() };
                slot.resize_at = Some(now.at + RETRY);
                let message = format!("Pod resize failed: {message}");
                self.event(true, "ResizeError", message, container);
            }
        }
    }

    /// The times at which changes that failed are tried again.
    pub(super) fn resize_deadlines(&self) -> impl Iterator<Item = Option<std::time::Duration>> + '_ {
        let syncing = self.phase == Phase::Syncing;
        self.slots.iter().filter(move |slot| syncing && slot.is_running()).map(|slot| slot.resize_at)
    }
}

fn needs_restart(container: &Container, resource: &str) -> bool {
    let policies = container.resize_policy.iter().flatten();
    policies.into_iter().any(|policy| policy.resource_name == resource && policy.restart_policy == "RestartContainer")
}

fn differs(applied: &ResourceRequirements, wanted: &ResourceRequirements, resource: &str) -> bool {
    type Amounts = Option<std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>;
    let amount =
        |amounts: &Amounts| -> Option<coracle_api::Quantity> { amounts.as_ref()?.get(resource)?.0.parse().ok() };
    amount(&applied.limits) != amount(&wanted.limits) || amount(&applied.requests) != amount(&wanted.requests)
}
