//! Taking a pod down.

use std::sync::Arc;
use std::time::Duration;

use super::slot::{Role, Run, Waiting};
use super::types::*;
use super::{Lane, Phase, PodMachine, RETRY, Retry, Sandbox};

/// Sidecars get at least this much after the others have used the grace period up.
const GRACE_MIN: Duration = Duration::from_secs(2);

/// What a pod that is evicted gets: the host has run out.
pub(super) const EVICTION: Duration = Duration::from_secs(1);

impl PodMachine {
    /// The pod fails, as kubelet's eviction has it.
    pub(super) fn evict(&mut self, message: String, disrupted: bool, now: Now) {
        if self.is_terminating() || self.frozen || self.fate.is_some() {
            return;
        }
        self.disruption = disrupted.then(|| message.clone());
        self.fate = Some(Waiting { reason: "Evicted", message });
        if self.phase == Phase::Syncing {
            self.terminate(EVICTION, now);
        }
    }

    /// The pod's object asks for its end within `grace`. Another time it may only come earlier.
    pub(super) fn delete(&mut self, grace: Duration, now: Now) {
        self.deleted = true;
        match self.phase {
            Phase::Adopting => {}
            Phase::Syncing => self.terminate(grace, now),
            Phase::Terminating { deadline } => {
                let wanted = now.at + grace;
                if wanted < deadline {
                    self.phase = Phase::Terminating { deadline: wanted };
                    self.hasten(wanted, now);
                }
            }
            Phase::Ending { .. } | Phase::Ended | Phase::Disposing { .. } | Phase::Deleting | Phase::Gone => {}
        }
    }

    /// No container is started from now on and those that run are stopped within `grace`.
    pub(super) fn terminate(&mut self, grace: Duration, now: Now) {
        self.phase = Phase::Terminating { deadline: now.at + grace };
        match self.lane {
            Lane::Image(_) | Lane::Volumes => {
                self.lane = Lane::Idle;
                self.out.push(Effect::Abort);
            }
            // The hook's container is stopped like the others; the hook's outcome no longer matters.
            Lane::Hook(_) => self.lane = Lane::Idle,
            Lane::Idle | Lane::Sandbox | Lane::StopSandbox | Lane::Create(_) | Lane::Start(_) => {}
        }
        for slot in &mut self.slots {
            slot.retry_at = None;
            slot.pull_error = None;
        }
        self.step_ending(now);
    }

    pub(super) fn step_ending(&mut self, now: Now) {
        match self.phase {
            Phase::Terminating { deadline } => {
                self.stop_next(deadline, now);
                let live = self.slots.iter().any(|slot| slot.is_running());
                if !live && self.lane == Lane::Idle {
                    self.end_sandbox();
                }
            }
            Phase::Ending { retry_at: Some(at) } if at <= now.at => self.end_sandbox(),
            Phase::Disposing { retry_at: Some(at) } if at <= now.at => self.dispose(),
            Phase::Ended if self.deleted => self.dispose(),
            Phase::Adopting
            | Phase::Syncing
            | Phase::Ending { .. }
            | Phase::Ended
            | Phase::Disposing { .. }
            | Phase::Deleting
            | Phase::Gone => {}
        }
    }

    /// Containers first, all at once; then the sidecars, the last started first, one at a time.
    fn stop_next(&mut self, deadline: Duration, now: Now) {
        let left = deadline.saturating_sub(now.at);
        let apps: Vec<usize> = (0..self.slots.len())
            .filter(|index| self.slots[*index].is_running() && self.slots[*index].role != Role::Sidecar)
            .collect();
        if !apps.is_empty() {
            for index in apps {
                self.stop(index, left, now);
            }
            return;
        }
        // A main container may still be on its way to running; it is waited for.
        if self.lane != Lane::Idle {
            return;
        }
        if let Some(index) = (0..self.slots.len()).rev().find(|index| self.slots[*index].is_running()) {
            let floor = if self.slots.iter().any(|slot| slot.role == Role::App && slot.made) {
                GRACE_MIN.min(self.pod_grace())
            } else {
                Duration::ZERO
            };
            self.stop(index, left.max(floor), now);
        }
    }

