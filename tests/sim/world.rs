//! One simulated cluster: a server on a real SQLite file, three agents with scripted runtimes, and the faults between.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_agent::config::{Addressing, AgentConfig, AgentDeps, Disk, Resolver};
use coracle_agent::housekeeping::{HousekeepingConfig, NoGauge};
use coracle_agent::node::HostFacts;
use coracle_agent::probes::NoProber;
use coracle_agent::{Agent, AgentHandle};
use coracle_api::meta::NodeName;
use coracle_apiserver::auth::pki::PkiConfig;
use coracle_apiserver::{ApiServerConfig, Assembly, AssemblyConfig, UserInfo};
use coracle_client::{Client, Clock, Ids, Informers, RandomIds, TaskScope, TokioClock};
use coracle_controllers::ControllersConfig;
use coracle_cri::RuntimeRouter;
use coracle_cri::fake::FakeRuntime;
use coracle_scheduler::SchedulerConfig;
use coracle_store::{Mode, Store, StoreConfig};
use jiff::Timestamp;

use crate::faults::{Faults, Switch};

const NODES: [&str; 3] = ["one", "two", "three"];
/// When every simulation begins: 2026-01-01.
const BASE: Timestamp = Timestamp::constant(1_767_225_600, 0);

pub(crate) struct World {
    pub(crate) faults: Faults,
    /// Reaches the server without faults.
    pub(crate) admin: Client,
    switch: Switch,
    server: Option<Server>,
    nodes: Vec<SimNode>,
    clock: Arc<dyn Clock>,
    ids: Ids,
    dir: tempfile::TempDir,
}

struct Server {
    scope: TaskScope,
    assembly: Assembly,
    _store: Store,
}

struct SimNode {
    name: &'static str,
    runtime: FakeRuntime,
    agent: Option<(TaskScope, AgentHandle)>,
    dir: PathBuf,
}

impl World {
    pub(crate) async fn start(seed: u64) -> World {
        let faults = Faults::new(seed);
        let switch = Switch::default();
        let admin = Faults::new(0).client("admin", UserInfo::system("admin"), &switch);
        let dir = scratch();
        let base_ns = i64::try_from(BASE.as_nanosecond()).expect("a time near now fits");
        let nodes = NODES.map(|name| SimNode {
            name,
            runtime: FakeRuntime::new(base_ns),
            agent: None,
            dir: dir.path().join(name),
        });
        let mut world = World {
            faults,
            admin,
            switch,
            server: None,
            nodes: nodes.into(),
            clock: TokioClock::shared(BASE),
            ids: RandomIds::seeded(seed),
            dir,
        };
        world.start_server().await;
        for node in 0..world.nodes.len() {
            world.start_agent(node).await;
        }
        world
    }

    pub(crate) fn runtimes(&self) -> Vec<(String, FakeRuntime)> {
        self.nodes.iter().map(|n| (n.name.to_owned(), n.runtime.clone())).collect()
    }

    pub(crate) fn runtime(&self, node: usize) -> &FakeRuntime {
        &self.nodes[node].runtime
    }

    /// The agent dies without a word; its containers live on; a new one starts.
    pub(crate) async fn restart_agent(&mut self, node: usize) {
        self.kill_agent(node).await;
        self.start_agent(node).await;
    }

    /// Agent and containers die; the node's disk remains.
    pub(crate) async fn power_cut(&mut self, node: usize) {
        self.kill_agent(node).await;
        self.nodes[node].runtime.power_cut();
        self.start_agent(node).await;
    }

    pub(crate) fn partition(&self, node: usize, cut: bool) {
        self.faults.partition(&format!("agent {}", self.nodes[node].name), cut);
    }

    /// The server dies without a word and opens the same file again.
    pub(crate) async fn restart_server(&mut self) {
        self.kill_server().await;
        tokio::time::sleep(Duration::from_millis(u64::from(self.faults.random(3000)))).await;
        self.start_server().await;
    }

    /// Every link works again.
    pub(crate) async fn heal(&mut self) {
        for node in 0..self.nodes.len() {
            self.partition(node, false);
        }
    }

    pub(crate) async fn stop(mut self) {
        for node in 0..self.nodes.len() {
            self.kill_agent(node).await;
        }
        self.kill_server().await;
    }

    async fn kill_agent(&mut self, node: usize) {
        if let Some((scope, _handle)) = self.nodes[node].agent.take() {
            scope.abort().await;
        }
    }

