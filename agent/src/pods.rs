//! The pods of this node: one worker each, from the moment the node hears of a pod until nothing of it is left.
//!
//! Owns which pods there are, taking over what runs, and the removal of what belongs to nobody. Must not know: what a
//! worker does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coracle_api::Uid;
use coracle_client::watched;
use coracle_client::{Change, Informer, OnExit, Pod};
use coracle_cri::v1::{ContainerEventResponse, ContainerEventType, ContainerState};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::PodStatus;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::housekeeping::refusal;
use crate::local::Record;
use crate::mailbox::{Eviction, Mailbox};
use crate::node::NodeState;
use crate::pod::acts::remove_sandboxes;
use crate::pod::context::{PodContext, Shared, recorded_sources, runtime_class};
use crate::pod::worker::{Ended, Worker};
use crate::rotation::LiveLog;
use crate::runtime::{CriError, POD_UID, Runtime};
use crate::server::{ContainerLog, NoLog, NoStream, PodSource, Wanted};
use crate::streams::stream_url;
use crate::volumes::{PodDirs, remove_tree};

const RETRY: Duration = Duration::from_secs(1);
/// Containers of a pod that nobody knows any more get this long to end.
const ORPHAN_GRACE: Duration = Duration::from_secs(30);

/// All pods of the node.
pub(crate) struct Pods {
    shared: Arc<Shared>,
    slots: Mutex<BTreeMap<Uid, Slot>>,
    /// Of the node: under some pods may not begin.
    pressures: watched::Receiver<NodeState>,
}

struct Slot {
    context: Arc<PodContext>,
    /// The newest object; a worker that is started again begins with it.
    latest: Arc<Mutex<Arc<Pod>>>,
    removed: Arc<AtomicBool>,
}

impl Pods {
    pub(crate) fn new(shared: Arc<Shared>, pressures: watched::Receiver<NodeState>) -> Arc<Self> {
        Arc::new(Self { shared, slots: Mutex::default(), pressures })
    }

    /// Runs until cancelled. A runtime that does not answer holds up only what is in it.
    pub(crate) async fn run(self: Arc<Self>, pods: Informer<Pod>, cancel: CancellationToken) {
        let listed = watched::Sender::new(false);
        let work = async {
            self.start_recorded();
            tokio::join!(self.follow(pods, &listed), self.tidy(&listed));
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = work => {}
        }
    }

    /// Once it is known which pods there are, removes what runtimes and folders hold of others.
    async fn tidy(&self, listed: &watched::Sender<bool>) {
        if listed.subscribe().wait_for(|listed| *listed).await.is_err() {
            return;
        }
        let runtimes = self.shared.runtimes.all();
        futures::future::join_all(runtimes.iter().map(|runtime| self.remove_orphans(runtime))).await;
        self.remove_left_behind();
    }

    /// Starts what was recorded on this node, before the server is heard.
    pub(crate) fn start_recorded(self: &Arc<Self>) {
        let records = match self.shared.records.load() {
            Ok(records) => records,
            Err(error) => return tracing::error!(%error, "the recorded pods cannot be read and are not started"),
        };
        for record in records {
            // This task may have been started again; the pods' own tasks were not.
            let uid = Uid::from(record.pod.metadata.uid.as_deref().unwrap_or_default());
            if self.slots.lock().contains_key(&uid) {
                continue;
            }
            let pod = Arc::new(record.pod.clone());
            self.start(pod, record);
        }
    }

    /// Says in `listed` that all pods of the server's first list have their workers.
    async fn follow(self: &Arc<Self>, pods: Informer<Pod>, listed: &watched::Sender<bool>) {
        let mut changes = pods.subscribe();
        while let Some(change) = changes.next().await {
            match change {
                Change::Applied { new, .. } => self.upsert(new),
                Change::Deleted(old) => self.remove(&uid_of(&old), Some(old)),
                Change::Resync => {
                    let all = pods.list();
                    let known: BTreeSet<Uid> = all.iter().map(|pod| uid_of(pod)).collect();
                    for pod in all {
                        self.upsert(pod);
                    }
                    let gone: Vec<Uid> =
                        self.slots.lock().keys().filter(|uid| !known.contains(*uid)).cloned().collect();
                    for uid in gone {
                        self.remove(&uid, None);
                    }
                    listed.send_if_modified(|listed| !std::mem::replace(listed, true));
                }
            }
        }
    }

