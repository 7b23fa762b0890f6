//! Carrying out what the machine wants done, one function per effect that takes time.
//!
//! Each gives the input the machine is to be told. Must not decide anything about the pod.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coracle_client::Pod;
use coracle_client::events::EventType;
use coracle_cri::v1::{ContainerState, CreateContainerRequest, ImageSpec, Mount, PodSandboxState, PullImageRequest};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, ResourceRequirements};
use tokio::time::{Instant, timeout};

use super::backoff::go_duration;
use super::config::{self, ContainerInput, host_domain, hostname};
use super::context::{PodContext, pull_secrets};
use super::env::{EnvInput, environment};
use super::image::{credentials, with_default_tag};
use super::machine::{CreateFault, ImageFault, ImageInfo, Input, ResizeFault, SandboxInfo};
use super::observe::{exit, sandbox_info};
use crate::probes::{Check, http_check};
use crate::runtime::{CriError, Runtime};
use crate::sources::{Source, SourceError, SourceKey};
use crate::volumes::{self, VolumeInput, token_key};

/// What a hook may take if nothing bounds it.
const HOOK: Duration = Duration::from_secs(120);
/// A try to ask the runtime again after it did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// After a preStop hook that used the grace period up, the container still gets this.
const GRACE_MIN: Duration = Duration::from_secs(2);

pub(super) async fn prepare_volumes(context: &PodContext, pod: &Pod) -> Input {
    match volumes_of(context, pod, &[]).await {
        Ok(()) => Input::VolumesReady,
        Err(message) => Input::VolumesFailed { message },
    }
}

/// Brings the pod's volumes up to date with what they are made from.
pub(super) async fn volumes_of(context: &PodContext, pod: &Pod, pod_ips: &[String]) -> Result<(), String> {
    context.hold_sources(pod);
    let references = volumes::references(pod);
    let wanted = volumes::token_projections(pod);
    let tokens = join_all(wanted.iter().map(|projection| context.shared.tokens.get(pod, projection)));
    let (sources, tokens) = futures::join!(context.fetch(&references), tokens);
    let tokens = wanted.iter().map(|projection| token_key(projection)).zip(tokens).collect();
    let on_disk = volumes::set_up(&VolumeInput {
        pod,
        dirs: &context.dirs,
        facts: &context.facts(pod_ips.to_vec()),
        sources: &sources,
        tokens: &tokens,
        now: context.shared.clock.now(),
    })
    .map_err(|error| error.to_string())?;
    // Once: the volume is what it is from now on.
    for volume in on_disk.into_iter().filter(|volume| context.told.lock().insert(volume.clone())) {
        let message = format!(
            "Volume \"{volume}\" asks for memory, which only root may mount: it lies on the node's disk instead"
        );
        context.shared.recorder.event(&context.reference(pod, None), EventType::Warning, "VolumeNotInMemory", message);
    }
    Ok(())
}

pub(super) async fn run_sandbox(context: &PodContext, pod: &Pod, attempt: u32) -> Input {
    let pending = context.shared.network.borrow().pending.clone();
    if let Some(message) = pending {
        return Input::NetworkNotReady { message };
    }
    match try_run_sandbox(context, pod, attempt).await {
        Ok(info) => Input::SandboxReady(info),
        Err(message) => Input::SandboxFailed { message },
    }
}

async fn try_run_sandbox(context: &PodContext, pod: &Pod, attempt: u32) -> Result<SandboxInfo, String> {
    let (runtime, handler) = context.runtime(pod).await?;
    runtime.there().await?;
    context.give((runtime.clone(), handler.clone()))?;
    let config = config::sandbox(pod, &context.shared.node_view(), &context.dirs, attempt)?;
    fs::create_dir_all(&context.dirs.logs)
        .map_err(|error| format!("cannot make the log folder {}: {error}", context.dirs.logs.display()))?;
    if context.unsure.load(Ordering::Acquire) {
        remove_sandboxes(&runtime, &context.uid).await.map_err(|error| error.to_string())?;
    }
    // Until all of it is known to be done, and also if this task is given up on the way.
    context.unsure.store(true, Ordering::Release);
    let id = runtime.run_sandbox(config, &handler).await.map_err(|error| error.to_string())?;
    let status = runtime.sandbox_status(&id).await.map_err(|error| error.to_string())?.status.unwrap_or_default();
    let info = sandbox_info(&status, attempt, &runtime.name());
    write_hosts(context, pod, &info.ips).map_err(|error| format!("cannot write the hosts file: {error}"))?;
    context.unsure.store(false, Ordering::Release);
    Ok(info)
}