    async fn kill_server(&mut self) {
        self.switch.set(None);
        if let Some(server) = self.server.take() {
            // Connections break with the process that held them.
            server.assembly.stop();
            server.scope.abort().await;
        }
    }

    async fn start_server(&mut self) {
        let scope = TaskScope::root();
        let store = open_store(&self.dir.path().join("state.db")).await;
        let config = AssemblyConfig {
            api: ApiServerConfig::new("127.0.0.1:6443".parse().expect("a constant address")),
            pki: pki_config(self.dir.path()),
            token: None,
        };
        let assembly = Assembly::build(config, store.clone(), self.clock.clone(), self.ids.clone()).await;
        let assembly = assembly.unwrap_or_else(|error| panic!("the server starts: {error}"));
        assembly.api.spawn_upkeep(&scope);
        self.switch.set(Some(assembly.api.clone()));

        let client = |name: &str| self.faults.client(name, UserInfo::system(name), &self.switch);
        let informers = Informers::new(client("informers"), &scope, self.ids.clone());
        let scheduler = client("scheduler");
        coracle_scheduler::start(SchedulerConfig::default(), &scheduler, &informers, &self.clock, &self.ids, &scope);
        let config = ControllersConfig {
            cluster_cidr: "127.42.0.0/16".parse().expect("a constant range"),
            node_mask: 20,
            ca_pem: assembly.pki.server_ca().pem().to_owned(),
            disable: Default::default(),
        };
        let (clock, ids) = (self.clock.clone(), self.ids.clone());
        coracle_controllers::start(config, client("controllers"), informers, clock, ids, &scope)
            .expect("the range is large enough");
        self.server = Some(Server { scope, assembly, _store: store });
    }

    async fn start_agent(&mut self, node: usize) {
        let scope = TaskScope::root();
        let sim = &self.nodes[node];
        let who = format!("agent {}", sim.name);
        let user = UserInfo::new(&format!("system:node:{}", sim.name), &["system:nodes", "system:authenticated"]);
        let client = self.faults.client(&who, user, &self.switch);
        // Each life of an agent has its own chance, drawn from the run's.
        let ids = RandomIds::seeded(self.ids.u64());
        let config = AgentConfig {
            node_name: NodeName::from(sim.name),
            data_dir: sim.dir.clone(),
            node_labels: Default::default(),
            node_taints: Vec::new(),
            max_pods: 20,
            cluster_domain: "cluster.local".to_owned(),
            addressing: Addressing::Loopback,
            host: host(sim.name),
            node_api: None,
            resolver: Resolver::default(),
            disk: Disk::Inline,
            housekeeping: HousekeepingConfig::default(),
        };
        let deps = AgentDeps {
            informers: Informers::new(client.clone(), &scope, ids.clone()),
            client,
            runtimes: RuntimeRouter::new(sim.runtime.endpoint()),
            clock: self.clock.clone(),
            ids,
            prober: Arc::new(NoProber),
            gauge: Arc::new(NoGauge),
            network: None,
        };
        let handle = Agent::start(config, deps, &scope).unwrap_or_else(|error| panic!("{who} starts: {error}"));
        self.nodes[node].agent = Some((scope, handle));
    }
}

/// In memory where there is such a place: the simulated disk need not be a real one.
fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    dir.expect("a temporary directory")
}

/// Opens the store; the dead server's last watches may still be letting go of it.
async fn open_store(path: &Path) -> Store {
    for _ in 0..100 {
        let config = StoreConfig { mode: Mode::Inline, sync: false, ..StoreConfig::new(path) };
        match Store::open(config) {
            Ok(store) => return store,
            Err(coracle_store::OpenError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("{} is still in use by the server that was killed", path.display());
}

fn pki_config(dir: &Path) -> PkiConfig {
    PkiConfig {
        data_dir: dir.to_path_buf(),
        hostname: "sim".to_owned(),
        tls_san: Vec::new(),
        addresses: Vec::new(),
        service_ip: "127.43.0.1".parse().expect("a constant address"),
        cluster_domain: "cluster.local".to_owned(),
        server_url: "https://127.0.0.1:6443".to_owned(),
    }
}

fn host(name: &str) -> HostFacts {
    HostFacts {
        hostname: name.to_owned(),
        cpus: 1,
        memory_bytes: 1 << 30,
        storage_bytes: 8 << 30,
        architecture: "amd64".to_owned(),
        kernel_version: "6.1".to_owned(),
        os_image: "simulated".to_owned(),
        machine_id: name.to_owned(),
        system_uuid: name.to_owned(),
        boot_id: name.to_owned(),
    }
}
