//! Taking over what already runs: at the agent's start, and after events of the runtime may have been lost.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStatus, PodSpec};

use super::slot::{Applied, Role, Run, Slot};
use super::starting::lost;
use super::types::*;
use super::{Lane, Phase, PodMachine, Sandbox};

impl PodMachine {
    /// What the API remembers of containers. It holds until the runtime says otherwise, and is all there is when the
    /// runtime has forgotten everything, as after a power cut.
    pub(super) fn recall(&mut self) {
        let Some(status) = &self.pod.status else { return };
        let known = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let known = known.chain(status.ephemeral_container_statuses.iter().flatten());
        for status in known {
            if let Some((runtime, _)) = status.container_id.as_deref().and_then(|id| id.split_once("://")) {
                self.runtime = runtime.into();
            }
            if let Some(slot) = self.slots.iter_mut().find(|slot| *slot.name == status.name) {
                recall_slot(slot, status, self.pod.spec.as_ref());
            }
        }
    }

    pub(super) fn adopt(&mut self, observed: Observed, now: Now) {
        let first = self.phase == Phase::Adopting;
        self.adopt_sandbox(&observed);
        let as_of = observed.as_of;
        let mut containers = observed.containers;
        containers.sort_by_key(|container| container.attempt);
        for index in 0..self.slots.len() {
            let name = self.slots[index].name.clone();
            let own: Vec<_> = containers.iter().filter(|container| container.name == name).cloned().collect();
            if first {
                self.adopt_slot(index, own, now);
            } else {
                self.compare_slot(index, own, as_of, now);
            }
        }
        if !first {
            return;
        }
        self.initialized = self.slots.iter().any(|slot| slot.role == Role::App && slot.run != Run::Absent);
        self.phase = Phase::Syncing;
        let live = self.slots.iter().any(Slot::is_running);
        if self.removed || self.pod.metadata.deletion_timestamp.is_some() {
            let grace = super::seconds(self.pod.metadata.deletion_grace_period_seconds);
            self.delete(grace.unwrap_or_else(|| self.pod_grace()), now);
        } else if self.frozen {
            // The pod's end is in the API; whatever still lives of it was left by an agent that died.
            self.terminate(self.pod_grace(), now);
        } else if self.fate.is_some() {
            self.terminate(super::ending::EVICTION, now);
        } else if live {
            tracing::debug!(pod = %self.full_name(), "adopted");
        }
    }

    fn adopt_sandbox(&mut self, observed: &Observed) {
        let latest = observed.sandboxes.iter().max_by_key(|sandbox| (sandbox.ready, sandbox.info.attempt));
        let next = observed.sandboxes.iter().map(|sandbox| sandbox.info.attempt + 1).max().unwrap_or(0);
        self.sandbox_attempt = self.sandbox_attempt.max(next);
        if self.lane == Lane::Sandbox || self.lane == Lane::StopSandbox {
            return;
        }
        if let Some(latest) = latest {
            self.runtime = latest.info.runtime.clone();
        }
        match (&self.sandbox, latest) {
            (Sandbox::None, Some(latest)) if latest.ready => self.sandbox = Sandbox::Ready(latest.info.clone()),
            (Sandbox::None, Some(latest)) => self.sandbox = Sandbox::Lost(latest.info.clone()),
            (Sandbox::Ready(info), _) => {
                let id = info.id.clone();
                let ready = observed.sandboxes.iter().any(|sandbox| sandbox.ready && sandbox.info.id == id);
                if !ready && self.sandbox_since <= observed.as_of {
                    self.sandbox_lost(&id);
                }
            }
            (Sandbox::None, None) | (Sandbox::Lost(_) | Sandbox::Stopped(_), _) => {}
        }
    }