fn write_hosts(context: &PodContext, pod: &Pod, ips: &[String]) -> std::io::Result<()> {
    let domain = &context.shared.config.cluster_domain;
    let name = hostname(pod, domain).unwrap_or_default();
    let text = volumes::hosts_file(pod, ips, &name, &host_domain(pod, domain));
    fs::create_dir_all(&context.dirs.root)?;
    fs::write(context.dirs.root.join("etc-hosts"), text)
}

pub(super) async fn ensure_image(context: &PodContext, pod: &Pod, name: Arc<str>) -> Input {
    match try_ensure_image(context, pod, &name).await {
        Ok(image) => Input::ImageReady { container: name, image },
        Err((fault, message)) => Input::ImageFailed { container: name, fault, message },
    }
}

async fn try_ensure_image(context: &PodContext, pod: &Pod, name: &str) -> Result<ImageInfo, (ImageFault, String)> {
    let (written, policy) = {
        let declared = declared(pod, name).map_err(|message| (ImageFault::Inspect, message))?;
        (declared.image.clone().unwrap_or_default(), declared.image_pull_policy.clone())
    };
    let image = with_default_tag(&written).map_err(|error| {
        (ImageFault::InvalidName, format!("Failed to apply default image tag \"{written}\": {error}"))
    })?;
    let (runtime, handler) = context.runtime(pod).await.map_err(|message| (ImageFault::Inspect, message))?;
    let spec = ImageSpec {
        image: image.clone(),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        user_specified_image: written.clone(),
        runtime_handler: handler,
        ..ImageSpec::default()
    };
    let inspect = |error: CriError| (ImageFault::Inspect, format!("Failed to inspect image \"{written}\": {error}"));
    let found = runtime.image(spec.clone()).await.map_err(inspect)?;
    let default = if image.ends_with(":latest") { "Always" } else { "IfNotPresent" };
    let policy = policy.as_deref().unwrap_or(default);
    let reference = context.reference(pod, Some(name));
    let event = |reason: &str, text: String| context.shared.recorder.event(&reference, EventType::Normal, reason, text);
    match (found, policy) {
        (Some(found), "IfNotPresent" | "Never") => {
            event("Pulled", format!("Container image \"{written}\" already present on machine"));
            Ok(image_info(found))
        }
        (None, "Never") => {
            let message = format!("Container image \"{written}\" is not present with pull policy of Never");
            Err((ImageFault::NeverPull, message))
        }
        (_, _) => {
            event("Pulling", format!("Pulling image \"{written}\""));
            let (waited, took) = Box::pin(pull(context, pod, &runtime, &spec)).await.map_err(pull_fault)?;
            let found = runtime.image(spec).await.map_err(inspect)?.ok_or_else(|| {
                (ImageFault::Inspect, format!("Failed to inspect image \"{written}\": it is gone after its pull"))
            })?;
            let (took, waited, size) = (go_duration(took), go_duration(waited), found.size);
            event(
                "Pulled",
                format!(
                    "Successfully pulled image \"{written}\" in {took} ({waited} including waiting). Image size: {size} bytes."
                ),
            );
            Ok(image_info(found))
        }
    }
}

