//! The worker: a process that runs guests and has nothing they could be after.
//!
//! It has no credentials, no rights, no files but descriptors the front hands it, and only the system calls it needs.
//! When the front is gone it serves on, and waits for the next one.
//!
//! ```text
//! main thread     orders in, reports out (`fronts`); never runs guest code, so it is always there to stop one
//! guest threads   tokio; guests yield to each other at every epoch
//! busy-guests     those that need more than one epoch, or much while others run (`busy`)
//! epoch           advances the epoch while guests run (`cpu`)
//! log-writer      buffers to files (`log`)
//! volumes         one for each container that starts, until its volumes are open (`volumes`)
//! ```
//!
//! It knows nothing of CRI, of images or of sandboxes.

mod allowance;
mod bucket;
mod busy;
mod charged;
mod code;
mod command;
mod config;
mod cpu;
mod directories;
mod environment;
mod exec;
mod exit;
mod fair;
mod files;
mod files3;
mod fronts;
mod greeting;
mod guest;
mod held3;
mod host_memory;
mod http;
mod interfaces;
mod kept;
mod keyvalue;
mod lately;
mod log;
mod memory;
mod opening;
mod outgoing;
mod pipes;
mod pod;
mod reports;
mod response;
mod roots;
mod running;
mod scheduling;
mod share;
mod shelf;
mod slots;
mod slow_log;
mod sockets;
mod sockets3;
mod stdin;
mod stopwatch;
mod tap;
mod traffic;
mod volumes;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use futures::FutureExt;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;

use crate::clock::Clock;
use crate::confine::{self, Calls, Limits};
use crate::wire::{self, Answer, Command, Door, Ended, Exit, GuestSpec, GuestStats, Setup};
use allowance::{Allowance, Descriptors, NoRoom};
use code::{Code, Loader};
use config::Config;
use cpu::{Cpu, Used};
use environment::Environment;
use guest::Container;
use http::Serve;
use kept::{Kept, Program};
use keyvalue::Stores;
use lately::Predecessors;
use log::{Log, LogWriter};
use memory::Budget;
use opening::Opening;
use pod::PodNet;
use reports::Ends;
use roots::{Roots, Trust};
use running::Guest;
use scheduling::Role;
use share::{PodShare, PodShares};
use slots::Slots;
use stdin::Stdin;
use traffic::Traffic;

/// Threads for files and stores, shared by all guests.
const BLOCKING_THREADS: usize = 16;
/// As long as the worker's own.
const BLOCKING_LIFE: Duration = Duration::from_secs(u32::MAX as u64);

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error("the front sent no setup")]
    NoSetup,
    #[error("cannot give up rights: {0}")]
    Confine(#[source] io::Error),
    #[error("cannot set up wasmtime: {0:#}")]
    Engine(wasmtime::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What of a worker's own messages is written, in the words of `tracing_subscriber`'s filter: this crate's. Those of the
/// crates below speak of single calls of guests, and a guest that makes calls without end would fill the node's log.
pub const LOG_FILTER: &str = "off,coracle_shim_wasm=info";

/// Entry of the worker process, with its end of the socket pair (its standard input, where the front started it).
/// Returns when a front says so, or none can come any more. Must be called before this process has other threads.
/// `on_idle` is called by each thread for guests that has nothing to do; an allocator may want to know.
pub fn run(control: OwnedFd, on_idle: fn()) -> ExitCode {
    match work(control, on_idle) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the worker ends");
            ExitCode::FAILURE
        }
    }
}

/// [`run`] on the standard input.
pub fn run_on_stdin(on_idle: fn()) -> ExitCode {
    match io::stdin().as_fd().try_clone_to_owned() {
        Ok(control) => run(control, on_idle),
        Err(error) => {
            tracing::error!(%error, "the worker's standard input is no socket");
            ExitCode::FAILURE
        }
    }
}

