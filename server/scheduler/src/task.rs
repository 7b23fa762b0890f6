//! The one task that owns the scheduler's state: takes in what happens, decides pod by pod, and carries the decisions
//! out beside, so that deciding never waits for the API.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_api::meta::{NodeName, ObjectKey, PodKey};
use coracle_client::events::{EventType, Recorder, reference};
use coracle_client::{Change, Changes, Client, Clock, Error, Ids, Informer, Informers, Pod};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::effects::{self, Refusal};
use crate::framework::{Happened, Profile};
use crate::info::PodInfo;
use crate::preempt::{Budget, Preemption, preempt};
use crate::queue::{Popped, Queue};
use crate::schedule::{Decision, Diagnosis, schedule};
use crate::snapshot::Snapshot;

/// Requests under way at once; while there are so many no more pods are decided on.
const UNDER_WAY_MOST: usize = 128;
/// Decisions between looks at what has happened meanwhile.
const BATCH: usize = 16;
/// Upstream's limit of an event's message.
const MESSAGE_BYTES: usize = 1024;

pub(crate) struct Context {
    pub(crate) profiles: Arc<[Profile]>,
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Ids,
    pub(crate) recorders: Arc<[Recorder]>,
}

/// How an effect ended.
enum Done {
    Bound { pod: Arc<PodInfo>, node: NodeName, profile: usize, result: Result<(), Error> },
    Told { key: PodKey, result: Result<(), Error> },
    Evicted { preemptor: Arc<PodInfo>, victim: Arc<PodInfo>, node: NodeName, profile: usize, result: Result<(), Error> },
}

struct Scheduler {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    budgets: Informer<PodDisruptionBudget>,
    snapshot: Snapshot,
    queue: Queue,
    effects: FuturesUnordered<BoxFuture<'static, Done>>,
}

pub(crate) async fn run(context: Context, cancel: CancellationToken) {
    let pods = context.informers.get::<Pod>();
    let nodes = context.informers.get::<Node>();
    let budgets = context.informers.get::<PodDisruptionBudget>();
    let (mut pod_changes, mut node_changes) = (pods.subscribe(), nodes.subscribe());
    let ready = async {
        // Deciding on half a view would refuse pods for no reason.
        nodes.synced().await;
        pods.synced().await;
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => return,
        () = ready => {}
    }
    let mut scheduler = Scheduler {
        context,
        pods,
        nodes,
        budgets,
        snapshot: Snapshot::default(),
        queue: Queue::default(),
        effects: FuturesUnordered::new(),
    };
    loop {
        let more = scheduler.work(&mut pod_changes, &mut node_changes);
        let deadline = scheduler.queue.deadline();
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            Some(done) = scheduler.effects.next(), if !scheduler.effects.is_empty() => scheduler.done(done),
            change = node_changes.next() => match change {
                Some(change) => scheduler.on_node(change),
                None => return,
            },
            change = pod_changes.next() => match change {
                Some(change) => scheduler.on_pod(change),
                None => return,
            },
            // The effects above have had their turn: on with the next batch.
            () = std::future::ready(()), if more => {}
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() && scheduler.has_room() => {}
        }
    }
}

impl Scheduler {
    fn has_room(&self) -> bool {
        self.effects.len() < UNDER_WAY_MOST
    }

    /// Takes in what has happened and decides on a batch of pods; true when there is more to decide right away.
    fn work(&mut self, pods: &mut Changes<Pod>, nodes: &mut Changes<Node>) -> bool {
        while let Some(change) = nodes.try_next() {
            self.on_node(change);
        }
        while let Some(change) = pods.try_next() {
            self.on_pod(change);
        }
        let now = Instant::now();
        for _ in 0..BATCH {
            if !self.has_room() {
                return false;
            }
            match self.queue.pop(now) {
                Some(popped) => self.decide(popped, now),
                None => return false,
            }
        }
        self.queue.has_work(now) && self.has_room()
    }

    fn decide(&mut self, Popped { pod, profile }: Popped, now: Instant) {
        let ids = self.context.ids.clone();
        let mut chance = |bound: u64| ids.below(bound);
        match schedule(&self.snapshot, &pod, &self.context.profiles[profile], &mut chance) {
            Decision::Bind(node) => self.bind(pod, node, profile),
            Decision::Unschedulable(diagnosis) => self.refuse(pod, profile, diagnosis, now),
        }
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: NodeName, profile: usize) {
        self.snapshot.withdraw(&pod.key);
        self.snapshot.assume(pod.clone(), &node);
        let client = self.context.client.clone();
        self.effects.push(Box::pin(async move {
            let result = effects::bind(&client, &pod, &node).await;
            Done::Bound { pod, node, profile, result }
        }));
    }