    /// `own` are the runtime's containers of this name, the oldest first.
    fn adopt_slot(&mut self, index: usize, mut own: Vec<ObservedContainer>, now: Now) {
        let Some(latest) = own.pop() else {
            if self.frozen {
                return;
            }
            let slot = &mut self.slots[index];
            // Known to the API, not to the runtime: it ran before the node lost its memory. A pod that must not run twice
            // has had its run; what ended well need not run again.
            let policy = self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
            let policy = if slot.role == Role::Ephemeral { Some("Never") } else { policy };
            slot.run = match std::mem::replace(&mut slot.run, Run::Absent) {
                Run::Running { id, started, .. } if policy == Some("Never") => {
                    Run::Exited { exit: lost(id, Some(started)), at: now.at }
                }
                Run::Exited { exit, at }
                    if policy == Some("Never") || (policy == Some("OnFailure") && exit.code == 0) =>
                {
                    Run::Exited { exit, at }
                }
                Run::Running { id, started, .. } => {
                    slot.last = Some(lost(id, Some(started)));
                    Run::Absent
                }
                Run::Exited { exit, .. } => {
                    slot.last = Some(exit);
                    Run::Absent
                }
                Run::Absent | Run::Created { .. } => Run::Absent,
            };
            (slot.started, slot.ready) = (false, false);
            return;
        };
        let current = self.sandbox().map(|info| info.id.clone());
        let slot = &mut self.slots[index];
        slot.made = true;
        slot.attempt = latest.attempt;
        slot.image = Some(latest.image.clone());
        for old in own {
            if let ObservedState::Exited(exit) = old.state {
                slot.last = Some(exit);
            }
            slot.dead.push((old.id, old.attempt));
        }
        let in_current = current.is_some_and(|id| id == latest.sandbox);
        match latest.state {
            ObservedState::Running { started } => {
                slot.run = Run::Running { id: latest.id, started, stopping: None };
                // What the probes found before is taken over, so that a restart of the agent changes no endpoint.
                let (was_started, was_ready) = (slot.started, slot.ready);
                self.begin_probes(index, was_started);
                self.slots[index].ready |= was_ready;
            }
            ObservedState::Created if in_current => slot.run = Run::Created { id: latest.id },
            ObservedState::Created => {
                slot.run = Run::Absent;
                slot.dead.push((latest.id, latest.attempt));
            }
            ObservedState::Exited(exit) => {
                let code = exit.code;
                // While it waited for its restart the API showed this end as the last state.
                slot.last.take_if(|last| last.id == exit.id);
                slot.run = Run::Exited { exit, at: now.at };
                (slot.started, slot.ready) = (false, false);
                if !self.frozen && self.restarts(index, code) {
                    self.pause_before_restart(index, now);
                }
            }
        }
    }

    /// The machine knows the slot already; only what it missed is taken in.
    fn compare_slot(&mut self, index: usize, own: Vec<ObservedContainer>, as_of: u64, now: Now) {
        let busy = match self.lane {
            Lane::Create(at) | Lane::Start(at) => at == index,
            Lane::Idle | Lane::Volumes | Lane::Sandbox | Lane::StopSandbox | Lane::Image(_) | Lane::Hook(_) => false,
        };
        let Run::Running { id, started, .. } = &self.slots[index].run else { return };
        if busy {
            return;
        }
        let (id, started) = (id.clone(), *started);
        // Asked before this one was started, the runtime could not know of it.
        let could_know = self.slots[index].since <= as_of;
        match own.into_iter().find(|container| container.id == id).map(|container| container.state) {
            Some(ObservedState::Running { .. }) => {}
            Some(ObservedState::Exited(exit)) => self.exited(&id, exit, now),
            Some(ObservedState::Created) | None if !could_know => {}
            Some(ObservedState::Created) | None => self.exited(&id, lost(id.clone(), Some(started)), now),
        }
    }
}

fn recall_slot(slot: &mut Slot, status: &ContainerStatus, spec: Option<&Arc<PodSpec>>) {
    let exit_of = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        let terminated = state?.terminated.as_ref()?;
        Some(Exit {
            id: bare_id(terminated.container_id.as_deref().or(status.container_id.as_deref())),
            code: terminated.exit_code,
            reason: terminated.reason.clone().unwrap_or_default(),
            message: terminated.message.clone().unwrap_or_default(),
            started: terminated.started_at.as_ref().map(|time| time.0),
            finished: terminated.finished_at.as_ref().map(|time| time.0),
        })
    };
    slot.last = exit_of(status.last_state.as_ref());
    slot.applied = status.resources.clone().map(|told| Applied::new(told, spec, &slot.name));
    slot.attempt = u32::try_from(status.restart_count).unwrap_or(0);
    slot.made = status.container_id.as_deref().is_some_and(|id| !id.is_empty());
    slot.started = status.started.unwrap_or(false);
    slot.ready = status.ready;
    if let Some(exit) = exit_of(status.state.as_ref()) {
        slot.run = Run::Exited { exit, at: std::time::Duration::ZERO };
    } else if let Some(running) = status.state.as_ref().and_then(|state| state.running.as_ref()) {
        let started = running.started_at.as_ref().map(|time| time.0).unwrap_or_default();
        slot.run = Run::Running { id: bare_id(status.container_id.as_deref()), started, stopping: None };
    }
}

/// `wasm://abc` without the runtime's name.
fn bare_id(id: Option<&str>) -> Arc<str> {
    let id = id.unwrap_or_default();
    id.split_once("://").map_or(id, |(_, bare)| bare).into()
}