fn work(control: OwnedFd, on_idle: fn()) -> Result<(), WorkerError> {
    let message = wire::receive_blocking(&control)?.ok_or(WorkerError::NoSetup)?;
    let setup: Setup = message.parse()?;
    let mut fds = message.fds.take().into_iter();
    let (Some(code), Some(empty), Some(listener), Some(file)) = (fds.next(), fds.next(), fds.next(), fds.next()) else {
        return Err(WorkerError::NoSetup);
    };
    // Before the user changes: fronts are who started this.
    let owner = rustix::process::geteuid().as_raw();
    let bundle = fds.next();
    give_up_rights(&code, &empty).map_err(WorkerError::Confine)?;
    drop(empty);
    drop(code);

    let loader = Loader::new(setup.profile).map_err(WorkerError::Engine)?;
    let threads = setup.threads.max(2);
    let cpu = Cpu::start(
        vec![loader.commands.clone(), loader.requests.clone(), loader.concurrent.clone()],
        threads,
        on_idle,
    )?;
    let guests = runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_LIFE)
        .thread_name("guests")
        .thread_stack_size(1 << 20)
        .on_thread_start(|| Role::Serves.take())
        .on_thread_park(on_idle)
        .enable_all()
        .build()?;
    start_blocking_threads(guests.handle());
    let ends: Arc<Ends> = Arc::default();
    let worker = Worker {
        shared: Arc::new(Shared {
            loader,
            http: response::server(),
            stores: Stores::default(),
            roots: Arc::new(Roots::new(bundle)),
            slots: Slots::new(setup.profile.pooled()),
        }),
        cpu,
        logs: LogWriter::start()?,
        pods: PodShares::default(),
        descriptors: Descriptors::of_process(),
        clock: Clock::system(),
        guests: guests.handle().clone(),
        running: Arc::default(),
        tasks: TaskTracker::new(),
        opening: Opening::new(ends.clone()),
        ends,
        predecessors: Arc::default(),
        build: setup.build,
        retiring: AtomicBool::new(false),
    };
    let served = runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let door = Door::new(listener, file, owner)?;
        worker.serve(control, door).await
    });
    // Nobody is left who would want to know of guests that still run.
    guests.shutdown_background();
    served.map_err(WorkerError::Io)
}

/// A thread is as far behind others as the one that starts it, for good: none of these may be started by one for guests
/// that compute for long.
fn start_blocking_threads(guests: &runtime::Handle) {
    let all = Arc::new(Barrier::new(BLOCKING_THREADS));
    for _ in 0..BLOCKING_THREADS {
        let all = all.clone();
        guests.spawn_blocking(move || all.wait());
    }
}

fn give_up_rights(code: &OwnedFd, empty: &OwnedFd) -> io::Result<()> {
    confine::ignore_terminal_signals();
    confine::limit(Limits::default())?;
    // Machine code is loaded by path, so the directory it lies in is where this process is.
    rustix::process::fchdir(code)?;
    confine::leave_root(Some(empty.as_fd()))?;
    confine::no_new_privileges()?;
    confine::allow_only(Calls::Worker)
}

/// What all guests share.
struct Shared {
    loader: Loader,
    http: auto::Builder<TokioExecutor>,
    stores: Stores,
    roots: Arc<Roots>,
    slots: Slots,
}

/// What a guest is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Run,
    Drain { grace_ms: u64 },
    Kill,
}

/// A guest that runs, as orders reach it.
struct Handle {
    stop: watch::Sender<Stop>,
    log: Arc<Log>,
    stdin: Stdin,
    budget: Arc<Budget>,
    used: Arc<Used>,
    /// Of an HTTP guest that accepts; what another worker would go on with.
    listener: Option<Arc<TcpListener>>,
    /// It runs elsewhere; nobody asks how it ended here.
    forgotten: bool,
    traffic: Arc<Traffic>,
    container: Arc<Container>,
    /// Places for commands beside the container's program.
    commands: Arc<Semaphore>,
}

type Running = Arc<Mutex<HashMap<String, Handle>>>;

struct Worker {
    shared: Arc<Shared>,
    cpu: Arc<Cpu>,
    logs: LogWriter,
    pods: PodShares,
    descriptors: Arc<Descriptors>,
    clock: Clock,
    guests: runtime::Handle,
    running: Running,
    tasks: TaskTracker,
    ends: Arc<Ends>,
    predecessors: Arc<Predecessors>,
    opening: Opening,
    build: String,
    retiring: AtomicBool,
}

