//! Writes pods' statuses to the API: the newest of each pod, at once when idle, again when a write is lost.
//!
//! Owns what the server is believed to hold of each pod, so that only differences are sent; after the last status of a
//! pod that is to go it deletes the pod's object. Must not know: how a status is made.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::{PodKey, Revision, Uid};
use coracle_client::{Client, DeleteParams, Error, Outcome, Pod, Preconditions, TaskScope, WorkQueue, drive};
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::pod::status::is_own;

/// Pods written at the same time.
const WORKERS: usize = 16;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A write the server refuses is not tried sooner unless the status changes.
const REFUSED: Duration = Duration::from_secs(30);

/// A status that several hold. Once the server has taken it, it is that of an object of which there is a copy anyway, and
/// the node needs none of its own: that would be kilobytes for each pod.
#[derive(Clone, Debug)]
pub enum SharedStatus {
    Made(Arc<PodStatus>),
    Of(Arc<Pod>),
}

impl SharedStatus {
    /// That of an object, an empty one if it has none.
    pub fn of(pod: &Arc<Pod>) -> Self {
        if pod.status.is_some() { Self::Of(pod.clone()) } else { Self::default() }
    }
}

impl Default for SharedStatus {
    fn default() -> Self {
        Self::Made(Arc::default())
    }
}

impl Deref for SharedStatus {
    type Target = PodStatus;