    fn upsert(self: &Arc<Self>, pod: Arc<Pod>) {
        let uid = uid_of(&pod);
        let known = self.slots.lock().get(&uid).map(|slot| {
            *slot.latest.lock() = pod.clone();
            slot.context.mailbox.clone()
        });
        match known {
            Some(mailbox) => mailbox.put(|mail| mail.pod = Some(pod)),
            None => {
                let refusal = match PodDirs::new(&self.shared.config.data_dir, "", "", &uid).root.exists() {
                    // It ran before this agent did: whether it may go on is the eviction's to say.
                    true => None,
                    false => refusal(&pod, &self.pressures.borrow().pressures),
                };
                self.start(pod, Record::default());
                if let (Some(message), Some(slot)) = (refusal, self.slots.lock().get(&uid)) {
                    slot.context.mailbox.put(|mail| mail.eviction = Some(Eviction { message, disrupted: false }));
                }
            }
        }
    }

    /// The pod's object is gone; `last` is how it was last seen.
    fn remove(&self, uid: &Uid, last: Option<Arc<Pod>>) {
        if let Some(slot) = self.slots.lock().get(uid) {
            slot.removed.store(true, Ordering::Release);
            if let Some(last) = &last {
                *slot.latest.lock() = last.clone();
            }
            slot.context.mailbox.put(|mail| {
                mail.pod = last.or(mail.pod.take());
                mail.removed = true;
            });
        }
    }

