//! What all pods of a node share, and what belongs to one pod's worker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coracle_api::{PodKey, Quantity, Uid};
use coracle_client::events::{Recorder, reference};
use coracle_client::watched;
use coracle_client::{Client, Clock, Informer, Pod, TaskScope};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::NodeView;
use super::downward::PodFacts;
use super::env;
use super::machine::Now;
use crate::config::AgentConfig;
use crate::local::{Record, Records};
use crate::mailbox::Mailbox;
use crate::probes::Prober;
use crate::runtime::{Runtime, Runtimes};
use crate::sources::{Source, SourceError, SourceKey, SourceKind, SourceObject, Sources};
use crate::starts::Starts;
use crate::status::{SharedStatus, StatusWriter};
use crate::tokens::Tokens;
use crate::volumes::{self, PodDirs};

/// How long a new pod waits for the services to be known before it goes by what was recorded.
const SERVICES_WAIT: Duration = Duration::from_secs(10);

/// The node's network, as pods need it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeNet {
    /// Why pods cannot get addresses yet.
    pub pending: Option<String>,
    pub ips: Vec<IpAddr>,
    pub dns: Option<SocketAddr>,
}

/// What all pods of a node share.
pub struct Shared {
    pub config: AgentConfig,
    pub client: Client,
    pub runtimes: Runtimes,
    pub sources: Sources,
    pub tokens: Tokens,
    pub records: Records,
    pub services: Informer<Service>,
    pub recorder: Recorder,
    pub status: StatusWriter,
    pub clock: Arc<dyn Clock>,
    pub start: Instant,
    pub prober: Arc<dyn Prober>,
    pub network: watched::Receiver<NodeNet>,
    pub allocatable: BTreeMap<String, Quantity>,
    pub scope: TaskScope,
    /// Places for pods that begin.
    pub starts: Starts,
}

/// The name of its RuntimeClass; empty if it has none.
pub(crate) fn runtime_class(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()).unwrap_or_default()
}

impl Shared {
    pub fn now(&self) -> Now {
        Now { at: self.start.elapsed(), wall: self.clock.now() }
    }

    pub fn host_ips(&self) -> Vec<String> {
        self.network.borrow().ips.iter().map(ToString::to_string).collect()
    }

    pub fn node_view(&self) -> NodeView<'_> {
        NodeView {
            node_name: &self.config.node_name,
            cluster_domain: &self.config.cluster_domain,
            cluster_dns: self.network.borrow().dns,
            resolver: &self.config.resolver,
            memory_bytes: self.config.host.memory_bytes,
        }
    }
}

/// A runtime, and the handler it is asked for.
pub type Place = (Arc<Runtime>, String);

/// What belongs to one pod's worker and the work it has under way.
pub struct PodContext {
    pub shared: Arc<Shared>,
    /// The pod's own tasks: its worker and its probes.
    pub scope: TaskScope,
    pub key: PodKey,
    pub uid: Uid,
    pub dirs: PodDirs,
    pub mailbox: Arc<Mailbox>,
    /// The runtime and handler the pod's sandbox is made with, once that is decided.
    chosen: Mutex<Option<Place>>,
    /// The runtime has heard of the pod, or is about to. Kept on disk before it does, so that an agent that is started again
    /// asks no other one about the pod.
    given: AtomicBool,
    /// Nothing of the pod was on this node when this agent first heard of it.
    fresh: bool,
    /// What was recorded on the node before this agent started.
    recorded: Recorded,
    /// The pod has come to its end: it is recorded no more.
    ended: AtomicBool,
    /// A RunPodSandbox was begun whose end is not known: there may be a sandbox that nobody knows.
    pub unsure: AtomicBool,
    /// The volumes whose place was told to be another than asked for.
    pub told: Mutex<BTreeSet<String>>,
    /// What the node API shows of the pod.
    pub view: Arc<Mutex<PodView>>,
}

/// What a pod that is made again without a server goes by, beside its object and what that refers to.
struct Recorded {
    handler: String,
    services: BTreeMap<String, String>,
}

/// A pod as the node API shows it.
#[derive(Default)]
pub struct PodView {
    pub pod: Arc<Pod>,
    pub status: SharedStatus,
    /// The live run of each container.
    pub live: BTreeMap<Arc<str>, LiveRun>,
}

pub struct LiveRun {
    pub id: Arc<str>,
    pub attempt: u32,
    /// Cancelled when it has ended.
    pub ended: CancellationToken,
}

