//! Every pod runs as a service account and gets its token, the cluster's CA and its namespace as a projected volume.

use std::time::Duration;

use coracle_api::object::Object;
use coracle_api::status::Status;
use coracle_client::suffix_of;
use coracle_store::{Key, Prefix};
use serde_json::json;

use super::{Plugin, creates_pod, edit_each, elements, forbidden, push};
use crate::registry::Registry;
use crate::registry::context::Context;

pub(super) struct ServiceAccount;

const ACCOUNTS: &str = "serviceaccounts";
const DEFAULT_NAME: &str = "default";
const MIRROR: &str = "kubernetes.io/config.mirror";
const VOLUME_PREFIX: &str = "kube-api-access-";
const SUFFIX_LENGTH: usize = 5;
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour, and seven seconds by which such tokens are told from those that clients ask for.
const TOKEN_SECONDS: i64 = 60 * 60 + 7;
/// How long a pod in a new namespace waits for the default account.
const PATIENCE: Duration = Duration::from_secs(2);

impl Plugin for ServiceAccount {
    fn mutate(
        &self,
        look: &Registry,
        context: &Context,
        pod: &mut Object,
        _old: Option<&Object>,
    ) -> Result<(), Status> {
        if !creates_pod(context) {
            return Ok(());
        }
        if pod.annotation(MIRROR).is_some() {
            return check_mirror(context, pod);
        }
        let name = account_name(pod).to_owned();
        pod.set(&["spec", "serviceAccountName"], name.as_str());
        pod.set(&["spec", "serviceAccount"], name.as_str());
        let namespace = &*context.namespace;
        let Some(account) = look.object(ACCOUNTS, namespace, &name)? else {
            let text =
                format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
            return Err(forbidden(context, pod, text));
        };
        if mounts_token(pod, &account) {
            let suffix = suffix(look, pod, &name);
            mount_token(pod, &suffix);
        }
        if pod.list(&["spec", "imagePullSecrets"]).is_empty()
            && let Some(secrets) = account.path(&["imagePullSecrets"])
        {
            pod.set(&["spec", "imagePullSecrets"], secrets.clone());
        }
        Ok(())
    }
}

fn account_name(pod: &Object) -> &str {
    let named = |field| pod.field(&["spec", field]).filter(|name| !name.is_empty());
    named("serviceAccountName").or_else(|| named("serviceAccount")).unwrap_or(DEFAULT_NAME)
}

/// Mirror pods stand for what a node runs by itself: they cannot refer to objects of the cluster.
fn check_mirror(context: &Context, pod: &Object) -> Result<(), Status> {
    if !pod.field(&["spec", "serviceAccountName"]).unwrap_or_default().is_empty() {
        return Err(forbidden(context, pod, "a mirror pod may not reference service accounts"));
    }
    for volume in elements(pod, &["spec", "volumes"]) {
        if volume.path(&["secret"]).is_some() {
            return Err(forbidden(context, pod, "a mirror pod may not reference secrets"));
        }
        let token = |source: &Object| source.path(&["serviceAccountToken"]).is_some();
        if elements(&volume, &["projected", "sources"]).iter().any(token) {
            return Err(forbidden(context, pod, "a mirror pod may not use ServiceAccountToken volume projections"));
        }
    }
    Ok(())
}

fn mounts_token(pod: &Object, account: &Object) -> bool {
    let of_pod = pod.flag(&["spec", "automountServiceAccountToken"]);
    of_pod.or_else(|| account.flag(&["automountServiceAccountToken"])).unwrap_or(true)
}

/// What ends the name of the token's volume. Upstream's is random; here the pods of one controller have the same, for
/// then their specs are equal, and what is equal is held once by everyone who reads pods. Nothing but the pod's own
/// mounts refers to the name.
fn suffix(look: &Registry, pod: &Object, account: &str) -> String {
    let owners = elements(pod, &["metadata", "ownerReferences"]);
    let controller = owners.iter().find(|owner| owner.flag(&["controller"]) == Some(true));
    match controller.and_then(|owner| owner.field(&["uid"])) {
        Some(uid) => suffix_of(&format!("{uid}/{account}"), SUFFIX_LENGTH),
        None => look.ids.suffix(SUFFIX_LENGTH),
    }
}

/// A volume of the pod's own whose name begins as ours would is taken for ours, as upstream does: so the name of a new one
/// is no other's.
fn mount_token(pod: &mut Object, suffix: &str) {
    let volumes = elements(pod, &["spec", "volumes"]);
    let existing =
        volumes.iter().filter_map(|volume| volume.field(&["name"])).find(|name| name.starts_with(VOLUME_PREFIX));
    let (name, is_new) = match existing {
        Some(name) => (name.to_owned(), false),
        None => (format!("{VOLUME_PREFIX}{suffix}"), true),
    };
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        edit_each(pod, &["spec", list], |container| {
            let path = ["volumeMounts"];
            let taken = |mount: &Object| mount.field(&["mountPath"]) == Some(MOUNT_PATH);
            if !elements(container, &path).iter().any(taken) {
                needed = true;
                push(container, &path, json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            }
        });
    }
    if is_new && needed {
        let namespace = json!({"apiVersion": "v1", "fieldPath": "metadata.namespace"});
        let sources = json!([
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": namespace}]}},
        ]);
        push(pod, &["spec", "volumes"], json!({"name": name, "projected": {"defaultMode": 420, "sources": sources}}));
    }
}

/// In a namespace that was made a moment ago the default account is on its way: waits for it, for a while.
pub(super) async fn wait_for_default(registry: &Registry, context: &Context, pod: &Object) {
    if !creates_pod(context) || account_name(pod) != DEFAULT_NAME || pod.annotation(MIRROR).is_some() {
        return;
    }
    let prefix = Prefix::namespaced(ACCOUNTS, context.namespace.clone());
    let key = Key::new(ACCOUNTS, context.namespace.clone(), DEFAULT_NAME);
    let snapshot = registry.store.snapshot();
    let lives = |namespace: &coracle_store::Snapshot| {
        namespace.get(&Key::new("namespaces", "", context.namespace.clone())).is_some()
    };
    if snapshot.get(&key).is_some() || !lives(&snapshot) {
        return;
    }
    let (snapshot, mut events) = registry.store.snapshot_and_watch(prefix);
    if snapshot.get(&key).is_some() {
        return;
    }
    let appears = async {
        while let Some(Ok(event)) = events.next().await {
            if *event.entry.key.name == *DEFAULT_NAME {
                return;
            }
        }
    };
    // Without it in time, admission says what is missing.
    let _in_time = tokio::time::timeout(PATIENCE, appears).await;
}