/// What an order comes to, and the descriptor that goes with it.
type Outcome = Result<(Answer, Option<OwnedFd>), String>;

impl Worker {
    /// Only what waits for a volume takes long.
    async fn obey(&self, what: Command, fds: Vec<OwnedFd>) -> Outcome {
        let nothing = Ok((Answer::Nothing, None));
        match what {
            Command::Start(spec) => self.start(*spec, fds).await.map(|answer| (answer, None)),
            Command::Stop { id, grace_ms } => {
                self.opening.call_off(&id);
                self.tell(&id, |handle| handle.stop(grace_ms));
                nothing
            }
            Command::ReopenLog { id } => {
                if let Some(file) = fds.into_iter().next() {
                    self.tell(&id, |handle| handle.log.reopen(File::from(file)));
                }
                nothing
            }
            Command::AttachStdin { id } => {
                self.opening.over(&id).await;
                self.attach_stdin(&id, fds.into_iter().next()).and(nothing)
            }
            Command::Exec(spec) => {
                self.opening.over(&spec.container).await;
                self.exec(*spec, fds).and(nothing)
            }
            Command::AttachOutput(spec) => {
                self.opening.over(&spec.container).await;
                self.attach(&spec, fds).and(nothing)
            }
            Command::SetMemoryLimit { id, bytes } => {
                self.tell(&id, |handle| handle.budget.set_limit(bytes));
                nothing
            }
            Command::SetCpu { id, cpu } => {
                self.tell(&id, |handle| handle.used.set(cpu));
                nothing
            }
            Command::SetPod(limits) => {
                self.pods.set(&limits);
                nothing
            }
            Command::Stats => Ok((Answer::Stats(self.stats()), None)),
            Command::Acknowledge { ids } => {
                self.ends.acknowledge(&ids);
                nothing
            }
            Command::Lend { id } => self.lend(&id).map(|listener| (Answer::Descriptor, Some(listener))),
            Command::Forget { id, grace_ms } => {
                self.opening.call_off(&id);
                self.tell(&id, |handle| {
                    handle.forgotten = true;
                    handle.stop(grace_ms);
                });
                nothing
            }
            Command::Retire => {
                self.retire();
                nothing
            }
        }
    }

    /// A guest that is gone has been reported; orders for it are late, not wrong.
    fn tell(&self, id: &str, what: impl FnOnce(&mut Handle)) {
        if let Some(handle) = self.running.lock().get_mut(id) {
            what(handle);
        }
    }

    fn attach_stdin(&self, id: &str, pipe: Option<OwnedFd>) -> Result<(), String> {
        let pipe = pipe.ok_or("a descriptor is missing")?;
        let stdin = self.running.lock().get(id).map(|handle| handle.stdin.clone()).ok_or("it does not run any more")?;
        self.tasks.spawn_on(
            async move {
                if let Err(error) = stdin.feed(pipe).await {
                    tracing::warn!(%error, "a guest's standard input cannot be read");
                }
            },
            &self.guests,
        );
        Ok(())
    }

    fn lend(&self, id: &str) -> Result<OwnedFd, String> {
        let running = self.running.lock();
        let listener = running.get(id).and_then(|handle| handle.listener.as_ref());
        let listener = listener.ok_or_else(|| format!("{id}: no HTTP guest that accepts requests"))?;
        wire::duplicate(listener.as_fd()).map_err(|error| format!("{id}: its socket cannot be lent: {error}"))
    }

    fn stats(&self) -> Vec<GuestStats> {
        let running = self.running.lock();
        // What was forgotten is counted where it runs now.
        let stats = running.iter().filter(|(_, handle)| !handle.forgotten).map(|(id, handle)| {
            let (received_bytes, sent_bytes) = handle.traffic.bytes();
            GuestStats {
                id: id.clone(),
                memory_bytes: handle.budget.used_bytes() as u64,
                cpu_ns: handle.used.ns(),
                received_bytes,
                sent_bytes,
            }
        });
        stats.collect()
    }

