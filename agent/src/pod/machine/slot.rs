//! One container of a pod, as the machine sees it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

use super::resize::Resize;
use super::types::{Exit, ImageInfo};
use crate::pod::backoff::BackOff;

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next begins.
    Init,
    /// An init container with restartPolicy Always: started in its turn, then runs beside the others.
    Sidecar,
    App,
    /// Put into a pod that is there, as `kubectl debug` does: runs once, and counts for nothing in the pod's state.
    Ephemeral,
}

/// Where a container stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Run {
    /// Not created since the sandbox was made.
    Absent,
    Created {
        id: Arc<str>,
    },
    Running {
        id: Arc<str>,
        started: Timestamp,
        /// When the kill comes, once it is being stopped.
        stopping: Option<Duration>,
    },
    Exited {
        exit: Exit,
        /// When the machine learnt of it.
        at: Duration,
    },
}

/// Why a container waits, as the status shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    pub reason: &'static str,
    pub message: String,
}

/// The resources that the runtime was last told of.
#[derive(Clone, Debug)]
pub enum Applied {
    /// What this spec, which many pods may share, declares for the container. A copy of it would be a kilobyte in each.
    Declared(Arc<PodSpec>),
    Other(Box<ResourceRequirements>),
}

impl Applied {
    /// As the container of this name has them, whose pod has this spec.
    pub fn new(told: ResourceRequirements, spec: Option<&Arc<PodSpec>>, name: &str) -> Self {
        match spec {
            Some(spec) if *resources(spec, name) == told => Self::Declared(spec.clone()),
            Some(_) | None => Self::Other(Box::new(told)),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Slot {
    pub name: Arc<str>,
    pub role: Role,
    pub run: Run,
    /// The number of the latest container made; the next one's is one more, if `made`.
    pub attempt: u32,
    pub made: bool,
    /// How the container before the present one ended.
    pub last: Option<Exit>,
    /// Dead containers that still lie in the runtime, oldest first, without the present one.
    pub dead: Vec<(Arc<str>, u32)>,
    pub image: Option<ImageInfo>,
    pub waiting: Option<Waiting>,
    /// Not before this: set after a failure.
    pub retry_at: Option<Duration>,
    pub crash: BackOff,
    pub pull: BackOff,
    /// The text of the last failed pull; when set, `waiting` turns into ImagePullBackOff at the time.
    pub pull_error: Option<(Duration, String)>,
    /// The startup probe has passed, or there is none.
    pub started: bool,
    /// The readiness probe's word, or there is none.
    pub ready: bool,
    /// The image as the spec named it when this run's was ordered.
    pub ordered: Option<String>,
    /// The resources the runtime was last told of, and how a change of them stands.
    pub applied: Option<Applied>,
    pub(super) resize: Resize,
    pub(super) resize_at: Option<Duration>,
    /// The machine's count of makes when the container was started.
    pub since: u64,
    /// The postStart hook is still running: kubelet does not go on before it ends.
    pub in_hook: bool,
}

impl Slot {
    fn new(name: &str, role: Role) -> Self {
        Self {
            name: name.into(),
            role,
            run: Run::Absent,
            attempt: 0,
            made: false,
            last: None,
            dead: Vec::new(),
            image: None,
            waiting: None,
            retry_at: None,
            crash: BackOff::default(),
            pull: BackOff::default(),
            pull_error: None,
            started: false,
            ready: false,
            ordered: None,
            applied: None,
            resize: Resize::None,
            resize_at: None,
            since: 0,
            in_hook: false,
        }
    }

    /// The slots of a pod: init containers and sidecars in their order, then the others.
    pub fn all(spec: &PodSpec) -> Vec<Slot> {
        let init = spec.init_containers.iter().flatten().map(|container| {
            let role = if is_sidecar(container) { Role::Sidecar } else { Role::Init };
            Slot::new(&container.name, role)
        });
        let apps = spec.containers.iter().map(|container| Slot::new(&container.name, Role::App));
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        let ephemeral = ephemeral.map(|container| Slot::new(&container.name, Role::Ephemeral));
        let mut all: Vec<Slot> = init.chain(apps).chain(ephemeral).collect();
        // Most pods have one, and room for four would be kilobytes.
        all.shrink_to_fit();
        all
    }

    /// The resources the runtime was last told of.
    pub fn resources(&self) -> Option<&ResourceRequirements> {
        match self.applied.as_ref()? {
            Applied::Declared(spec) => Some(resources(spec, &self.name)),
            Applied::Other(told) => Some(told),
        }
    }

    /// The id of the container, whatever its state.
    pub fn id(&self) -> Option<&Arc<str>> {
        match &self.run {
            Run::Absent => None,
            Run::Created { id } | Run::Running { id, .. } => Some(id),
            Run::Exited { exit, .. } => Some(&exit.id),
        }
    }

    pub fn is_running(&self) -> bool {
        match self.run {
            Run::Running { .. } => true,
            Run::Absent | Run::Created { .. } | Run::Exited { .. } => false,
        }
    }

    /// A regular init container that has done its work.
    pub fn has_succeeded(&self) -> bool {
        match &self.run {
            Run::Exited { exit, .. } => exit.code == 0,
            Run::Absent | Run::Created { .. } | Run::Running { .. } => false,
        }
    }

    pub fn next_attempt(&self) -> u32 {
        if self.made { self.attempt + 1 } else { self.attempt }
    }

    /// The sandbox is gone, and the container with it: what it was becomes history.
    pub fn reset(&mut self) {
        if let Run::Exited { exit, .. } = std::mem::replace(&mut self.run, Run::Absent) {
            self.last = Some(exit);
        }
        self.started = false;
        self.ready = false;
        self.in_hook = false;
        self.waiting = None;
        self.retry_at = None;
    }
}

pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The container of a slot in the pod's spec.
pub fn container<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers).find(|container| container.name == name)
}

/// What a spec gives a container, which is nothing where it says nothing.
pub(super) fn resources<'a>(spec: &'a PodSpec, name: &str) -> &'a ResourceRequirements {
    static NONE: ResourceRequirements = ResourceRequirements { claims: None, limits: None, requests: None };
    container(spec, name).and_then(|declared| declared.resources.as_ref()).unwrap_or(&NONE)
}

