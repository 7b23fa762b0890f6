//! What a decision does to the cluster, through the API: bindings, conditions, the eviction of victims. Decides nothing.

use std::sync::Arc;

use coracle_client::{Api, Backoff, Client, Clock, DeleteParams, Error, Pod};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::info::PodInfo;

const SCHEDULED: &str = "PodScheduled";
/// Attempts to write a condition when others write to the same pod.
const ATTEMPTS: usize = 5;

/// Binds, and comes back when it is known how that ended: room that is given up for a binding which only lost its answer
/// would be given to another pod too.
pub(crate) async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), Error> {
    let binding = Binding {
        metadata: ObjectMeta {
            namespace: Some(pod.key.namespace.to_string()),
            name: Some(pod.key.name.to_string()),
            // The server refuses to bind another pod of the same name.
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let pods = client.namespaced::<Pod>(&pod.key.namespace);
    match pods.create_subresource::<_, IgnoredAny>(&pod.key.name, "binding", &binding).await {
        Err(Error::Transport { .. } | Error::Timeout { .. }) if is_on(&pods, pod, node).await? => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Asks where the pod is until there is an answer.
async fn is_on(pods: &Api<Pod>, pod: &PodInfo, node: &str) -> Result<bool, Error> {
    let mut failures = 0;
    loop {
        match pods.get_opt(&pod.key.name).await {
            Ok(found) => {
                let found = found.filter(|found| found.metadata.uid.as_deref() == Some(&*pod.uid));
                return Ok(
                    found.is_some_and(|found| found.spec.is_some_and(|spec| spec.node_name.as_deref() == Some(node)))
                );
            }
            Err(error) if error.is_retriable() => tokio::time::sleep(Backoff::default().wait(failures)).await,
            Err(error) => return Err(error),
        }
        failures += 1;
    }
}

/// Why a pod has no node yet, for its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The node that is being cleared for it; `Some("")` takes a nomination back, `None` leaves it.
    pub(crate) nominated: Option<String>,
}

/// Writes the refusal into the pod's status, unless it is there, or the pod has a node or is gone by now.
pub(crate) async fn write_refusal(
    client: &Client,
    clock: &Arc<dyn Clock>,
    pod: Arc<Pod>,
    refusal: &Refusal,
) -> Result<(), Error> {
    let api = client.namespaced::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut pod = pod;
    for _ in 0..ATTEMPTS {
        let Some(patch) = refusal_patch(&pod, refusal, clock.now()) else { return Ok(()) };
        match api.strategic_patch_status(&name, &patch).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => return Ok(()),
            // A late refusal must never overwrite what a binding has written: look again.
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
        let Some(current) = api.get_opt(&name).await? else { return Ok(()) };
        if current.metadata.uid != pod.metadata.uid {
            return Ok(());
        }
        pod = Arc::new(current);
    }
    Ok(())
}

/// `None` when there is nothing to write.
pub(crate) fn refusal_patch(pod: &Pod, refusal: &Refusal, now: Timestamp) -> Option<Value> {
    if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty()) {
        return None;
    }
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let known = conditions.iter().find(|condition| condition.type_ == SCHEDULED);
    let same = known.is_some_and(|known| {
        known.status == "False"
            && known.reason.as_deref() == Some(refusal.reason)
            && known.message.as_deref() == Some(&*refusal.message)
    });
    let nominated = status.and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default();
    let renominated = refusal.nominated.as_deref().filter(|node| *node != nominated);
    if same && renominated.is_none() {
        return None;
    }
    let since = known.filter(|known| known.status == "False").and_then(|known| known.last_transition_time.clone());
    let condition = PodCondition {
        type_: SCHEDULED.to_owned(),
        status: "False".to_owned(),
        reason: Some(refusal.reason.to_owned()),
        message: Some(refusal.message.clone()),
        observed_generation: pod.metadata.generation,
        last_transition_time: Some(since.unwrap_or(Time(now))),
        last_probe_time: None,
    };
    let mut status = json!({ "conditions": [condition] });
    if let Some(node) = renominated {
        status["nominatedNodeName"] = if node.is_empty() { Value::Null } else { node.into() };
    }
    let meta = &pod.metadata;
    Some(json!({ "metadata": { "uid": meta.uid, "resourceVersion": meta.resource_version }, "status": status }))
}

/// Marks a victim with the reason of its end, then deletes it with its own grace.
pub(crate) async fn evict(
    client: &Client,
    clock: &Arc<dyn Clock>,
    victim: &PodInfo,
    scheduler: &str,
) -> Result<(), Error> {
    let api = client.namespaced::<Pod>(&victim.key.namespace);
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("PreemptionByScheduler".to_owned()),
        message: Some(format!("{scheduler}: preempting to accommodate a higher priority pod")),
        observed_generation: victim.pod.metadata.generation,
        last_transition_time: Some(Time(clock.now())),
        last_probe_time: None,
    };
    let patch = json!({ "metadata": { "uid": victim.uid }, "status": { "conditions": [condition] } });
    let gone = |error: Error| match error.is_not_found() || error.is_conflict() {
        // Gone, or another pod by now: what was wanted.
        true => Ok(()),
        false => Err(error),
    };
    api.strategic_patch_status(&victim.key.name, &patch).await.map(drop).or_else(gone)?;
    api.delete(&victim.key.name, &DeleteParams::default().uid(&*victim.uid)).await.or_else(gone)
}
