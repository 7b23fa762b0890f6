//! The node's lease: the sign of life that the control plane watches.

use std::time::Duration;

use coracle_client::{Client, Clock, Error};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-node-lease";
const DURATION_SECONDS: i32 = 40;
/// Kubelet's: a quarter of the duration.
const PERIOD: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(7);

/// Renews the lease until it is cancelled. A server that is away only delays it.
pub(crate) async fn renew(client: Client, clock: std::sync::Arc<dyn Clock>, node: String, cancel: CancellationToken) {
    let mut next = Instant::now();
    let mut wait = RETRY;
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = sleep_until(next) => {}
        }
        let began = Instant::now();
        match write(&client, &node, clock.now()).await {
            Ok(()) => {
                next = began + PERIOD;
                wait = RETRY;
            }
            Err(error) => {
                tracing::debug!(%error, "lease not renewed yet");
                next = Instant::now() + wait;
                wait = (wait * 2).min(RETRY_MAX);
            }
        }
    }
}

async fn write(client: &Client, node: &str, now: Timestamp) -> Result<(), Error> {
    let api = client.namespaced::<Lease>(NAMESPACE);
    // One field changes; a patch needs no reading first.
    let patch = json!({ "spec": { "holderIdentity": node, "renewTime": MicroTime(now) } });
    match api.merge_patch(node, &patch).await {
        Err(error) if error.is_not_found() => {}
        other => return other.map(drop),
    }
    // A lease without an owner would outlive its node: the node is waited for, as kubelet does.
    let owner = client.all::<Node>().get(node).await?;
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: owner.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    match api.create(&lease).await {
        Err(error) if error.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}
