//! The life of one pod as a pure function: inputs in, effects out.
//!
//! Owns every decision about a pod on its node: when the sandbox and each container is made, started, restarted and
//! stopped, and what its owner is told. Must not know: how anything is done, what time it is, or any other pod.
//!
//! ```text
//! Adopting ─Observed─▶ Syncing ─delete, deadline, all done─▶ Terminating ─all dead─▶ Ending ─sandbox stopped─▶ Ended
//!                                                                                                               │ deleted
//!                                                             Gone ◀─Removed─ Deleting ◀─Disposed─ Disposing ◀─┘
//! ```
//!
//! What makes something (volumes, sandbox, image, container, hook) goes through one lane: one such effect is under way
//! at a time, as kubelet starts the containers of a pod one after another. Stops go beside it.

mod adopt;
mod ending;
mod resize;
mod slot;
mod starting;
mod types;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use coracle_client::Pod;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus};

pub(super) use resize::condition as resize_condition;
pub use slot::{Role, Run, Slot, Waiting, container, declared, is_sidecar};
pub use starting::lost;
pub use types::*;

use super::backoff::{BackOff, go_duration};

/// A retry of what depends on others (runtime, volumes), in kubelet's order of magnitude.
pub(super) const RETRY: Duration = Duration::from_secs(10);
/// How long ErrImagePull is shown before it becomes ImagePullBackOff.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Adopting,
    Syncing,
    Terminating {
        deadline: Duration,
    },
    /// StopPodSandbox is under way, or failed and waits.
    Ending {
        retry_at: Option<Duration>,
    },
    Ended,
    Disposing {
        retry_at: Option<Duration>,
    },
    Deleting,
    Gone,
}

/// What is being made.
#[derive(Clone, Debug, PartialEq)]
enum Lane {
    Idle,
    Volumes,
    Sandbox,
    /// The old sandbox is stopped before a new one is made.
    StopSandbox,
    Image(usize),
    Create(usize),
    Start(usize),
    Hook(usize),
}

#[derive(Clone, Debug, PartialEq)]
enum Sandbox {
    None,
    Ready(SandboxInfo),
    /// Stopped on its own; what it held is lost.
    Lost(SandboxInfo),
    Stopped(SandboxInfo),
}

/// A step that is tried again after a pause that grows.
#[derive(Clone, Debug, Default, PartialEq)]
struct Retry {
    failures: u32,
    at: Option<Duration>,
}

impl Retry {
    fn failed(&mut self, now: Now) {
        let pause = Duration::from_millis(500).saturating_mul(1 << self.failures.min(10)).min(RETRY);
        self.failures += 1;
        self.at = Some(now.at + pause);
    }

    fn is_due(&self, now: Now) -> bool {
        self.at.is_none_or(|at| at <= now.at)
    }
}

/// The state of one pod on its node.
#[derive(Debug)]
pub struct PodMachine {
    pod: Arc<Pod>,
    slots: Vec<Slot>,
    phase: Phase,
    lane: Lane,
    volumes_ready: bool,
    volumes: Retry,
    sandbox: Sandbox,
    sandbox_attempt: u32,
    sandbox_retry: Retry,
    /// Counts what the runtime was made to have; `sandbox_since` is its value when the sandbox was ready.
    makes: u64,
    sandbox_since: u64,
    /// The scheme of container ids.
    runtime: Arc<str>,
    /// Every init container has done its part since the sandbox was made.
    initialized: bool,
    deleted: bool,
    removed: bool,
    /// The API already holds the pod's end: its status is not touched again.
    frozen: bool,
    /// Why the pod failed, where that is not its containers' doing.
    fate: Option<Waiting>,
    /// An eviction ends it: what its condition DisruptionTarget says.
    disruption: Option<String>,
    start_time: Timestamp,
    /// `start_time` on the clock that does not jump.
    start_at: Duration,
    conditions: Vec<PodCondition>,
    out: Vec<Effect>,
}

impl PodMachine {
    /// A pod that this node has just heard of. It does nothing before [`Input::Observed`].
    pub fn new(pod: Arc<Pod>, now: Now) -> Self {
        let spec = pod.spec.as_deref();
        let status = pod.status.as_ref();
        let start_time = status.and_then(|status| status.start_time.as_ref()).map_or(now.wall, |time| time.0);
        let ran = Duration::try_from(now.wall.duration_since(start_time)).unwrap_or_default();
        let phase = status.and_then(|status| status.phase.as_deref());
        let mut machine = Self {
            slots: spec.map(Slot::all).unwrap_or_default(),
            phase: Phase::Adopting,
            lane: Lane::Idle,
            volumes_ready: false,
            volumes: Retry::default(),
            sandbox: Sandbox::None,
            sandbox_attempt: 0,
            sandbox_retry: Retry::default(),
            makes: 0,
            sandbox_since: 0,
            runtime: "".into(),
            initialized: false,
            deleted: false,
            removed: false,
            frozen: matches!(phase, Some("Succeeded" | "Failed")),
            fate: None,
            disruption: None,
            start_time,
            start_at: now.at.saturating_sub(ran),
            conditions: status.and_then(|status| status.conditions.clone()).unwrap_or_default(),
            out: Vec::new(),
            pod,
        };
        machine.recall();
        machine
    }