/// Pulls with each credential that fits, in turn. Gives the time with and without waiting for a turn.
pub(super) async fn pull(
    context: &PodContext,
    pod: &Pod,
    runtime: &Arc<Runtime>,
    spec: &ImageSpec,
) -> Result<(Duration, Duration), CriError> {
    let secrets = context.fetch(&pull_secrets(pod)).await;
    let secrets: Vec<_> = secrets.values().flatten().map(|source| &**source).collect();
    let mut auths: Vec<_> = credentials(&spec.image, &secrets).into_iter().map(Some).collect();
    if auths.is_empty() {
        auths.push(None);
    }
    let begin = Instant::now();
    let mut failure = None;
    for auth in auths {
        let request = PullImageRequest { image: Some(spec.clone()), auth, sandbox_config: None };
        let mut turn = begin;
        match runtime.pull(request, || turn = Instant::now()).await {
            Ok(_) => return Ok((whole_millis(begin.elapsed()), whole_millis(turn.elapsed()))),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.expect("at least one pull was tried"))
}

fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// How a message begins that tells of a signature.
pub(super) const SIGNATURE_FAULT: &str = "SignatureValidationFailed";

/// Runtimes name two faults by the beginning of their message; kubelet shows these as reasons of their own.
fn pull_fault(error: CriError) -> (ImageFault, String) {
    if error.message.starts_with("RegistryUnavailable") {
        (ImageFault::RegistryUnavailable, error.to_string())
    } else if error.message.starts_with(SIGNATURE_FAULT) {
        (ImageFault::SignatureValidation, error.to_string())
    } else {
        (ImageFault::Pull, error.to_string())
    }
}

fn image_info(image: coracle_cri::v1::Image) -> ImageInfo {
    let id = image.repo_digests.first().cloned().unwrap_or_else(|| image.id.clone());
    ImageInfo { reference: image.id, id }
}

pub(super) async fn create(
    context: &PodContext,
    pod: &Pod,
    name: Arc<str>,
    attempt: u32,
    image: ImageInfo,
    sandbox: Option<SandboxInfo>,
) -> Input {
    match try_create(context, pod, &name, attempt, &image, sandbox).await {
        Ok(id) => Input::Created { container: name, id: id.into() },
        Err((fault, message)) => Input::CreateFailed { container: name, fault, message },
    }
}

async fn try_create(
    context: &PodContext,
    pod: &Pod,
    name: &str,
    attempt: u32,
    image: &ImageInfo,
    sandbox: Option<SandboxInfo>,
) -> Result<String, (CreateFault, String)> {
    let config_fault = |message: String| (CreateFault::Config, message);
    let references = super::env::references(&context.key.namespace, &*declared(pod, name).map_err(config_fault)?);
    let sandbox = sandbox.ok_or_else(|| config_fault("the pod's sandbox is gone".to_owned()))?;
    let (runtime, handler) = context.runtime(pod).await.map_err(config_fault)?;
    let sources = context.fetch(&references).await;
    let services = context.services(pod).await;
    let wanted = Wanted { name, attempt, image, sandbox: &sandbox, handler: &handler, services, sources };
    let request = wanted.request(context, pod).map_err(config_fault)?;
    match runtime.create_container(request).await {
        Ok(id) => Ok(id),
        Err(error) if error.is_unsure() => {
            Box::pin(was_created(context, &runtime, &sandbox, name, attempt, error)).await
        }
        Err(error) => Err((CreateFault::Create, error.message)),
    }
}

/// A container that is to be made, and what its environment is made of.
struct Wanted<'a> {
    name: &'a str,
    attempt: u32,
    image: &'a ImageInfo,
    sandbox: &'a SandboxInfo,
    handler: &'a str,
    services: BTreeMap<String, String>,
    sources: BTreeMap<SourceKey, Result<Arc<Source>, SourceError>>,
}

