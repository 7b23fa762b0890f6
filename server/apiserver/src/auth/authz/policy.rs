//! Owns RBAC over stored roles and bindings: read once, read again when one of them has changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coracle_api::selector::LabelSelector;
use parking_lot::RwLock;
use serde::Deserialize;

use super::rules::Rule;
use crate::auth::objects::Objects;
use crate::hooks::{Attributes, UserInfo};

const RESOURCES: [&str; 4] = [
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
];

/// Answers questions from the stored roles and bindings.
pub(super) struct Rbac {
    objects: Arc<dyn Objects>,
    cache: RwLock<Cached>,
}

struct Cached {
    /// Of each of [`RESOURCES`].
    versions: [u64; 4],
    policy: Arc<Policy>,
}

/// All roles and bindings, read.
#[derive(Default)]
pub(super) struct Policy {
    cluster_roles: HashMap<String, Arc<[Rule]>>,
    roles: HashMap<(String, String), Arc<[Rule]>>,
    cluster_bindings: Vec<Binding>,
    bindings: HashMap<String, Vec<Binding>>,
}

struct Binding {
    description: String,
    role: RoleName,
    subjects: Vec<Subject>,
}

enum RoleName {
    Cluster(String),
    Local(String),
}

/// Whom a binding is for.
struct Subject {
    who: Who,
    /// `User "jane"`.
    shown: String,
}

/// How they authenticate.
enum Who {
    User(String),
    Group(String),
}

impl Subject {
    fn of(stored: StoredSubject, namespace: &str) -> Option<Subject> {
        let StoredSubject { kind, name, namespace: own } = stored;
        let shown = |name: &str| format!("{kind} {name:?}");
        Some(match kind.as_str() {
            "User" => Subject { shown: shown(&name), who: Who::User(name) },
            "Group" => Subject { shown: shown(&name), who: Who::Group(name) },
            "ServiceAccount" => {
                let home = if own.is_empty() { namespace } else { &own };
                let who = Who::User(format!("system:serviceaccount:{home}:{name}"));
                Subject { shown: shown(&format!("{name}/{home}")), who }
            }
            _unknown => return None,
        })
    }

