//! What goes into the machine and what comes out of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::Pod;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;

/// The time an input arrives: `at` never jumps and serves for deadlines, `wall` is what users are shown.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since the agent's start.
    pub at: Duration,
    pub wall: Timestamp,
}

/// Something happened to a pod.
#[derive(Clone, Debug)]
pub enum Input {
    /// The runtime's whole knowledge of the pod: at the agent's start, and after events may have been lost.
    Observed(Observed),
    /// The pod's object changed; a deletion timestamp in it begins the termination.
    Updated(Arc<Pod>),
    /// The pod's object is gone.
    Removed,
    VolumesReady,
    VolumesFailed {
        message: String,
    },
    SandboxReady(SandboxInfo),
    SandboxFailed {
        message: String,
    },
    /// The node's pod network is not there yet.
    NetworkNotReady {
        message: String,
    },
    /// A sandbox stopped on its own.
    SandboxLost {
        id: Arc<str>,
    },
    SandboxStopped,
    SandboxStopFailed {
        message: String,
    },
    ImageReady {
        container: Arc<str>,
        image: ImageInfo,
    },
    ImageFailed {
        container: Arc<str>,
        fault: ImageFault,
        message: String,
    },
    Created {
        container: Arc<str>,
        id: Arc<str>,
    },
    CreateFailed {
        container: Arc<str>,
        fault: CreateFault,
        message: String,
    },
    Started {
        container: Arc<str>,
        at: Timestamp,
    },
    StartFailed {
        container: Arc<str>,
        message: String,
    },
    /// Of the container with this id: a hook may outlive the run it belonged to.
    HookDone {
        container: Arc<str>,
        id: Arc<str>,
    },
    /// The postStart hook failed: the container is killed, as kubelet does.
    HookFailed {
        container: Arc<str>,
        id: Arc<str>,
        message: String,
    },
    /// A container is no longer live.
    Exited {
        id: Arc<str>,
        exit: Exit,
    },
    StopFailed {
        id: Arc<str>,
        message: String,
    },
    Probed {
        container: Arc<str>,
        id: Arc<str>,
        kind: ProbeKind,
        healthy: bool,
        /// The probe's own grace period, where it has one.
        grace: Option<Duration>,
    },
    /// What failed the pod before (a config map, a secret, the node's network) may be there now.
    SourcesChanged,
    /// The runtime was told of a container's other resources; what it has now.
    Resized {
        container: Arc<str>,
        id: Arc<str>,
        outcome: Result<ResourceRequirements, ResizeFault>,
    },
    /// The host needs what the pod uses, or has too little for it to begin.
    Evicted {
        message: String,
        disrupted: bool,
    },
    Disposed,
    DisposeFailed {
        message: String,
    },
    /// A deadline that [`super::PodMachine::deadline`] named has come.
    Tick,
}

/// Something to be done for a pod, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    PrepareVolumes,
    RunSandbox {
        attempt: u32,
    },
    /// Finds or pulls the image, by the container's pull policy.
    EnsureImage {
        container: Arc<str>,
    },
    /// Gives up the `EnsureImage` or `PrepareVolumes` that is under way.
    Abort,
    Create {
        container: Arc<str>,
        attempt: u32,
        image: ImageInfo,
    },
    Start {
        container: Arc<str>,
        id: Arc<str>,
    },
    PostStart {
        container: Arc<str>,
        id: Arc<str>,
    },
    /// Runs the preStop hook and stops the container, both within `grace`. A second one has a shorter grace.
    Stop {
        container: Arc<str>,
        id: Arc<str>,
        grace: Duration,
    },
    /// Forgets a dead container and its log.
    RemoveContainer {
        container: Arc<str>,
        id: Arc<str>,
        attempt: u32,
    },
    BeginProbes {
        container: Arc<str>,
        id: Arc<str>,
        /// Only startup, or (false) liveness and readiness.
        startup: bool,
    },
    EndProbes {
        container: Arc<str>,
    },
    /// Tells the runtime what a container may use from now on.
    Resize {
        container: Arc<str>,
        id: Arc<str>,
    },
    StopSandbox {
        id: Arc<str>,
    },
    /// Removes sandboxes, containers and volumes.
    Dispose,
    /// Deletes the pod's object once its last status is written.
    DeleteObject,
    /// Nothing of the pod is left: the worker ends.
    Forget,
    Event {
        warning: bool,
        reason: &'static str,
        message: String,
        container: Option<Arc<str>>,
    },
}

