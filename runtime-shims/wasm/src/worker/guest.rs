//! A container as the worker has it, and the state of one instance of it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::allowance::{Allowance, Held, Kind};
use super::config::Config;
use super::cpu::{self, Cpu, Used};
use super::environment::Environment;
use super::host_memory;
use super::keyvalue;
use super::log::{Log, LogStream, Stream};
use super::memory::{Budget, Limiter};
use super::outgoing::Outgoing;
use super::pod::PodNet;
use super::roots::Trust;
use super::share::PodShare;
use super::sockets::Undecided;
use super::stdin::Stdin;
use super::traffic::Traffic;
use crate::wire::GuestSpec;

/// What one call may make the host copy out of the guest.
const HOSTCALL_BYTES: usize = 16 << 20;
const RANDOM_BYTES: u64 = 1 << 20;

/// One container. Instances share it.
pub(super) struct Container {
    /// But for its environment.
    pub(super) spec: GuestSpec,
    pub(super) env: Environment,
    pub(super) budget: Arc<Budget>,
    pub(super) used: Arc<Used>,
    pub(super) cpu: Arc<Cpu>,
    pub(super) log: Arc<Log>,
    pub(super) net: Arc<PodNet>,
    pub(super) stdin: Stdin,
    pub(super) allowance: Arc<Allowance>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) config: Option<Arc<Config>>,
    pub(super) keyvalue: Option<Arc<keyvalue::Shared>>,
    /// The volumes, opened once; an instance gets a copy of the handles.
    pub(super) files: WasiFilesystemCtx,
    /// Keeps what it shares with the pod's other containers.
    pub(super) _share: Option<Arc<PodShare>>,
    /// Keeps the directories' mounts.
    pub(super) _volumes: Arc<Vec<Option<OwnedFd>>>,
    pub(super) trust: Arc<Trust>,
    /// Each instance has a copy: so they are counted.
    pub(super) alive: Arc<()>,
}

/// The state of one instance: what is in its wasmtime store.
pub(super) struct Instance {
    pub(super) wasi: WasiP1Ctx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    limiter: Limiter,
    pub(super) net: Arc<PodNet>,
    pub(super) allowance: Arc<Allowance>,
    pub(super) traffic: Arc<Traffic>,
    /// Sockets and files that are counted, by their number in the table, or as WASI 0.1 numbers files.
    pub(super) open: HashMap<u32, Arc<Held>>,
    /// Its sockets for datagrams of which nobody knows yet whom they send to.
    pub(super) undecided: Undecided,
    /// Held for connections that were accepted and have no number yet. Only guests of WASI 0.3 count them so: theirs come
    /// by a stream.
    pub(super) accepted: Option<Arc<Mutex<Vec<Held>>>>,
    pub(super) config: Option<Arc<Config>>,
    pub(super) keyvalue: Option<Arc<keyvalue::Shared>>,
    alive: Arc<()>,
}

impl Container {
    /// A store for one instance, with everything the container may have.
    pub(super) fn store(&self, engine: &Engine) -> Store<Instance> {
        self.store_with(engine, &self.spec.args, |builder| {
            builder
                .stdin(self.stdin.clone())
                .stdout(LogStream::new(self.log.clone(), Stream::Stdout))
                .stderr(LogStream::new(self.log.clone(), Stream::Stderr));
        })
    }

    /// The same with other arguments, and standard streams that `console` sets.
    pub(super) fn store_with(
        &self,
        engine: &Engine,
        args: &[String],
        console: impl FnOnce(&mut WasiCtxBuilder),
    ) -> Store<Instance> {
        let mut builder = WasiCtxBuilder::new();
        console(&mut builder);
        builder.args(args).max_random_size(RANDOM_BYTES).allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true);
        for (name, value) in self.env.iter() {
            builder.env(name, value);
        }
        if let Some(dir) = &self.spec.working_dir {
            builder.initial_cwd(dir);
        }
        let accepted = self.spec.kind.is_concurrent().then(|| Arc::new(Mutex::new(Vec::new())));
        let (net, allowance, accepting) = (self.net.clone(), self.allowance.clone(), accepted.clone());
        builder.socket_addr_check(move |address, what: SocketAddrUse| {
            let mut allowed = net.allows(address, what);
            if let (SocketAddrUse::TcpAccept, Some(accepting)) = (what, &accepting) {
                let held = allowance.take(Kind::Socket);
                allowed &= held.is_ok();
                accepting.lock().extend(held.ok().filter(|_| allowed));
            }
            Box::pin(std::future::ready(allowed))
        });
        let mut wasi = builder.build_p1();
        let view = wasi.ctx();
        *view.ctx.filesystem() = self.files.clone();
        view.table.set_max_capacity(self.spec.limits.host_objects);
        let instance = Instance {
            wasi,
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::of(self),
            limiter: Limiter::new(self.budget.clone(), self.spec.limits.at_memory_limit),
            net: self.net.clone(),
            allowance: self.allowance.clone(),
            traffic: self.traffic.clone(),
            open: HashMap::new(),
            undecided: Undecided::default(),
            accepted,
            config: self.config.clone(),
            keyvalue: self.keyvalue.clone(),
            alive: self.alive.clone(),
        };
        let mut store = Store::new(engine, instance);
        store.limiter(|instance| &mut instance.limiter);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        // One object may be referred to and lent several times; the table is what bounds them.
        store.set_max_component_handles(self.spec.limits.host_objects.saturating_mul(4));
        // What tasks and streams of WASI 0.3 are kept in: each end of a stream is one, beside what it is of.
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(self.spec.limits.host_objects.saturating_mul(8));
        }
        store.set_epoch_deadline(1);
        let cpu = self.cpu.clone();
        store.epoch_deadline_callback(move |_| {
            Ok(match cpu.is_slice_over() {
                true => UpdateDeadline::YieldCustom(1, Box::pin(cpu::slice_over())),
                // The epoch moved while it waited, or just before it was let run.
                false => UpdateDeadline::Continue(1),
            })
        });
        store
    }
}

impl Instance {
    /// What is held for a connection, which has been accepted if it is not known.
    pub(super) fn of_connection(&mut self, number: u32) -> Option<Arc<Held>> {
        if let Some(held) = self.open.get(&number) {
            return Some(held.clone());
        }
        let held = Arc::new(self.accepted.as_ref()?.lock().pop()?);
        self.open.insert(number, held.clone());
        Some(held)
    }

    /// What one more object with text in it may hold.
    pub(super) fn bytes_of_each(&mut self) -> usize {
        let objects = self.wasi.ctx().table.iter_mut().count();
        // The container has one too.
        host_memory::each(objects, Arc::strong_count(&self.alive) - 1)
    }
}

impl WasiView for Instance {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for Instance {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        // Objects that are made now hold so much; whoever has many gets smaller ones.
        let most = self.bytes_of_each();
        self.http.set_field_size_limit(most);
        WasiHttpCtxView { ctx: &mut self.http, table: self.wasi.ctx().table, hooks: &mut self.outgoing }
    }
}