    fn refuse(&mut self, pod: Arc<PodInfo>, profile: usize, diagnosis: Diagnosis, now: Instant) {
        let mut message = diagnosis.message();
        let mut nominated = Some(String::new());
        if diagnosis.nodes > 0 {
            match self.preemption(&pod, profile, &diagnosis) {
                Preemption::None(why) => {
                    message = format!("{message} preemption: {why}");
                    if why.starts_with("not eligible") {
                        nominated = None;
                    }
                }
                Preemption::Victims { node, victims } => {
                    self.evict(&pod, profile, &node, victims);
                    nominated = Some(node.to_string());
                }
            }
        }
        match nominated.as_deref() {
            Some("") => self.snapshot.withdraw(&pod.key),
            Some(node) => self.snapshot.nominate(pod.clone(), node),
            None => {}
        }
        tracing::debug!(pod = %pod.key, message, "no node fits");
        self.tell(&pod, profile, Refusal { reason: "Unschedulable", message, nominated });
        self.queue.refused(&pod.key, diagnosis.refused_by, now);
    }

    fn preemption(&mut self, pod: &PodInfo, profile: usize, diagnosis: &Diagnosis) -> Preemption {
        let budgets: Vec<Budget> = self.budgets.list().iter().filter_map(|budget| Budget::of(budget)).collect();
        let ids = self.context.ids.clone();
        let mut chance = |bound: u64| ids.below(bound);
        preempt(&self.snapshot, pod, &self.context.profiles[profile], diagnosis, &budgets, &mut chance)
    }

    fn evict(&mut self, pod: &Arc<PodInfo>, profile: usize, node: &NodeName, victims: Vec<Arc<PodInfo>>) {
        for victim in victims.into_iter().filter(|victim| !victim.is_terminating()) {
            let (client, clock) = (self.context.client.clone(), self.context.clock.clone());
            let scheduler = self.context.profiles[profile].scheduler_name.clone();
            let (preemptor, node) = (pod.clone(), node.clone());
            self.effects.push(Box::pin(async move {
                let result = effects::evict(&client, &clock, &victim, &scheduler).await;
                Done::Evicted { preemptor, victim, node, profile, result }
            }));
        }
    }

