//! Sandboxes and containers: how they come to be, change and go. Every change goes through here: state first, then the
//! record on disk, then the event.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use coracle_cri::Status;
use coracle_cri::streaming::StreamingServer;
use coracle_cri::v1::{ContainerEventResponse, ContainerEventType, PodSandboxConfig};
use ipnet::Ipv4Net;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::FrontConfig;
use super::addresses::NoAddress;
use super::convert;
use super::domain::Domain;
use super::events::Events;
use super::host_ports::{self, HostPorts, NoPort};
use super::looks::Looks;
use super::packed::Packed;
use super::records::{Phase, Records, SandboxRecord};
use super::state::{Lookup, State, name_of};
use super::usage::{Heard, Meter};
use super::workers::Workers;
use crate::clock::UnixNanos;
use crate::compile::{Compiler, TaskLimits};
use crate::engine::Profile;
use crate::images::{Digest, ImageError, ImageStore};
use crate::wire;

/// Exit code of a container whose worker died: it was killed, though not by its own doing.
pub(super) const LOST: i32 = 137;

/// All there is. One value, shared by all calls.
pub(super) struct Pods {
    pub(super) config: FrontConfig,
    pub(super) images: ImageStore,
    /// Held by who looks through the directory of archives: who comes meanwhile finds them taken in.
    pub(super) archives: Arc<tokio::sync::Mutex<()>>,
    pub(super) compiler: Compiler,
    pub(super) profile: Profile,
    pub(super) state: Mutex<State>,
    /// The end of a container could not be written down.
    pub(super) unrecorded_more: Notify,
    pub(super) records: Records,
    pub(super) events: Events,
    pub(super) heard: Heard,
    pub(super) meter: Meter,
    pub(super) looks: Looks,
    pub(super) workers: Workers,
    pub(super) host_ports: HostPorts,
    pub(super) default_memory_bytes: u64,
    pub(super) threads: usize,
    pub(super) tasks: TaskTracker,
    /// Everything is being ended: nothing starts any more.
    pub(super) closing: AtomicBool,
    pub(super) stop: CancellationToken,
    /// Set before anybody is served.
    pub(super) streams: OnceLock<StreamingServer>,
}

