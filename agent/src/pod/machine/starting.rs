//! Bringing a pod up and keeping it up.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::resize::Resize;
use super::slot::{Applied, Role, Run, Waiting, container, should_restart};
use super::types::*;
use super::{BackOff, Lane, PULL_ERROR_SHOWN, Phase, PodMachine, RETRY, Retry, Sandbox, go_duration};

impl PodMachine {
    pub(super) fn step_syncing(&mut self, now: Now) {
        if self.active_deadline().is_some_and(|deadline| deadline <= now.at) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.event(false, "DeadlineExceeded", message.to_owned(), None);
            self.fate = Some(Waiting { reason: "DeadlineExceeded", message: message.to_owned() });
            return self.terminate(self.pod_grace(), now);
        }
        self.show_pull_backoff(now);
        self.step_resizes(now);
        if self.is_finished() {
            return self.terminate(self.pod_grace(), now);
        }
        if self.lane != Lane::Idle {
            return;
        }
        match &self.sandbox {
            Sandbox::Ready(_) => self.start_next(now),
            // Until the old one is known to be stopped no other is made: what it holds may still run.
            Sandbox::Lost(_) if !self.sandbox_retry.is_due(now) => {}
            Sandbox::Lost(info) => {
                let id = info.id.clone();
                self.lane = Lane::StopSandbox;
                self.out.push(Effect::StopSandbox { id });
            }
            Sandbox::None | Sandbox::Stopped(_) => self.prepare(now),
        }
    }

    fn prepare(&mut self, now: Now) {
        if !self.volumes_ready {
            if self.volumes.is_due(now) {
                self.lane = Lane::Volumes;
                self.out.push(Effect::PrepareVolumes);
            }
        } else if self.sandbox_retry.is_due(now) {
            self.lane = Lane::Sandbox;
            self.out.push(Effect::RunSandbox { attempt: self.sandbox_attempt });
        }
    }

    fn start_next(&mut self, now: Now) {
        if !self.volumes_ready {
            return self.prepare(now);
        }
        let Some(index) = self.next_to_start(now) else { return };
        let slot = &mut self.slots[index];
        slot.retry_at = None;
        let container = slot.name.clone();
        match &slot.run {
            // A start that was cut short by the agent's own end.
            Run::Created { id } => {
                let id = id.clone();
                self.lane = Lane::Start(index);
                self.out.push(Effect::Start { container, id });
            }
            Run::Absent | Run::Exited { .. } | Run::Running { .. } => {
                self.lane = Lane::Image(index);
                self.slots[index].ordered = Some(self.image_name(index));
                self.out.push(Effect::EnsureImage { container });
            }
        }
    }

    /// The container to be started next; `None` when there is nothing to do or something to wait for.
    fn next_to_start(&mut self, now: Now) -> Option<usize> {
        // As kubelet: before all others, for they are there to find out why those do not start.
        let ephemeral = self.slots.iter().position(|slot| {
            slot.role == Role::Ephemeral
                && matches!(slot.run, Run::Absent | Run::Created { .. })
                && slot.retry_at.is_none_or(|at| at <= now.at)
        });
        if ephemeral.is_some() {
            return ephemeral;
        }
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let due = slot.retry_at.is_none_or(|at| at <= now.at);
            match (slot.role, &slot.run) {
                (Role::App | Role::Ephemeral, _) => break,
                (Role::Init, _) if self.initialized || slot.has_succeeded() => {}
                (Role::Init | Role::Sidecar, Run::Absent | Run::Created { .. } | Run::Exited { .. }) => {
                    if due {
                        return Some(index);
                    }
                    if !self.initialized {
                        return None;
                    }
                }
                (Role::Sidecar, Run::Running { .. }) if slot.started || self.initialized => {}
                (Role::Init | Role::Sidecar, Run::Running { .. }) => return None,
            }
        }
        self.initialized = true;
        (0..self.slots.len()).find(|index| {
            let slot = &self.slots[*index];
            let due = slot.retry_at.is_none_or(|at| at <= now.at);
            match (slot.role, &slot.run) {
                (Role::App, Run::Absent | Run::Created { .. }) => due,
                (Role::App, Run::Exited { exit, .. }) => due && self.restarts(*index, exit.code),
                (Role::App, Run::Running { .. }) | (Role::Init | Role::Sidecar | Role::Ephemeral, _) => false,
            }
        })
    }

    pub(super) fn restarts(&self, index: usize, code: i32) -> bool {
        let slot = &self.slots[index];
        let spec = self.spec();
        container(spec, &slot.name).is_some_and(|container| should_restart(spec, container, slot.role, code))
    }

    /// Every container has ended for good, or one that the others wait for has failed for good.
    fn is_finished(&self) -> bool {
        let ended = |index: usize| match &self.slots[index].run {
            Run::Exited { exit, .. } => !self.restarts(index, exit.code),
            Run::Absent | Run::Created { .. } | Run::Running { .. } => false,
        };
        let mut apps = 0;
        for (index, slot) in self.slots.iter().enumerate() {
            match slot.role {
                Role::Init if ended(index) && !slot.has_succeeded() && !self.initialized => return true,
                Role::Init | Role::Sidecar | Role::Ephemeral => {}
                Role::App if ended(index) => apps += 1,
                Role::App => return false,
            }
        }
        apps > 0
    }

    pub(super) fn sandbox_ready(&mut self, info: SandboxInfo) {
        self.lane = Lane::Idle;
        self.sandbox_attempt = info.attempt + 1;
        self.sandbox_retry = Retry::default();
        self.runtime = info.runtime.clone();
        self.makes += 1;
        self.sandbox_since = self.makes;
        self.sandbox = Sandbox::Ready(info);
    }

    pub(super) fn sandbox_lost(&mut self, id: &str) {
        let Sandbox::Ready(info) = &self.sandbox else { return };
        if &*info.id != id {
            return;
        }
        self.sandbox = Sandbox::Lost(info.clone());
        if self.phase == Phase::Syncing {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.event(false, "SandboxChanged", message.to_owned(), None);
        }
    }

    /// The old sandbox is out of the way: what was in it begins anew, as far as the restart policy wants that.
    pub(super) fn sandbox_gone(&mut self, now: Now) {
        let policy = self.spec().restart_policy.clone();
        let never = policy.as_deref() == Some("Never");
        let on_failure = policy.as_deref() == Some("OnFailure");
        let ran = self.slots.iter().any(|slot| slot.made);
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if let Run::Running { id, started, .. } = &slot.run {
                let exit = lost(id.clone(), Some(*started));
                slot.run = Run::Exited { exit, at: now.at };
            }
            let name = slot.name.clone();
            let keep = (never && ran)
                || (slot.role == Role::Ephemeral && slot.made)
                || (on_failure && slot.role == Role::App && slot.has_succeeded());
            if !keep {
                slot.reset();
            }
            self.out.push(Effect::EndProbes { container: name });
        }
        if never && ran {
            // Kubelet does not run such a pod a second time.
            return self.terminate(Duration::ZERO, now);
        }
        self.initialized = false;
    }

    pub(super) fn image_ready(&mut self, name: &str, image: ImageInfo) {
        self.lane = Lane::Idle;
        let Some(index) = self.index(name) else { return };
        let slot = &mut self.slots[index];
        slot.pull = BackOff::default();
        slot.pull_error = None;
        slot.image = Some(image.clone());
        if self.phase == Phase::Syncing {
            self.lane = Lane::Create(index);
            // It is made with what the spec says now.
            slot.applied = self.pod.spec.clone().map(Applied::Declared);
            slot.resize = Resize::None;
            slot.resize_at = None;
            self.out.push(Effect::Create { container: slot.name.clone(), attempt: slot.next_attempt(), image });
        }
    }

    pub(super) fn image_failed(&mut self, name: &str, fault: ImageFault, message: String, now: Now) {
        self.lane = Lane::Idle;
        let Some(index) = self.index(name) else { return };
        let image = self.image_name(index);
        let container = Some(self.slots[index].name.clone());
        let (warning, reason, text) = match fault {
            ImageFault::Pull | ImageFault::RegistryUnavailable | ImageFault::SignatureValidation => {
                (true, "Failed", format!("Failed to pull image \"{image}\": {message}"))
            }
            ImageFault::NeverPull => (true, "ErrImageNeverPull", message.clone()),
            ImageFault::InvalidName | ImageFault::Inspect => (true, "InspectFailed", message.clone()),
        };
        self.event(warning, reason, text, container.clone());
        self.event(true, "Failed", format!("Error: {}", fault.reason()), container);
        let slot = &mut self.slots[index];
        if fault.is_pull() {
            slot.pull.next(now.at, now.at);
            slot.retry_at = Some(now.at + slot.pull.delay());
            slot.pull_error = Some((now.at + PULL_ERROR_SHOWN, format!("{}: {message}", fault.reason())));
        } else {
            slot.retry_at = Some(now.at + RETRY);
        }
        slot.waiting = Some(Waiting { reason: fault.reason(), message });
    }

    /// A failed pull is first shown as such, then as the pause before the next one.
    fn show_pull_backoff(&mut self, now: Now) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let Some((at, error)) = slot.pull_error.clone() else { continue };
            if at > now.at || self.lane == Lane::Image(index) {
                continue;
            }
            let image = self.image_name(index);
            let message = format!("Back-off pulling image \"{image}\"");
            let slot = &mut self.slots[index];
            slot.pull_error = None;
            slot.waiting = Some(Waiting { reason: "ImagePullBackOff", message: format!("{message}: {error}") });
            let container = Some(slot.name.clone());
            self.event(false, "BackOff", message, container.clone());
            self.event(true, "Failed", "Error: ImagePullBackOff".to_owned(), container);
        }
    }

    pub(super) fn created(&mut self, name: &str, id: Arc<str>) {
        self.lane = Lane::Idle;
        let Some(index) = self.index(name) else { return };
        let slot = &mut self.slots[index];
        let attempt = slot.next_attempt();
        match std::mem::replace(&mut slot.run, Run::Created { id: id.clone() }) {
            Run::Exited { exit, .. } => {
                slot.dead.push((exit.id.clone(), slot.attempt));
                slot.last = Some(exit);
            }
            Run::Absent | Run::Created { .. } | Run::Running { .. } => {}
        }
        slot.attempt = attempt;
        slot.made = true;
        let container = slot.name.clone();
        // One dead container is kept for `kubectl logs --previous`.
        let surplus = slot.dead.len().saturating_sub(1);
        let removed: Vec<_> = slot.dead.drain(..surplus).collect();
        for (id, attempt) in removed {
            self.out.push(Effect::RemoveContainer { container: container.clone(), id, attempt });
        }
        self.event(false, "Created", format!("Created container: {container}"), Some(container.clone()));
        if self.phase == Phase::Syncing {
            self.lane = Lane::Start(index);
            self.out.push(Effect::Start { container, id });
        }
    }

    pub(super) fn create_failed(&mut self, name: &str, fault: CreateFault, message: String, now: Now) {
        self.lane = Lane::Idle;
        let Some(index) = self.index(name) else { return };
        let slot = &mut self.slots[index];
        slot.retry_at = Some(now.at + RETRY);
        slot.waiting = Some(Waiting { reason: fault.reason(), message: message.clone() });
        let container = Some(slot.name.clone());
        self.event(true, "Failed", format!("Error: {message}"), container);
    }

    pub(super) fn started(&mut self, name: &str, at: Timestamp, now: Now) {
        self.lane = Lane::Idle;
        let Some(index) = self.index(name) else { return };
        let container = self.slots[index].name.clone();
        let id = match &self.slots[index].run {
            Run::Created { id } => Some(id.clone()),
            // It ended before the runtime's answer was here.
            Run::Exited { .. } => None,
            Run::Absent | Run::Running { .. } => return,
        };
        self.event(false, "Started", format!("Started container {container}"), Some(container.clone()));
        let Some(id) = id else { return };
        self.makes += 1;
        let (makes, image) = (self.makes, self.image_name(index));
        let slot = &mut self.slots[index];
        slot.since = makes;
        let outdated = slot.ordered.as_ref().is_some_and(|ordered| *ordered != image);
        slot.run = Run::Running { id: id.clone(), started: at, stopping: None };
        slot.waiting = None;
        slot.retry_at = None;
        self.begin_probes(index, false);
        if outdated && self.phase == Phase::Syncing {
            return self.image_changed(index, now);
        }
        let hook = super::container(self.spec(), &container).and_then(|c| c.lifecycle.as_ref()?.post_start.as_ref());
        if hook.is_some() && self.phase == Phase::Syncing {
            self.lane = Lane::Hook(index);
            self.slots[index].in_hook = true;
            self.out.push(Effect::PostStart { container, id });
        }
    }

    pub(super) fn start_failed(&mut self, name: &str, message: String, now: Now) {
        self.lane = Lane::Idle;
        let Some(index) = self.index(name) else { return };
        let Run::Created { id } = &self.slots[index].run else { return };
        let id = id.clone();
        let container = Some(self.slots[index].name.clone());
        self.event(true, "Failed", format!("Error: {message}"), container);
        let finished = Some(now.wall);
        let exit = Exit {
            id: id.clone(),
            code: 128,
            reason: "StartError".to_owned(),
            message: message.clone(),
            started: None,
            finished,
        };
        self.exited(&id, exit, now);
        let slot = &mut self.slots[index];
        if slot.waiting.is_none() {
            slot.waiting = Some(Waiting { reason: "RunContainerError", message });
        }
    }

    /// The slot whose run the hook belonged to, if it is still that one.
    pub(super) fn hook_done(&mut self, name: &str, id: &str) -> Option<usize> {
        let index = self.index(name).filter(|index| self.slots[*index].id().is_some_and(|live| &**live == id))?;
        self.slots[index].in_hook = false;
        if self.lane == Lane::Hook(index) {
            self.lane = Lane::Idle;
        }
        Some(index)
    }

    pub(super) fn hook_failed(&mut self, name: &str, id: &str, message: &str, now: Now) {
        let Some(index) = self.hook_done(name, id) else { return };
        // The hook's own text may hold secrets: kubelet keeps it out of the event.
        tracing::warn!(pod = %self.full_name(), container = name, message, "postStart hook failed");
        let container = Some(self.slots[index].name.clone());
        self.event(true, "FailedPostStartHook", "PostStartHook failed".to_owned(), container);
        if let Run::Running { stopping: Some(_), .. } = self.slots[index].run {
            return;
        }
        self.kill(index, "FailedPostStartHook".to_owned(), self.pod_grace(), now);
    }

    pub(super) fn exited(&mut self, id: &str, exit: Exit, now: Now) {
        let Some(index) = self.index_of_id(id) else { return };
        let slot = &mut self.slots[index];
        match slot.run {
            Run::Running { .. } | Run::Created { .. } => {}
            Run::Absent | Run::Exited { .. } => return,
        }
        let code = exit.code;
        slot.run = Run::Exited { exit, at: now.at };
        slot.started = false;
        slot.ready = false;
        slot.waiting = None;
        slot.retry_at = None;
        let container = slot.name.clone();
        self.out.push(Effect::EndProbes { container });
        if self.lane == Lane::Hook(index) {
            self.slots[index].in_hook = false;
            self.lane = Lane::Idle;
        }
        if self.phase == Phase::Syncing && self.restarts(index, code) {
            self.pause_before_restart(index, now);
        }
    }

    /// The first restart is made at once, later ones after a pause that grows.
    pub(super) fn pause_before_restart(&mut self, index: usize, now: Now) {
        let full_name = self.full_name();
        let slot = &mut self.slots[index];
        let until = slot.crash.until(now.at);
        let delay = slot.crash.delay();
        slot.crash.next(now.at, until.unwrap_or(now.at));
        if let Some(until) = until {
            slot.retry_at = Some(until);
            let (name, pause) = (slot.name.clone(), go_duration(delay));
            let message = format!("back-off {pause} restarting failed container={name} pod={full_name}");
            slot.waiting = Some(Waiting { reason: "CrashLoopBackOff", message });
            let message = format!("Back-off restarting failed container {name} in pod {full_name}");
            self.event(true, "BackOff", message, Some(name));
        }
    }

    /// `passed`: the startup probe has been passed before, under an earlier agent.
    pub(super) fn begin_probes(&mut self, index: usize, passed: bool) {
        let slot = &self.slots[index];
        let Some(spec) = super::container(self.spec(), &slot.name) else { return };
        let startup = spec.startup_probe.is_some() && !passed;
        let readiness = spec.readiness_probe.is_some();
        let any = startup || readiness || spec.liveness_probe.is_some();
        let probed = match slot.role {
            Role::Init | Role::Ephemeral => false,
            Role::Sidecar | Role::App => true,
        };
        let (container, id) = (slot.name.clone(), slot.id().cloned());
        let slot = &mut self.slots[index];
        slot.started = !(probed && startup);
        slot.ready = !(probed && readiness);
        if let (Some(id), true) = (id, any && probed) {
            self.out.push(Effect::BeginProbes { container, id, startup });
        }
    }

    pub(super) fn probed(
        &mut self,
        name: &str,
        id: &str,
        kind: ProbeKind,
        healthy: bool,
        grace: Option<Duration>,
        now: Now,
    ) {
        let Some(index) = self.index(name) else { return };
        let slot = &mut self.slots[index];
        let Run::Running { id: live, stopping, .. } = &slot.run else { return };
        if &**live != id || stopping.is_some() {
            return;
        }
        match (kind, healthy) {
            (ProbeKind::Startup, true) => {
                slot.started = true;
                let (container, id) = (slot.name.clone(), live.clone());
                let spec = super::container(self.spec(), name);
                if spec.is_some_and(|spec| spec.liveness_probe.is_some() || spec.readiness_probe.is_some()) {
                    self.out.push(Effect::BeginProbes { container, id, startup: false });
                }
            }
            (ProbeKind::Readiness, ready) => slot.ready = ready,
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                let probe = if kind == ProbeKind::Startup { "startup" } else { "liveness" };
                let message = format!("Container {name} failed {probe} probe, will be restarted");
                let grace = grace.unwrap_or_else(|| self.pod_grace());
                self.kill(index, message, grace, now);
            }
        }
    }

    pub(super) fn image_changed(&mut self, index: usize, now: Now) {
        let slot = &mut self.slots[index];
        slot.crash = BackOff::default();
        slot.pull = BackOff::default();
        slot.pull_error = None;
        if slot.is_running() {
            let message = format!("Container {} definition changed, will be restarted", slot.name);
            return self.kill(index, message, self.pod_grace(), now);
        }
        slot.retry_at = None;
        if self.lane == Lane::Image(index) {
            // The pull that is under way is for the old one. What is further on is compared when it has started.
            self.lane = Lane::Idle;
            self.out.push(Effect::Abort);
        }
    }

    pub(super) fn sources_changed(&mut self) {
        self.volumes.at = None;
        self.sandbox_retry.at = None;
        for slot in &mut self.slots {
            let config = slot.waiting.as_ref().is_some_and(|w| w.reason == CreateFault::Config.reason());
            if config && !slot.is_running() {
                slot.retry_at = None;
            }
        }
    }

    fn image_name(&self, index: usize) -> String {
        super::declared(self.spec(), &self.slots[index].name).and_then(|c| c.image.clone()).unwrap_or_default()
    }
}

/// The end of a container of which the runtime knows nothing any more, in kubelet's words.
pub fn lost(id: Arc<str>, started: Option<Timestamp>) -> Exit {
    Exit {
        id,
        code: 137,
        reason: "ContainerStatusUnknown".to_owned(),
        message: "The container could not be located when the pod was deleted.  The container used to be Running"
            .to_owned(),
        started,
        finished: None,
    }
}
