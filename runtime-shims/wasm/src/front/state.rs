//! What exists, in memory, and what may happen to it. No I/O: whoever changes something here writes it to the records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use coracle_cri::v1::PodSandboxMetadata;
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use super::addresses::Addresses;
use super::records::{ContainerRecord, Ended, Phase, SandboxRecord};
use crate::clock::UnixNanos;
use crate::wire;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) sandboxes: BTreeMap<String, SandboxRecord>,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) addresses: Addresses,
    /// Sandboxes that are being stopped: nothing starts in them.
    pub(super) stopping: HashSet<String>,
    /// Containers whose end is not on record yet, and the worker that keeps it meanwhile, if it is one's word.
    pub(super) unrecorded: BTreeMap<String, Option<u64>>,
    /// The ids of sandboxes by what must be theirs alone.
    names: HashMap<Box<str>, String>,
    /// The ids of sandboxes' containers, oldest first.
    members: HashMap<String, Vec<String>>,
}

/// What names a sandbox to its user, as containerd writes it.
pub(super) fn name_of(metadata: &PodSandboxMetadata) -> String {
    format!("{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt)
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) record: ContainerRecord,
    /// The worker it runs in, while it runs.
    pub(super) generation: Option<u64>,
    /// The worker it is being moved to.
    pub(super) moving: Option<u64>,
    /// Somebody waits for its end where it is: it is not moved any more.
    pub(super) stopping: bool,
    /// Calls that change one container come one after the other.
    pub(super) turn: Arc<AsyncMutex<()>>,
    /// Cancelled when it has exited.
    pub(super) ended: CancellationToken,
}

impl Container {
    pub(super) fn new(record: ContainerRecord) -> Container {
        let ended = CancellationToken::new();
        if matches!(record.phase, Phase::Exited(_)) {
            ended.cancel();
        }
        Container { record, generation: None, moving: None, stopping: false, turn: Arc::default(), ended }
    }

    pub(super) fn is_running(&self) -> bool {
        match self.record.phase {
            Phase::Running { .. } => true,
            Phase::Created | Phase::Exited(_) => false,
        }
    }

    pub(super) fn has_exited(&self) -> bool {
        match self.record.phase {
            Phase::Exited(_) => true,
            Phase::Created | Phase::Running { .. } => false,
        }
    }

    /// Notes the end. A container ends once: later news of it is old news.
    pub(super) fn end(&mut self, now: UnixNanos, code: i32, reason: &str, message: String) -> bool {
        let started_at = match self.record.phase {
            Phase::Created => 0,
            Phase::Running { started_at } => started_at,
            Phase::Exited(_) => return false,
        };
        // It may be a worker's word, which could be as long as all memory.
        let (reason, message) = (reason.to_owned(), wire::shown(message));
        self.record.phase =
            Phase::Exited(Ended { started_at, finished_at: now.max(started_at), code, reason, message });
        self.generation = None;
        self.moving = None;
        self.ended.cancel();
        true
    }
}

/// Why an id names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lookup {
    #[error("{what} {id:?}: not found")]
    NotFound { what: &'static str, id: String },
    #[error("{what} {id:?}: several begin so")]
    Ambiguous { what: &'static str, id: String },
}

impl State {
    /// The full id of a sandbox, from it or from its beginning, as crictl allows.
    pub(super) fn sandbox_id(&self, id: &str) -> Result<String, Lookup> {
        find(&self.sandboxes, "sandbox", id)
    }

    pub(super) fn container_id(&self, id: &str) -> Result<String, Lookup> {
        find(&self.containers, "container", id)
    }

    /// Whether something may start in a sandbox.
    pub(super) fn is_ready(&self, sandbox: &str) -> bool {
        self.sandboxes.get(sandbox).is_some_and(|found| found.ready) && !self.stopping.contains(sandbox)
    }

    /// The id of the sandbox that has a name.
    pub(super) fn named(&self, name: &str) -> Option<&String> {
        self.names.get(name)
    }

    pub(super) fn add_sandbox(&mut self, name: String, record: SandboxRecord) {
        self.names.insert(name.into(), record.id.clone());
        self.sandboxes.insert(record.id.clone(), record);
    }

    pub(super) fn remove_sandbox(&mut self, id: &str) {
        if let Some(sandbox) = self.sandboxes.remove(id) {
            self.names.remove(&*name_of(&sandbox.config.read().metadata.unwrap_or_default()));
        }
        self.members.remove(id);
    }

    pub(super) fn add_container(&mut self, record: ContainerRecord) {
        let members = self.members.entry(record.sandbox.clone()).or_insert_with(|| Vec::with_capacity(1));
        let created = |id: &String| self.containers.get(id).map_or(0, |other| other.record.created_at);
        let at = members.partition_point(|id| created(id) <= record.created_at);
        members.insert(at, record.id.clone());
        self.containers.insert(record.id.clone(), Container::new(record));
    }

    pub(super) fn remove_container(&mut self, id: &str) -> Option<Container> {
        let container = self.containers.remove(id)?;
        if let Some(members) = self.members.get_mut(&container.record.sandbox) {
            members.retain(|member| member != id);
        }
        Some(container)
    }

    /// The containers of a sandbox, oldest first.
    pub(super) fn containers_of(&self, sandbox: &str) -> Vec<&Container> {
        self.members.get(sandbox).into_iter().flatten().filter_map(|id| self.containers.get(id)).collect()
    }

    /// Whether a worker has a container, is about to, or keeps the end of one.
    pub(super) fn is_in_use(&self, generation: u64) -> bool {
        self.uses().any(|used| used == generation)
    }

    /// Workers that have containers, are about to, or keep the ends of some.
    pub(super) fn generations_in_use(&self) -> HashSet<u64> {
        self.uses().collect()
    }

    fn uses(&self) -> impl Iterator<Item = u64> {
        let containers = self.containers.values().flat_map(|container| [container.generation, container.moving]);
        containers.chain(self.unrecorded.values().copied()).flatten()
    }

    pub(super) fn begin_move(&mut self, id: &str, to: u64) {
        if let Some(container) = self.containers.get_mut(id).filter(|container| container.is_running()) {
            container.moving = Some(to);
        }
    }

    pub(super) fn abandon_move(&mut self, id: &str) {
        if let Some(container) = self.containers.get_mut(id) {
            container.moving = None;
        }
    }

    /// Ports that containers of a sandbox serve HTTP on, or will.
    pub(super) fn ports_of(&self, sandbox: &str) -> Vec<u16> {
        self.containers_of(sandbox)
            .into_iter()
            .filter(|container| !matches!(container.record.phase, Phase::Exited(_)))
            .filter_map(|container| container.record.http.map(|port| port.0))
            .collect()
    }
}

fn find<T>(all: &BTreeMap<String, T>, what: &'static str, id: &str) -> Result<String, Lookup> {
    if all.contains_key(id) {
        return Ok(id.to_owned());
    }
    let not_found = || Lookup::NotFound { what, id: id.to_owned() };
    if id.is_empty() {
        return Err(not_found());
    }
    let mut matching = all.range(id.to_owned()..).map(|(key, _)| key).take_while(|key| key.starts_with(id));
    match (matching.next(), matching.next()) {
        (Some(found), None) => Ok(found.clone()),
        (None, _) => Err(not_found()),
        (Some(_), Some(_)) => Err(Lookup::Ambiguous { what, id: id.to_owned() }),
    }
}
