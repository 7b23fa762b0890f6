//! Owns the roles and bindings every cluster starts with, and putting them into the API. They are facts, kept as text
//! beside this file.

use std::collections::{BTreeMap, HashMap};

use coracle_client::{Api, Client, Error, Kind, ListParams};
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::rules::Rule;

const TEXT: &str = include_str!("bootstrap.txt");
const API_GROUP: &str = "rbac.authorization.k8s.io";
/// Set to `false` on a default, it keeps the server from completing it again.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// How many are written at once: they share the store's commits.
const AT_ONCE: usize = 64;

/// What every cluster starts with.
#[derive(Default)]
pub struct Defaults {
    pub cluster_roles: Vec<ClusterRole>,
    pub cluster_role_bindings: Vec<ClusterRoleBinding>,
    pub roles: Vec<Role>,
    pub role_bindings: Vec<RoleBinding>,
}

/// Reads the table beside this file.
pub fn defaults() -> Defaults {
    let mut defaults = Defaults::default();
    let mut local = false;
    for line in TEXT.lines() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rule) = line.strip_prefix("  ") {
            let rules = if local {
                defaults.roles.last_mut().map(|role| &mut role.rules)
            } else {
                defaults.cluster_roles.last_mut().map(|role| &mut role.rules)
            };
            let rules = rules.expect("a rule follows its role").get_or_insert_default();
            rules.push(policy_rule(rule));
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        local = false;
        match words.as_slice() {
            ["role", name, labels @ ..] => defaults.cluster_roles.push(cluster_role(name, labels, None)),
            ["aggregate", name, from, labels @ ..] => {
                defaults.cluster_roles.push(cluster_role(name, labels, Some(from)));
            }
            ["controller", name] => {
                let role = format!("system:controller:{name}");
                defaults.cluster_roles.push(cluster_role(&role, &[], None));
                let account = format!("sa:kube-system/{name}");
                let subjects = [account.as_str(), "user:system:kube-controller-manager"];
                defaults.cluster_role_bindings.push(cluster_role_binding(&role, &subjects));
            }
            ["bind", role, subjects @ ..] => {
                defaults.cluster_role_bindings.push(cluster_role_binding(role, subjects));
            }
            ["local", namespace, name] => {
                local = true;
                let metadata = ObjectMeta { namespace: Some((*namespace).to_owned()), ..metadata(name, &[]) };
                defaults.roles.push(Role { metadata, rules: None });
            }
            ["localbind", namespace, name, subjects @ ..] => {
                let metadata = ObjectMeta { namespace: Some((*namespace).to_owned()), ..metadata(name, &[]) };
                defaults.role_bindings.push(RoleBinding {
                    metadata,
                    role_ref: role_ref("Role", name),
                    subjects: Some(subjects.iter().map(|subject| parse_subject(subject)).collect()),
                });
            }
            other => unreachable!("bootstrap.txt has a line of no known form: {other:?}"),
        }
    }
    defaults
}

/// Makes the default roles and bindings exist, and gives back to them rules and subjects that were taken away, unless an
/// administrator has switched that off by annotation. What was added to them stays.
pub async fn ensure(client: &Client) -> Result<(), Error> {
    let defaults = defaults();
    ensure_all(&client.all(), defaults.cluster_roles).await?;
    ensure_all(&client.all(), defaults.cluster_role_bindings).await?;
    for role in defaults.roles {
        let namespace = role.metadata.namespace.clone().unwrap_or_default();
        ensure_all(&client.namespaced(&namespace), vec![role]).await?;
    }
    for binding in defaults.role_bindings {
        let namespace = binding.metadata.namespace.clone().unwrap_or_default();
        ensure_all(&client.namespaced(&namespace), vec![binding]).await?;
    }
    Ok(())
}

