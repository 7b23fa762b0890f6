//! A pod's status from what the machine knows, as kubelet computes it.
//!
//! Owns phase, conditions and container statuses. Must not know: the runtime, the API, the clock.

use std::sync::Arc;

use coracle_client::Pod;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::machine::{Exit, Role, Run, SandboxInfo, Slot, Waiting, declared};

/// What a status is computed from.
pub(super) struct Facts<'a> {
    pub(super) pod: &'a Pod,
    pub(super) slots: &'a [Slot],
    /// The latest sandbox and whether it is ready.
    pub(super) sandbox: Option<(&'a SandboxInfo, bool)>,
    /// The scheme of container ids.
    pub(super) runtime: &'a str,
    pub(super) initialized: bool,
    /// No container will be started any more.
    pub(super) terminating: bool,
    /// No container lives any more.
    pub(super) ended: bool,
    /// Why the pod failed, where that is not its containers' doing.
    pub(super) fate: Option<&'a Waiting>,
    /// Why it is being ended for the host's sake.
    pub(super) disruption: Option<&'a str>,
    pub(super) start_time: Timestamp,
    pub(super) previous: &'a [PodCondition],
    pub(super) host_ips: &'a [String],
    pub(super) now: Timestamp,
}

/// A condition that others set too, with other reasons.
const DISRUPTION: &str = "DisruptionTarget";
const BY_KUBELET: &str = "TerminationByKubelet";

/// Whether a condition is the node's to write.
pub(crate) fn is_own(condition: &PodCondition) -> bool {
    OWNED.contains(&condition.type_.as_str())
        || (condition.type_ == DISRUPTION && condition.reason.as_deref() == Some(BY_KUBELET))
}

/// The conditions that kubelet owns; others in the list belong to somebody else.
const OWNED: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