    fn start(self: &Arc<Self>, pod: Arc<Pod>, record: Record) {
        let uid = uid_of(&pod);
        let scope = self.shared.scope.child(&format!("pod-{uid}"));
        let mailbox = Arc::new(Mailbox::default());
        let context = PodContext::new(self.shared.clone(), scope.clone(), &pod, mailbox.clone(), record.clone());
        let slot = Slot {
            context: Arc::new(context),
            latest: Arc::new(Mutex::new(pod)),
            removed: Arc::new(AtomicBool::new(false)),
        };
        if record.pod.metadata.uid.is_some() {
            self.shared.sources.seed(&uid, &mailbox, recorded_sources(&record));
            self.shared.tokens.seed(&uid, record.tokens);
        }
        let (context, latest, removed) = (slot.context.clone(), slot.latest.clone(), slot.removed.clone());
        self.slots.lock().insert(uid, slot);
        let pods = self.clone();
        let own = scope.clone();
        scope.spawn("worker", OnExit::restart(), move |cancel| {
            let (context, pods, own, latest) = (context.clone(), pods.clone(), own.clone(), latest.clone());
            if removed.load(Ordering::Acquire) {
                context.mailbox.put(|mail| mail.removed = true);
            }
            async move {
                let class = runtime_class(&latest.lock()).to_owned();
                let start = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    start = context.shared.starts.take(&class) => start,
                };
                let pod = latest.lock().clone();
                match Box::pin(Worker::new(context.clone(), pod, start).run(cancel)).await {
                    Ended::Cancelled => {}
                    Ended::Forgotten => {
                        pods.forget(&context);
                        // Ends the probes too, and tells the supervisor that this end is no fault.
                        own.cancel();
                    }
                }
            }
        });
    }

    fn forget(&self, context: &PodContext) {
        let shared = &self.shared;
        shared.sources.hold(&context.uid, &context.mailbox, &BTreeSet::new());
        shared.tokens.forget(&context.uid);
        shared.status.forget(&context.uid);
        context.end_record();
        if let Err(error) = remove_tree(&context.dirs.logs) {
            tracing::warn!(pod = %context.key, %error, "logs are left behind");
        }
        self.slots.lock().remove(&context.uid);
    }

    /// Ends what a runtime holds of pods that the cluster does not know.
    async fn remove_orphans(&self, runtime: &Arc<Runtime>) {
        runtime.met().await;
        let sandboxes = loop {
            match runtime.sandboxes(None).await {
                Ok(sandboxes) => break sandboxes,
                Err(error) => {
                    tracing::warn!(runtime = runtime.endpoint().name(), %error, "the runtime does not say what it runs");
                }
            }
            tokio::time::sleep(RETRY).await;
        };
        let uids = sandboxes.iter().filter_map(|sandbox| sandbox.labels.get(POD_UID)).map(|uid| Uid::from(&**uid));
        let held: BTreeSet<Uid> = uids.collect();
        let orphans: Vec<Uid> = {
            let slots = self.slots.lock();
            held.into_iter().filter(|uid| !slots.contains_key(uid)).collect()
        };
        futures::future::join_all(orphans.iter().map(|uid| self.remove_orphan(runtime, uid))).await;
    }

    /// Removes folders of pods that neither the cluster nor a runtime knows.
    fn remove_left_behind(&self) {
        let data_dir = &self.shared.config.data_dir;
        for (folder, separator) in [("pods", None), ("logs", Some('_'))] {
            let Ok(entries) = std::fs::read_dir(data_dir.join(folder)) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let uid = separator.and_then(|separator| name.rsplit_once(separator)).map_or(&*name, |(_, uid)| uid);
                // A pod has its slot before it has a folder.
                let known = self.slots.lock().contains_key(uid);
                if !known && let Err(error) = remove_tree(&entry.path()) {
                    tracing::warn!(path = %entry.path().display(), %error, "a folder of a pod is left behind");
                }
            }
        }
    }

    async fn remove_orphan(&self, runtime: &Arc<Runtime>, uid: &Uid) {
        tracing::info!(%uid, "the cluster does not know this pod any more: it is removed");
        while let Err(error) = self.try_remove_orphan(runtime, uid).await {
            tracing::warn!(%uid, %error, "a pod that nobody knows cannot be removed yet");
            tokio::time::sleep(RETRY * 10).await;
        }
    }

    async fn try_remove_orphan(&self, runtime: &Arc<Runtime>, uid: &Uid) -> Result<(), CriError> {
        let containers = runtime.containers(Some(uid)).await?;
        let stops = containers.iter().filter(|container| container.state() == ContainerState::ContainerRunning).map(
            |container| {
                let seconds = container.annotations.get("io.kubernetes.pod.terminationGracePeriod");
                let grace = seconds.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
                runtime.stop_container(&container.id, grace.unwrap_or(ORPHAN_GRACE))
            },
        );
        futures::future::join_all(stops).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        remove_sandboxes(runtime, uid).await
    }

    /// Something happened in a runtime.
    pub(crate) fn route(&self, event: ContainerEventResponse) {
        let sandbox = event.pod_sandbox_status.as_ref();
        let uid = sandbox.and_then(|sandbox| Some(sandbox.metadata.as_ref()?.uid.as_str()));
        let Some(uid) = uid else { return self.relist_holder(&event.container_id) };
        let Some(mailbox) = self.slots.lock().get(uid).map(|slot| slot.context.mailbox.clone()) else { return };
        match event.container_event_type() {
            ContainerEventType::ContainerStoppedEvent => {}
            // What this node makes it knows of; what it removes it has asked for.
            ContainerEventType::ContainerCreatedEvent
            | ContainerEventType::ContainerStartedEvent
            | ContainerEventType::ContainerDeletedEvent => return,
        }
        let id: Arc<str> = event.container_id.as_str().into();
        if sandbox.is_some_and(|sandbox| sandbox.id == event.container_id) {
            return mailbox.put(|mail| mail.lost_sandbox = Some(id));
        }
        let status = event
            .containers_statuses
            .into_iter()
            .find(|status| status.id == event.container_id && status.state() == ContainerState::ContainerExited);
        mailbox.put(|mail| drop(mail.exits.insert(id, status.map(Box::new))));
    }

    /// An event that does not name its pod: whoever has the container looks.
    fn relist_holder(&self, container_id: &str) {
        for slot in self.slots.lock().values() {
            if slot.context.view.lock().live.values().any(|live| &*live.id == container_id) {
                let id: Arc<str> = container_id.into();
                slot.context.mailbox.put(|mail| drop(mail.exits.insert(id, None)));
                return;
            }
        }
    }

    /// Events of a runtime may have been lost.
    pub(crate) fn relist(&self, runtime: &Arc<Runtime>) {
        for slot in self.slots.lock().values() {
            // One without a choice has nothing that could have been lost.
            let there = slot.context.chosen().is_some_and(|(chosen, _)| Arc::ptr_eq(&chosen, runtime));
            if there {
                slot.context.mailbox.put(|mail| mail.relist = true);
            }
        }
    }

    /// The logs that are being written.
    pub(crate) fn live_logs(&self) -> Vec<LiveLog> {
        let contexts: Vec<_> = self.slots.lock().values().map(|slot| slot.context.clone()).collect();
        let mut logs = Vec::new();
        for context in contexts {
            let Some((runtime, _)) = context.chosen() else { continue };
            let view = context.view.lock();
            for (name, live) in &view.live {
                let path = context.dirs.logs.join(PodDirs::log_path(name, live.attempt));
                logs.push(LiveLog { path, container_id: live.id.clone(), runtime: runtime.clone() });
            }
        }
        logs
    }

    /// The pods that live and are not ending.
    pub(crate) fn evictable(&self) -> Vec<Arc<PodContext>> {
        let slots = self.slots.lock();
        let lives = slots.values().filter(|slot| {
            let view = slot.context.view.lock();
            let over = matches!(view.status.phase.as_deref(), Some("Succeeded" | "Failed"));
            !over && view.pod.metadata.deletion_timestamp.is_none()
        });
        lives.map(|slot| slot.context.clone()).collect()
    }

    /// The images that pods of this node are to run.
    pub(crate) fn wanted_images(&self) -> BTreeSet<String> {
        let slots = self.slots.lock();
        let pods = slots.values().map(|slot| slot.latest.lock().clone());
        let images = pods.flat_map(|pod| {
            let Some(spec) = &pod.spec else { return Vec::new() };
            let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.image);
            let all = spec.init_containers.iter().flatten().chain(&spec.containers);
            all.map(|container| &container.image).chain(ephemeral).flatten().cloned().collect()
        });
        images.collect()
    }

    /// What pods failed for lack of may be there now.
    pub(crate) fn retry(&self) {
        for slot in self.slots.lock().values() {
            slot.context.mailbox.put(|mail| mail.sources_changed = true);
        }
    }
}

