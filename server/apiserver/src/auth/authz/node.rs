//! Owns what a node may do: only what running its own pods needs. A node that is stolen must not open the cluster.
//! Reading a secret, config map or volume claim needs a pod on that node that refers to it.

use std::sync::Arc;

use coracle_api::selector::FieldSelector;
use serde::Deserialize;

use super::bootstrap;
use super::rules::Rule;
use crate::auth::objects::Objects;
use crate::hooks::{Attributes, Decision, UserInfo};

const USER_PREFIX: &str = "system:node:";
const GROUP: &str = "system:nodes";
const LEASES: &str = "kube-node-lease";

/// Judges requests of nodes.
pub(super) struct NodeAuthorizer {
    objects: Arc<dyn Objects>,
    rules: Vec<Rule>,
}

/// The node a user is, if it is one.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix(USER_PREFIX).filter(|name| !name.is_empty() && user.in_group(GROUP))
}

/// What a pod refers to.
enum Referred {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    ResourceClaim,
}

impl NodeAuthorizer {
    pub(super) fn new(objects: Arc<dyn Objects>) -> NodeAuthorizer {
        NodeAuthorizer { objects, rules: bootstrap::node_rules() }
    }

    /// Allows or has no opinion; who is no node is not judged.
    pub(super) fn authorize(&self, user: &UserInfo, asked: &Attributes<'_>) -> Decision {
        let Some(node) = node_name(user) else { return Decision::NoOpinion(String::new()) };
        if !self.rules.iter().any(|rule| rule.allows(asked)) {
            return Decision::NoOpinion(String::new());
        }
        let judged = match (asked.group, asked.resource, asked.subresource) {
            _ if !asked.resource_request => Ok(()),
            ("", "secrets", "") => self.referred(node, asked, &Referred::Secret),
            ("", "configmaps", "") => self.referred(node, asked, &Referred::ConfigMap),
            ("", "persistentvolumeclaims", "" | "status") => self.referred(node, asked, &Referred::Claim),
            ("", "serviceaccounts", "" | "token") => self.referred(node, asked, &Referred::ServiceAccount),
            ("resource.k8s.io", "resourceclaims", "") => self.referred(node, asked, &Referred::ResourceClaim),
            ("", "persistentvolumes", "") => self.volume(node, asked),
            ("", "pods", _) => self.pod(node, asked),
            ("", "nodes", _) => own_name(node, asked, "can only read and write its own Node"),
            ("storage.k8s.io", "csinodes", _) => own_name(node, asked, "can only read and write its own CSINode"),
            ("coordination.k8s.io", "leases", "") => lease(node, asked),
            ("storage.k8s.io", "volumeattachments", _) => self.owned(node, asked),
            ("resource.k8s.io", "resourceslices", _) => self.slice(node, asked),
            _ => Ok(()),
        };
        match judged {
            Ok(()) => Decision::Allow(String::new()),
            Err(reason) => Decision::NoOpinion(reason),
        }
    }

    fn referred(&self, node: &str, asked: &Attributes<'_>, what: &Referred) -> Result<(), String> {
        if asked.name.is_empty() {
            return Err("No Object name found".to_owned());
        }
        let is_there = self.objects.any_pod_on_node(asked.namespace, node, &mut |pod| refers(pod, what, asked.name));
        if is_there { Ok(()) } else { Err(no_relationship(node)) }
    }

    /// A volume is a node's business when a claim bound to it is.
    fn volume(&self, node: &str, asked: &Attributes<'_>) -> Result<(), String> {
        let stored = self.objects.get("persistentvolumes", "", asked.name);
        let volume: Option<Volume> = stored.and_then(|json| serde_json::from_slice(&json).ok());
        let claim = volume.and_then(|volume| volume.spec.claim_ref).ok_or_else(|| no_relationship(node))?;
        let of_claim = Attributes { namespace: &claim.namespace, name: &claim.name, ..asked.clone() };
        self.referred(node, &of_claim, &Referred::Claim)
    }

    /// An object that says by its `spec.nodeName` whose it is. What is gone may be asked for, as of pods.
    fn owned(&self, node: &str, asked: &Attributes<'_>) -> Result<(), String> {
        let resource = format!("{}.{}", asked.resource, asked.group);
        match self.objects.get(&resource, "", asked.name).map(|json| serde_json::from_slice::<Pod>(&json)) {
            None => Ok(()),
            Some(Ok(object)) if object.spec.node_name == node => Ok(()),
            Some(_) => Err(no_relationship(node)),
        }
    }

    fn slice(&self, node: &str, asked: &Attributes<'_>) -> Result<(), String> {
        match asked.verb {
            // Admission looks into what is to be made.
            "create" => Ok(()),
            "list" | "watch" | "deletecollection" if selects(asked, "spec.nodeName", node) => Ok(()),
            "list" | "watch" | "deletecollection" => {
                Err("can only list/watch/deletecollection resourceslices with spec.nodeName field selector".to_owned())
            }
            _one => self.owned(node, asked),
        }
    }

