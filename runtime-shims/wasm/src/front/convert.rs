//! From what is kept here to CRI's messages. No I/O.

use std::collections::{BTreeMap, HashSet};

use coracle_cri::Status;
use coracle_cri::v1::{
    self, ContainerMetadata, ContainerResources, ContainerState, ContainerStatus, ImageSpec, NamespaceOption,
    PodSandbox, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
};

use super::logs;
use super::records::{ContainerRecord, Phase, SandboxRecord};
use super::state::{Container, State};
use crate::images::{Image, ImageError, ImageName};

pub(super) fn sandbox_state(sandbox: &SandboxRecord) -> PodSandboxState {
    if sandbox.ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

pub(super) fn sandbox_status(sandbox: &SandboxRecord) -> PodSandboxStatus {
    let config = sandbox.config.read();
    let options: Option<NamespaceOption> = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|context| context.namespace_options.clone());
    PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: config.metadata,
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.created_at,
        network: Some(PodSandboxNetworkStatus {
            ip: sandbox.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            additional_ips: Vec::new(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: sandbox.handler.clone(),
    }
}

pub(super) fn sandbox_item(sandbox: &SandboxRecord) -> PodSandbox {
    let config = sandbox.config.read();
    PodSandbox {
        id: sandbox.id.clone(),
        metadata: config.metadata,
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.created_at,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: sandbox.handler.clone(),
    }
}

pub(super) fn container_state(phase: &Phase) -> ContainerState {
    match phase {
        Phase::Created => ContainerState::ContainerCreated,
        Phase::Running { .. } => ContainerState::ContainerRunning,
        Phase::Exited(_) => ContainerState::ContainerExited,
    }
}

pub(super) fn container_status(state: &State, container: &Container) -> ContainerStatus {
    let record = &container.record;
    let config = record.config.read();
    let sandbox = state.sandboxes.get(&record.sandbox);
    let log = sandbox.and_then(|sandbox| logs::path(&sandbox.config.read(), &config));
    let mut status = ContainerStatus {
        id: record.id.clone(),
        metadata: config.metadata,
        state: container_state(&record.phase).into(),
        created_at: record.created_at,
        image: Some(ImageSpec { image: record.image.name.clone(), ..ImageSpec::default() }),
        image_ref: record.image.repo_digest.clone(),
        image_id: record.image.id.to_string(),
        labels: config.labels,
        annotations: config.annotations,
        mounts: config.mounts,
        resources: config.linux.map(|linux| ContainerResources { linux: linux.resources }),
        stop_signal: v1::Signal::RuntimeDefault.into(),
        log_path: log.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        ..ContainerStatus::default()
    };
    match &record.phase {
        Phase::Created => {}
        Phase::Running { started_at } => status.started_at = *started_at,
        Phase::Exited(ended) => {
            status.started_at = ended.started_at;
            status.finished_at = ended.finished_at;
            status.exit_code = ended.code;
            status.reason.clone_from(&ended.reason);
            status.message.clone_from(&ended.message);
        }
    }
    status
}

pub(super) fn container_item(container: &Container) -> v1::Container {
    let record = &container.record;
    let config = record.config.read();
    v1::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox.clone(),
        metadata: config.metadata,
        image: Some(ImageSpec { image: record.image.name.clone(), ..ImageSpec::default() }),
        image_ref: record.image.id.to_string(),
        state: container_state(&record.phase).into(),
        created_at: record.created_at,
        labels: config.labels,
        annotations: config.annotations,
        image_id: record.image.id.to_string(),
    }
}

/// For the worker's own messages.
pub(super) fn title(sandbox: &SandboxRecord, record: &ContainerRecord) -> String {
    let pod = sandbox.config.read().metadata.unwrap_or_default();
    let container: ContainerMetadata = record.config.read().metadata.unwrap_or_default();
    format!("{}/{}/{}", pod.namespace, pod.name, container.name)
}

/// Images of one id are one image with several names.
pub(super) fn images(all: &[Image], pinned: &HashSet<String>) -> Vec<v1::Image> {
    let mut by_id: BTreeMap<&str, v1::Image> = BTreeMap::new();
    for image in all {
        let entry = by_id.entry(image.id.hex()).or_insert_with(|| v1::Image {
            id: image.id.to_string(),
            size: image.size_bytes,
            spec: Some(ImageSpec { image: image.id.to_string(), ..ImageSpec::default() }),
            ..v1::Image::default()
        });
        entry.pinned |= pinned.contains(&image.name);
        // `repository@digest` is no tag.
        if ImageName::parse(&image.name).is_ok_and(|name| name.digest().is_none()) {
            entry.repo_tags.push(image.name.clone());
        }
        let repo_digest = image.repo_digest();
        if !entry.repo_digests.contains(&repo_digest) {
            entry.repo_digests.push(repo_digest);
        }
    }
    by_id.into_values().collect()
}

/// The one place where an image's error becomes a status.
pub(super) fn image_failed(error: ImageError) -> Status {
    let text = error.to_string();
    match error {
        ImageError::InvalidName { .. } | ImageError::Corrupt { .. } => Status::invalid_argument(text),
        ImageError::NotWasm { .. } => coracle_cri::other_kind(text),
        ImageError::TooLarge { .. } => Status::resource_exhausted(text),
        ImageError::Unknown { .. } | ImageError::NotFound { .. } => Status::not_found(text),
        ImageError::Unauthorized { .. } => Status::permission_denied(format!("{text}; check imagePullSecrets")),
        // As containerd: no reason of its own, so that a kubelet shows ErrImagePull, which is what people and alerts look for.
        // Nor is it known of what kind the image is, also where it is the settings that keep the registry from being asked.
        ImageError::Registry { .. } | ImageError::Settings { .. } => Status::unknown(text),
        // This prefix is how a kubelet knows the fault, and the code without a name keeps it at the beginning.
        ImageError::Untrusted { .. } => Status::unknown(format!("SignatureValidationFailed: {text}")),
        ImageError::Io { .. } => Status::internal(text),
    }
}

/// Whether a sandbox or container is selected; its labels are only looked at if they are asked for.
pub(super) fn matches(selector: &BTreeMap<String, String>, labels: impl FnOnce() -> BTreeMap<String, String>) -> bool {
    if selector.is_empty() {
        return true;
    }
    let labels = labels();
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use coracle_cri::Code;

    use super::*;

    #[test]
    fn only_what_is_of_another_kind_is_said_to_be_that() {
        let (name, why) = ("a".to_owned(), "because".to_owned());
        let told = |error: ImageError| (image_failed(error).code(), coracle_cri::other_kind("").code());
        let (code, other) = told(ImageError::NotWasm { name: name.clone(), why: why.clone() });
        assert_eq!(code, other);
        for error in [
            ImageError::Settings { name: name.clone(), why: why.clone() },
            ImageError::Registry { verb: "pull", name: name.clone(), why: why.clone() },
        ] {
            assert_eq!(told(error), (Code::Unknown, other));
        }
        let denied = image_failed(ImageError::Unauthorized { verb: "pull", name, why });
        assert_eq!(denied.message(), "failed to pull image \"a\": because; check imagePullSecrets");
    }
}