async fn ensure_all<K: Completable>(api: &Api<K>, wanted: Vec<K>) -> Result<(), Error> {
    let stored = api.list(&ListParams::default()).await?.items;
    let stored: HashMap<String, K> =
        stored.into_iter().filter_map(|object| Some((object.metadata().name.clone()?, object))).collect();
    let writes = wanted.into_iter().filter_map(|wanted| {
        let name = wanted.metadata().name.clone().unwrap_or_default();
        match stored.get(&name) {
            None => Some((name, wanted, true)),
            Some(stored) if is_frozen(stored) => None,
            Some(stored) => {
                let mut stored = stored.clone();
                stored.complete(wanted).then_some((name, stored, false))
            }
        }
    });
    stream::iter(writes)
        .map(|(name, object, is_new)| async move {
            let written = if is_new { api.create(&object).await } else { api.replace(&name, &object).await };
            match written {
                Ok(_) => Ok(()),
                // Another server, or an administrator, was faster.
                Err(error) if error.is_already_exists() || error.is_conflict() => Ok(()),
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}

fn is_frozen<K: Kind>(stored: &K) -> bool {
    let annotations = stored.metadata().annotations.as_ref();
    annotations.and_then(|all| all.get(AUTO_UPDATE)).is_some_and(|value| value == "false")
}

/// A kind whose defaults can be brought up to date.
trait Completable: Kind {
    /// Adds what of `wanted` is missing; says whether anything was.
    fn complete(&mut self, wanted: Self) -> bool;
}

impl Completable for ClusterRole {
    fn complete(&mut self, wanted: Self) -> bool {
        let aggregation = self.aggregation_rule.is_none() && wanted.aggregation_rule.is_some();
        if aggregation {
            self.aggregation_rule = wanted.aggregation_rule;
        }
        // The rules of a role that aggregates others are not its own.
        let rules = wanted.rules.is_some() && add_missing(&mut self.rules, wanted.rules);
        rules || aggregation
    }
}

impl Completable for Role {
    fn complete(&mut self, wanted: Self) -> bool {
        add_missing(&mut self.rules, wanted.rules)
    }
}

impl Completable for ClusterRoleBinding {
    fn complete(&mut self, wanted: Self) -> bool {
        add_missing(&mut self.subjects, wanted.subjects)
    }
}

impl Completable for RoleBinding {
    fn complete(&mut self, wanted: Self) -> bool {
        add_missing(&mut self.subjects, wanted.subjects)
    }
}

fn add_missing<T: PartialEq>(stored: &mut Option<Vec<T>>, wanted: Option<Vec<T>>) -> bool {
    let stored = stored.get_or_insert_default();
    let before = stored.len();
    for item in wanted.unwrap_or_default() {
        if !stored.contains(&item) {
            stored.push(item);
        }
    }
    stored.len() != before
}

fn metadata(name: &str, labels: &[&str]) -> ObjectMeta {
    let mut all = BTreeMap::from([("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".to_owned())]);
    for label in labels {
        let role = label.strip_prefix("aggregate-to=").expect("the only label in bootstrap.txt");
        all.insert(format!("{API_GROUP}/aggregate-to-{role}"), "true".to_owned());
    }
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(all),
        annotations: Some(BTreeMap::from([(AUTO_UPDATE.to_owned(), "true".to_owned())])),
        ..ObjectMeta::default()
    }
}

fn cluster_role(name: &str, labels: &[&str], aggregates: Option<&str>) -> ClusterRole {
    let aggregation_rule = aggregates.map(|role| AggregationRule {
        cluster_role_selectors: Some(vec![LabelSelector {
            match_labels: Some(BTreeMap::from([(format!("{API_GROUP}/aggregate-to-{role}"), "true".to_owned())])),
            match_expressions: None,
        }]),
    });
    ClusterRole { metadata: metadata(name, labels), aggregation_rule, rules: None }
}

fn cluster_role_binding(role: &str, subjects: &[&str]) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: metadata(role, &[]),
        role_ref: role_ref("ClusterRole", role),
        subjects: (!subjects.is_empty()).then(|| subjects.iter().map(|subject| parse_subject(subject)).collect()),
    }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: Some(API_GROUP.to_owned()), kind: kind.to_owned(), name: name.to_owned() }
}

fn parse_subject(text: &str) -> Subject {
    let (kind, name) = text.split_once(':').expect("a subject is KIND:NAME");
    let of = |kind: &str, api_group: &str, name: &str, namespace: Option<&str>| Subject {
        kind: kind.to_owned(),
        api_group: Some(api_group.to_owned()).filter(|group| !group.is_empty()),
        name: name.to_owned(),
        namespace: namespace.map(str::to_owned),
    };
    match (kind, name.split_once('/')) {
        ("user", _) => of("User", API_GROUP, name, None),
        ("group", _) => of("Group", API_GROUP, name, None),
        ("sa", Some((namespace, name))) => of("ServiceAccount", "", name, Some(namespace)),
        other => unreachable!("bootstrap.txt has a subject of no known form: {other:?}"),
    }
}

fn policy_rule(text: &str) -> PolicyRule {
    let rule = rule(text);
    let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    PolicyRule {
        verbs: rule.verbs,
        api_groups: some(rule.api_groups),
        resources: some(rule.resources),
        resource_names: some(rule.resource_names),
        non_resource_urls: some(rule.non_resource_urls),
    }
}

/// Reads one rule of the table.
fn rule(text: &str) -> Rule {
    let list = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        ["@events"] => rule("create,u core,events.k8s.io events"),
        [verbs, "url", paths] => Rule { verbs: expand(verbs), non_resource_urls: list(paths), ..Rule::default() },
        [verbs, groups, resources, names @ ..] => Rule {
            verbs: expand(verbs),
            api_groups: groups.split(',').map(|group| if group == "core" { "" } else { group }.to_owned()).collect(),
            resources: list(resources),
            resource_names: names.iter().flat_map(|names| list(names.trim_start_matches('='))).collect(),
            non_resource_urls: Vec::new(),
        },
        other => unreachable!("bootstrap.txt has a rule of no known form: {other:?}"),
    }
}

fn expand(verbs: &str) -> Vec<String> {
    let mut all = Vec::new();
    for verb in verbs.split(',') {
        let each: &[&str] = match verb {
            "r" => &["get", "list", "watch"],
            "w" => &["create", "update", "patch", "delete", "deletecollection"],
            "u" => &["update", "patch"],
            other => &[other],
        };
        all.extend(each.iter().map(|verb| (*verb).to_owned()));
    }
    all
}

/// What a node may be granted at most: the rules of the role `system:node`.
pub(super) fn node_rules() -> Vec<Rule> {
    let of_node = TEXT.lines().skip_while(|line| *line != "role system:node").skip(1);
    of_node
        .take_while(|line| line.starts_with("  ") || line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("  "))
        .map(rule)
        .collect()
}