fn uid_of(pod: &Pod) -> Uid {
    pod.metadata.uid.as_deref().unwrap_or_default().into()
}

impl Pods {
    /// The one that is meant is the one whose object is there, not one before it of the same name.
    fn named(&self, namespace: &str, pod: &str) -> Option<Arc<PodContext>> {
        let slots = self.slots.lock();
        let same_name = |slot: &&Slot| &*slot.context.key.namespace == namespace && &*slot.context.key.name == pod;
        let found = slots.values().filter(same_name).min_by_key(|slot| slot.removed.load(Ordering::Acquire));
        found.map(|slot| slot.context.clone())
    }
}

impl PodSource for Pods {
    fn stream<'a>(
        &'a self,
        namespace: &'a str,
        pod: &'a str,
        wanted: Wanted,
    ) -> BoxFuture<'a, Result<String, NoStream>> {
        Box::pin(async move {
            let context = self.named(namespace, pod).ok_or(NoStream::Pod)?;
            stream_url(&context, wanted).await
        })
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        let contexts: Vec<_> = self.slots.lock().values().map(|slot| slot.context.clone()).collect();
        let shown = contexts.iter().map(|context| {
            let view = context.view.lock();
            Arc::new(Pod { status: Some(PodStatus::clone(&view.status)), ..Pod::clone(&view.pod) })
        });
        shown.collect()
    }

    fn container_log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<ContainerLog, NoLog> {
        let context = self.named(namespace, pod).ok_or_else(|| NoLog::Pod { pod: pod.to_owned() })?;
        let view = context.view.lock();
        let all = view.status.init_container_statuses.iter().flatten();
        let all = all.chain(view.status.container_statuses.iter().flatten());
        let mut all = all.chain(view.status.ephemeral_container_statuses.iter().flatten());
        let (pod, name) = (pod.to_owned(), container.to_owned());
        let Some(status) = all.find(|status| status.name == container) else {
            return Err(NoLog::Container { pod, container: name });
        };
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let attempt = u32::try_from(status.restart_count).unwrap_or(0);
        let attempt = match (previous, &state.waiting) {
            (true, _) if last.is_none() => return Err(NoLog::NoPrevious { pod, container: name }),
            (false, Some(waiting)) if last.is_none() => {
                let reason = match waiting.reason.as_deref().unwrap_or_default() {
                    "ErrImagePull" => "image can't be pulled".to_owned(),
                    "ImagePullBackOff" => "trying and failing to pull image".to_owned(),
                    other => other.to_owned(),
                };
                return Err(NoLog::Waiting { pod, container: name, reason });
            }
            // While it waits for its restart, the run that has ended is both the current and the previous one.
            (_, Some(_)) => attempt,
            (true, None) => attempt.saturating_sub(1),
            (false, None) => attempt,
        };
        let path = |attempt| context.dirs.logs.join(PodDirs::log_path(container, attempt));
        let candidates = [attempt, attempt.saturating_sub(1)];
        let Some(path) = candidates.into_iter().map(path).find(|path| path.exists()) else {
            // A runtime that could not start it, or a node that would not, said why.
            return Err(match state.terminated.and_then(|ended| ended.message).filter(|why| !why.is_empty()) {
                Some(why) => NoLog::NeverRan { pod, container: name, why },
                None => NoLog::NotAvailable { pod, container: name },
            });
        };
        let live = view.live.get(container).map(|live| live.ended.clone()).filter(|_| !previous);
        let ended = live.unwrap_or_else(|| {
            let over = CancellationToken::new();
            over.cancel();
            over
        });
        Ok(ContainerLog { path, ended })
    }
}