    async fn start(&self, spec: GuestSpec, fds: Vec<OwnedFd>) -> Result<Answer, String> {
        if self.is_retiring() {
            return Err("this Wasm worker process takes no containers any more".to_owned());
        }
        if self.running.lock().contains_key(&spec.id) {
            return Ok(Answer::Nothing);
        }
        let failed = |error: wasmtime::Error| format!("cannot start {}: {}", spec.title, exit::text(&error));
        let code = self.shared.loader.load(spec.kind, &spec.code).map_err(failed)?;
        let begun = self.opening.begin(&spec.id);
        // Now, so that it hears of the pod's new limits while it waits.
        let share = spec.pod.as_ref().map(|pod| self.pods.of(&pod.limits));
        let opening = async { volumes::open(&spec, &fds, self.opening.turns.take(spec.place.clone()).await).await };
        let files = tokio::select! {
            biased;
            () = begun.called_off.cancelled() => return Err("it was stopped before it had started".to_owned()),
            opened = opening => opened.map_err(failed)?,
        };
        // While it waited, the same may have been ordered again.
        if self.running.lock().contains_key(&spec.id) {
            return Ok(Answer::Nothing);
        }
        self.start_opened(spec, fds, code, files, share)
    }

    fn start_opened(
        &self,
        mut spec: GuestSpec,
        fds: Vec<OwnedFd>,
        code: Arc<Code>,
        files: WasiFilesystemCtx,
        share: Option<Arc<PodShare>>,
    ) -> Result<Answer, String> {
        // It is kept as long as the container runs, and was read without knowing how long its lists would be.
        let env = Environment::new(&std::mem::take(&mut spec.env));
        spec.args.shrink_to_fit();
        spec.volumes.shrink_to_fit();
        let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
        // A volume is opened once more, as the directory a guest is given.
        let descriptors = fds.len() + spec.volumes.len();
        let mut take = |index: usize| fds.get_mut(index).and_then(Option::take).ok_or("a descriptor is missing");
        let listener = spec.http.as_ref().map(|http| take(http.listener).map(|fd| (fd, http.clone()))).transpose()?;
        let log = spec.log.map(&mut take).transpose()?;
        let log = self.logs.log(log.map(File::from), self.clock.clone(), spec.limits.log);
        let allowance = match Allowance::new(&spec.limits, descriptors, self.descriptors.clone(), log.clone()) {
            Ok(allowance) => allowance,
            Err(full @ NoRoom::Full { .. }) => return Ok(Answer::Full(full.to_string())),
            Err(never @ NoRoom::Never { .. }) => return Err(never.to_string()),
        };
        let bound = share.as_ref().zip(spec.pod.as_ref());
        let pod_memory = bound.filter(|(_, pod)| pod.memory).map(|(share, _)| share.memory.clone());
        let pod_cpu = bound.filter(|(_, pod)| pod.cpu).map(|(share, _)| share.cpu.clone());
        let config = spec.config.map(&mut take).transpose()?.map(|dir| Arc::new(Config::new(dir)));
        let keyvalue = spec.keyvalue.as_ref().map(|spec| take(spec.dir).map(|dir| (dir, spec))).transpose()?;
        let keyvalue = keyvalue.map(|(dir, spec)| {
            let opened = self.shared.stores.open(&spec.namespace, dir, spec.limit_bytes);
            opened.map_err(|error| format!("cannot open the key-value store of {:?}: {error}", spec.namespace))
        });
        let keyvalue = keyvalue.transpose()?;
        let dirs = Arc::new(fds);
        let service_account = spec.volumes.iter().find(|volume| volume.guest_path == roots::SERVICE_ACCOUNT);
        let service_account = service_account.map(|volume| volume.dir);
        let used = Used::new(&self.cpu, spec.limits.cpu, pod_cpu);
        if self.predecessors.has(&spec.place, Instant::now()) {
            used.comes_again();
        }
        let container = Arc::new(Container {
            budget: Budget::new(spec.memory_bytes, pod_memory),
            used,
            cpu: self.cpu.clone(),
            log,
            net: Arc::new(PodNet::new(spec.net.clone())),
            stdin: Stdin::new(spec.stdin),
            allowance,
            traffic: Arc::default(),
            _share: share,
            config,
            keyvalue,
            files,
            trust: Arc::new(Trust::new(self.shared.roots.clone(), dirs.clone(), service_account)),
            _volumes: dirs,
            alive: Arc::default(),
            env,
            spec,
        });
        self.run(container, code, listener).map(|()| Answer::Nothing)
    }

