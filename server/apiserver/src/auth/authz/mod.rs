//! Owns who may do what: system:masters everything, nodes a node's work, everybody what roles and bindings give them.
//! Must not know how a user proved who they are.

pub mod bootstrap;
mod node;
mod policy;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coracle_api::meta::GroupResource;
use coracle_api::status::Status;
use serde_json::json;

pub use node::node_name;
pub(crate) use policy::role_rules;
pub use rules::Rule;

use super::objects::Objects;
use crate::hooks::{Attributes, Authorizer, Decision, RuleList, UserInfo};
use node::NodeAuthorizer;
use policy::Rbac;

const MASTERS: &str = "system:masters";
/// Whoever asks, these are answered: load balancers ask without credentials, and a node that joins has none yet.
const OPEN_PATHS: [(&str, &str); 5] = [
    ("get", "/healthz"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", super::enrol::CA_PATH),
    ("post", super::enrol::NODE_PATH),
];

/// Whether `verb` on `path` needs no credentials and no permission.
pub(super) fn is_open(verb: &str, path: &str) -> bool {
    OPEN_PATHS.iter().any(|(open_verb, open)| verb == *open_verb && path == *open)
}

/// The union of everything that may allow a request.
pub struct Authz {
    nodes: NodeAuthorizer,
    rbac: Rbac,
}

impl Authz {
    pub fn new(objects: Arc<dyn Objects>) -> Authz {
        Authz { nodes: NodeAuthorizer::new(objects.clone()), rbac: Rbac::new(objects) }
    }
}

impl Authorizer for Authz {
    fn authorize(&self, user: &UserInfo, asked: &Attributes<'_>) -> Decision {
        if user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        if !asked.resource_request && is_open(asked.verb, asked.path) {
            return Decision::Allow(String::new());
        }
        let by_node = match self.nodes.authorize(user, asked) {
            Decision::NoOpinion(reason) => reason,
            decided @ (Decision::Allow(_) | Decision::Deny(_)) => return decided,
        };
        match self.rbac.policy().allows(user, asked) {
            Ok(reason) => Decision::Allow(reason),
            Err(by_rbac) => {
                let reasons: Vec<String> = [by_node, by_rbac].into_iter().filter(|r| !r.is_empty()).collect();
                Decision::NoOpinion(reasons.join("\n"))
            }
        }
    }

    fn rules(&self, user: &UserInfo, namespace: &str) -> RuleList {
        let mut list = RuleList::default();
        if user.in_group(MASTERS) {
            list.resource_rules.push(json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }));
            list.non_resource_rules.push(json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }));
        }
        let visited = self.rbac.policy().visit(user, namespace, &mut |rule, _| {
            add(&mut list, rule);
            false
        });
        if let Err(missing) = visited {
            list.incomplete = true;
            list.evaluation_error = missing;
        }
        // What a node may do depends on its pods, so its rules cannot be listed.
        if node_name(user).is_some() {
            list.incomplete = true;
            "node authorizer does not support user rule resolution".clone_into(&mut list.evaluation_error);
        }
        list
    }
}

fn add(list: &mut RuleList, rule: &Rule) {
    if !rule.resources.is_empty() {
        let mut shown = json!({ "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources });
        if let (Some(fields), false) = (shown.as_object_mut(), rule.resource_names.is_empty()) {
            fields.insert("resourceNames".to_owned(), json!(rule.resource_names));
        }
        list.resource_rules.push(shown);
    }
    if !rule.non_resource_urls.is_empty() {
        list.non_resource_rules.push(json!({ "verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls }));
    }
}

/// The 403 for what `user` may not do, worded as upstream words it.
pub fn forbidden(user: &UserInfo, asked: &Attributes<'_>, reason: &str) -> Status {
    let mut message = if asked.resource_request {
        let resource = match asked.subresource {
            "" => asked.resource.to_owned(),
            subresource => format!("{}/{subresource}", asked.resource),
        };
        let place = match asked.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
            user.name, asked.verb, asked.group
        )
    } else {
        format!("User {:?} cannot {} path {:?}", user.name, asked.verb, asked.path)
    };
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    let resource = GroupResource::new(asked.group, if asked.resource_request { asked.resource } else { "" });
    Status::forbidden(&resource, asked.name, message)
}