impl Wanted<'_> {
    fn request(self, context: &PodContext, pod: &Pod) -> Result<Box<CreateContainerRequest>, String> {
        let Wanted { name, attempt, image, sandbox, handler, services, sources } = self;
        let declared = &*declared(pod, name)?;
        let facts = context.facts(pod_ips(context, pod, &sandbox.ips));
        let input = EnvInput { pod, container: declared, facts: &facts, services: &services, sources: &sources };
        let env = environment(&input)?;
        let mut mounts = volumes::mounts(pod, declared, &context.dirs, &env)?;
        let failed = |error: std::io::Error| error.to_string();
        mounts.extend(termination_log(context, declared, attempt).map_err(failed)?);
        fs::create_dir_all(context.dirs.logs.join(&declared.name)).map_err(failed)?;
        let node = context.shared.node_view();
        let input =
            ContainerInput { pod, container: declared, attempt, image, handler, env: &env, mounts, node: &node };
        Ok(Box::new(CreateContainerRequest {
            pod_sandbox_id: sandbox.id.to_string(),
            config: Some(config::container(input)?),
            sandbox_config: Some(config::sandbox(pod, &node, &context.dirs, sandbox.attempt)?),
        }))
    }
}

/// After a lost answer: the container may be there, and its name is taken then.
async fn was_created(
    context: &PodContext,
    runtime: &Runtime,
    sandbox: &SandboxInfo,
    name: &str,
    attempt: u32,
    error: CriError,
) -> Result<String, (CreateFault, String)> {
    loop {
        match runtime.containers(Some(&context.uid)).await {
            Ok(containers) => {
                let made = containers.into_iter().find(|container| {
                    let meta = container.metadata.as_ref();
                    container.pod_sandbox_id == *sandbox.id
                        && container.state() == ContainerState::ContainerCreated
                        && meta.is_some_and(|meta| meta.name == name && meta.attempt == attempt)
                });
                return made.map(|container| container.id).ok_or((CreateFault::Create, error.message));
            }
            Err(error) if !error.is_unsure() => return Err((CreateFault::Create, error.message)),
            Err(error) => {
                tracing::debug!(pod = %context.key, name, %error, "it is not known yet whether this was made")
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

fn pod_ips(context: &PodContext, pod: &Pod, sandbox: &[String]) -> Vec<String> {
    let host = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    if host { context.shared.host_ips() } else { sandbox.to_vec() }
}

/// The file in which a container may leave its last words.
fn termination_log(context: &PodContext, declared: &Container, attempt: u32) -> std::io::Result<Option<Mount>> {
    let path = declared.termination_message_path.clone().filter(|path| !path.is_empty());
    let Some(container_path) = path else { return Ok(None) };
    let dir = context.dirs.container(&declared.name);
    fs::create_dir_all(&dir)?;
    let file = dir.join(format!("termination-log-{attempt}"));
    fs::write(&file, [])?;
    // Whatever user the container runs as may write it.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    Ok(Some(Mount { container_path, host_path: file.display().to_string(), ..Mount::default() }))
}

pub(super) async fn start(context: &PodContext, pod: &Pod, name: Arc<str>, id: &str) -> Input {
    let runtime = match context.runtime(pod).await {
        Ok((runtime, _)) => runtime,
        Err(message) => return Input::StartFailed { container: name, message },
    };
    let started = match runtime.start_container(id).await {
        Err(error) if error.is_unsure() => was_started(context, &runtime, id).await,
        other => other,
    };
    match started {
        Ok(()) => Input::Started { container: name, at: context.shared.clock.now() },
        Err(error) => Input::StartFailed { container: name, message: error.message },
    }
}

/// After a lost answer: asks until it is known whether the container was started. Another one in its place while it may
/// run would run it twice.
async fn was_started(context: &PodContext, runtime: &Runtime, id: &str) -> Result<(), CriError> {
    loop {
        match runtime.container_status(id).await {
            Ok(status) => match status.state() {
                // Its end is found when events are heard again.
                ContainerState::ContainerRunning | ContainerState::ContainerExited => return Ok(()),
                ContainerState::ContainerCreated => runtime.start_container(id).await?,
                ContainerState::ContainerUnknown => {}
            },
            Err(error) if !error.is_unsure() => return Err(error),
            Err(error) => {
                tracing::debug!(pod = %context.key, id, %error, "it is not known yet whether this was started")
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

pub(super) async fn post_start(context: &PodContext, pod: &Pod, name: Arc<str>, id: &str, ips: Vec<String>) -> Input {
    let handler = declared(pod, &name).ok().and_then(|c| c.lifecycle.as_ref()?.post_start.clone());
    let Some(handler) = handler else { return Input::HookDone { container: name, id: id.into() } };
    match hook(context, pod, &name, id, &handler, &ips, HOOK).await {
        Ok(()) => Input::HookDone { container: name, id: id.into() },
        Err(message) => Input::HookFailed { container: name, id: id.into(), message },
    }
}

async fn hook(
    context: &PodContext,
    pod: &Pod,
    name: &str,
    id: &str,
    handler: &LifecycleHandler,
    ips: &[String],
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let (runtime, _) = context.runtime(pod).await?;
        let command = exec.command.clone().unwrap_or_default();
        let done = runtime.exec_sync(id, &command, limit).await.map_err(|error| error.to_string())?;
        let output = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        return if done.exit_code == 0 { Ok(()) } else { Err(format!("exit code {}: {output}", done.exit_code)) };
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)).min(limit)).await;
        return Ok(());
    }
    if let Some(http) = &handler.http_get {
        let ip: Option<IpAddr> = pod_ips(context, pod, ips).first().and_then(|ip| ip.parse().ok());
        let check = Check::Http(http_check(http, declared(pod, name)?.as_ref(), ip)?);
        return match timeout(limit, context.shared.prober.try_once(&check)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {}", go_duration(limit))),
        };
    }
    Err("invalid handler: no command, request or sleep is given".to_owned())
}

/// preStop, then the stop, then how it ended.
pub(super) async fn stop(
    context: &PodContext,
    pod: &Pod,
    name: Arc<str>,
    id: Arc<str>,
    grace: Duration,
    ips: Vec<String>,
) -> Input {
    let began = Instant::now();
    let handler = declared(pod, &name).ok().and_then(|c| c.lifecycle.as_ref()?.pre_stop.clone());
    if let (Some(handler), false) = (handler, grace.is_zero()) {
        let ran = timeout(grace, hook(context, pod, &name, &id, &handler, &ips, grace)).await;
        let failed = match ran {
            Ok(Ok(())) => None,
            Ok(Err(message)) => Some(message),
            Err(_) => Some(format!("it did not end within {}", go_duration(grace))),
        };
        if let Some(message) = failed {
            // The hook's own text may hold secrets: kubelet keeps it out of the event.
            tracing::warn!(pod = %context.key, container = %name, message, "preStop hook failed");
            let reference = context.reference(pod, Some(&name));
            let recorder = &context.shared.recorder;
            recorder.event(&reference, EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
        }
    }
    let left = grace.saturating_sub(began.elapsed()).max(GRACE_MIN.min(grace));
    let stopped = async {
        let (runtime, _) = context.runtime(pod).await?;
        runtime.stop_container(&id, left).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(runtime)
    };
    match stopped.await {
        Ok(runtime) => ended(context, &runtime, pod, id).await,
        Err(message) => Input::StopFailed { id, message },
    }
}

/// How a container that is no longer live ended.
pub(super) async fn ended(context: &PodContext, runtime: &Runtime, pod: &Pod, id: Arc<str>) -> Input {
    match runtime.container_status(&id).await {
        Ok(status) => match status.state() {
            ContainerState::ContainerRunning | ContainerState::ContainerCreated => {
                Input::StopFailed { id, message: "the container runs on".to_owned() }
            }
            ContainerState::ContainerExited | ContainerState::ContainerUnknown => {
                Input::Exited { exit: exit(pod, &status), id }
            }
        },
        Err(error) if error.is_not_found() => {
            let mut exit = super::machine::lost(id.clone(), None);
            exit.finished = Some(context.shared.clock.now());
            Input::Exited { id, exit }
        }
        Err(error) => Input::StopFailed { id, message: error.to_string() },
    }
}

/// Tells the runtime what a container may use from now on.
pub(super) async fn resize(context: &PodContext, pod: &Pod, name: Arc<str>, id: Arc<str>) -> Input {
    let outcome = try_resize(context, pod, &name, &id).await;
    Input::Resized { container: name, id, outcome }
}

async fn try_resize(
    context: &PodContext,
    pod: &Pod,
    name: &str,
    id: &str,
) -> Result<ResourceRequirements, ResizeFault> {
    let runtime_fault = |message: String| ResizeFault::Runtime { message };
    let declared = declared(pod, name).map_err(runtime_fault)?;
    let spec = pod.spec.clone().unwrap_or_default();
    for (resource, capacity) in &context.shared.allocatable {
        let asked = config::requested(&spec, resource);
        if asked > *capacity {
            let message =
                format!("Node didn't have enough capacity: {resource}, requested: {asked}, capacity: {capacity}");
            return Err(ResizeFault::Infeasible { message });
        }
    }
    let (runtime, _) = context.runtime(pod).await.map_err(runtime_fault)?;
    let resources = config::container_resources(&spec, &declared, &context.shared.node_view());
    runtime.update_resources(id, resources).await.map_err(|error| runtime_fault(error.message))?;
    Ok(declared.resources.clone().unwrap_or_default())
}

pub(super) async fn stop_sandbox(context: &PodContext, pod: &Pod, id: &str) -> Input {
    let stopped = async {
        let (runtime, _) = context.runtime(pod).await?;
        runtime.stop_sandbox(id).await.map_err(|error| error.to_string())
    };
    match stopped.await {
        Ok(()) => Input::SandboxStopped,
        Err(message) => Input::SandboxStopFailed { message },
    }
}

/// Forgets a dead container and its log.
pub(super) async fn remove_container(context: &PodContext, pod: &Pod, name: &str, id: &str, attempt: u32) {
    let Ok((runtime, _)) = context.runtime(pod).await else { return };
    if let Err(error) = runtime.remove_container(id).await {
        tracing::warn!(pod = %context.key, container = name, id, %error, "a dead container is left behind");
    }
    // Rotated parts of a log are named after it.
    let prefix = format!("{attempt}.log");
    let Ok(entries) = fs::read_dir(context.dirs.logs.join(name)) else { return };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let rest = file.to_string_lossy().strip_prefix(&prefix).map(str::to_owned);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            remove_file(&entry.path());
        }
    }
    remove_file(&context.dirs.container(name).join(format!("termination-log-{attempt}")));
}

fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a file is left behind");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Removes every sandbox of the pod, and its volumes.
pub(super) async fn dispose(context: &PodContext) -> Input {
    match try_dispose(context).await {
        Ok(()) => Input::Disposed,
        Err(message) => Input::DisposeFailed { message },
    }
}

async fn try_dispose(context: &PodContext) -> Result<(), String> {
    for runtime in context.holders() {
        remove_sandboxes(&runtime, &context.uid).await.map_err(|error| error.to_string())?;
    }
    volumes::tear_down(&context.dirs).map_err(|error| format!("cannot remove its volumes: {error}"))
}

/// Removes what a runtime has of a pod; whatever still lives in it is killed.
pub async fn remove_sandboxes(runtime: &Runtime, uid: &str) -> Result<(), CriError> {
    for sandbox in runtime.sandboxes(Some(uid)).await? {
        if sandbox.state() == PodSandboxState::SandboxReady {
            runtime.stop_sandbox(&sandbox.id).await?;
        }
        runtime.remove_sandbox(&sandbox.id).await?;
    }
    Ok(())
}

fn declared<'a>(pod: &'a Pod, name: &str) -> Result<Cow<'a, Container>, String> {
    pod.spec
        .as_ref()
        .and_then(|spec| super::machine::declared(spec, name))
        .ok_or_else(|| format!("the pod has no container \"{name}\""))
}
