//! Worker processes: which one a pod's containers run in, how they come and how they go. Part of [`Pods`].
//!
//! ```text
//! none ──(a container starts)──▶ serving ──(empty)──▶ retired ──▶ gone
//!   ▲                              │  └──(of an older build)──▶ retired, ends when it is empty
//!   └────(pause, if it is not the first)────(it dies: so do its containers)
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::process::Child;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};
use tokio::time::Instant;

use super::cgroup::{self, Groups};
use super::domain::Domain;
use super::falls::Falls;
use super::link::{self, Link, Newborn, Start};
use super::pods::Pods;
use super::process::Process;
use super::records::{SandboxRecord, WorkerRecord};
use super::upgrade::DRAIN_MS;

/// The workers there are.
#[derive(Debug)]
pub(super) struct Workers {
    /// Sockets and records.
    pub(super) dir: PathBuf,
    /// All that run, also those that are not given containers any more.
    live: Mutex<BTreeMap<u64, Arc<Link>>>,
    slots: Mutex<HashMap<Domain, Arc<AsyncMutex<Slot>>>>,
    generations: AtomicU64,
    said_no_groups: AtomicBool,
    /// A container ended or was moved, or a sandbox stopped: a worker may be empty.
    pub(super) emptier: Notify,
}

/// The worker that new containers of a domain go to.
#[derive(Debug, Default)]
pub(super) struct Slot {
    link: Option<Arc<Link>>,
    falls: Falls,
}

/// A worker that stays until this is dropped, so that a container can be put into it.
pub(super) struct Lease {
    pub(super) link: Arc<Link>,
    _slot: OwnedMutexGuard<Slot>,
}

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoWorker {
    #[error("the Wasm worker process of {domain} {why}")]
    Pausing { domain: Domain, why: String },
    #[error("the Wasm worker process of {domain} cannot be started: {source}")]
    Start {
        domain: Domain,
        #[source]
        source: io::Error,
    },
}

impl Workers {
    pub(super) fn open(dir: PathBuf) -> io::Result<Workers> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Workers {
            dir,
            live: Mutex::default(),
            slots: Mutex::default(),
            generations: AtomicU64::new(1),
            said_no_groups: AtomicBool::new(false),
            emptier: Notify::new(),
        })
    }

    pub(super) fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.live.lock().values().cloned().collect()
    }

    /// The worker a container runs in.
    pub(super) fn get(&self, generation: Option<u64>) -> Option<Arc<Link>> {
        self.live.lock().get(&generation?).cloned()
    }

    fn slot(&self, domain: &Domain) -> Arc<AsyncMutex<Slot>> {
        self.slots.lock().entry(domain.clone()).or_default().clone()
    }

    /// The domain is no more, and nothing needs to be known of its past.
    pub(super) fn forget(&self, domain: &Domain) {
        self.slots.lock().remove(domain);
    }

    pub(super) fn remove_files(&self, record: &WorkerRecord) {
        for path in [link::socket_path(&self.dir, record), record.path(&self.dir)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a worker's file cannot be removed");
                }
                Ok(()) | Err(_) => {}
            }
        }
        if let Some(groups) = &record.groups {
            groups.remove();
        }
    }
}

impl Pods {
    /// The worker for containers of `sandbox`, started if there is none.
    pub(super) async fn worker_for(self: &Arc<Pods>, sandbox: &SandboxRecord) -> Result<Lease, NoWorker> {
        let domain = Domain::of(sandbox);
        let mut slot = self.workers.slot(&domain).lock_owned().await;
        let usable = |link: &Arc<Link>| !link.is_gone() && !link.is_retired() && !link.is_full();
        let mut link = slot.link.clone().filter(usable);
        if link.is_none() {
            // Where there was no room before there may be some now.
            let own = self.workers.all().into_iter().filter(|link| link.record.domain == domain && usable(link));
            for other in own {
                if self.is_current(&other).await {
                    link = Some(other);
                    break;
                }
            }
        }
        if let Some(link) = link {
            self.limit_worker(&link, sandbox);
            slot.link = Some(link.clone());
            return Ok(Lease { link, _slot: slot });
        }
        if self.closing.load(Ordering::Relaxed) {
            let source = io::Error::other("the container runtime is stopping");
            return Err(NoWorker::Start { domain, source });
        }
        if let Some(why) = slot.falls.why_wait(Instant::now()) {
            return Err(NoWorker::Pausing { domain, why });
        }
        match self.start_worker(&domain, sandbox).await {
            Ok((link, child)) => {
                let link = self.take_in(link, Some(child));
                slot.link = Some(link.clone());
                Ok(Lease { link, _slot: slot })
            }
            Err(source) => {
                slot.falls.fell(Instant::now(), Duration::ZERO, &format!("it could not be started: {source}"));
                Err(NoWorker::Start { domain, source })
            }
        }
    }

