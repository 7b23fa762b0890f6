//! The fake node as a value: every change takes the time as an argument, and no change waits.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::script::{Run, Script, Step, Stop};
use crate::Status;
use crate::v1;

/// Calls kept for `take_calls`; beyond it the oldest half is dropped.
const CALLS_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct State {
    pub(super) scripts: BTreeMap<String, Script>,
    pub(super) faults: BTreeMap<String, (u32, String)>,
    pub(super) lost: BTreeMap<String, u32>,
    pub(super) down: bool,
    pub(super) violations: Vec<String>,
    pub(super) starts: BTreeMap<(String, String), u64>,
    pub(super) calls: Vec<String>,
    /// Not yet sent to the streams.
    pub(super) events: Vec<v1::ContainerEventResponse>,
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) images: BTreeMap<String, v1::Image>,
    pub(super) pod_cidr: Option<(Ipv4Addr, u8)>,
    failures: BTreeMap<(String, &'static str), u32>,
    ids: u64,
}

pub(super) struct Sandbox {
    pub(super) config: v1::PodSandboxConfig,
    pub(super) handler: String,
    pub(super) ready: bool,
    pub(super) created_ns: i64,
    pub(super) ip: Option<Ipv4Addr>,
}

pub(super) struct Container {
    pub(super) sandbox: String,
    pub(super) config: v1::ContainerConfig,
    pub(super) image_id: String,
    pub(super) created_ns: i64,
    pub(super) started_ns: Option<i64>,
    pub(super) exit: Option<Exit>,
    /// When and how it will end, if nothing else happens.
    pub(super) due: Option<Exit>,
}

#[derive(Clone)]
pub(super) struct Exit {
    pub(super) at_ns: i64,
    code: i32,
    reason: &'static str,
    message: String,
}

impl Container {
    pub(super) fn live(&self) -> bool {
        self.started_ns.is_some() && self.exit.is_none()
    }

    pub(super) fn image(&self) -> &str {
        self.config.image.as_ref().map_or("", |spec| &spec.image)
    }

    pub(super) fn name(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |meta| &meta.name)
    }

    fn state(&self) -> v1::ContainerState {
        match (self.started_ns, &self.exit) {
            (_, Some(_)) => v1::ContainerState::ContainerExited,
            (Some(_), None) => v1::ContainerState::ContainerRunning,
            (None, None) => v1::ContainerState::ContainerCreated,
        }
    }
}