    /// Says in an event and in the pod's status why it has no node.
    fn tell(&mut self, pod: &Arc<PodInfo>, profile: usize, refusal: Refusal) {
        let recorder = &self.context.recorders[profile];
        recorder.event(&reference(&*pod.pod), EventType::Warning, "FailedScheduling", truncated(&refusal.message));
        let (client, clock, key) = (self.context.client.clone(), self.context.clock.clone(), pod.key.clone());
        let pod = pod.pod.clone();
        self.effects.push(Box::pin(async move {
            let result = effects::write_refusal(&client, &clock, pod, &refusal).await;
            Done::Told { key, result }
        }));
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Bound { pod, node, profile, result: Ok(()) } => {
                let message = format!("Successfully assigned {} to {node}", pod.key);
                tracing::debug!(pod = %pod.key, node = %node, "bound");
                let recorder = &self.context.recorders[profile];
                recorder.event(&reference(&*pod.pod), EventType::Normal, "Scheduled", truncated(&message));
                self.queue.settle(&pod);
            }
            Done::Bound { pod, node, profile, result: Err(error) } => self.binding_failed(pod, &node, profile, &error),
            Done::Told { key, result } => {
                if let Err(error) = result {
                    tracing::warn!(pod = %key, %error, "cannot say in a pod's status why it has no node");
                }
            }
            Done::Evicted { preemptor, victim, node, profile, result } => match result {
                Ok(()) => {
                    let message = format!("Preempted by pod {} on node {node}", preemptor.uid);
                    let recorder = &self.context.recorders[profile];
                    recorder.event(&reference(&*victim.pod), EventType::Normal, "Preempted", message);
                }
                Err(error) => {
                    tracing::warn!(pod = %victim.key, %error, "cannot evict a pod for a more important one");
                    self.queue.failed(&preemptor);
                }
            },
        }
    }

    fn binding_failed(&mut self, pod: Arc<PodInfo>, node: &NodeName, profile: usize, error: &Error) {
        // It may have been bound all the same, and seen: then there is nothing to take back.
        let Some(freed) = self.snapshot.forget(&pod.key, &pod.uid) else { return };
        self.stir(Happened::PodLeft(&freed));
        if error.is_not_found() {
            return self.queue.settle(&pod);
        }
        tracing::warn!(pod = %pod.key, node = %node, %error, "binding failed");
        self.queue.failed(&pod);
        let message = format!("binding rejected: {error}");
        self.tell(&pod, profile, Refusal { reason: "SchedulerError", message, nominated: Some(String::new()) });
    }

    fn stir(&mut self, happened: Happened<'_>) {
        self.queue.happened(&self.context.profiles, happened, Instant::now());
    }

    fn on_node(&mut self, change: Change<Node>) {
        match change {
            Change::Applied { old: _, new } => self.set_node(new),
            Change::Deleted(node) => self.snapshot.remove_node(node.metadata.name.as_deref().unwrap_or_default()),
            Change::Resync => {
                let nodes = self.nodes.list();
                let listed: BTreeSet<&str> = nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
                for name in self.snapshot.node_names() {
                    if !listed.contains(&*name) {
                        self.snapshot.remove_node(&name);
                    }
                }
                nodes.into_iter().for_each(|node| self.set_node(node));
            }
        }
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let old = self.snapshot.set_node(node.clone());
        if old.as_ref().is_some_and(|old| decides_the_same(old, &node)) {
            return;
        }
        let new = self.snapshot.node(&name).expect("set above");
        let happened = Happened::Node { old: old.as_deref(), new };
        self.queue.happened(&self.context.profiles, happened, Instant::now());
    }

    fn on_pod(&mut self, change: Change<Pod>) {
        match change {
            Change::Applied { old: _, new } => self.set_pod(new),
            Change::Deleted(pod) => self.forget_pod(&ObjectKey::of(&*pod)),
            Change::Resync => {
                let pods = self.pods.list();
                let listed: BTreeSet<ObjectKey> = pods.iter().map(|pod| ObjectKey::of(&**pod)).collect();
                let known = self.snapshot.pod_keys().into_iter().chain(self.queue.keys());
                let gone: Vec<PodKey> = known.filter(|key| !listed.contains(key)).collect();
                gone.iter().for_each(|key| self.forget_pod(key));
                pods.into_iter().for_each(|pod| self.set_pod(pod));
            }
        }
    }

    fn forget_pod(&mut self, key: &PodKey) {
        self.queue.remove(key);
        self.snapshot.withdraw(key);
        if let Some(left) = self.snapshot.remove_pod(key) {
            self.stir(Happened::PodLeft(&left));
        }
    }

    fn set_pod(&mut self, pod: Arc<Pod>) {
        let info = Arc::new(PodInfo::new(pod));
        let key = info.key.clone();
        let phase = info.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return self.forget_pod(&key);
        }
        if let Some(node) = info.node_name() {
            self.queue.remove(&key);
            self.snapshot.withdraw(&key);
            let before = self.snapshot.pod(&key).and_then(|(_, pod)| pod.cloned());
            self.snapshot.set_pod(info.clone(), node);
            // In place, a pod may come to ask for less.
            if let Some(before) = before.filter(|before| before.requests.exact.exceeds(&info.requests.exact)) {
                self.stir(Happened::PodLeft(&before));
            }
            return;
        }
        if self.snapshot.is_assumed(&key, &info.uid) {
            return;
        }
        match self.profile_of(&info) {
            Some(profile) => {
                if let Some(node) = info.nominated_node() {
                    self.snapshot.nominate(info.clone(), node);
                }
                self.queue.add(info, profile, Instant::now());
            }
            None => drop(self.queue.remove(&key)),
        }
    }

    /// The profile that is to schedule the pod; `None` when it is not for us, or not yet, or no more.
    fn profile_of(&self, pod: &PodInfo) -> Option<usize> {
        let spec = pod.spec()?;
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        if gated || pod.is_terminating() {
            return None;
        }
        let name = spec.scheduler_name.as_deref().unwrap_or(crate::framework::DEFAULT_SCHEDULER);
        self.context.profiles.iter().position(|profile| profile.scheduler_name == name)
    }
}

/// A node's heartbeats change nothing that a decision asks for.
fn decides_the_same(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec == new.spec && old.metadata.labels == new.metadata.labels && allocatable(old) == allocatable(new)
}

fn truncated(message: &str) -> String {
    const TAIL: &str = " ...";
    if message.len() <= MESSAGE_BYTES {
        return message.to_owned();
    }
    format!("{}{TAIL}", &message[..message.floor_char_boundary(MESSAGE_BYTES - TAIL.len())])
}