/// What keeps a front from coming up.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Images(#[from] ImageError),
    #[error("cannot use {}: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Pods {
    /// Reads what there was. Workers of an earlier front are looked for later.
    pub(super) fn open(config: FrontConfig) -> Result<Arc<Pods>, OpenError> {
        let io = |path: &PathBuf| {
            let path = path.clone();
            move |source| OpenError::Io { path, source }
        };
        let images = ImageStore::open_with_clock(config.root.join("images"), config.clock.clone())?;
        let profile = config.engine.unwrap_or_else(Profile::probe);
        let code = config.root.join("code");
        // Address space, of which a compiler uses a part; on a small machine it must not drive all else out.
        let limits = TaskLimits {
            memory_bytes: config.compile_memory_bytes.unwrap_or_else(|| memory_bytes().clamp(1 << 30, 4 << 30)),
            cpu_seconds: config.compile_seconds.unwrap_or(TaskLimits::default().cpu_seconds),
        };
        let policy = config.registries.policy.clone();
        let compiler = Compiler::new(code.clone(), config.compiler.clone(), profile, limits, config.code_bytes, policy)
            .map_err(io(&code))?;
        let dir = config.root.join("state");
        let records = Records::open(&dir).map_err(io(&dir))?;
        let workers = config.root.join("workers");
        let workers = Workers::open(workers.clone()).map_err(io(&workers))?;
        let stop = CancellationToken::new();
        let pods = Pods {
            default_memory_bytes: config.default_memory_bytes.unwrap_or_else(|| memory_bytes() / 2),
            threads: config.guest_threads.unwrap_or_else(processors).max(2),
            images,
            archives: Arc::default(),
            compiler,
            profile,
            state: Mutex::default(),
            unrecorded_more: Notify::new(),
            records,
            events: Events::new(stop.clone()),
            heard: Heard::default(),
            meter: Meter::default(),
            looks: Looks::default(),
            workers,
            host_ports: HostPorts::default(),
            tasks: TaskTracker::new(),
            closing: AtomicBool::new(false),
            stop,
            streams: OnceLock::new(),
            config,
        };
        pods.make_scratch().map_err(io(&pods.config.root))?;
        pods.read_records().map_err(io(&dir))?;
        pods.hold_images()?;
        Ok(Arc::new(pods))
    }

    /// What there was. Whether it still runs, workers know.
    fn read_records(&self) -> std::io::Result<()> {
        let mut state = self.state.lock();
        if let Some(range) = self.records.pod_cidr().or(self.config.pod_cidr) {
            state.addresses.set_range(range);
        }
        for sandbox in self.records.sandboxes()? {
            if let Some(ip) = sandbox.ip {
                state.addresses.mark_used(ip);
            }
            let name = name_of(&sandbox.config.read().metadata.unwrap_or_default());
            state.add_sandbox(name, sandbox);
        }
        for record in self.records.containers()? {
            if !state.sandboxes.contains_key(&record.sandbox) {
                self.records.remove_container(&record.id)?;
                continue;
            }
            state.add_container(record);
        }
        tracing::info!(sandboxes = state.sandboxes.len(), containers = state.containers.len(), "state read");
        Ok(())
    }

    /// Images of the containers there are stay, those of others need not.
    fn hold_images(&self) -> Result<(), ImageError> {
        let used: HashSet<Digest> =
            self.state.lock().containers.values().map(|container| container.record.image.id.clone()).collect();
        for id in &used {
            // A container of an earlier build, or a record that a power loss took.
            if self.images.held(id)?.is_none()
                && let Some(image) = self.images.get(&id.to_string())?
            {
                self.images.hold(&image)?;
            }
        }
        self.images.hold_only(&used)
    }

    pub(super) fn set_pod_cidr(&self, range: Ipv4Net) -> Result<(), Status> {
        self.state.lock().addresses.set_range(range);
        self.records.save_pod_cidr(range).map_err(record_failed)
    }

    pub(super) fn run_sandbox(&self, config: PodSandboxConfig, handler: String) -> Result<String, Status> {
        let Some(metadata) = &config.metadata else {
            return Err(Status::invalid_argument("config.metadata is required"));
        };
        let host_ports = host_ports::wanted(&config).map_err(Status::invalid_argument)?;
        Domain::check(&handler).map_err(Status::invalid_argument)?;
        super::plan::plan_net(&config, None).map_err(Status::invalid_argument)?;
        if !config.log_directory.is_empty() {
            std::fs::create_dir_all(&config.log_directory).map_err(|error| {
                Status::internal(format!("cannot make the log directory {}: {error}", config.log_directory))
            })?;
        }
        let mut state = self.state.lock();
        let name = name_of(metadata);
        if let Some(other) = state.named(&name) {
            return Err(Status::already_exists(format!(
                "failed to reserve sandbox name {name:?}: name {name:?} is reserved for {other:?}"
            )));
        }
        let opened = host_ports::open(&host_ports, state.addresses.range()).map_err(no_port)?;
        let ip = match host_ports::in_host_network(&config) {
            true => None,
            false => Some(state.addresses.allocate().map_err(no_address)?),
        };
        let record = SandboxRecord {
            id: self.config.ids.next(),
            created_at: self.config.clock.now(),
            handler,
            ready: true,
            ip,
            config: Packed::new(&config),
        };
        if let Err(error) = self.records.save_sandbox(&record) {
            ip.inspect(|ip| state.addresses.release(*ip));
            return Err(record_failed(error));
        }
        let id = record.id.clone();
        if let Some(ip) = ip {
            self.host_ports.begin(&id, opened, ip, state.addresses.node(), &self.stop);
        }
        state.add_sandbox(name, record);
        self.announce(&state, &id, &id, ContainerEventType::ContainerCreatedEvent);
        self.announce(&state, &id, &id, ContainerEventType::ContainerStartedEvent);
        Ok(id)
    }

    /// Of the sandboxes there were. To be called when the front before this one is gone, and its sockets with it.
    pub(super) fn open_host_ports(&self) {
        let state = self.state.lock();
        for sandbox in state.sandboxes.values().filter(|sandbox| sandbox.ready) {
            let Some(ip) = sandbox.ip else { continue };
            let wanted = host_ports::wanted(&sandbox.config.read()).unwrap_or_default();
            match host_ports::open(&wanted, state.addresses.range()) {
                Ok(opened) => self.host_ports.begin(&sandbox.id, opened, ip, state.addresses.node(), &self.stop),
                Err(error) => {
                    tracing::error!(sandbox = sandbox.id, %error, "a pod is not reached on the node any more")
                }
            }
        }
    }

    /// Ends the containers at once and gives the address back. An unknown sandbox has been stopped well enough.
    pub(super) async fn stop_sandbox(self: &Arc<Pods>, id: &str) -> Result<(), Status> {
        let (id, containers) = {
            let mut state = self.state.lock();
            let Some(id) = known(state.sandbox_id(id))? else { return Ok(()) };
            state.stopping.insert(id.clone());
            // What has ended may have left requests in a worker of an earlier build. What has not begun will not.
            let begun =
                state.containers_of(&id).into_iter().filter(|container| container.record.phase != Phase::Created);
            let containers: Vec<String> = begun.map(|container| container.record.id.clone()).collect();
            (id, containers)
        };
        let stopping = containers.iter().map(|container| self.stop_container(container, 0));
        futures::future::try_join_all(stopping).await?;
        self.host_ports.end(&id).await;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.stopping.remove(&id);
        let Some(sandbox) = state.sandboxes.get_mut(&id).filter(|sandbox| sandbox.ready) else { return Ok(()) };
        sandbox.ready = false;
        if let Some(ip) = sandbox.ip.take() {
            state.addresses.release(ip);
        }
        self.records.save_sandbox(sandbox).map_err(record_failed)?;
        self.announce(state, &id, &id, ContainerEventType::ContainerStoppedEvent);
        self.workers.emptier.notify_one();
        Ok(())
    }

    pub(super) async fn remove_sandbox(self: &Arc<Pods>, id: &str) -> Result<(), Status> {
        let Some(id) = known(self.state.lock().sandbox_id(id))? else { return Ok(()) };
        self.stop_sandbox(&id).await?;
        let containers: Vec<String> =
            self.state.lock().containers_of(&id).iter().map(|container| container.record.id.clone()).collect();
        for container in containers {
            self.remove_container(&container).await?;
        }
        self.records.remove_sandbox(&id).map_err(record_failed)?;
        let mut state = self.state.lock();
        self.announce(&state, &id, &id, ContainerEventType::ContainerDeletedEvent);
        state.remove_sandbox(&id);
        self.workers.forget(&Domain::Pod(id));
        Ok(())
    }

    /// A container ended, by whatever cause. Only the first cause counts.
    pub(super) fn ended(&self, id: &str, code: i32, reason: &str, message: String) {
        let at = self.config.clock.now();
        self.end(&mut self.state.lock(), id, at, code, reason, message);
    }

    /// A worker says that a container ended. Returns whether the worker may forget it: the end is on record, or it is
    /// none that anybody asks for.
    pub(super) fn reported(&self, generation: u64, ended: wire::Ended) -> bool {
        let wire::Ended { id, at, exit } = ended;
        let mut state = self.state.lock();
        let Some(container) = state.containers.get_mut(&id) else { return true };
        if container.moving == Some(generation) {
            // It goes on where it was.
            container.moving = None;
            tracing::warn!(container = id, message = exit.message, "a container that was to be moved ended at once");
        }
        if container.generation != Some(generation) {
            return true;
        }
        self.end(&mut state, &id, at, exit.code, exit.reason.name(), exit.message)
    }

    fn end(&self, state: &mut State, id: &str, at: UnixNanos, code: i32, reason: &str, message: String) -> bool {
        let Some(container) = state.containers.get_mut(id) else { return true };
        let generation = container.generation;
        if !container.end(at, code, reason, message) {
            return true;
        }
        let recorded = self.records.save_container(&container.record);
        if let Err(error) = &recorded {
            tracing::error!(container = id, %error, "cannot record the end of a container yet");
            state.unrecorded.insert(id.to_owned(), generation);
            self.unrecorded_more.notify_one();
        }
        if let Some(link) = self.workers.get(generation) {
            link.count_end();
        }
        let sandbox = container.record.sandbox.clone();
        self.announce(state, id, &sandbox, ContainerEventType::ContainerStoppedEvent);
        self.workers.emptier.notify_one();
        recorded.is_ok()
    }

    /// A worker died: so did what ran in it.
    pub(super) fn lose_containers(&self, generation: u64, reason: &str, message: &str) {
        let lost: Vec<String> = {
            let mut state = self.state.lock();
            for container in state.containers.values_mut().filter(|container| container.moving == Some(generation)) {
                container.moving = None;
            }
            let of_it = state.containers.values().filter(|container| container.generation == Some(generation));
            of_it.map(|container| container.record.id.clone()).collect()
        };
        if !lost.is_empty() {
            tracing::warn!(generation, containers = lost.len(), why = message, "containers lost");
        }
        for id in lost {
            self.ended(&id, LOST, reason, message.to_owned());
        }
    }

    pub(super) fn announce(&self, state: &State, id: &str, sandbox: &str, kind: ContainerEventType) {
        if !self.events.has_listeners() {
            return;
        }
        let sandbox_status = state.sandboxes.get(sandbox).map(convert::sandbox_status);
        let containers = state.containers_of(sandbox).into_iter();
        self.events.send(ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: self.config.clock.now(),
            pod_sandbox_status: sandbox_status,
            containers_statuses: containers.map(|container| convert::container_status(state, container)).collect(),
        });
    }
}

