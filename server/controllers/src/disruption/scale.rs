//! How many pods the owner of a pod wants: what percentages of a budget are taken of. Knows ReplicaSets with their
//! Deployments, ReplicationControllers and StatefulSets.

use coracle_api::meta::ObjectKey;
use coracle_client::{Change, Informer, Informers, Pod};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::context::Context;
use crate::owner;

pub(super) struct Scales {
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    controllers: Informer<ReplicationController>,
    stateful: Informer<StatefulSet>,
}

/// What is known of the owner of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// The pod has no owner.
    Unmanaged,
    /// It has one of which nobody knows how many pods it wants, or that is gone.
    Unknown,
    Of {
        uid: String,
        replicas: i32,
    },
}

/// The object of an informer that a reference means: of that name and UID.
fn referred<K: coracle_client::Kind>(
    informer: &Informer<K>,
    namespace: &str,
    reference: &OwnerReference,
) -> Option<std::sync::Arc<K>> {
    let found = informer.get(&ObjectKey::new(namespace, reference.name.as_str()))?;
    (owner::uid(found.metadata()) == reference.uid).then_some(found)
}

impl Scales {
    pub(super) fn new(informers: &Informers) -> Self {
        Self {
            sets: informers.get(),
            deployments: informers.get(),
            controllers: informers.get(),
            stateful: informers.get(),
        }
    }

    pub(super) async fn synced(&self) {
        self.sets.synced().await;
        self.deployments.synced().await;
        self.controllers.synced().await;
        self.stateful.synced().await;
    }

    /// Tells `changed` the namespace in which somebody may want another number of pods; None: all of them.
    pub(super) fn feed(&self, context: &Context, changed: impl Fn(Option<&str>) + Clone + Send + Sync + 'static) {
        feed(context, "replicasets", &self.sets, |set| set.spec.as_ref()?.replicas, changed.clone());
        feed(context, "deployments", &self.deployments, |d| d.spec.as_ref()?.replicas, changed.clone());
        feed(context, "replicationcontrollers", &self.controllers, |rc| rc.spec.as_ref()?.replicas, changed.clone());
        feed(context, "statefulsets", &self.stateful, |set| set.spec.as_ref()?.replicas, changed);
    }

    pub(super) fn of(&self, pod: &Pod) -> Scale {
        let Some(reference) = owner::controller_of(&pod.metadata) else { return Scale::Unmanaged };
        let scale = self.find(owner::namespace(&pod.metadata), reference);
        scale.map_or(Scale::Unknown, |(uid, replicas)| Scale::Of { uid, replicas })
    }

    fn find(&self, namespace: &str, reference: &OwnerReference) -> Option<(String, i32)> {
        let of = |meta: &ObjectMeta, replicas: Option<i32>| (owner::uid(meta).to_owned(), replicas.unwrap_or(1));
        let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
        match (group, reference.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                let set = referred(&self.sets, namespace, reference)?;
                // The sets of a Deployment share its number of pods while it rolls.
                if let Some(above) = owner::controller_of(&set.metadata).filter(|r| r.kind == "Deployment") {
                    let deployment = referred(&self.deployments, namespace, above)?;
                    return Some(of(&deployment.metadata, deployment.spec.as_ref()?.replicas));
                }
                Some(of(&set.metadata, set.spec.as_ref()?.replicas))
            }
            ("", "ReplicationController") => {
                let controller = referred(&self.controllers, namespace, reference)?;
                Some(of(&controller.metadata, controller.spec.as_ref()?.replicas))
            }
            ("apps", "StatefulSet") => {
                let set = referred(&self.stateful, namespace, reference)?;
                Some(of(&set.metadata, set.spec.as_ref()?.replicas))
            }
            _other => None,
        }
    }
}

fn feed<K: coracle_client::Kind>(
    context: &Context,
    name: &str,
    informer: &Informer<K>,
    replicas: fn(&K) -> Option<i32>,
    changed: impl Fn(Option<&str>) + Send + Sync + 'static,
) {
    context.feed(name, informer, move |change| match change {
        // Statuses change all the time and mean nothing here.
        Change::Applied { old: Some(old), new } if replicas(&old) == replicas(&new) => {}
        Change::Applied { old: _, new } => changed(Some(owner::namespace(new.metadata()))),
        Change::Deleted(old) => changed(Some(owner::namespace(old.metadata()))),
        Change::Resync => changed(None),
    });
}