    fn pod(&self, node: &str, asked: &Attributes<'_>) -> Result<(), String> {
        match asked.verb {
            "create" if asked.subresource.is_empty() => Ok(()),
            // Also with a name: who else's pod will have it, nobody knows yet.
            "list" | "watch" => {
                let own = selects(asked, "spec.nodeName", node);
                let why = "can only list/watch pods with spec.nodeName field selector";
                if own { Ok(()) } else { Err(why.to_owned()) }
            }
            _one => {
                let Some(json) = self.objects.get("pods", asked.namespace, asked.name) else {
                    // What is gone may be asked for: the answer says that it is gone.
                    return Ok(());
                };
                let bound = serde_json::from_slice::<Pod>(&json).is_ok_and(|pod| pod.spec.node_name == node);
                if bound { Ok(()) } else { Err(no_relationship(node)) }
            }
        }
    }
}

/// Whether only objects are asked for whose `field` is `value`.
fn selects(asked: &Attributes<'_>, field: &str, value: &str) -> bool {
    let selector = asked.field_selector.parse::<FieldSelector>();
    selector.is_ok_and(|selector| selector.exact(field) == Some(value))
}

fn no_relationship(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn own_name(node: &str, asked: &Attributes<'_>, otherwise: &str) -> Result<(), String> {
    // The name in a new object is for admission to judge; the path has none.
    if asked.name == node || (asked.verb == "create" && asked.name.is_empty()) {
        Ok(())
    } else {
        Err(format!("node '{node}' {otherwise}"))
    }
}

fn lease(node: &str, asked: &Attributes<'_>) -> Result<(), String> {
    if asked.namespace != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Volume {
    spec: VolumeSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct VolumeSpec {
    claim_ref: Option<Named>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pod {
    metadata: Named,
    spec: PodSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    node_name: String,
    service_account_name: String,
    image_pull_secrets: Vec<Named>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    ephemeral_containers: Vec<Container>,
    volumes: Vec<PodVolume>,
    resource_claims: Vec<PodClaim>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodClaim {
    resource_claim_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    env: Vec<Env>,
    env_from: Vec<EnvFrom>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Env {
    value_from: Option<ValueFrom>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ValueFrom {
    secret_key_ref: Named,
    config_map_key_ref: Named,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EnvFrom {
    secret_ref: Named,
    config_map_ref: Named,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodVolume {
    name: String,
    secret: Option<SecretVolume>,
    config_map: Option<Named>,
    persistent_volume_claim: Option<ClaimVolume>,
    ephemeral: Option<serde::de::IgnoredAny>,
    projected: Option<Projected>,
    csi: Option<NodePublish>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodePublish {
    node_publish_secret_ref: Named,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SecretVolume {
    secret_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClaimVolume {
    claim_name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Projected {
    sources: Vec<Source>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Source {
    secret: Named,
    config_map: Named,
}

/// Whether the pod in `json` refers to the object `name`.
fn refers(json: &[u8], what: &Referred, name: &str) -> bool {
    let Ok(pod) = serde_json::from_slice::<Pod>(json) else { return false };
    let spec = &pod.spec;
    let containers = || spec.containers.iter().chain(&spec.init_containers).chain(&spec.ephemeral_containers);
    let values = || containers().flat_map(|container| &container.env).filter_map(|env| env.value_from.as_ref());
    let sources = || spec.volumes.iter().filter_map(|volume| volume.projected.as_ref()).flat_map(|all| &all.sources);
    match what {
        Referred::Secret => {
            spec.image_pull_secrets.iter().any(|secret| secret.name == name)
                || spec.volumes.iter().any(|volume| {
                    volume.secret.as_ref().is_some_and(|secret| secret.secret_name == name)
                        || volume.csi.as_ref().is_some_and(|csi| csi.node_publish_secret_ref.name == name)
                })
                || sources().any(|source| source.secret.name == name)
                || values().any(|value| value.secret_key_ref.name == name)
                || containers().flat_map(|container| &container.env_from).any(|from| from.secret_ref.name == name)
        }
        Referred::ConfigMap => {
            spec.volumes.iter().any(|volume| volume.config_map.as_ref().is_some_and(|map| map.name == name))
                || sources().any(|source| source.config_map.name == name)
                || values().any(|value| value.config_map_key_ref.name == name)
                || containers().flat_map(|container| &container.env_from).any(|from| from.config_map_ref.name == name)
        }
        Referred::Claim => spec.volumes.iter().any(|volume| {
            // An ephemeral volume's claim is named after the pod and the volume.
            volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.claim_name == name)
                || (volume.ephemeral.is_some() && format!("{}-{}", pod.metadata.name, volume.name) == name)
        }),
        Referred::ServiceAccount => spec.service_account_name == name,
        Referred::ResourceClaim => spec.resource_claims.iter().any(|claim| claim.resource_claim_name == name),
    }
}