/// The address guests know their pod by.
pub(super) fn guest_ip(sandbox: &SandboxRecord) -> Option<IpAddr> {
    sandbox.ip.map(IpAddr::V4)
}

/// What HTTP containers listen on.
pub(super) fn listen_ip(sandbox: &SandboxRecord) -> Ipv4Addr {
    sandbox.ip.unwrap_or(Ipv4Addr::UNSPECIFIED)
}

/// For calls that are fine with a thing that is not there.
pub(super) fn known(found: Result<String, Lookup>) -> Result<Option<String>, Status> {
    match found {
        Ok(id) => Ok(Some(id)),
        Err(Lookup::NotFound { .. }) => Ok(None),
        Err(ambiguous @ Lookup::Ambiguous { .. }) => Err(lookup_failed(ambiguous)),
    }
}

pub(super) fn lookup_failed(error: Lookup) -> Status {
    match error {
        Lookup::NotFound { .. } => Status::not_found(error.to_string()),
        Lookup::Ambiguous { .. } => Status::invalid_argument(error.to_string()),
    }
}

pub(super) fn record_failed(error: std::io::Error) -> Status {
    Status::internal(format!("cannot record the change: {error}"))
}

fn no_port(error: NoPort) -> Status {
    Status::failed_precondition(error.to_string())
}

fn no_address(error: NoAddress) -> Status {
    match error {
        NoAddress::NoRange => Status::failed_precondition(error.to_string()),
        NoAddress::UsedUp(_) => Status::resource_exhausted(error.to_string()),
    }
}

/// As CRI spells it.
pub(super) fn phase_name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Created => "CONTAINER_CREATED",
        Phase::Running { .. } => "CONTAINER_RUNNING",
        Phase::Exited(_) => "CONTAINER_EXITED",
    }
}

/// What the machine has.
fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "the fields are smaller on 32-bit machines")]
    let total = u64::from(info.totalram) * u64::from(info.mem_unit);
    total
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}