impl Facts<'_> {
    pub(super) fn compute(&self) -> PodStatus {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let statuses = |wanted: fn(Role) -> bool| -> Vec<ContainerStatus> {
            self.slots.iter().filter(|slot| wanted(slot.role)).map(|slot| self.container(&spec, slot)).collect()
        };
        let init = statuses(|role| matches!(role, Role::Init | Role::Sidecar));
        let apps = statuses(|role| role == Role::App);
        let phase = self.phase(&spec);
        let (reason, message) = match self.fate {
            Some(fate) => (Some(fate.reason.to_owned()), Some(fate.message.clone())),
            None => (None, None),
        };
        let ips = self.pod_ips(&spec);
        PodStatus {
            observed_generation: self.pod.metadata.generation,
            phase: Some(phase.to_owned()),
            conditions: Some(self.conditions(&spec, phase)),
            message,
            reason,
            host_ip: self.host_ips.first().cloned(),
            host_ips: some(self.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
            pod_ip: ips.first().cloned(),
            pod_ips: some(ips.into_iter().map(|ip| PodIP { ip }).collect()),
            start_time: Some(time(self.start_time)),
            init_container_statuses: some(init),
            container_statuses: some(apps),
            ephemeral_container_statuses: some(statuses(|role| role == Role::Ephemeral)),
            qos_class: Some(super::qos::class(&spec).to_owned()),
            ..PodStatus::default()
        }
    }

    fn pod_ips(&self, spec: &PodSpec) -> Vec<String> {
        if spec.host_network == Some(true) {
            return self.host_ips.to_vec();
        }
        match self.sandbox {
            // An ended pod keeps showing the address it had, as kubelet does.
            Some((info, _)) => info.ips.clone(),
            None => Vec::new(),
        }
    }

    fn container(&self, spec: &PodSpec, slot: &Slot) -> ContainerStatus {
        let declared = declared(spec, &slot.name);
        let id = |id: &Arc<str>| Some(format!("{}://{id}", self.runtime)).filter(|_| !id.is_empty());
        let terminated = |exit: &Exit| ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: id(&exit.id),
                exit_code: exit.code,
                reason: Some(exit.reason.clone()).filter(|reason| !reason.is_empty()),
                message: Some(exit.message.clone()).filter(|message| !message.is_empty()),
                started_at: exit.started.map(time),
                finished_at: exit.finished.map(time),
                signal: None,
            }),
            ..ContainerState::default()
        };
        let waiting = || {
            let default = if spec.init_containers.as_ref().is_some_and(|init| !init.is_empty()) {
                "PodInitializing"
            } else {
                "ContainerCreating"
            };
            let (reason, message) = match &slot.waiting {
                Some(waiting) => (waiting.reason, Some(waiting.message.clone())),
                None => (default, None),
            };
            let waiting = Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message });
            ContainerState { waiting, ..ContainerState::default() }
        };
        let last = || slot.last.as_ref().map(terminated);
        let (state, last_state) = match &slot.run {
            // As kubelet's TerminatePod: nobody can say that it did well.
            Run::Absent | Run::Created { .. } if self.ended && self.initialized_once() && slot.role == Role::App => {
                (never_located(), last())
            }
            Run::Absent | Run::Created { .. } => (waiting(), last()),
            Run::Running { started, .. } => {
                let running = Some(ContainerStateRunning { started_at: Some(time(*started)) });
                (ContainerState { running, ..ContainerState::default() }, last())
            }
            Run::Exited { exit, .. } if slot.waiting.is_some() && !self.terminating => {
                (waiting(), Some(terminated(exit)))
            }
            Run::Exited { exit, .. } => (terminated(exit), last()),
        };
        let running = slot.is_running();
        let ready = match slot.role {
            Role::Init => slot.has_succeeded(),
            Role::Ephemeral => false,
            Role::Sidecar | Role::App => running && slot.started && slot.ready,
        };
        let applied = slot.resources().filter(|_| slot.made);
        ContainerStatus {
            name: slot.name.to_string(),
            image: declared.and_then(|declared| declared.image.clone()).unwrap_or_default(),
            image_id: slot.image.as_ref().map(|image| image.id.clone()).filter(|_| slot.made).unwrap_or_default(),
            container_id: slot.id().and_then(id),
            state: Some(state),
            last_state,
            ready,
            restart_count: if slot.made { i32::try_from(slot.attempt).unwrap_or(i32::MAX) } else { 0 },
            started: Some(running && slot.started),
            resources: applied.cloned(),
            allocated_resources: applied.and_then(|applied| applied.requests.clone()),
            ..ContainerStatus::default()
        }
    }

    /// A pod without init containers always is.
    fn initialized_once(&self) -> bool {
        self.initialized || !self.slots.iter().any(|slot| matches!(slot.role, Role::Init | Role::Sidecar))
    }

    fn phase(&self, spec: &PodSpec) -> &'static str {
        if self.fate.is_some() {
            return if self.ended { "Failed" } else { self.running_phase(spec) };
        }
        let phase = self.running_phase(spec);
        match phase {
            // What ends without having reached an end of its own has failed.
            "Pending" | "Running" if self.ended => "Failed",
            _ => phase,
        }
    }

    fn running_phase(&self, spec: &PodSpec) -> &'static str {
        let policy = spec.restart_policy.as_deref().unwrap_or("Always");
        let tally = Tally::of(self.slots);
        if tally.failed_init > 0 && policy == "Never" {
            return "Failed";
        }
        let pending_sidecars = tally.pending_sidecars > 0 && !self.initialized;
        if tally.pending_init > 0 || pending_sidecars || tally.waiting > 0 {
            return "Pending";
        }
        if tally.running > 0 {
            return "Running";
        }
        if tally.stopped == 0 {
            return "Pending";
        }
        let succeeded = tally.stopped == tally.succeeded;
        if self.ended {
            return if succeeded { "Succeeded" } else { "Failed" };
        }
        match (policy, succeeded) {
            ("Never" | "OnFailure", true) => "Succeeded",
            ("Never", false) => "Failed",
            (_, _) => "Running",
        }
    }

    fn conditions(&self, spec: &PodSpec, phase: &str) -> Vec<PodCondition> {
        let sandbox = self.sandbox.is_some_and(|(_, ready)| ready);
        let to_start = Verdict { status: sandbox, reason: None, message: None };
        let containers = self.containers_ready(phase);
        let ready = if containers.status { self.gates(spec) } else { containers.clone() };
        let owned = [
            ("PodReadyToStartContainers", to_start),
            ("Initialized", self.initialized(phase)),
            ("Ready", ready),
            ("ContainersReady", containers),
            ("PodScheduled", Verdict::yes()),
        ];
        let foreign = self.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let foreign = foreign.filter(|condition| {
            let kind = condition.type_.as_str();
            !OWNED.contains(&kind) && (self.disruption.is_none() || kind != DISRUPTION)
        });
        let disruption = self.disruption.map(|message| {
            (DISRUPTION, Verdict { status: true, reason: Some(BY_KUBELET), message: Some(message.to_owned()) })
        });
        let resize = super::machine::resize_condition(self.slots);
        let resize = resize.map(|(kind, reason, message)| (kind, Verdict { status: true, reason, message }));
        let owned =
            owned.into_iter().chain(resize).chain(disruption).map(|(kind, verdict)| self.condition(kind, verdict));
        owned.chain(foreign.cloned()).collect()
    }

    fn condition(&self, kind: &str, verdict: Verdict) -> PodCondition {
        let status = if verdict.status { "True" } else { "False" };
        let previous = self.previous.iter().find(|condition| condition.type_ == kind);
        let since = previous
            .filter(|previous| previous.status == status)
            .and_then(|previous| previous.last_transition_time.clone())
            .unwrap_or_else(|| time(self.now));
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            last_transition_time: Some(since),
            last_probe_time: None,
            observed_generation: self.pod.metadata.generation,
        }
    }

    fn containers_ready(&self, phase: &str) -> Verdict {
        match phase {
            "Succeeded" => return Verdict::no("PodCompleted", None),
            "Failed" => return Verdict::no("PodFailed", None),
            _ => {}
        }
        let unready: Vec<&str> = self
            .slots
            .iter()
            .filter(|slot| {
                matches!(slot.role, Role::App | Role::Sidecar) && !(slot.is_running() && slot.started && slot.ready)
            })
            .map(|slot| &*slot.name)
            .collect();
        if unready.is_empty() {
            return Verdict::yes();
        }
        let message = format!("containers with unready status: [{}]", unready.join(" "));
        Verdict::no("ContainersNotReady", Some(message))
    }

    fn gates(&self, spec: &PodSpec) -> Verdict {
        let conditions = self.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let faults: Vec<String> = spec
            .readiness_gates
            .iter()
            .flatten()
            .filter_map(|gate| {
                let kind = &gate.condition_type;
                match conditions.iter().find(|condition| condition.type_ == *kind) {
                    None => Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
                    Some(condition) if condition.status != "True" => Some(format!(
                        "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                        condition.status
                    )),
                    Some(_) => None,
                }
            })
            .collect();
        if faults.is_empty() { Verdict::yes() } else { Verdict::no("ReadinessGatesNotReady", Some(faults.join(", "))) }
    }

    fn initialized(&self, phase: &str) -> Verdict {
        if phase == "Succeeded" {
            return Verdict { status: true, reason: Some("PodCompleted"), message: None };
        }
        let app_started = self.slots.iter().any(|slot| slot.role == Role::App && slot.made && slot.run != Run::Absent);
        let incomplete: Vec<&str> = self
            .slots
            .iter()
            .filter(|slot| match slot.role {
                Role::Init => !slot.has_succeeded(),
                Role::Sidecar => !(slot.is_running() && slot.started),
                Role::App | Role::Ephemeral => false,
            })
            .map(|slot| &*slot.name)
            .collect();
        if app_started || incomplete.is_empty() {
            return Verdict::yes();
        }
        let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
        Verdict::no("ContainersNotInitialized", Some(message))
    }
}