    /// Can a worker load what is compiled now? One of another build may not, nor one that runs under other settings.
    pub(super) async fn is_current(&self, link: &Link) -> bool {
        // Without a compiler that answers nothing can be compared, nor started.
        let present = self.compiler.settings().await.ok();
        let same = |settings: &String| present.is_none_or(|present| present == settings);
        link.record.build == self.config.build && link.record.settings.as_ref().is_none_or(same)
    }

    async fn start_worker(&self, domain: &Domain, sandbox: &SandboxRecord) -> io::Result<(Link, Child)> {
        let settings = self.compiler.settings().await.map_err(io::Error::other)?.to_owned();
        // Short, because it is read in lists of processes; still no two are alike.
        let id: String = self.config.ids.next().chars().take(16).collect();
        let dir = &self.workers.dir;
        let newborn = Newborn::start(&self.config.worker, &dir.join(&id))?;
        let (process, identity) = Process::of_child(newborn.pid)?;
        let groups = match domain {
            Domain::Node | Domain::Namespace(_) => None,
            Domain::Pod(_) => self.make_groups(sandbox, &id, identity.pid),
        };
        let build = self.config.build.clone();
        let (domain, settings) = (domain.clone(), Some(settings));
        let record = WorkerRecord { id, domain, build, process: identity, settings, groups };
        // On record before it is set up: no worker that could run a guest is ever unknown to the next front.
        record.save(dir)?;
        let empty = self.config.root.join("empty");
        let start = Start {
            code: self.compiler.dir(),
            empty: &empty,
            doors: dir,
            profile: self.profile,
            threads: self.threads,
        };
        let set_up = newborn.set_up(start, process, record.clone(), self.workers.next_generation()).await;
        if set_up.is_err() {
            self.workers.remove_files(&record);
        }
        set_up
    }

