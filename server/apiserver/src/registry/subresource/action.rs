//! Subresources that are actions: binding a pod to a node, a token for a service account.

use std::sync::Arc;

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::meta::{GroupKind, GroupResource};
use coracle_api::object::Object;
use coracle_api::status::Status;
use coracle_api::time::format_time;
use serde_json::{Value, json};

use crate::hooks::{BoundObject, TokenSigner, TokenSpec};
use crate::registry::Registry;
use crate::registry::catalog::Resource;
use crate::registry::context::Context;
use crate::registry::update::Part;

const MIN_TOKEN_SECONDS: i64 = 10 * 60;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const DEFAULT_TOKEN_SECONDS: i64 = 60 * 60;

/// A node's name and uid.
type NodeId = (String, String);

impl Registry {
    /// pods/binding: gives the pod its node, once.
    pub async fn bind(&self, context: &Context, resource: &Resource, binding: &Object) -> Result<(), Status> {
        let node = check_binding(binding)?.to_owned();
        let annotations = binding.annotations();
        let labels = binding.labels();
        let (uid, version) = (binding.uid_str().to_owned(), binding.resource_version().to_owned());
        let subject = GroupResource::new("", "pods/binding");
        let mut make = |pod: Option<&Object>| {
            let Some(pod) = pod else { return Err(Status::not_found(&resource.group_resource(), &context.name)) };
            let conflict = |message: String| Err(Status::conflict(&subject, pod.name(), message));
            if !uid.is_empty() && uid != pod.uid_str() {
                let found = pod.uid_str();
                return conflict(format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {found}"
                ));
            }
            if !version.is_empty() && version != pod.resource_version() {
                let found = pod.resource_version();
                return conflict(format!(
                    "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {found}"
                ));
            }
            if pod.is_being_deleted() {
                return conflict(format!("pod {} is being deleted, cannot be assigned to a host", pod.name()));
            }
            if let Some(bound) = pod.field(&["spec", "nodeName"]).filter(|name| !name.is_empty()) {
                return conflict(format!("pod {} is already assigned to node {bound:?}", pod.name()));
            }
            if !pod.list(&["spec", "schedulingGates"]).is_empty() {
                return conflict(format!("pod {} has non-empty .spec.schedulingGates", pod.name()));
            }
            let mut bound = pod.clone();
            bound.set(&["spec", "nodeName"], node.as_str());
            annotations.iter().for_each(|(key, value)| bound.set_annotation(key, value));
            labels.iter().for_each(|(key, value)| bound.set_label(key, value));
            set_condition(&mut bound, json!({"type": "PodScheduled", "status": "True"}), context);
            Ok(bound)
        };
        self.update(context, resource, Part::Given, &mut make).await.map(drop)
    }

    /// serviceaccounts/token: the TokenRequest with its status filled.
    pub fn token(
        &self,
        context: &Context,
        resource: &Resource,
        mut request: Object,
        signer: &Arc<dyn TokenSigner>,
    ) -> Result<Object, Status> {
        let (namespace, name) = (&*context.namespace, &*context.name);
        let Some(account) = self.object("serviceaccounts", namespace, name)? else {
            return Err(Status::not_found(&resource.group_resource(), name));
        };
        self.admission.validate(self, context, Some(&request), None)?;
        let seconds = request.int(&["spec", "expirationSeconds"]).unwrap_or(DEFAULT_TOKEN_SECONDS);
        let fault = match seconds {
            ..MIN_TOKEN_SECONDS => Some("may not specify a duration less than 10 minutes"),
            MIN_TOKEN_SECONDS..=MAX_TOKEN_SECONDS => None,
            _ => Some("may not specify a duration larger than 2^32 seconds"),
        };
        if let Some(detail) = fault {
            let path = FieldPath::new("spec");
            let error = FieldError::invalid(&path.child("expirationSeconds"), seconds, detail);
            return Err(Status::invalid(&GroupKind::new("authentication.k8s.io", "TokenRequest"), name, vec![error]));
        }
        let (bound, node) = self.bound_object(context, &request)?;
        let audiences =
            request.list(&["spec", "audiences"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let signed = signer.sign(&TokenSpec {
            namespace: namespace.to_owned(),
            service_account: name.to_owned(),
            service_account_uid: account.uid_str().to_owned(),
            audiences,
            expiration_seconds: seconds,
            bound,
            node,
        })?;
        request.set(&["spec", "audiences"], signed.audiences);
        request.set(&["spec", "expirationSeconds"], seconds);
        request.set(&["status"], json!({"token": signed.token, "expirationTimestamp": format_time(signed.expires)}));
        request.set_name(name);
        request.set_namespace(namespace);
        request.set_creation_timestamp(context.now);
        Ok(request)
    }

    /// The object that the token is bound to, and the node of a pod; both must be there and be the ones that are meant.
    fn bound_object(
        &self,
        context: &Context,
        request: &Object,
    ) -> Result<(Option<BoundObject>, Option<NodeId>), Status> {
        let field = |name| request.field(&["spec", "boundObjectRef", name]).unwrap_or_default();
        if request.path(&["spec", "boundObjectRef"]).is_none() {
            return Ok((None, None));
        }
        let (kind, name) = (field("kind"), field("name"));
        let (plural, namespace) = match (field("apiVersion"), kind) {
            ("v1", "Pod") => ("pods", &*context.namespace),
            ("v1", "Secret") => ("secrets", &*context.namespace),
            ("v1", "Node") => ("nodes", ""),
            (version, kind) => {
                let text = format!(
                    "cannot bind token for serviceaccount {:?} to type {version:?}, kind {kind:?}",
                    &*context.name
                );
                return Err(Status::bad_request(text));
            }
        };
        let subject = GroupResource::new("", plural);
        let object = self.object(plural, namespace, name)?.ok_or_else(|| Status::not_found(&subject, name))?;
        let wanted = field("uid");
        if !wanted.is_empty() && wanted != object.uid_str() {
            let text = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict(&subject, name, text));
        }
        if kind == "Pod" && object.field(&["spec", "serviceAccountName"]) != Some(&*context.name) {
            let text = format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                &*context.name
            );
            return Err(Status::bad_request(text));
        }
        let mut node = None;
        if let Some(bound) = object.field(&["spec", "nodeName"]).filter(|bound| kind == "Pod" && !bound.is_empty()) {
            let uid = self.object("nodes", "", bound)?.map(|node| node.uid_str().to_owned()).unwrap_or_default();
            node = Some((bound.to_owned(), uid));
        }
        let bound = BoundObject {
            kind: kind.to_owned(),
            api_version: "v1".to_owned(),
            name: name.to_owned(),
            uid: object.uid_str().to_owned(),
        };
        Ok((Some(bound), node))
    }
}

fn check_binding(binding: &Object) -> Result<&str, Status> {
    let path = FieldPath::new("target");
    let kind = binding.field(&["target", "kind"]).unwrap_or_default();
    let name = binding.field(&["target", "name"]).unwrap_or_default();
    let mut errors = Vec::new();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    if errors.is_empty() {
        Ok(name)
    } else {
        Err(Status::invalid(&GroupKind::new("", "Binding"), binding.name(), errors))
    }
}

/// Sets a condition of a pod, keeping the time of its last change if it does not change.
pub(super) fn set_condition(pod: &mut Object, mut condition: Value, context: &Context) {
    let path = ["status", "conditions"];
    let mut conditions = pod.list(&path).to_vec();
    let place = conditions.iter().position(|one| one["type"] == condition["type"]);
    condition["lastTransitionTime"] = format_time(context.now).into();
    match place {
        Some(at) if conditions[at]["status"] == condition["status"] => {}
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    pod.set(&path, conditions);
}