/// The end of a container of which nothing is left when its pod has ended, in kubelet's words.
fn never_located() -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

#[derive(Clone)]
struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes() -> Self {
        Self { status: true, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self { status: false, reason: Some(reason), message }
    }
}

/// Containers by state, as kubelet counts them for the phase.
#[derive(Default)]
struct Tally {
    pending_init: usize,
    failed_init: usize,
    pending_sidecars: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

impl Tally {
    fn of(slots: &[Slot]) -> Self {
        let mut tally = Tally::default();
        for slot in slots {
            match slot.role {
                Role::Init => tally.count_init(slot),
                Role::Sidecar => tally.count_sidecar(slot),
                Role::App => tally.count_app(slot),
                Role::Ephemeral => {}
            }
        }
        tally
    }

    fn count_init(&mut self, slot: &Slot) {
        let failed = match &slot.run {
            Run::Exited { exit, .. } => exit.code != 0,
            Run::Running { .. } => {
                self.pending_init += 1;
                return;
            }
            Run::Absent | Run::Created { .. } => match &slot.last {
                Some(last) => last.code != 0,
                None => {
                    self.pending_init += 1;
                    return;
                }
            },
        };
        self.failed_init += usize::from(failed);
        // A failed one that is tried again keeps the pod pending.
        self.pending_init += usize::from(failed);
    }

    fn count_sidecar(&mut self, slot: &Slot) {
        match &slot.run {
            Run::Running { .. } => {
                self.pending_sidecars += usize::from(!slot.started);
                self.running += 1;
            }
            Run::Exited { .. } => {}
            Run::Absent | Run::Created { .. } if slot.last.is_some() => {}
            Run::Absent | Run::Created { .. } => {
                self.pending_sidecars += 1;
                self.waiting += 1;
            }
        }
    }

    fn count_app(&mut self, slot: &Slot) {
        match &slot.run {
            Run::Running { .. } => self.running += 1,
            Run::Exited { exit, .. } => {
                self.stopped += 1;
                self.succeeded += usize::from(exit.code == 0 && slot.waiting.is_none());
            }
            Run::Absent | Run::Created { .. } if slot.last.is_some() => self.stopped += 1,
            Run::Absent | Run::Created { .. } => self.waiting += 1,
        }
    }
}

/// Timestamps of statuses have whole seconds.
fn time(timestamp: Timestamp) -> Time {
    Time(Timestamp::from_second(timestamp.as_second()).unwrap_or(timestamp))
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