    fn run(
        &self,
        container: Arc<Container>,
        code: Arc<Code>,
        listener: Option<(OwnedFd, wire::HttpSpec)>,
    ) -> Result<(), String> {
        let (stop, stopping) = watch::channel(Stop::Run);
        let failed = |error: io::Error| format!("cannot start {}: {error}", container.spec.title);
        let listener = listener.map(|(listener, spec)| {
            let _runtime = self.guests.enter();
            // Here and in the handle: when both let go of it, the kernel refuses connections.
            TcpListener::from_std(listener.into()).map(|listener| (Arc::new(listener), spec)).map_err(failed)
        });
        let listener = listener.transpose()?;
        let handle = Handle {
            stop,
            log: container.log.clone(),
            stdin: container.stdin.clone(),
            budget: container.budget.clone(),
            used: container.used.clone(),
            listener: listener.as_ref().map(|(listener, _)| listener.clone()),
            forgotten: false,
            traffic: container.traffic.clone(),
            container: container.clone(),
            commands: Arc::new(Semaphore::new(exec::COMMANDS_MAX)),
        };
        self.running.lock().insert(container.spec.id.clone(), handle);
        let (running, ends, clock) = (self.running.clone(), self.ends.clone(), self.clock.clone());
        let predecessors = self.predecessors.clone();
        // Behind a pointer: within the task it would be there twice, and there are thousands.
        let guest = Box::pin(guest(self.shared.clone(), container.clone(), code, listener, stopping));
        let task = async move {
            let exit = match AssertUnwindSafe(guest).catch_unwind().await {
                Ok(exit) => exit,
                Err(_panic) => exit::panicked("a panic; the node's log has more"),
            };
            // What it said must be readable when its end is.
            container.log.flushed().await;
            let mut running = running.lock();
            // With both in hand: whoever looks sees it run or ended, never neither.
            match running.remove(&container.spec.id) {
                Some(handle) if !handle.forgotten => {
                    if *handle.stop.borrow() == Stop::Run {
                        predecessors.add(&container.spec.place, Instant::now());
                    }
                    ends.add(Ended { id: container.spec.id.clone(), at: clock.now(), exit });
                }
                Some(_) | None => ends.changed(),
            }
        };
        self.tasks.spawn_on(task, &self.guests);
        Ok(())
    }
}

impl Handle {
    fn stop(&mut self, grace_ms: u64) {
        let stop = if grace_ms == 0 { Stop::Kill } else { Stop::Drain { grace_ms } };
        // A guest that was killed is not to be treated gently by a later order.
        self.stop.send_if_modified(|now| {
            let news = *now != Stop::Kill && *now != stop;
            if news {
                *now = stop;
            }
            news
        });
        self.listener = None;
    }
}

/// Where the instances of an HTTP guest come from.
fn serve(shared: &Shared, container: &Container, code: &Code, spec: &wire::HttpSpec) -> wasmtime::Result<Serve> {
    let loader = &shared.loader;
    match code {
        Code::Http(code) if spec.keep_instances => {
            let pre = loader.beside_pool(code, &container.spec.code)?.clone();
            Ok(Serve::Kept(Kept::new(Program::Two(pre, loader.commands.clone()))))
        }
        Code::Http(code) => Ok(Serve::Each(code.clone())),
        Code::Http3(pre) => Ok(Serve::Kept(Kept::new(Program::Three(pre.clone(), loader.concurrent.clone())))),
        Code::Module(_) | Code::Command(_) | Code::Command3(_) => {
            Err(wasmtime::format_err!("a program that serves no HTTP was given a socket to serve"))
        }
    }
}