    /// Control groups for a pod's worker, with the worker in them; it has done nothing yet, so all it does will count.
    fn make_groups(&self, sandbox: &SandboxRecord, id: &str, pid: i32) -> Option<Groups> {
        let made = Groups::make(&sandbox.config.read(), &format!("coracle-{id}"), self.pod_limits(sandbox));
        let joined = made.and_then(|groups| match groups.take_in(pid) {
            Ok(()) => Ok(groups),
            Err(error) => {
                groups.remove();
                Err(error)
            }
        });
        match joined {
            Ok(groups) => Some(groups),
            Err(error) => {
                if !self.workers.said_no_groups.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "workers of wasm-pod pods get no control groups; limits of guests hold all the same");
                }
                None
            }
        }
    }

    fn pod_limits(&self, sandbox: &SandboxRecord) -> cgroup::Limits {
        let state = self.state.lock();
        let live = state.containers_of(&sandbox.id).into_iter().filter(|container| !container.has_exited());
        let configs: Vec<_> = live.map(|container| container.record.config.read()).collect();
        cgroup::limits(&sandbox.config.read(), &configs)
    }

    /// A container has other limits: so has its pod.
    pub(super) fn limit_worker_of(&self, link: &Link, container: &str) {
        let sandbox = {
            let state = self.state.lock();
            let container = state.containers.get(container);
            container.and_then(|container| state.sandboxes.get(&container.record.sandbox).cloned())
        };
        if let Some(sandbox) = sandbox {
            self.limit_worker(link, &sandbox);
        }
    }

    /// The worker's groups follow the pod's limits.
    pub(super) fn limit_worker(&self, link: &Link, sandbox: &SandboxRecord) {
        let Some(groups) = &link.record.groups else { return };
        if let Err(error) = groups.limit(self.pod_limits(sandbox)) {
            tracing::warn!(worker = link.record.id, %error, "the limits of a worker cannot be set");
        }
    }

    /// Listens to a worker from now on, until it is gone.
    pub(super) fn take_in(self: &Arc<Pods>, link: Link, child: Option<Child>) -> Arc<Link> {
        let link = Arc::new(link);
        self.workers.live.lock().insert(link.generation, link.clone());
        let (pods, listening) = (self.clone(), link.clone());
        self.tasks.spawn(async move {
            let how = listening.listen(child, |ended| pods.reported(listening.generation, ended)).await;
            pods.worker_gone(&listening, &how).await;
        });
        link
    }

    /// New containers of the domain go to this worker, unless there is one already.
    pub(super) async fn prefer(&self, link: &Arc<Link>) {
        let slot = self.workers.slot(&link.record.domain);
        let mut slot = slot.lock().await;
        if slot.link.as_ref().is_none_or(|other| other.is_gone()) {
            slot.link = Some(link.clone());
        }
    }

    async fn worker_gone(&self, link: &Arc<Link>, how: &str) {
        let generation = link.generation;
        let expected = link.is_retired();
        tracing::info!(worker = link.record.id, expected, how, "worker gone");
        // First of all: containers that end because of it are started anew at once.
        {
            let slot = self.workers.slot(&link.record.domain);
            let mut slot = slot.lock().await;
            if slot.link.as_ref().is_some_and(|link| link.generation == generation) {
                slot.link = None;
            }
            if !expected {
                slot.falls.fell(Instant::now(), link.lived(), how);
            }
        }
        self.workers.live.lock().remove(&generation);
        let out_of_memory = link.record.groups.as_ref().is_some_and(Groups::ran_out_of_memory);
        self.workers.remove_files(&link.record);
        if out_of_memory {
            let why = "the pod used more memory than its limit, counting what its worker process itself needs";
            self.lose_containers(generation, "OOMKilled", why);
        } else {
            self.lose_containers(generation, "Error", &format!("the Wasm worker process ended: {how}"));
        }
        self.forget_outdated_code().await;
    }

    /// Ends workers that have nothing to do: the shared one after a while, the others when no pod is left that they
    /// are for. Runs until the front stops.
    pub(super) async fn end_idle_workers(self: Arc<Pods>) {
        let mut idle: HashMap<u64, Instant> = HashMap::new();
        loop {
            let (due, next) = self.idle_workers(&mut idle, Instant::now());
            for link in due {
                self.retire_if_empty(&link).await;
            }
            let later = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.workers.emptier.notified() => {}
                () = later => {}
            }
        }
    }

    /// Workers that are to end now, and when the next one may be. `idle` is since when each has been empty.
    fn idle_workers(&self, idle: &mut HashMap<u64, Instant>, now: Instant) -> (Vec<Arc<Link>>, Option<Instant>) {
        let (in_use, wanted) = {
            let state = self.state.lock();
            let ready = state.sandboxes.values().filter(|sandbox| sandbox.ready);
            (state.generations_in_use(), ready.map(Domain::of).collect::<HashSet<Domain>>())
        };
        let (mut due, mut next) = (Vec::new(), None);
        let all = self.workers.all();
        idle.retain(|generation, _| all.iter().any(|link| link.generation == *generation));
        for link in all {
            if in_use.contains(&link.generation) {
                idle.remove(&link.generation);
                continue;
            }
            let since = *idle.entry(link.generation).or_insert(now);
            if link.is_retired() {
                // It may have requests to finish yet.
                let end = since + Duration::from_millis(DRAIN_MS) + link::PATIENCE;
                if link.is_gone() {
                    // Its end is on its way.
                } else if end <= now {
                    tracing::error!(worker = link.record.id, "a worker that was left does not end and is killed");
                    link.kill();
                } else {
                    next = Some(next.map_or(end, |next: Instant| next.min(end)));
                }
                continue;
            }
            let wanted = match &link.record.domain {
                Domain::Node => true,
                domain @ (Domain::Namespace(_) | Domain::Pod(_)) => wanted.contains(domain),
            };
            let end = since + self.config.idle_worker;
            if !wanted || end <= now {
                due.push(link);
            } else {
                next = Some(next.map_or(end, |next: Instant| next.min(end)));
            }
        }
        (due, next)
    }

    async fn retire_if_empty(&self, link: &Arc<Link>) {
        {
            // While this is held, nobody puts a container into it.
            let slot = self.workers.slot(&link.record.domain);
            let mut slot = slot.lock().await;
            if self.state.lock().is_in_use(link.generation) {
                return;
            }
            if slot.link.as_ref().is_some_and(|other| other.generation == link.generation) {
                slot.link = None;
            }
            link.set_retired();
        }
        tracing::info!(worker = link.record.id, domain = ?link.record.domain, "an empty worker is ended");
        let link = link.clone();
        // One that takes its time keeps nobody else waiting.
        self.tasks.spawn(async move {
            link.retire().await;
            link.must_end().await;
        });
    }

    /// Ends all workers; what still runs in them is lost. Called when nothing starts any more.
    pub(super) async fn kill_workers(&self) {
        // One that is being set up is known only after that.
        let slots: Vec<_> = self.workers.slots.lock().values().cloned().collect();
        for slot in slots {
            drop(slot.lock().await);
        }
        let all = self.workers.all();
        futures::future::join_all(all.iter().map(|link| link.kill_and_wait())).await;
        for link in all {
            self.workers.remove_files(&link.record);
        }
    }
}

/// Kills the workers that a front left behind in `dir`, if there are any. The caller makes sure that no front serves.
pub(super) async fn kill_left_behind(dir: &Path) -> io::Result<usize> {
    let mut killed = 0;
    for record in WorkerRecord::load_all(dir)? {
        if let Some(process) = Process::find(&record.process)? {
            process.kill();
            process.ended().await?;
            killed += 1;
        }
        if let Some(groups) = &record.groups {
            groups.remove();
        }
        let _ = fs::remove_file(link::socket_path(dir, &record));
        fs::remove_file(record.path(dir))?;
    }
    Ok(killed)
}

#[cfg(test)]
#[path = "workers_tests.rs"]
pub(super) mod tests;