impl PodContext {
    pub fn new(shared: Arc<Shared>, scope: TaskScope, pod: &Pod, mailbox: Arc<Mailbox>, recorded: Record) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let meta = &pod.metadata;
        let (namespace, name, uid) = (text(&meta.namespace), text(&meta.name), text(&meta.uid));
        let dirs = PodDirs::new(&shared.config.data_dir, &namespace, &name, &uid);
        let kept = kept_choice(&shared.runtimes, &dirs);
        Self {
            given: AtomicBool::new(kept.is_some()),
            chosen: Mutex::new(kept),
            // Its folder is made before any runtime hears of it.
            fresh: !dirs.root.exists(),
            dirs,
            shared,
            scope,
            key: PodKey::of(pod),
            uid: uid.into(),
            mailbox,
            recorded: Recorded { handler: recorded.handler, services: recorded.services },
            ended: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
            told: Mutex::default(),
            view: Arc::default(),
        }
    }

    /// The pod is not to be started again, whatever happens.
    pub fn end_record(&self) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            self.shared.records.remove(&self.uid);
        }
    }

    pub fn chosen(&self) -> Option<Place> {
        self.chosen.lock().clone()
    }

    /// The runtimes that may hold something of the pod.
    pub fn holders(&self) -> Vec<Arc<Runtime>> {
        match self.chosen() {
            Some((runtime, _)) if self.given.load(Ordering::Acquire) => vec![runtime],
            Some(_) | None if self.fresh => Vec::new(),
            // It may be an older agent's, which did not keep what it chose.
            Some(_) | None => self.shared.runtimes.all().to_vec(),
        }
    }

    /// From now on the pod is this runtime's.
    pub fn give(&self, place: Place) -> Result<(), String> {
        let (runtime, handler) = &place;
        let known = self.chosen().is_some_and(|(known, of)| Arc::ptr_eq(&known, runtime) && of == *handler);
        if !known || !self.given.load(Ordering::Acquire) {
            let path = choice_file(&self.dirs);
            let text = format!("{}\n{handler}\n", runtime.endpoint().name());
            let written = fs::create_dir_all(&self.dirs.root).and_then(|()| fs::write(&path, text));
            written.map_err(|error| format!("cannot keep the pod's runtime in {}: {error}", path.display()))?;
        }
        *self.chosen.lock() = Some(place);
        self.given.store(true, Ordering::Release);
        Ok(())
    }

    /// The runtime for a pod that has no sandbox yet, or the one its sandbox is in.
    pub async fn runtime(&self, pod: &Pod) -> Result<Place, String> {
        if let Some(chosen) = self.chosen() {
            return Ok(chosen);
        }
        // Behind pointers: calls under way take kilobytes, and each act of each pod has room for what it may wait for.
        let handler = Box::pin(self.handler(pod)).await?;
        let claimed = if handler.is_empty() { Box::pin(super::route::claim(self, pod)).await? } else { None };
        let chosen = match claimed {
            Some(claimed) => claimed,
            None => {
                let runtime = self.shared.runtimes.route(&handler).map_err(|error| error.to_string())?.clone();
                (runtime, handler)
            }
        };
        *self.chosen.lock() = Some(chosen.clone());
        Ok(chosen)
    }

    async fn handler(&self, pod: &Pod) -> Result<String, String> {
        let class = runtime_class(pod);
        if class.is_empty() {
            return Ok(String::new());
        }
        match self.shared.client.all::<RuntimeClass>().get(class).await {
            Ok(found) => Ok(found.handler),
            Err(error) if error.is_retriable() && !self.recorded.handler.is_empty() => {
                Ok(self.recorded.handler.clone())
            }
            Err(error) if error.is_not_found() => {
                Err(format!("failed to get runtimeHandler for pod: RuntimeClass \"{class}\" not found"))
            }
            Err(error) => Err(format!("failed to lookup RuntimeClass {class}: {error}")),
        }
    }

    pub fn facts(&self, pod_ips: Vec<String>) -> PodFacts {
        PodFacts { pod_ips, host_ips: self.shared.host_ips(), allocatable: self.shared.allocatable.clone() }
    }

    /// Everything the pod refers to is watched from now on.
    pub fn hold_sources(&self, pod: &Pod) {
        self.shared.sources.hold(&self.uid, &self.mailbox, &references(pod));
    }

    pub async fn fetch(&self, keys: &BTreeSet<SourceKey>) -> BTreeMap<SourceKey, Result<Arc<Source>, SourceError>> {
        let fetched = join_all(keys.iter().map(|key| self.shared.sources.get(key))).await;
        keys.iter().cloned().zip(fetched).collect()
    }

    /// The variables that name services, from the API or, while that is away, as they were recorded.
    pub async fn services(&self, pod: &Pod) -> BTreeMap<String, String> {
        let services = &self.shared.services;
        if !services.is_synced() {
            let recorded = &self.recorded.services;
            let wait = if recorded.is_empty() { SERVICES_WAIT } else { Duration::ZERO };
            if tokio::time::timeout(wait, services.synced()).await.is_err() {
                return recorded.clone();
            }
        }
        let namespace = &self.key.namespace;
        let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links) != Some(false);
        let mut wanted = if links { services.in_namespace(namespace) } else { Vec::new() };
        wanted.extend(services.get(&coracle_api::ObjectKey::new("default", "kubernetes")));
        env::service_variables(&wanted, namespace, links)
    }

    /// Records the pod with everything it needs to be started without a server.
    pub async fn record(&self, pod: &Pod) {
        let fetched = self.fetch(&references(pod)).await;
        let services = self.services(pod).await;
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        let handler = self.chosen().map(|(_, handler)| handler);
        let mut record = Record {
            pod: Pod { status: None, ..pod.clone() },
            handler: handler.unwrap_or_default(),
            services,
            tokens: self.shared.tokens.of(&self.uid),
            ..Record::default()
        };
        // These change with every write to the object and are not needed to start the pod.
        record.pod.metadata.resource_version = None;
        record.pod.metadata.managed_fields = None;
        for source in fetched.values().flatten() {
            match &source.object {
                SourceObject::ConfigMap(map) => record.config_maps.push((**map).clone()),
                SourceObject::Secret(secret) => record.secrets.push((**secret).clone()),
            }
        }
        self.shared.records.put(&self.uid, &record);
    }

    /// The pod, or one of its containers, in events.
    pub fn reference(&self, pod: &Pod, container: Option<&str>) -> ObjectReference {
        let mut reference = reference(pod);
        reference.field_path = container.map(|name| {
            let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
            let mut apps = pod.spec.iter().flat_map(|spec| &spec.containers);
            let list = match (init.into_iter().any(|init| init.name == name), apps.any(|app| app.name == name)) {
                (true, _) => "initContainers",
                (false, true) => "containers",
                (false, false) => "ephemeralContainers",
            };
            format!("spec.{list}{{{name}}}")
        });
        reference
    }
}

