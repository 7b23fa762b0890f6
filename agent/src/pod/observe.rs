//! A runtime's knowledge of containers in the machine's terms.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use coracle_client::Pod;
use coracle_cri::v1::{ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};
use jiff::Timestamp;

use super::context::Place;
use super::machine::{
    Exit, ImageInfo, Observed, ObservedContainer, ObservedSandbox, ObservedState, SandboxInfo, declared,
};
use crate::logs::{LogError, LogOptions, Reader};
use crate::runtime::{CriError, Runtime};

/// Kubelet's limits for what a container says at its end.
const MESSAGE_BYTES: usize = 4096;
const LOG_MESSAGE_BYTES: usize = 2048;
const LOG_MESSAGE_LINES: u64 = 80;

/// All that these runtimes know of one pod, and the one that holds its latest sandbox.
pub async fn observe(runtimes: &[Arc<Runtime>], pod: &Pod, as_of: u64) -> Result<(Observed, Option<Place>), CriError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let mut observed = Observed { as_of, ..Observed::default() };
    let mut holder: Option<(u32, Arc<Runtime>, String)> = None;
    for runtime in runtimes {
        let sandboxes = runtime.sandboxes(Some(uid)).await?;
        if sandboxes.is_empty() {
            continue;
        }
        let name = runtime.name();
        for sandbox in sandboxes {
            let attempt = sandbox.metadata.as_ref().map_or(0, |meta| meta.attempt);
            if holder.as_ref().is_none_or(|(latest, _, _)| attempt >= *latest) {
                holder = Some((attempt, runtime.clone(), sandbox.runtime_handler.clone()));
            }
            let status = match runtime.sandbox_status(&sandbox.id).await {
                Ok(status) => status.status.unwrap_or_default(),
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let ready = status.state() == PodSandboxState::SandboxReady;
            observed.sandboxes.push(ObservedSandbox { info: sandbox_info(&status, attempt, &name), ready });
        }
        for listed in runtime.containers(Some(uid)).await? {
            match runtime.container_status(&listed.id).await {
                Ok(status) => observed.containers.push(observed_container(pod, &status, &listed.pod_sandbox_id)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok((observed, holder.map(|(_, runtime, handler)| (runtime, handler))))
}

pub fn sandbox_info(status: &PodSandboxStatus, attempt: u32, runtime: &Arc<str>) -> SandboxInfo {
    let network = status.network.clone().unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    let ips = std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect();
    SandboxInfo { id: status.id.as_str().into(), attempt, ips, runtime: runtime.clone() }
}

fn observed_container(pod: &Pod, status: &ContainerStatus, sandbox: &str) -> ObservedContainer {
    let meta = status.metadata.clone().unwrap_or_default();
    let state = match status.state() {
        ContainerState::ContainerCreated => ObservedState::Created,
        ContainerState::ContainerRunning => {
            ObservedState::Running { started: timestamp(status.started_at).unwrap_or_default() }
        }
        ContainerState::ContainerExited | ContainerState::ContainerUnknown => ObservedState::Exited(exit(pod, status)),
    };
    ObservedContainer {
        id: status.id.as_str().into(),
        name: meta.name.as_str().into(),
        sandbox: sandbox.into(),
        attempt: meta.attempt,
        image: ImageInfo { reference: status.image_ref.clone(), id: status.image_ref.clone() },
        state,
    }
}

/// How a container ended, with what it has to say about it.
pub fn exit(pod: &Pod, status: &ContainerStatus) -> Exit {
    let name = status.metadata.as_ref().map_or("", |meta| &meta.name);
    let unknown = status.state() == ContainerState::ContainerUnknown;
    Exit {
        id: status.id.as_str().into(),
        code: if unknown { 137 } else { status.exit_code },
        reason: match status.reason.as_str() {
            "" if unknown => "ContainerStatusUnknown".to_owned(),
            "" if status.exit_code == 0 => "Completed".to_owned(),
            "" => "Error".to_owned(),
            given => given.to_owned(),
        },
        message: message(pod, name, status),
        started: timestamp(status.started_at),
        finished: timestamp(status.finished_at),
    }
}

/// The termination message: the file the container wrote, else the end of its log if it wants that and failed, else what
/// the runtime says.
fn message(pod: &Pod, name: &str, status: &ContainerStatus) -> String {
    let declared = pod.spec.as_ref().and_then(|spec| declared(spec, name));
    let declared = declared.as_deref();
    let path = declared.and_then(|declared| declared.termination_message_path.as_deref()).unwrap_or_default();
    let mount = status.mounts.iter().find(|mount| !path.is_empty() && mount.container_path == path);
    let written = mount.and_then(|mount| fs::read(&mount.host_path).ok()).filter(|bytes| !bytes.is_empty());
    if let Some(bytes) = written {
        let end = bytes.len().min(MESSAGE_BYTES);
        return String::from_utf8_lossy(&bytes[..end]).into_owned();
    }
    let falls_back = declared.and_then(|declared| declared.termination_message_policy.as_deref());
    if falls_back == Some("FallbackToLogsOnError") && status.exit_code != 0 {
        match last_lines(Path::new(&status.log_path)) {
            Ok(text) if !text.is_empty() => return text,
            Ok(_) => {}
            Err(error) => tracing::debug!(container = name, %error, "the end of the log cannot be read"),
        }
    }
    status.message.clone()
}

/// The end of a log as text.
fn last_lines(path: &Path) -> Result<String, LogError> {
    let options = LogOptions { tail: Some(LOG_MESSAGE_LINES), ..LogOptions::default() };
    let mut reader = Reader::open(path, &options)?;
    let mut text = Vec::new();
    while let Some(piece) = reader.next()? {
        text.extend_from_slice(&piece);
    }
    let start = text.len().saturating_sub(LOG_MESSAGE_BYTES);
    Ok(String::from_utf8_lossy(&text[start..]).into_owned())
}

/// CRI's nanoseconds since 1970; 0 is never.
pub fn timestamp(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}