    fn is(&self, user: &UserInfo) -> bool {
        match &self.who {
            Who::User(name) => *name == user.name,
            Who::Group(name) => user.in_group(name),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StoredRole {
    metadata: StoredMeta,
    rules: Option<Vec<Rule>>,
    aggregation_rule: Option<StoredAggregation>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredMeta {
    name: String,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StoredAggregation {
    cluster_role_selectors: Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StoredBinding {
    metadata: StoredMeta,
    role_ref: StoredRef,
    subjects: Option<Vec<StoredSubject>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredRef {
    kind: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredSubject {
    kind: String,
    name: String,
    namespace: String,
}

impl Rbac {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Rbac {
        let versions = RESOURCES.map(|resource| objects.version(resource));
        let policy = Arc::new(Policy::read(objects.as_ref()));
        Rbac { objects, cache: RwLock::new(Cached { versions, policy }) }
    }

    pub(super) fn policy(&self) -> Arc<Policy> {
        // Versions are taken before the objects are read: a change in between is then read twice, not missed.
        let versions = RESOURCES.map(|resource| self.objects.version(resource));
        {
            let cached = self.cache.read();
            if cached.versions == versions {
                return cached.policy.clone();
            }
        }
        let policy = Arc::new(Policy::read(self.objects.as_ref()));
        *self.cache.write() = Cached { versions, policy: policy.clone() };
        policy
    }
}

/// The rules of a role as they count, those it has from others included. In no namespace it is a cluster role.
pub(crate) fn role_rules(objects: &dyn Objects, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
    let policy = Policy::read(objects);
    match namespace {
        "" => policy.cluster_roles.get(name).cloned(),
        namespace => policy.roles.get(&(namespace.to_owned(), name.to_owned())).cloned(),
    }
}

impl Policy {
    fn read(objects: &dyn Objects) -> Policy {
        let [cluster_roles, cluster_bindings, roles, bindings] = RESOURCES.map(|resource| objects.all(resource));
        let mut policy = Policy { cluster_roles: aggregated(parse_all(cluster_roles)), ..Policy::default() };
        for (namespace, role) in parse_all::<StoredRole>(roles) {
            policy.roles.insert((namespace, role.metadata.name), role.rules.unwrap_or_default().into());
        }
        for (_, binding) in parse_all::<StoredBinding>(cluster_bindings) {
            policy.cluster_bindings.extend(Binding::of(binding, ""));
        }
        for (namespace, binding) in parse_all::<StoredBinding>(bindings) {
            let read = Binding::of(binding, &namespace);
            policy.bindings.entry(namespace).or_default().extend(read);
        }
        policy
    }

    /// Calls `visit` with each rule the user has in `namespace`, and what describes the binding that gives it, until
    /// it answers true. Roles that bindings name but that do not exist are described in the error.
    pub(super) fn visit(
        &self,
        user: &UserInfo,
        namespace: &str,
        visit: &mut dyn FnMut(&Rule, &dyn Fn() -> String) -> bool,
    ) -> Result<bool, String> {
        let mut missing = Vec::new();
        let local = self.bindings.get(namespace).filter(|_| !namespace.is_empty());
        for binding in self.cluster_bindings.iter().chain(local.into_iter().flatten()) {
            let Some(subject) = binding.subjects.iter().find(|subject| subject.is(user)) else { continue };
            let rules = match &binding.role {
                RoleName::Cluster(name) => self.cluster_roles.get(name).ok_or(("clusterrole", name)),
                RoleName::Local(name) => self.roles.get(&(namespace.to_owned(), name.clone())).ok_or(("role", name)),
            };
            match rules {
                Ok(rules) => {
                    if rules.iter().any(|rule| visit(rule, &|| format!("{} to {}", binding.description, subject.shown)))
                    {
                        return Ok(true);
                    }
                }
                Err((kind, name)) => missing.push(format!("{kind}.rbac.authorization.k8s.io {name:?} not found")),
            }
        }
        match missing.as_slice() {
            [] => Ok(false),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    /// The reason for which `user` may do what is asked, or why not; empty when there is nothing to say.
    pub(super) fn allows(&self, user: &UserInfo, asked: &Attributes<'_>) -> Result<String, String> {
        let mut by = String::new();
        let found = self.visit(user, asked.namespace, &mut |rule, binding| {
            let allows = rule.allows(asked);
            if allows {
                by = format!("RBAC: allowed by {}", binding());
            }
            allows
        });
        match found {
            Ok(true) => Ok(by),
            Ok(false) => Err(String::new()),
            Err(missing) => Err(format!("RBAC: {missing}")),
        }
    }
}

impl Binding {
    fn of(stored: StoredBinding, namespace: &str) -> Option<Binding> {
        let (name, role) = (&stored.metadata.name, stored.role_ref);
        let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
        let shown = if namespace.is_empty() { name.clone() } else { format!("{name}/{namespace}") };
        let subjects: Vec<Subject> = stored
            .subjects
            .unwrap_or_default()
            .into_iter()
            .filter_map(|subject| Subject::of(subject, namespace))
            .collect();
        let description = format!("{kind} {shown:?} of {} {:?}", role.kind, role.name);
        let role = match role.kind.as_str() {
            "ClusterRole" => RoleName::Cluster(role.name),
            // A binding for the whole cluster cannot name a namespace's role.
            "Role" if !namespace.is_empty() => RoleName::Local(role.name),
            _unknown => return None,
        };
        Some(Binding { description, role, subjects })
    }
}

/// The rules of each cluster role. One that aggregates others has theirs too, at once: nothing has to write them down.
fn aggregated(roles: Vec<(String, StoredRole)>) -> HashMap<String, Arc<[Rule]>> {
    let empty = BTreeMap::new();
    let selectors: Vec<Vec<LabelSelector>> = roles
        .iter()
        .map(|(_, role)| {
            let stored = role.aggregation_rule.as_ref().and_then(|rule| rule.cluster_role_selectors.as_ref());
            let stored = stored.map(Vec::as_slice).unwrap_or_default();
            stored.iter().filter_map(|selector| LabelSelector::from_object(Some(selector)).ok()).collect()
        })
        .collect();
    let mut all = HashMap::new();
    for (at, (_, role)) in roles.iter().enumerate() {
        // Aggregation may go through several roles (admin, edit, view), and in a circle if somebody makes one.
        let mut reached = vec![false; roles.len()];
        let mut pending = vec![at];
        let mut rules: Vec<Rule> = Vec::new();
        while let Some(next) = pending.pop() {
            if std::mem::replace(&mut reached[next], true) {
                continue;
            }
            for rule in roles[next].1.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
            for (other, (_, candidate)) in roles.iter().enumerate() {
                let labels = candidate.metadata.labels.as_ref().unwrap_or(&empty);
                if selectors[next].iter().any(|selector| selector.matches(labels)) {
                    pending.push(other);
                }
            }
        }
        all.insert(role.metadata.name.clone(), rules.into());
    }
    all
}

fn parse_all<T: for<'a> Deserialize<'a>>(objects: Vec<(String, bytes::Bytes)>) -> Vec<(String, T)> {
    let mut parsed = Vec::with_capacity(objects.len());
    for (namespace, json) in objects {
        match serde_json::from_slice(&json) {
            Ok(object) => parsed.push((namespace, object)),
            // A permission that cannot be read is not given.
            Err(error) => tracing::error!(namespace, %error, "cannot read a stored role or binding"),
        }
    }
    parsed
}