fn choice_file(dirs: &PodDirs) -> PathBuf {
    dirs.root.join("runtime")
}

/// What an agent before this one chose. A runtime that is not set up any more holds nothing that could be reached.
fn kept_choice(runtimes: &Runtimes, dirs: &PodDirs) -> Option<Place> {
    let text = fs::read_to_string(choice_file(dirs)).ok()?;
    let (name, handler) = text.strip_suffix('\n')?.split_once('\n')?;
    let runtime = runtimes.all().iter().find(|runtime| runtime.endpoint().name() == name)?;
    Some((runtime.clone(), handler.to_owned()))
}

/// All config maps and secrets a pod refers to: volumes, environments and pull secrets.
pub fn references(pod: &Pod) -> BTreeSet<SourceKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut keys = volumes::references(pod);
    keys.extend(pull_secrets(pod));
    if let Some(spec) = &pod.spec {
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            keys.extend(env::references(namespace, container));
        }
        for ephemeral in spec.ephemeral_containers.iter().flatten() {
            let container = super::machine::declared(spec, &ephemeral.name);
            keys.extend(container.iter().flat_map(|container| env::references(namespace, container)));
        }
    }
    keys
}

pub fn pull_secrets(pod: &Pod) -> BTreeSet<SourceKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let named = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    named
        .filter(|secret| !secret.name.is_empty())
        .map(|secret| SourceKey {
            kind: SourceKind::Secret,
            namespace: namespace.into(),
            name: secret.name.as_str().into(),
        })
        .collect()
}

/// What was recorded of a pod's sources, to go by until the server answers.
pub fn recorded_sources(record: &Record) -> Vec<(SourceKey, Source)> {
    let namespace = record.pod.metadata.namespace.as_deref().unwrap_or_default();
    let key = |kind, name: &Option<String>| SourceKey {
        kind,
        namespace: namespace.into(),
        name: name.as_deref().unwrap_or_default().into(),
    };
    let maps = record.config_maps.iter().cloned();
    let maps = maps.map(|map| (key(SourceKind::ConfigMap, &map.metadata.name), Source::from(map)));
    let secrets = record.secrets.iter().cloned();
    maps.chain(secrets.map(|secret| (key(SourceKind::Secret, &secret.metadata.name), Source::from(secret)))).collect()
}