    fn stop(&mut self, index: usize, grace: Duration, now: Now) {
        let retry = self.slots[index].retry_at.is_some_and(|at| at <= now.at);
        match &self.slots[index].run {
            Run::Running { stopping: Some(_), .. } if !retry => {}
            Run::Running { .. } => {
                let message = format!("Stopping container {}", self.slots[index].name);
                self.kill(index, message, grace, now);
            }
            Run::Absent | Run::Created { .. } | Run::Exited { .. } => {}
        }
    }

    /// Stops one container, whatever the reason.
    pub(super) fn kill(&mut self, index: usize, message: String, grace: Duration, now: Now) {
        let slot = &mut self.slots[index];
        let Run::Running { id, stopping, .. } = &mut slot.run else { return };
        let (container, id) = (slot.name.clone(), id.clone());
        let again = stopping.replace(now.at + grace).is_some();
        slot.retry_at = None;
        if !again {
            self.event(false, "Killing", message, Some(container.clone()));
            self.out.push(Effect::EndProbes { container: container.clone() });
        }
        self.out.push(Effect::Stop { container, id, grace });
    }

    /// The grace period has become shorter: what is being stopped is stopped again, sooner.
    fn hasten(&mut self, deadline: Duration, now: Now) {
        let left = deadline.saturating_sub(now.at);
        for slot in &mut self.slots {
            if let Run::Running { id, stopping: Some(at), .. } = &mut slot.run
                && *at > deadline
            {
                *at = deadline;
                let effect = Effect::Stop { container: slot.name.clone(), id: id.clone(), grace: left };
                self.out.push(effect);
            }
        }
    }

    pub(super) fn stop_failed(&mut self, id: &str, message: String, now: Now) {
        let Some(index) = self.index_of_id(id) else { return };
        let slot = &mut self.slots[index];
        if !slot.is_running() {
            return;
        }
        slot.retry_at = Some(now.at + Duration::from_secs(1));
        let container: Arc<str> = slot.name.clone();
        if self.phase == Phase::Syncing {
            // A probe's or a changed image's kill: as if it had not been asked for, the next verdict asks again.
            if let Run::Running { stopping, .. } = &mut slot.run {
                *stopping = None;
            }
            slot.retry_at = None;
            self.begin_probes(index, self.slots[index].started);
        }
        self.event(true, "FailedKillPod", format!("error killing pod: {message}"), Some(container));
    }

    fn end_sandbox(&mut self) {
        match &self.sandbox {
            Sandbox::Ready(info) | Sandbox::Lost(info) => {
                let id = info.id.clone();
                self.phase = Phase::Ending { retry_at: None };
                self.out.push(Effect::StopSandbox { id });
            }
            Sandbox::None | Sandbox::Stopped(_) => {
                self.phase = Phase::Ended;
                if self.deleted {
                    self.dispose();
                }
            }
        }
    }

    pub(super) fn sandbox_stopped(&mut self, now: Now) {
        self.sandbox = match std::mem::replace(&mut self.sandbox, Sandbox::None) {
            Sandbox::Ready(info) | Sandbox::Lost(info) | Sandbox::Stopped(info) => Sandbox::Stopped(info),
            Sandbox::None => Sandbox::None,
        };
        if self.lane == Lane::StopSandbox {
            self.lane = Lane::Idle;
            self.sandbox_retry = Retry::default();
            if self.phase == Phase::Syncing {
                self.sandbox_gone(now);
            }
        }
        if let Phase::Ending { .. } = self.phase {
            self.phase = Phase::Ended;
        }
    }

    pub(super) fn sandbox_stop_failed(&mut self, message: String, now: Now) {
        self.event(true, "FailedKillPod", format!("error killing pod: {message}"), None);
        if self.lane == Lane::StopSandbox {
            self.lane = Lane::Idle;
            self.sandbox_retry.failed(now);
        } else {
            self.phase = Phase::Ending { retry_at: Some(now.at + RETRY) };
        }
    }

    fn dispose(&mut self) {
        self.phase = Phase::Disposing { retry_at: None };
        self.out.push(Effect::Dispose);
    }

    pub(super) fn disposed(&mut self) {
        if self.removed {
            return self.forget();
        }
        self.phase = Phase::Deleting;
        self.out.push(Effect::DeleteObject);
    }

    pub(super) fn forget(&mut self) {
        self.phase = Phase::Gone;
        self.out.push(Effect::Forget);
    }
}