impl State {
    /// Ends every container whose time has come, in the order of their times.
    pub(super) fn advance(&mut self, now_ns: i64) {
        loop {
            let due = self
                .containers
                .iter()
                .filter(|(_, container)| container.live())
                .filter_map(|(id, container)| Some((container.due.as_ref()?.at_ns, id)))
                .min()
                .filter(|(at, _)| *at <= now_ns)
                .map(|(_, id)| id.clone());
            let Some(id) = due else { return };
            if let Some(container) = self.containers.get_mut(&id) {
                container.exit = container.due.take();
            }
            self.event(&id, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<i64> {
        self.containers.values().filter(|container| container.live()).filter_map(|c| Some(c.due.as_ref()?.at_ns)).min()
    }

    /// Notes a call, or fails it if the test has asked for that.
    pub(super) fn enter(&mut self, rpc: &str, subject: Option<&str>) -> Result<(), Status> {
        if self.down {
            return Err(Status::unavailable("connection error: the fake runtime is down"));
        }
        if let Some(subject) = subject {
            if self.calls.len() >= CALLS_MAX {
                self.calls.drain(..CALLS_MAX / 2);
            }
            self.calls.push(format!("{rpc} {subject}"));
        }
        if let Some((times, message)) = self.faults.get_mut(rpc)
            && *times > 0
        {
            *times -= 1;
            return Err(Status::unknown(message.clone()));
        }
        Ok(())
    }

    /// Whether the answer to a call that has had its effect arrives.
    pub(super) fn leave(&mut self, rpc: &str) -> Result<(), Status> {
        match self.lost.get_mut(rpc) {
            Some(times) if *times > 0 => {
                *times -= 1;
                Err(Status::unavailable("connection error: the answer was lost"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The script's word on one step: how long it takes, or why it fails. `None` is never.
    pub(super) fn step(&mut self, image: &str, kind: &'static str) -> Result<Option<std::time::Duration>, Status> {
        let step = self.script(image).map(|script| match kind {
            "pull" => script.pull.clone(),
            "create" => script.create.clone(),
            _ => script.start.clone(),
        });
        match step {
            None | Some(Step::Ok) => Ok(Some(std::time::Duration::ZERO)),
            Some(Step::Takes(time)) => Ok(Some(time)),
            Some(Step::Never) => Ok(None),
            Some(Step::Fails { times, message }) => {
                let failed = self.failures.entry((image.to_owned(), kind)).or_default();
                if times.is_some_and(|times| *failed >= times) {
                    return Ok(Some(std::time::Duration::ZERO));
                }
                *failed += 1;
                match message.split_once(": ") {
                    Some(("Unknown", message)) => Err(Status::unknown(message)),
                    Some(("Internal", message)) => Err(Status::internal(message)),
                    _ if kind == "pull" => Err(Status::not_found(message)),
                    _ => Err(Status::unknown(message)),
                }
            }
        }
    }

    /// The script of an image given by name or by id.
    pub(super) fn script(&self, image: &str) -> Option<&Script> {
        self.scripts.get(image).or_else(|| {
            let spec = self.image(image)?.spec.as_ref()?;
            self.scripts.get(&spec.image)
        })
    }

    pub(super) fn add_image(&mut self, image: &str) -> String {
        let size = self.scripts.get(image).map_or(1 << 20, |script| script.size_bytes);
        // A digest-like id that depends on nothing but the name.
        let hash =
            image.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let id = format!("sha256:{hash:016x}");
        let repo = image.split('@').next().unwrap_or(image);
        self.images.insert(
            image.to_owned(),
            v1::Image {
                id: id.clone(),
                repo_tags: vec![image.to_owned()],
                repo_digests: vec![format!("{repo}@{id}")],
                size,
                spec: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
                ..Default::default()
            },
        );
        id
    }

    /// By name or by id.
    pub(super) fn image(&self, name: &str) -> Option<&v1::Image> {
        self.images.get(name).or_else(|| self.images.values().find(|image| image.id == name))
    }

    pub(super) fn run_sandbox(
        &mut self,
        config: v1::PodSandboxConfig,
        handler: String,
        now_ns: i64,
    ) -> Result<String, Status> {
        let uid = config.metadata.as_ref().map(|meta| meta.uid.clone()).unwrap_or_default();
        let taken = self.sandboxes.values().any(|sandbox| sandbox.ready && pod_uid(&sandbox.config) == uid);
        if taken {
            self.violations.push(format!("a second ready sandbox for pod {uid}"));
        }
        let ip = match network_mode(&config) {
            v1::NamespaceMode::Node => None,
            v1::NamespaceMode::Pod | v1::NamespaceMode::Container | v1::NamespaceMode::Target => Some(self.free_ip()?),
        };
        let id = self.id("sandbox");
        self.sandboxes.insert(id.clone(), Sandbox { config, handler, ready: true, created_ns: now_ns, ip });
        self.event(&id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(id)
    }

    fn free_ip(&self) -> Result<Ipv4Addr, Status> {
        let Some((base, prefix)) = self.pod_cidr else {
            return Err(Status::unknown("network is not ready: the pod CIDR is not known yet"));
        };
        let first = u32::from(base);
        let last = first | (u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0));
        let used: std::collections::BTreeSet<Ipv4Addr> = self.sandboxes.values().filter_map(|s| s.ip).collect();
        (first + 2..last)
            .map(Ipv4Addr::from)
            .find(|ip| !used.contains(ip))
            .ok_or_else(|| Status::resource_exhausted(format!("no address is free in {base}/{prefix}")))
    }

    pub(super) fn create_container(
        &mut self,
        sandbox: String,
        config: v1::ContainerConfig,
        now_ns: i64,
    ) -> Result<String, Status> {
        let ready = self.sandboxes.get(&sandbox).ok_or_else(|| missing("sandbox", &sandbox))?.ready;
        if !ready {
            return Err(Status::failed_precondition(format!("sandbox container \"{sandbox}\" is not running")));
        }
        let image = config.image.as_ref().map_or("", |spec| spec.image.as_str());
        let image_id = self.image(image).map(|image| image.id.clone()).ok_or_else(|| missing("image", image))?;
        let id = self.id("container");
        let container =
            Container { sandbox, config, image_id, created_ns: now_ns, started_ns: None, exit: None, due: None };
        self.containers.insert(id.clone(), container);
        self.event(&id, v1::ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    pub(super) fn start_container(&mut self, id: &str, now_ns: i64) -> Result<(), Status> {
        let container = self.containers.get(id).ok_or_else(|| missing("container", id))?;
        if container.started_ns.is_some() {
            return Err(Status::failed_precondition(format!("container \"{id}\" is not in created state")));
        }
        let sandbox = self.sandboxes.get(&container.sandbox).ok_or_else(|| missing("sandbox", &container.sandbox))?;
        if !sandbox.ready {
            return Err(Status::failed_precondition(format!("sandbox \"{}\" is not running", container.sandbox)));
        }
        let key = (pod_uid(&sandbox.config), container.name().to_owned());
        if self.live().contains_key(&key) {
            self.violations.push(format!("a second live container {} in pod {}", key.1, key.0));
        }
        let script = self.script(container.image()).cloned().unwrap_or_default();
        let attempt = self.starts.entry(key).or_default();
        let run = script.run(usize::try_from(*attempt).unwrap_or(usize::MAX));
        *attempt += 1;
        let log = PathBuf::from(&sandbox.config.log_directory).join(&container.config.log_path);
        if !script.log.is_empty() && !sandbox.config.log_directory.is_empty() {
            write_log(&log, &script.log, now_ns)
                .map_err(|error| Status::unknown(format!("cannot write log {}: {error}", log.display())))?;
        }
        let container = self.containers.get_mut(id).expect("looked up above");
        container.started_ns = Some(now_ns);
        container.due = match run {
            Run::UntilStopped => None,
            Run::Exits { code, after, oom, message } => {
                let at_ns = now_ns + after.as_nanos() as i64;
                Some(Exit { at_ns, code, reason: exit_reason(code, oom), message })
            }
        };
        self.event(id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(())
    }

    /// Sends the stop signal. The container is gone by `now + timeout` at the latest; an earlier end is kept.
    pub(super) fn begin_stop(&mut self, id: &str, timeout_s: i64, now_ns: i64) -> Result<(), Status> {
        let container = self.containers.get(id).ok_or_else(|| missing("container", id))?;
        if !container.live() {
            return Ok(());
        }
        let kill_at = now_ns + timeout_s.max(0).saturating_mul(1_000_000_000);
        let killed = Exit { at_ns: kill_at, code: 137, reason: "Error", message: String::new() };
        let stop = self.script(container.image()).map(|script| script.stop.clone()).unwrap_or_default();
        let due = match stop {
            Stop::After(time) if now_ns + time.as_nanos() as i64 <= kill_at && timeout_s > 0 => {
                let at_ns = now_ns + time.as_nanos() as i64;
                Exit { at_ns, code: 0, reason: "Completed", message: String::new() }
            }
            Stop::After(_) | Stop::Ignored => killed,
        };
        let container = self.containers.get_mut(id).expect("looked up above");
        if container.due.as_ref().is_none_or(|known| due.at_ns < known.at_ns) {
            container.due = Some(due);
        }
        Ok(())
    }

    pub(super) fn remove_container(&mut self, id: &str, now_ns: i64) {
        self.kill(id, now_ns);
        if self.containers.contains_key(id) {
            self.event(id, v1::ContainerEventType::ContainerDeletedEvent);
            self.containers.remove(id);
        }
    }

    pub(super) fn stop_sandbox(&mut self, id: &str, now_ns: i64) {
        for container in self.containers_of(id) {
            self.kill(&container, now_ns);
        }
        if let Some(sandbox) = self.sandboxes.get_mut(id)
            && sandbox.ready
        {
            sandbox.ready = false;
            sandbox.ip = None;
            self.event(id, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    pub(super) fn remove_sandbox(&mut self, id: &str, now_ns: i64) {
        self.stop_sandbox(id, now_ns);
        for container in self.containers_of(id) {
            self.remove_container(&container, now_ns);
        }
        if self.sandboxes.contains_key(id) {
            self.event(id, v1::ContainerEventType::ContainerDeletedEvent);
            self.sandboxes.remove(id);
        }
    }

    pub(super) fn crash(&mut self, pod_uid_wanted: &str, name: &str, code: i32, now_ns: i64) -> bool {
        let found = self.containers.iter_mut().find(|(_, container)| {
            container.live()
                && container.name() == name
                && self.sandboxes.get(&container.sandbox).is_some_and(|s| pod_uid(&s.config) == pod_uid_wanted)
        });
        let Some((_, container)) = found else { return false };
        container.due = Some(Exit { at_ns: now_ns, code, reason: exit_reason(code, false), message: String::new() });
        true
    }

    pub(super) fn power_cut(&mut self) {
        self.sandboxes.clear();
        self.containers.clear();
    }

    pub(super) fn live(&self) -> BTreeMap<(String, String), usize> {
        let mut live = BTreeMap::new();
        for container in self.containers.values().filter(|container| container.live()) {
            let uid = self.sandboxes.get(&container.sandbox).map(|s| pod_uid(&s.config)).unwrap_or_default();
            *live.entry((uid, container.name().to_owned())).or_default() += 1;
        }
        live
    }

    pub(super) fn describe_sandboxes(&self) -> Vec<String> {
        let describe = |sandbox: &Sandbox| {
            let meta = sandbox.config.metadata.clone().unwrap_or_default();
            let state = if sandbox.ready { "ready" } else { "notready" };
            format!("{}/{} {} {state}", meta.namespace, meta.name, meta.uid)
        };
        self.sandboxes.values().map(describe).collect()
    }

    pub(super) fn containers_of(&self, sandbox: &str) -> Vec<String> {
        self.containers.iter().filter(|(_, c)| c.sandbox == sandbox).map(|(id, _)| id.clone()).collect()
    }

    fn kill(&mut self, id: &str, now_ns: i64) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.live() {
            container.exit = Some(Exit { at_ns: now_ns, code: 137, reason: "Error", message: String::new() });
            self.event(id, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    fn id(&mut self, kind: &str) -> String {
        self.ids += 1;
        format!("{kind}-{:06}", self.ids)
    }

    fn event(&mut self, id: &str, kind: v1::ContainerEventType) {
        let sandbox = self.containers.get(id).map_or(id, |container| container.sandbox.as_str()).to_owned();
        let containers_statuses =
            self.containers_of(&sandbox).iter().filter_map(|container| self.container_status(container)).collect();
        let created_at = self.containers.get(id).map_or(0, |c| c.exit.as_ref().map_or(c.created_ns, |exit| exit.at_ns));
        self.events.push(v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at,
            pod_sandbox_status: self.sandbox_status(&sandbox),
            containers_statuses,
        });
    }

    pub(super) fn sandbox_status(&self, id: &str) -> Option<v1::PodSandboxStatus> {
        let sandbox = self.sandboxes.get(id)?;
        Some(v1::PodSandboxStatus {
            id: id.to_owned(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox_state(sandbox).into(),
            created_at: sandbox.created_ns,
            network: Some(v1::PodSandboxNetworkStatus {
                ip: sandbox.ip.map(|ip| ip.to_string()).unwrap_or_default(),
                additional_ips: Vec::new(),
            }),
            linux: None,
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: sandbox.handler.clone(),
        })
    }

    pub(super) fn container_status(&self, id: &str) -> Option<v1::ContainerStatus> {
        let container = self.containers.get(id)?;
        let log_directory = self.sandboxes.get(&container.sandbox).map_or("", |s| s.config.log_directory.as_str());
        let exit = container.exit.as_ref();
        Some(v1::ContainerStatus {
            id: id.to_owned(),
            metadata: container.config.metadata.clone(),
            state: container.state().into(),
            created_at: container.created_ns,
            started_at: container.started_ns.unwrap_or(0),
            finished_at: exit.map_or(0, |exit| exit.at_ns),
            exit_code: exit.map_or(0, |exit| exit.code),
            reason: exit.map_or("", |exit| exit.reason).to_owned(),
            message: exit.map_or("", |exit| exit.message.as_str()).to_owned(),
            image: container.config.image.clone(),
            image_ref: container.image_id.clone(),
            image_id: container.image_id.clone(),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            mounts: container.config.mounts.clone(),
            log_path: PathBuf::from(log_directory).join(&container.config.log_path).display().to_string(),
            ..Default::default()
        })
    }

    pub(super) fn container(&self, id: &str) -> Option<v1::Container> {
        let container = self.containers.get(id)?;
        Some(v1::Container {
            id: id.to_owned(),
            pod_sandbox_id: container.sandbox.clone(),
            metadata: container.config.metadata.clone(),
            image: container.config.image.clone(),
            image_ref: container.image_id.clone(),
            image_id: container.image_id.clone(),
            state: container.state().into(),
            created_at: container.created_ns,
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
        })
    }
}

pub(super) fn pod_uid(config: &v1::PodSandboxConfig) -> String {
    config.metadata.as_ref().map(|meta| meta.uid.clone()).unwrap_or_default()
}

pub(super) fn sandbox_state(sandbox: &Sandbox) -> v1::PodSandboxState {
    if sandbox.ready { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready }
}

pub(super) fn missing(kind: &str, id: &str) -> Status {
    Status::not_found(format!("{kind} \"{id}\": not found"))
}

fn network_mode(config: &v1::PodSandboxConfig) -> v1::NamespaceMode {
    config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref()?.namespace_options.as_ref())
        .map_or(v1::NamespaceMode::Pod, |options| options.network())
}

fn exit_reason(code: i32, oom: bool) -> &'static str {
    match (code, oom) {
        (_, true) => "OOMKilled",
        (0, false) => "Completed",
        (_, false) => "Error",
    }
}

fn write_log(path: &std::path::Path, lines: &[String], now_ns: i64) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let time = jiff::Timestamp::from_nanosecond(i128::from(now_ns)).map_err(std::io::Error::other)?;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    for line in lines {
        writeln!(file, "{time} stdout F {line}")?;
    }
    Ok(())
}