/// Runs one container from start to end.
async fn guest(
    shared: Arc<Shared>,
    container: Arc<Container>,
    code: Arc<Code>,
    listener: Option<(Arc<TcpListener>, wire::HttpSpec)>,
    mut stop: watch::Receiver<Stop>,
) -> Exit {
    if let Some((listener, spec)) = listener {
        let serve = match serve(&shared, &container, &code, &spec) {
            Ok(serve) => serve,
            Err(error) => return exit::of_error(&error),
        };
        return http::serve(shared, container, serve, listener, spec, stop).await;
    }
    let running = {
        let container = container.clone();
        Box::pin(async move { command::run(&shared, &container, &code).await })
    };
    let mut running = Guest::program(running, container.cpu.clone(), container.used.clone());
    let stopped = tokio::select! {
        biased;
        stopped = stop.wait_for(|stop| *stop != Stop::Run) => stopped.map_or(Stop::Kill, |stop| *stop),
        exit = &mut running => return exit,
    };
    let exit = match stopped {
        Stop::Run | Stop::Kill => exit::stopped(false),
        Stop::Drain { .. } if container.stdin.tell() => tokio::select! {
            biased;
            exit = &mut running => return exit,
            () = grace_over(stop) => exit::stopped(false),
        },
        // A guest that does not look cannot be told: like a process without a handler for SIGTERM, it just ends.
        Stop::Drain { .. } => exit::stopped(true),
    };
    // What it held is free when it is said to have ended: its successor wants the same ports.
    running.end().await;
    exit
}

/// Returns when what a guest was given to end by itself is over. A later stop may shorten that, and never lengthens it.
async fn grace_over(mut stop: watch::Receiver<Stop>) {
    let mut end: Option<Instant> = None;
    loop {
        match *stop.borrow_and_update() {
            Stop::Run => {}
            Stop::Drain { grace_ms } => {
                let asked = Instant::now() + Duration::from_millis(grace_ms);
                end = Some(end.map_or(asked, |end| end.min(asked)));
            }
            Stop::Kill => return,
        }
        let over = async {
            match end {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = stop.changed() => if changed.is_err() { return },
            () = over => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::{Layer, SubscriberExt};

    use super::*;

    /// Collects what a subscriber writes.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_stop_shortens_the_grace_and_never_lengthens_it() {
        // Each stop comes ten seconds after the one before; when the grace is over, in seconds since the first.
        let over = async |graces: &[u64]| {
            let began = Instant::now();
            let drain = |seconds: u64| Stop::Drain { grace_ms: seconds * 1000 };
            let (stop, stopping) = watch::channel(drain(graces[0]));
            let telling = async {
                for grace in &graces[1..] {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    stop.send_replace(if *grace == 0 { Stop::Kill } else { drain(*grace) });
                }
                std::future::pending().await
            };
            tokio::select! {
                biased;
                () = grace_over(stopping) => began.elapsed().as_secs(),
                never = telling => never,
            }
        };
        assert_eq!(over(&[30]).await, 30);
        assert_eq!(over(&[30, 5]).await, 15);
        assert_eq!(over(&[30, 3600]).await, 30);
        assert_eq!(over(&[3600, 60, 7]).await, 27);
        assert_eq!(over(&[30, 0]).await, 10);
    }

    #[test]
    fn what_guests_call_is_not_in_the_nodes_log() {
        let written = Written::default();
        let writer = written.clone();
        let filter: Targets = LOG_FILTER.parse().unwrap();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_filter(filter);
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            // As wasmtime says it, of each call.
            tracing::warn!(target: "wasmtime_wasi::p1", "p1 sock_accept is not implemented");
            tracing::warn!(target: "wasmtime_wasi_http::p2::error", "http request error");
            tracing::error!("the worker ends");
        });
        let text = String::from_utf8_lossy(&written.0.lock()).into_owned();
        assert!(text.contains("the worker ends") && text.lines().count() == 1, "{text}");
    }
}