/// Like [`container`], with ephemeral ones too, which are containers but for what they may not have.
pub fn declared<'a>(spec: &'a PodSpec, name: &str) -> Option<Cow<'a, Container>> {
    container(spec, name).map(Cow::Borrowed).or_else(|| {
        let ephemeral = spec.ephemeral_containers.iter().flatten().find(|container| container.name == name)?;
        let json = serde_json::to_string(ephemeral).expect("a container is plain data");
        Some(Cow::Owned(serde_json::from_str(&json).expect("its fields are a container's")))
    })
}

/// Whether a container that ended with `code` is started again, by its own rules, its own policy or the pod's.
pub(super) fn should_restart(spec: &PodSpec, container: &Container, role: Role, code: i32) -> bool {
    if role == Role::Sidecar {
        return true;
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|value| *value == code);
        let matches = if codes.operator == "NotIn" { !listed } else { listed };
        if matches && rule.action == "Restart" {
            return true;
        }
    }
    match container.restart_policy.as_deref().or(spec.restart_policy.as_deref()) {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        // Always is the default. A regular init container that has succeeded is never run again.
        Some(_) | None => role != Role::Init || code != 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn resources_as_declared_are_those_of_the_spec() {
        let resources = json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}});
        let spec = json!({"containers": [{"name": "web", "resources": resources}, {"name": "bare"}]});
        let spec: Arc<PodSpec> = Arc::new(serde_json::from_value(spec).unwrap());
        let told: ResourceRequirements = serde_json::from_value(resources).unwrap();
        let held = |name: &str, told: &ResourceRequirements| {
            let mut slot = Slot::new(name, Role::App);
            slot.applied = Some(Applied::new(told.clone(), Some(&spec), name));
            assert_eq!(slot.resources(), Some(told));
            matches!(&slot.applied, Some(Applied::Declared(of)) if Arc::ptr_eq(of, &spec))
        };
        assert!(held("web", &told));
        assert!(held("bare", &ResourceRequirements::default()), "nothing, as it declares");
        assert!(!held("bare", &told));
        assert!(!held("web", &ResourceRequirements::default()));
    }
}