/// A ready sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxInfo {
    pub id: Arc<str>,
    pub attempt: u32,
    pub ips: Vec<String>,
    /// The runtime's name, the scheme of container ids.
    pub runtime: Arc<str>,
}

/// An image on the node.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ImageInfo {
    /// What CreateContainer is given.
    pub reference: String,
    /// What the status shows as `imageID`.
    pub id: String,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    pub id: Arc<str>,
    pub code: i32,
    pub reason: String,
    pub message: String,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFault {
    InvalidName,
    Inspect,
    NeverPull,
    Pull,
    RegistryUnavailable,
    SignatureValidation,
}

impl ImageFault {
    pub fn reason(self) -> &'static str {
        match self {
            ImageFault::InvalidName => "InvalidImageName",
            ImageFault::Inspect => "ImageInspectError",
            ImageFault::NeverPull => "ErrImageNeverPull",
            ImageFault::Pull => "ErrImagePull",
            ImageFault::RegistryUnavailable => "RegistryUnavailable",
            ImageFault::SignatureValidation => "SignatureValidationFailed",
        }
    }

    /// A failed pull is retried after a growing pause, the others soon: somebody may import the image by hand.
    pub(super) fn is_pull(self) -> bool {
        match self {
            ImageFault::Pull | ImageFault::RegistryUnavailable | ImageFault::SignatureValidation => true,
            ImageFault::InvalidName | ImageFault::Inspect | ImageFault::NeverPull => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateFault {
    /// The container's configuration cannot be made, such as for a missing config map.
    Config,
    /// The runtime refuses.
    Create,
}

impl CreateFault {
    pub fn reason(self) -> &'static str {
        match self {
            CreateFault::Config => "CreateContainerConfigError",
            CreateFault::Create => "CreateContainerError",
        }
    }
}

/// Why a container does not get other resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResizeFault {
    /// The node has not as much.
    Infeasible {
        message: String,
    },
    Runtime {
        message: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        })
    }
}

/// Everything a runtime knows of one pod.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What [`super::PodMachine::makes`] was when the runtime was asked: what was made since may be missing.
    pub as_of: u64,
    pub sandboxes: Vec<ObservedSandbox>,
    pub containers: Vec<ObservedContainer>,
}

#[derive(Clone, Debug)]
pub struct ObservedSandbox {
    pub info: SandboxInfo,
    pub ready: bool,
}

#[derive(Clone, Debug)]
pub struct ObservedContainer {
    pub id: Arc<str>,
    pub name: Arc<str>,
    pub sandbox: Arc<str>,
    pub attempt: u32,
    pub image: ImageInfo,
    pub state: ObservedState,
}

#[derive(Clone, Debug)]
pub enum ObservedState {
    Created,
    Running { started: Timestamp },
    Exited(Exit),
}

impl fmt::Display for Effect {
    /// The form tests are written in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::PrepareVolumes => write!(f, "prepare volumes"),
            Effect::RunSandbox { attempt } => write!(f, "run sandbox attempt={attempt}"),
            Effect::EnsureImage { container } => write!(f, "ensure image {container}"),
            Effect::Abort => write!(f, "abort"),
            Effect::Create { container, attempt, .. } => write!(f, "create {container} attempt={attempt}"),
            Effect::Start { container, id } => write!(f, "start {container} {id}"),
            Effect::PostStart { container, id } => write!(f, "postStart {container} {id}"),
            Effect::Stop { container, id, grace } => write!(f, "stop {container} {id} grace={grace:?}"),
            Effect::RemoveContainer { container, id, attempt } => {
                write!(f, "remove {container} {id} attempt={attempt}")
            }
            Effect::BeginProbes { container, id, startup } => {
                write!(f, "probe {container} {id}{}", if *startup { " startup" } else { "" })
            }
            Effect::EndProbes { container } => write!(f, "end probes {container}"),
            Effect::Resize { container, id } => write!(f, "resize {container} {id}"),
            Effect::StopSandbox { id } => write!(f, "stop sandbox {id}"),
            Effect::Dispose => write!(f, "dispose"),
            Effect::DeleteObject => write!(f, "delete object"),
            Effect::Forget => write!(f, "forget"),
            Effect::Event { warning, reason, message, .. } => {
                write!(f, "event {}{reason}: {message}", if *warning { "!" } else { "" })
            }
        }
    }
}
