//! Containers: create, start, stop, remove. Part of [`Pods`].

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coracle_cri::Status;
use coracle_cri::v1::{ContainerConfig, ContainerEventType};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use super::domain::Domain;
use super::link::OrderError;
use super::mounts::plan_mounts;
use super::packed::Packed;
use super::plan::{check_release, plan_guest};
use super::pods::{Pods, known, lookup_failed, phase_name, record_failed};
use super::prepare::{Made, Prepared};
use super::programs::Program;
use super::records::{ContainerRecord, ImageRecord, Phase, SandboxRecord};
use super::state::{Container, State};
use super::{convert, logs, looks};
use crate::compile::{CompileError, Compiled, GuestKind};
use crate::images::{Image, Released};
use crate::wire::{Answer, Command};

/// Beyond its grace, a guest gets this long to be seen as ended. After that its worker is stuck.
const AFTER_GRACE: Duration = Duration::from_secs(10);

/// Exit code and reason of what could not be started, as containerd has them.
const NOT_STARTED: i32 = 128;
const START_ERROR: &str = "StartError";

impl Pods {
    pub(super) async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String, Status> {
        let metadata =
            config.metadata.clone().ok_or_else(|| Status::invalid_argument("config.metadata is required"))?;
        let (sandbox_id, sandbox) = self.sandbox(sandbox_id)?;
        let image = self.find_image(&config)?;
        let pod = sandbox.config.read();
        let (program, run_by) = self.chosen(&pod, &config, &image).await?;
        let kind = match &program {
            Program::Own | Program::File(_) => self.compiled(&run_by).await?.kind,
            // As with containerd, it is the start that fails.
            Program::Missing(_) => GuestKind::Module,
        };
        check_release(&pod, &config, kind, self.config.wasi3).map_err(Status::invalid_argument)?;
        // Mostly this is all; otherwise it may take for ever.
        if plan_mounts(&config.mounts, looks::is_known_dir).is_err() {
            let mounts = config.mounts.clone();
            let look = move || plan_mounts(&mounts, looks::is_dir);
            let looked = self.looks.take(&sandbox_id, &metadata.name, look).await;
            looked.map_err(|error| Status::internal(error.to_string()))?.map_err(Status::invalid_argument)?;
        }
        let mut state = self.state.lock();
        // All this may have taken long.
        self.must_be_ready(&state, &sandbox_id)?;
        let taken = state.ports_of(&sandbox_id);
        let plan = plan_guest(&pod, &config, &image, kind, &taken).map_err(Status::invalid_argument)?;
        let reserved = state
            .containers_of(&sandbox_id)
            .into_iter()
            .find(|other| other.record.config.read().metadata.as_ref() == Some(&metadata));
        if let Some(other) = reserved {
            let name = format!("{}_{}", metadata.name, metadata.attempt);
            return Err(Status::already_exists(format!(
                "failed to reserve container name {name:?}: name {name:?} is reserved for {:?}",
                other.record.id
            )));
        }
        let record = ContainerRecord {
            id: self.config.ids.next(),
            sandbox: sandbox_id.clone(),
            created_at: self.config.clock.now(),
            image: ImageRecord { name: image.name.clone(), id: image.id.clone(), repo_digest: image.repo_digest() },
            program,
            http: plan.http.as_ref().map(Into::into),
            phase: Phase::Created,
            worker: None,
            config: Packed::new(&config),
        };
        // Its own program stays its own, beside the one that was taken out of it.
        let held = Image { wasm: image.wasm, wasm_bytes: image.wasm_bytes, ..run_by };
        self.images.hold(&held).map_err(convert::image_failed)?;
        self.records.save_container(&record).map_err(record_failed)?;
        let id = record.id.clone();
        state.add_container(record);
        self.announce(&state, &id, &sandbox_id, ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    pub(super) async fn start_container(self: &Arc<Pods>, id: &str) -> Result<(), Status> {
        let (id, turn) = self.turn_of(id)?;
        let pods = self.clone();
        // A client that leaves in the middle must not leave a container that is neither started nor not.
        let started = self.tasks.spawn(async move {
            let _turn = turn.lock().await;
            match pods.start_in_turn(&id).await {
                Ok(()) => Ok(()),
                Err(StartFailure::Refused(status)) => Err(status),
                Err(StartFailure::Failed(why)) => {
                    pods.ended(&id, NOT_STARTED, START_ERROR, why.clone());
                    Err(Status::unknown(why))
                }
            }
        });
        started.await.unwrap_or_else(|error| Err(Status::internal(format!("the start was given up: {error}"))))
    }

    /// A container's whole id, and what those wait for who would change it.
    pub(super) fn turn_of(&self, id: &str) -> Result<(String, Arc<AsyncMutex<()>>), Status> {
        let state = self.state.lock();
        let id = state.container_id(id).map_err(lookup_failed)?;
        let turn = state.containers[&id].turn.clone();
        Ok((id, turn))
    }

    async fn start_in_turn(self: &Arc<Pods>, id: &str) -> Result<(), StartFailure> {
        let record = {
            let state = self.state.lock();
            let Some(container) = state.containers.get(id) else {
                return Err(Status::not_found(format!("container {id:?}: not found")).into());
            };
            if container.record.phase != Phase::Created {
                let phase = phase_name(&container.record.phase);
                return Err(Status::failed_precondition(format!("container is in {phase} state")).into());
            }
            container.record.clone()
        };
        if let Program::Missing(why) = &record.program {
            return Err(StartFailure::Failed(why.clone()));
        }
        let (_, sandbox) = self.sandbox(&record.sandbox)?;
        let image = self.image_run_by(&record).await?;
        let compiled = self.compiled(&image).await?;
        let made = Arc::new(Made { sandbox, record, image, compiled });
        let prepared = self.prepare(made.clone(), None).await.map_err(StartFailure::Failed)?;
        let mut is_first = true;
        loop {
            match self.start_in_worker(&made, &prepared, is_first).await? {
                Placed::Runs => return Ok(()),
                // A worker that has nothing yet is never full, so this comes to an end.
                Placed::NoRoom => is_first = false,
            }
        }
    }

    /// Gives a container to the worker that is next.
    async fn start_in_worker(
        self: &Arc<Pods>,
        made: &Made,
        prepared: &Prepared,
        is_first: bool,
    ) -> Result<Placed, StartFailure> {
        let Made { sandbox, record, .. } = made;
        let id = &*record.id;
        let lease = self.worker_for(sandbox).await.map_err(|error| StartFailure::Failed(error.to_string()))?;
        let link = lease.link.clone();
        // Before the order: a guest may be over before the answer is here.
        {
            let mut state = self.state.lock();
            // A sandbox that is being stopped has looked for what runs in it already.
            self.must_be_ready(&state, &record.sandbox)?;
            let created = |container: &&mut Container| container.record.phase == Phase::Created;
            let Some(container) = state.containers.get_mut(id).filter(created) else {
                return Err(Status::failed_precondition(format!("container {id:?} ended meanwhile")).into());
            };
            let mut running = container.record.clone();
            running.phase = Phase::Running { started_at: self.config.clock.now() };
            running.worker = Some(link.record.id.clone());
            // What cannot be recorded is not begun.
            self.records.save_container(&running).map_err(record_failed)?;
            container.record = running;
            container.generation = Some(link.generation);
            if is_first {
                self.announce(&state, id, &record.sandbox, ContainerEventType::ContainerStartedEvent);
            }
        }
        drop(lease);
        let fds: Vec<_> = prepared.fds.iter().map(|fd| fd.as_fd()).collect();
        let ends = link.ends();
        match link.order(self.start_order(made, prepared, &link), &fds).await {
            // A pod's own worker is what its limits hold for: there is no second one.
            Ok(Answer::Full(why)) if matches!(link.record.domain, Domain::Pod(_)) => Err(StartFailure::Failed(why)),
            Ok(Answer::Full(why)) => {
                tracing::info!(worker = link.record.id, why, "a worker is full: containers go to another");
                link.was_full(ends);
                self.take_back(id, link.generation).map_err(record_failed)?;
                Ok(Placed::NoRoom)
            }
            Ok(Answer::Nothing | Answer::Descriptor | Answer::Stats(_)) => Ok(Placed::Runs),
            Err(OrderError::Refused(why)) => Err(StartFailure::Failed(why)),
            Err(gone @ OrderError::Gone) => Err(StartFailure::Failed(gone.to_string())),
            Err(OrderError::Stuck) => {
                // It must not start when its volume is back. A worker that does not answer this either is killed.
                link.forget(id, 0).await;
                let why = "one of its volumes, or the Wasm worker process, does not answer: see whether the servers of the \
                           volumes can be reached from the node";
                Err(StartFailure::Failed(why.to_owned()))
            }
        }
    }

    /// The worker has not taken it: it does not run there.
    fn take_back(&self, id: &str, generation: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let there = |container: &&mut Container| container.is_running() && container.generation == Some(generation);
        let Some(container) = state.containers.get_mut(id).filter(there) else { return Ok(()) };
        container.record.phase = Phase::Created;
        container.record.worker = None;
        container.generation = None;
        self.records.save_container(&container.record)
    }

    /// Ends a container within `grace_ms`; returns when it has ended. One that does not run has been stopped well
    /// enough, as has one nobody knows.
    pub(super) async fn stop_container(&self, id: &str, grace_ms: u64) -> Result<(), Status> {
        let Some((id, turn, ended)) = ({
            let state = self.state.lock();
            known(state.container_id(id))?.map(|id| {
                let container = &state.containers[&id];
                (id.clone(), container.turn.clone(), container.ended.clone())
            })
        }) else {
            return Ok(());
        };
        // A start that is under way comes first; otherwise it would undo this.
        drop(turn.lock().await);
        tokio::join!(self.forget_elsewhere(&id, grace_ms), self.stop_in_worker(&id, &ended, grace_ms));
        Ok(())
    }

    async fn stop_in_worker(&self, id: &str, ended: &CancellationToken, grace_ms: u64) {
        let generation = match self.state.lock().containers.get_mut(id) {
            Some(container) if container.is_running() => {
                container.stopping = true;
                container.generation
            }
            Some(_) | None => return,
        };
        if let Some(link) = self.workers.get(generation) {
            // If the worker is gone, its end is the containers'.
            let _ = link.order(Command::Stop { id: id.to_owned(), grace_ms }, &[]).await;
            let patience = Duration::from_millis(grace_ms) + AFTER_GRACE;
            if tokio::time::timeout(patience, ended.cancelled()).await.is_err() {
                // All else that runs there would go with the worker: once more, without any grace.
                tracing::warn!(container = id, "a container did not end within its grace");
                let _ = link.order(Command::Stop { id: id.to_owned(), grace_ms: 0 }, &[]).await;
                if tokio::time::timeout(AFTER_GRACE, ended.cancelled()).await.is_err() {
                    tracing::error!(container = id, "the worker did not end a container in time and is killed");
                    link.kill();
                }
            }
        }
        ended.cancelled().await;
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let Some(id) = known(self.state.lock().container_id(id))? else { return Ok(()) };
        self.stop_container(&id, 0).await?;
        let Some(turn) = self.state.lock().containers.get(&id).map(|container| container.turn.clone()) else {
            return Ok(());
        };
        let _turn = turn.lock().await;
        self.remove_scratch(&id).await;
        self.records.remove_container(&id).map_err(record_failed)?;
        let mut state = self.state.lock();
        if let Some(container) = state.remove_container(&id) {
            self.announce(&state, &id, &container.record.sandbox, ContainerEventType::ContainerDeletedEvent);
            let image = &container.record.image.id;
            if state.containers.values().all(|other| other.record.image.id != *image) {
                match self.images.release(image) {
                    Ok(Released::Named) => {}
                    Ok(Released::Gone) => self.forget_unused_code()?,
                    Err(error) => {
                        tracing::warn!(%image, %error, "an image that is not used any more cannot be released")
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) async fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let (id, turn) = self.turn_of(id)?;
        // It may be on its way to another worker, with the file that it has now.
        let _turn = turn.lock().await;
        let (generation, path) = {
            let state = self.state.lock();
            let id = state.container_id(&id).map_err(lookup_failed)?;
            let generation = state.containers[&id].generation;
            let record = &state.containers[&id].record;
            if !matches!(record.phase, Phase::Running { .. }) {
                return Err(Status::failed_precondition("container is not running"));
            }
            let path = state
                .sandboxes
                .get(&record.sandbox)
                .and_then(|sandbox| logs::path(&sandbox.config.read(), &record.config.read()));
            (generation, path)
        };
        let Some(path) = path else { return Ok(()) };
        let file = logs::open(&path)
            .map_err(|error| Status::internal(format!("cannot open log {}: {error}", path.display())))?;
        let link = self.workers.get(generation);
        let link = link.ok_or_else(|| Status::failed_precondition("container is not running"))?;
        link.order(Command::ReopenLog { id }, &[file.as_fd()]).await.map_err(order_failed)?;
        Ok(())
    }

    /// A sandbox that containers can be made and started in.
    pub(super) fn sandbox(&self, id: &str) -> Result<(String, SandboxRecord), Status> {
        let state = self.state.lock();
        let id = state.sandbox_id(id).map_err(lookup_failed)?;
        self.must_be_ready(&state, &id)?;
        let sandbox = state.sandboxes[&id].clone();
        Ok((id, sandbox))
    }

    fn must_be_ready(&self, state: &State, sandbox: &str) -> Result<(), Status> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(Status::unavailable("the container runtime is stopping"));
        }
        if state.is_ready(sandbox) {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("sandbox container {sandbox:?} is not running")))
    }

    /// The image a container was made of, whatever its name means by now.
    pub(super) fn image_of(&self, record: &ContainerRecord) -> Result<Image, Status> {
        let ImageRecord { name, id, .. } = &record.image;
        let image = match self.images.held(id).map_err(convert::image_failed)? {
            Some(image) => Some(image),
            None => self.images.get(&id.to_string()).map_err(convert::image_failed)?,
        };
        let gone = || Status::not_found(format!("image {name:?} ({id}), which the container was made of: not found"));
        image.map(|image| Image { name: name.clone(), ..image }).ok_or_else(gone)
    }

    fn find_image(&self, config: &ContainerConfig) -> Result<Image, Status> {
        let name = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let image = self.images.get(&name).map_err(convert::image_failed)?;
        image.ok_or_else(|| Status::not_found(format!("image {name:?}: not found")))
    }

    pub(super) async fn compiled(&self, image: &Image) -> Result<Compiled, Status> {
        self.compiler.compiled(&self.images, image).await.map_err(|error| match error {
            CompileError::Refused { .. } | CompileError::Limit { .. } => Status::invalid_argument(error.to_string()),
            CompileError::Failed(_) => Status::internal(error.to_string()),
        })
    }
}

/// What became of an order to run a container.
enum Placed {
    Runs,
    /// The worker is full.
    NoRoom,
}

/// Why a container does not run.
enum StartFailure {
    /// The call was wrong; the container is as it was.
    Refused(Status),
    /// The container is over.
    Failed(String),
}

impl From<Status> for StartFailure {
    fn from(status: Status) -> StartFailure {
        StartFailure::Refused(status)
    }
}

pub(super) fn order_failed(error: OrderError) -> Status {
    match error {
        OrderError::Refused(why) => Status::unknown(why),
        OrderError::Gone | OrderError::Stuck => Status::unavailable(error.to_string()),
    }
}

#[cfg(test)]
#[path = "containers_tests.rs"]
mod tests;