    /// Advances the pod by one input. No I/O: the worker carries the effects out, in order.
    pub fn on(&mut self, input: Input, now: Now) -> Vec<Effect> {
        self.take(input, now);
        self.step(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is wanted next.
    pub fn deadline(&self, now: Now) -> Option<Duration> {
        let mut times: Vec<Option<Duration>> = Vec::new();
        match &self.phase {
            Phase::Syncing => {
                times.push(self.active_deadline());
                times.extend(self.resize_deadlines());
                times.extend(self.slots.iter().map(|slot| slot.pull_error.as_ref().map(|(at, _)| *at)));
                if self.lane == Lane::Idle {
                    times.extend([self.volumes.at, self.sandbox_retry.at]);
                    times.extend(self.slots.iter().map(|slot| slot.retry_at));
                }
            }
            Phase::Terminating { .. } => times.extend(self.slots.iter().map(|slot| slot.retry_at)),
            Phase::Ending { retry_at } | Phase::Disposing { retry_at } => times.push(*retry_at),
            Phase::Adopting | Phase::Ended | Phase::Deleting | Phase::Gone => {}
        }
        times.into_iter().flatten().filter(|at| *at > now.at).min()
    }

    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub fn slot(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| &*slot.name == name)
    }

    /// How many things the runtime was made to have so far, for [`Observed::as_of`].
    pub fn makes(&self) -> u64 {
        self.makes
    }

    /// The sandbox, while it is ready.
    pub fn sandbox(&self) -> Option<&SandboxInfo> {
        match &self.sandbox {
            Sandbox::Ready(info) => Some(info),
            Sandbox::None | Sandbox::Lost(_) | Sandbox::Stopped(_) => None,
        }
    }

    /// Something is being found out or made for it at this moment.
    pub fn is_under_way(&self) -> bool {
        self.phase == Phase::Adopting || self.lane != Lane::Idle
    }

    /// No container will be started any more.
    pub fn is_terminating(&self) -> bool {
        match self.phase {
            Phase::Adopting | Phase::Syncing => false,
            Phase::Terminating { .. }
            | Phase::Ending { .. }
            | Phase::Ended
            | Phase::Disposing { .. }
            | Phase::Deleting
            | Phase::Gone => true,
        }
    }

    /// No container lives and none will.
    pub fn is_ended(&self) -> bool {
        match self.phase {
            Phase::Ended | Phase::Disposing { .. } | Phase::Deleting | Phase::Gone => true,
            Phase::Adopting | Phase::Syncing | Phase::Terminating { .. } | Phase::Ending { .. } => false,
        }
    }

    /// The pod's status as kubelet would compute it. `host_ips` are the node's addresses.
    pub fn status(&mut self, host_ips: &[String], now: Now) -> PodStatus {
        if self.frozen {
            return self.pod.status.clone().unwrap_or_default();
        }
        let facts = super::status::Facts {
            pod: &self.pod,
            slots: &self.slots,
            sandbox: match &self.sandbox {
                Sandbox::Ready(info) => Some((info, true)),
                Sandbox::Lost(info) | Sandbox::Stopped(info) => Some((info, false)),
                Sandbox::None => None,
            },
            runtime: &self.runtime,
            initialized: self.initialized,
            terminating: self.is_terminating(),
            ended: self.is_ended(),
            fate: self.fate.as_ref(),
            disruption: self.disruption.as_deref(),
            start_time: self.start_time,
            previous: &self.conditions,
            host_ips,
            now: now.wall,
        };
        let status = facts.compute();
        self.conditions.clone_from(status.conditions.as_ref().unwrap_or(&Vec::new()));
        status
    }

    fn spec(&self) -> &PodSpec {
        static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_deref().unwrap_or(&EMPTY)
    }

    fn take(&mut self, input: Input, now: Now) {
        match input {
            Input::Observed(observed) => self.adopt(observed, now),
            Input::Updated(pod) => self.update(pod, now),
            Input::Removed => self.remove(now),
            Input::VolumesReady => {
                self.lane = Lane::Idle;
                self.volumes_ready = true;
                self.volumes = Retry::default();
            }
            Input::VolumesFailed { message } => {
                self.lane = Lane::Idle;
                self.volumes.failed(now);
                self.event(true, "FailedMount", message, None);
            }
            Input::SandboxReady(info) => self.sandbox_ready(info),
            Input::SandboxFailed { message } => {
                self.lane = Lane::Idle;
                self.sandbox_retry.failed(now);
                let message = format!("Failed to create pod sandbox: {message}");
                self.event(true, "FailedCreatePodSandBox", message, None);
            }
            Input::NetworkNotReady { message } => {
                self.lane = Lane::Idle;
                self.sandbox_retry.failed(now);
                self.event(true, "NetworkNotReady", format!("network is not ready: {message}"), None);
            }
            Input::SandboxLost { id } => self.sandbox_lost(&id),
            Input::SandboxStopped => self.sandbox_stopped(now),
            Input::SandboxStopFailed { message } => self.sandbox_stop_failed(message, now),
            Input::ImageReady { container, image } => self.image_ready(&container, image),
            Input::ImageFailed { container, fault, message } => self.image_failed(&container, fault, message, now),
            Input::Created { container, id } => self.created(&container, id),
            Input::CreateFailed { container, fault, message } => self.create_failed(&container, fault, message, now),
            Input::Started { container, at } => self.started(&container, at, now),
            Input::StartFailed { container, message } => self.start_failed(&container, message, now),
            Input::HookDone { container, id } => drop(self.hook_done(&container, &id)),
            Input::HookFailed { container, id, message } => self.hook_failed(&container, &id, &message, now),
            Input::Exited { id, exit } => self.exited(&id, exit, now),
            Input::StopFailed { id, message } => self.stop_failed(&id, message, now),
            Input::Probed { container, id, kind, healthy, grace } => {
                self.probed(&container, &id, kind, healthy, grace, now);
            }
            Input::SourcesChanged => self.sources_changed(),
            Input::Resized { container, id, outcome } => self.resized(&container, &id, outcome, now),
            Input::Evicted { message, disrupted } => self.evict(message, disrupted, now),
            Input::Disposed => self.disposed(),
            Input::DisposeFailed { message } => {
                self.phase = Phase::Disposing { retry_at: Some(now.at + RETRY) };
                self.event(true, "FailedKillPod", format!("error cleaning up pod: {message}"), None);
            }
            Input::Tick => {}
        }
    }

    /// Does what can be done now; every effect changes the state, so this ends.
    fn step(&mut self, now: Now) {
        match self.phase {
            Phase::Adopting | Phase::Deleting | Phase::Gone => {}
            Phase::Syncing => self.step_syncing(now),
            Phase::Terminating { .. } | Phase::Ending { .. } | Phase::Ended | Phase::Disposing { .. } => {
                self.step_ending(now);
            }
        }
    }

    fn update(&mut self, pod: Arc<Pod>, now: Now) {
        let old = std::mem::replace(&mut self.pod, pod);
        let old_spec = old.spec.as_deref();
        if self.phase == Phase::Syncing {
            for index in 0..self.slots.len() {
                let name = self.slots[index].name.clone();
                let image = |spec: &PodSpec| container(spec, &name).and_then(|container| container.image.clone());
                if old_spec.and_then(image) != self.pod.spec.as_deref().and_then(image) {
                    self.image_changed(index, now);
                }
            }
        }
        let added = self.pod.spec.as_deref().map(Slot::all).unwrap_or_default();
        let added: Vec<Slot> =
            added.into_iter().filter(|slot| slot.role == Role::Ephemeral && self.index(&slot.name).is_none()).collect();
        self.slots.extend(added);
        let deleted = self.pod.metadata.deletion_timestamp.is_some();
        if deleted {
            let grace = seconds(self.pod.metadata.deletion_grace_period_seconds);
            self.delete(grace.unwrap_or_else(|| self.pod_grace()), now);
        }
    }

    fn remove(&mut self, now: Now) {
        self.removed = true;
        // A forced deletion leaves no object that could be asked; kubelet gives the containers a second.
        let grace = match self.pod.metadata.deletion_timestamp {
            Some(_) => seconds(self.pod.metadata.deletion_grace_period_seconds).unwrap_or_default(),
            None => self.pod_grace(),
        };
        self.delete(grace.max(Duration::from_secs(1)), now);
        if self.phase == Phase::Deleting {
            self.forget();
        }
    }

    fn pod_grace(&self) -> Duration {
        seconds(self.spec().termination_grace_period_seconds).unwrap_or(Duration::from_secs(30))
    }

    fn active_deadline(&self) -> Option<Duration> {
        seconds(self.spec().active_deadline_seconds).map(|limit| self.start_at + limit)
    }

    /// As kubelet writes a pod into messages.
    fn full_name(&self) -> String {
        let meta = &self.pod.metadata;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|slot| &*slot.name == name)
    }

    fn index_of_id(&self, id: &str) -> Option<usize> {
        self.slots.iter().position(|slot| slot.id().is_some_and(|known| &**known == id))
    }

    fn event(&mut self, warning: bool, reason: &'static str, message: String, container: Option<Arc<str>>) {
        self.out.push(Effect::Event { warning, reason, message, container });
    }
}

fn seconds(field: Option<i64>) -> Option<Duration> {
    field.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}
