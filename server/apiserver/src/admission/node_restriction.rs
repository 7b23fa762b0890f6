//! A node touches its own objects only: its Node, its Lease, the pods bound to it, tokens for those pods.

use coracle_api::object::Object;
use coracle_api::status::Status;

use super::{Plugin, forbidden};
use crate::http::request_info::Verb;
use crate::registry::Registry;
use crate::registry::context::Context;

pub(super) struct NodeRestriction;

const USER_PREFIX: &str = "system:node:";
const GROUP: &str = "system:nodes";
const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
/// Labels under these domains say what others rely on to keep workloads apart.
const RESTRICTED_LABEL_DOMAIN: &str = "node-restriction.kubernetes.io";
/// Kubernetes' labels that a node says about itself, as upstream lists them.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];
const OWN_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

impl Plugin for NodeRestriction {
    fn validate(
        &self,
        look: &Registry,
        context: &Context,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let user = &context.user;
        let Some(node) = user.name.strip_prefix(USER_PREFIX).filter(|_| user.in_group(GROUP)) else { return Ok(()) };
        let subject = object.or(old);
        let Some(subject) = subject else { return Ok(()) };
        let verdict = match (&*context.def.group, &*context.def.plural, context.subresource.as_str()) {
            ("", "pods", "") => pod(context, node, object, old),
            ("", "pods", "status" | "eviction" | "resize") => bound(context, node, old.or(object), "update status for"),
            ("", "nodes", _) => own_node(context, node, object, old),
            ("", "serviceaccounts", "token") => token(look, context, node, object),
            ("coordination.k8s.io", "leases", _) => lease(context, node),
            ("storage.k8s.io", "csinodes", _) => named(context, node, subject, "csinode"),
            ("resource.k8s.io", "resourceslices", _) => slice(node, subject),
            _ => Ok(()),
        };
        verdict.map_err(|text| forbidden(context, subject, text))
    }
}

type Verdict = Result<(), String>;

fn pod(context: &Context, node: &str, object: Option<&Object>, old: Option<&Object>) -> Verdict {
    match context.verb {
        Verb::Create => {
            let Some(pod) = object else { return Ok(()) };
            if pod.annotation(MIRROR).is_none() {
                return Err(format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                ));
            }
            if pod.field(&["spec", "nodeName"]) != Some(node) {
                return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
            }
            Ok(())
        }
        Verb::Delete | Verb::DeleteCollection => bound(context, node, old, "delete"),
        Verb::Update | Verb::Patch => Err(format!("node {node:?} may not change pods beyond their status")),
        Verb::Get | Verb::List | Verb::Watch | Verb::Proxy | Verb::Unknown => Ok(()),
    }
}

fn bound(_context: &Context, node: &str, pod: Option<&Object>, action: &str) -> Verdict {
    match pod.and_then(|pod| pod.field(&["spec", "nodeName"])) {
        Some(bound) if bound == node => Ok(()),
        Some(_) | None => Err(format!("node {node:?} can only {action} pods with spec.nodeName set to itself")),
    }
}

fn own_node(context: &Context, node: &str, object: Option<&Object>, old: Option<&Object>) -> Verdict {
    let name = object.or(old).map(Object::name).filter(|name| !name.is_empty()).unwrap_or(&context.name);
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let (Some(new), labels) = (object, old.map(Object::labels).unwrap_or_default()) else { return Ok(()) };
    let mut changed: Vec<String> = Vec::new();
    let now = new.labels();
    for key in now.keys().chain(labels.keys()) {
        if is_restricted(key, old.is_none()) && now.get(key) != labels.get(key) && !changed.contains(key) {
            changed.push(key.clone());
        }
    }
    if !changed.is_empty() {
        return Err(format!("is not allowed to modify labels: {}", changed.join(", ")));
    }
    if let Some(old) = old
        && context.subresource.is_empty()
        && new.path(&["spec", "taints"]) != old.path(&["spec", "taints"])
    {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    Ok(())
}

/// Whether a node may not set or remove this label of its own: others rely on it to keep workloads apart. At its
/// creation a node may still take a role, later it may not steer workloads to itself.
fn is_restricted(key: &str, creates: bool) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let under = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    let is_kubernetes = under("kubernetes.io") || under("k8s.io");
    let is_nodes_own = OWN_LABELS.contains(&key) || OWN_LABEL_DOMAINS.iter().any(|own| under(own));
    under(RESTRICTED_LABEL_DOMAIN) || (!creates && is_kubernetes && !is_nodes_own)
}

/// A node asks for tokens of pods that run on it, bound to them.
fn token(look: &Registry, context: &Context, node: &str, object: Option<&Object>) -> Verdict {
    let Some(request) = object else { return Ok(()) };
    let reference = |field| request.field(&["spec", "boundObjectRef", field]).unwrap_or_default();
    if reference("kind") != "Pod" || reference("apiVersion") != "v1" {
        return Err("node requested token not bound to a pod".to_owned());
    }
    if reference("uid").is_empty() {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    let pod = look.object("pods", &context.namespace, reference("name")).map_err(|status| status.message)?;
    let Some(pod) = pod else { return Err(format!("pod {:?} not found", reference("name"))) };
    if pod.uid_str() != reference("uid") {
        return Err(format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            reference("uid")
        ));
    }
    if pod.field(&["spec", "nodeName"]) != Some(node) {
        return Err("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    if pod.field(&["spec", "serviceAccountName"]) != Some(&*context.name) {
        return Err("node requested token for a service account that the pod does not run as".to_owned());
    }
    Ok(())
}

fn lease(context: &Context, node: &str) -> Verdict {
    if *context.namespace != *LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    if !context.name.is_empty() && *context.name != *node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn named(context: &Context, node: &str, object: &Object, kind: &str) -> Verdict {
    let name = if object.name().is_empty() { &*context.name } else { object.name() };
    if name == node { Ok(()) } else { Err(format!("can only access {kind} with the same name as the requesting node")) }
}

fn slice(node: &str, slice: &Object) -> Verdict {
    match slice.field(&["spec", "nodeName"]) {
        Some(own) if own == node => Ok(()),
        Some(_) | None => Err("can only create ResourceSlice with the same NodeName as the requesting node".to_owned()),
    }
}