    fn deref(&self) -> &PodStatus {
        match self {
            Self::Made(status) => status,
            Self::Of(pod) => pod.status.as_ref().expect("made only of an object that has one"),
        }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct StatusWriter {
    client: Client,
    queue: WorkQueue<Uid>,
    pods: Arc<Mutex<BTreeMap<Uid, Entry>>>,
}

struct Entry {
    key: PodKey,
    /// What the server holds, as far as is known.
    known: SharedStatus,
    known_at: Revision,
    wanted: Option<SharedStatus>,
    delete: bool,
    failures: u32,
}

/// What is to be done for one pod.
enum Step {
    Patch { key: PodKey, status: SharedStatus, patch: Value },
    Delete { key: PodKey },
    Nothing,
}

impl StatusWriter {
    pub fn start(client: Client, scope: &TaskScope) -> Self {
        let writer = Self { client, queue: WorkQueue::new(), pods: Arc::default() };
        let worker = writer.clone();
        drive(scope, "pod-status", &writer.queue, WORKERS, move |uid: Uid| {
            let writer = worker.clone();
            async move { Ok::<_, Error>(writer.write(&uid).await) }
        });
        writer
    }

    /// The pod's object as the server has it. What somebody else changed of a status that is the node's is written over.
    pub fn observe(&self, pod: &Arc<Pod>) {
        let uid = Uid::from(pod.metadata.uid.as_deref().unwrap_or_default());
        let revision = revision(pod);
        let mut pods = self.pods.lock();
        let entry = pods.entry(uid.clone()).or_insert_with(|| Entry {
            key: PodKey::of(&**pod),
            known: SharedStatus::default(),
            known_at: Revision::UNSET,
            wanted: None,
            delete: false,
            failures: 0,
        });
        // An event that is older than the answer to our own write tells nothing new, and that of the write itself nothing
        // that another write would change.
        if revision >= entry.known_at {
            let news = revision > entry.known_at;
            entry.known_at = revision;
            entry.known = SharedStatus::of(pod);
            match &entry.wanted {
                Some(wanted) if **wanted == *entry.known => entry.wanted = Some(entry.known.clone()),
                Some(wanted) if news && difference(&entry.known, wanted).is_some() => self.queue.add(uid),
                Some(_) | None => {}
            }
        }
    }

    pub fn publish(&self, uid: &Uid, status: SharedStatus) {
        if let Some(entry) = self.pods.lock().get_mut(uid) {
            let differs = difference(&entry.known, &status).is_some();
            entry.wanted = Some(status);
            entry.failures = 0;
            if differs {
                self.queue.add(uid.clone());
            }
        }
    }

    /// Deletes the object after its last status is written.
    pub fn delete(&self, uid: &Uid) {
        if let Some(entry) = self.pods.lock().get_mut(uid) {
            entry.delete = true;
            entry.failures = 0;
            self.queue.add(uid.clone());
        }
    }

    pub fn forget(&self, uid: &Uid) {
        self.pods.lock().remove(uid);
    }

    fn next(&self, uid: &Uid) -> Step {
        let pods = self.pods.lock();
        let Some(entry) = pods.get(uid) else { return Step::Nothing };
        let patch = entry.wanted.as_ref().and_then(|wanted| Some((wanted, difference(&entry.known, wanted)?)));
        match patch {
            Some((wanted, status)) => {
                let patch = json!({ "metadata": { "uid": &**uid }, "status": status });
                Step::Patch { key: entry.key.clone(), status: wanted.clone(), patch }
            }
            None if entry.delete => Step::Delete { key: entry.key.clone() },
            None => Step::Nothing,
        }
    }

    async fn write(&self, uid: &Uid) -> Outcome {
        loop {
            let done = match self.next(uid) {
                Step::Nothing => return Outcome::Done,
                Step::Patch { key, status, patch } => {
                    let api = self.client.namespaced::<Pod>(&key.namespace);
                    match api.strategic_patch_status(&key.name, &patch).await {
                        Ok(pod) => {
                            self.wrote(uid, status, revision(&pod));
                            continue;
                        }
                        Err(error) => (key, error),
                    }
                }
                Step::Delete { key } => {
                    let preconditions = Some(Preconditions { uid: Some(uid.to_string()), resource_version: None });
                    let params =
                        DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
                    match self.client.namespaced::<Pod>(&key.namespace).delete(&key.name, &params).await {
                        Ok(()) => return Outcome::Done,
                        Err(error) => (key, error),
                    }
                }
            };
            return self.failed(uid, &done.0, &done.1);
        }
    }

    fn wrote(&self, uid: &Uid, status: SharedStatus, revision: Revision) {
        if let Some(entry) = self.pods.lock().get_mut(uid) {
            entry.failures = 0;
            // The object may have been seen before the answer. What the server did not take as it was told it will not take
            // the next time.
            let seen = revision == entry.known_at && difference(&entry.known, &status).is_none();
            if revision >= entry.known_at && !seen {
                entry.known_at = revision;
                entry.known = status;
            }
        }
    }

    fn failed(&self, uid: &Uid, key: &PodKey, error: &Error) -> Outcome {
        // Gone: the worker will hear of it.
        if error.is_not_found() {
            tracing::debug!(pod = %key, %uid, %error, "the pod is gone");
            return Outcome::Done;
        }
        let mut pods = self.pods.lock();
        let Some(entry) = pods.get_mut(uid) else { return Outcome::Done };
        entry.failures += 1;
        // A conflict: others write at the same time, or it is another pod of the same name, of which the worker will hear.
        if error.is_retriable() || error.is_conflict() {
            let wait = RETRY_FIRST.saturating_mul(1 << (entry.failures - 1).min(8)).min(RETRY_MAX);
            tracing::debug!(pod = %key, %error, "status not written yet");
            return Outcome::RequeueAfter(wait);
        }
        tracing::warn!(pod = %key, %uid, %error, "the server refuses the pod's status");
        Outcome::RequeueAfter(REFUSED)
    }
}

fn revision(pod: &Pod) -> Revision {
    pod.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(Revision::UNSET)
}

/// The strategic merge patch from one status to another, without what is not the node's; `None` if there is none.
fn difference(known: &PodStatus, wanted: &PodStatus) -> Option<Value> {
    let mut patch = Map::new();
    put(&mut patch, "phase", &known.phase, &wanted.phase);
    put(&mut patch, "reason", &known.reason, &wanted.reason);
    put(&mut patch, "message", &known.message, &wanted.message);
    put(&mut patch, "hostIP", &known.host_ip, &wanted.host_ip);
    put(&mut patch, "podIP", &known.pod_ip, &wanted.pod_ip);
    put(&mut patch, "startTime", &known.start_time, &wanted.start_time);
    put(&mut patch, "qosClass", &known.qos_class, &wanted.qos_class);
    put(&mut patch, "observedGeneration", &known.observed_generation, &wanted.observed_generation);
    put(&mut patch, "containerStatuses", &known.container_statuses, &wanted.container_statuses);
    put(&mut patch, "initContainerStatuses", &known.init_container_statuses, &wanted.init_container_statuses);
    let ephemeral = (&known.ephemeral_container_statuses, &wanted.ephemeral_container_statuses);
    put(&mut patch, "ephemeralContainerStatuses", ephemeral.0, ephemeral.1);
    put_replaced(&mut patch, "hostIPs", &known.host_ips, &wanted.host_ips);
    put_replaced(&mut patch, "podIPs", &known.pod_ips, &wanted.pod_ips);
    let conditions: Vec<Value> = wanted
        .conditions
        .iter()
        .flatten()
        .filter(|condition| is_own(condition))
        .filter(|condition| !known.conditions.iter().flatten().any(|other| other == *condition))
        .map(|condition| condition_value(known, condition))
        .chain(ended(known, wanted))
        .collect();
    if !conditions.is_empty() {
        patch.insert("conditions".to_owned(), Value::Array(conditions));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn value<T: Serialize>(of: &T) -> Value {
    serde_json::to_value(of).expect("a status is plain data")
}

fn put<T: Serialize + PartialEq>(patch: &mut Map<String, Value>, name: &str, known: &Option<T>, wanted: &Option<T>) {
    if known != wanted {
        patch.insert(name.to_owned(), value(wanted));
    }
}

/// A list that strategic merge would otherwise only ever add to.
fn put_replaced<T: Serialize + PartialEq>(
    patch: &mut Map<String, Value>,
    name: &str,
    known: &Option<Vec<T>>,
    wanted: &Option<Vec<T>>,
) {
    if known != wanted {
        let marker = known.is_some().then(|| json!({ "$patch": "replace" }));
        let list = marker.into_iter().chain(wanted.iter().flatten().map(value)).collect();
        patch.insert(name.to_owned(), Value::Array(list));
    }
}

/// The node's conditions that are there only while they hold.
fn ended<'a>(known: &'a PodStatus, wanted: &'a PodStatus) -> impl Iterator<Item = Value> + 'a {
    let gone = known.conditions.iter().flatten().filter(|condition| {
        is_own(condition) && !wanted.conditions.iter().flatten().any(|other| other.type_ == condition.type_)
    });
    gone.map(|condition| json!({ "$patch": "delete", "type": condition.type_ }))
}

/// What only the condition before has must not survive in the merged one.
fn condition_value(known: &PodStatus, condition: &PodCondition) -> Value {
    let mut merged = value(condition);
    let before = known.conditions.iter().flatten().find(|other| other.type_ == condition.type_);
    if let (Value::Object(merged), Some(before)) = (&mut merged, before) {
        for (name, had, has) in [
            ("reason", before.reason.is_some(), condition.reason.is_some()),
            ("message", before.message.is_some(), condition.message.is_some()),
            ("lastProbeTime", before.last_probe_time.is_some(), condition.last_probe_time.is_some()),
        ] {
            if had && !has {
                merged.insert(name.to_owned(), Value::Null);
            }
        }
    }
    merged
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
