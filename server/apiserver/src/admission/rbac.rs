//! Nobody gives away what they do not have: a role may only hold what its author may do, and a binding only refer to a
//! role whose rules its author has, unless they are allowed to `escalate` or `bind`.

use std::sync::Arc;

use coracle_api::object::Object;
use coracle_api::selector::LabelSelector;
use coracle_api::status::Status;
use coracle_store::{Entry, Prefix};
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use super::{Plugin, forbidden};
use crate::hooks::{Attributes, Decision};
use crate::http::request_info::Verb;
use crate::registry::context::Context;
use crate::registry::{Registry, codec};

pub(super) struct RbacEscalation;

const GROUP: &str = "rbac.authorization.k8s.io";

impl Plugin for RbacEscalation {
    fn validate(
        &self,
        look: &Registry,
        context: &Context,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let writes = matches!(context.verb, Verb::Create | Verb::Update | Verb::Patch);
        let Some(object) = object.filter(|_| writes && context.def.group == GROUP) else { return Ok(()) };
        match &*context.def.plural {
            "roles" | "clusterroles" => role(look, context, object, old),
            "rolebindings" | "clusterrolebindings" => binding(look, context, object, old),
            _ => Ok(()),
        }
    }
}

fn role(look: &Registry, context: &Context, role: &Object, old: Option<&Object>) -> Result<(), Status> {
    let unchanged = |field| old.is_some_and(|old| old.path(&[field]) == role.path(&[field]));
    if unchanged("rules") && unchanged("aggregationRule") {
        return Ok(());
    }
    if may(look, context, "escalate", &context.def.plural, role.name()) {
        return Ok(());
    }
    let mut wanted = rules(role)?;
    if role.path(&["aggregationRule"]).is_some() {
        // It may come to hold anything.
        wanted.extend(everything());
    }
    grant(look, context, role, &wanted)
}

fn binding(look: &Registry, context: &Context, binding: &Object, old: Option<&Object>) -> Result<(), Status> {
    let unchanged = |field| old.is_some_and(|old| old.path(&[field]) == binding.path(&[field]));
    if unchanged("roleRef") && unchanged("subjects") {
        return Ok(());
    }
    let name = binding.field(&["roleRef", "name"]).unwrap_or_default();
    let (plural, namespace) = match binding.field(&["roleRef", "kind"]) {
        Some("Role") => ("roles", &*context.namespace),
        Some(_) | None => ("clusterroles", ""),
    };
    if may(look, context, "bind", plural, name) {
        return Ok(());
    }
    let role = look.object(&format!("{plural}.{GROUP}"), namespace, name)?;
    let Some(role) = role else {
        let subject = coracle_api::meta::GroupResource::new(GROUP, plural);
        return Err(Status::not_found(&subject, name));
    };
    let mut wanted = rules(&role)?;
    wanted.extend(aggregated(look, &role)?);
    grant(look, context, binding, &wanted)
}

/// The rules that a cluster role has from others, and those from others again: they are not written down in it.
fn aggregated(look: &Registry, role: &Object) -> Result<Vec<PolicyRule>, Status> {
    let snapshot = look.store.snapshot();
    let mut left: Vec<&Arc<Entry>> = snapshot.range(&Prefix::resource(format!("clusterroles.{GROUP}")), None).collect();
    let mut selectors = selectors(role)?;
    let mut found = Vec::new();
    while let Some(selector) = selectors.pop() {
        let (selected, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|entry| selector.matches(&entry.labels));
        left = others;
        for entry in selected {
            let role = codec::object(entry)?;
            found.extend(rules(&role)?);
            selectors.extend(self::selectors(&role)?);
        }
    }
    Ok(found)
}

fn selectors(role: &Object) -> Result<Vec<LabelSelector>, Status> {
    let path = ["aggregationRule", "clusterRoleSelectors"];
    let selectors = role.typed_at::<Vec<meta::LabelSelector>>(&path).map_err(Status::internal)?.unwrap_or_default();
    selectors.iter().map(|one| LabelSelector::from_object(Some(one)).map_err(Status::internal)).collect()
}

fn rules(role: &Object) -> Result<Vec<PolicyRule>, Status> {
    let rules = role.typed_at::<Vec<PolicyRule>>(&["rules"]);
    rules.map(Option::unwrap_or_default).map_err(|error| Status::bad_request(error.to_string()))
}

fn everything() -> [PolicyRule; 2] {
    let all = || vec!["*".to_owned()];
    [
        PolicyRule { verbs: all(), api_groups: Some(all()), resources: Some(all()), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: Some(all()), ..PolicyRule::default() },
    ]
}

/// Whether the user may do `verb` to the role itself.
fn may(look: &Registry, context: &Context, verb: &str, plural: &str, name: &str) -> bool {
    let asked = Attributes {
        verb,
        namespace: &context.namespace,
        group: GROUP,
        version: "*",
        resource: plural,
        name,
        resource_request: true,
        ..Attributes::default()
    };
    matches!(look.authorizer.authorize(&context.user, &asked), Decision::Allow(_))
}

/// Refuses unless the user may do all that the rules allow.
fn grant(look: &Registry, context: &Context, object: &Object, rules: &[PolicyRule]) -> Result<(), Status> {
    let missing: Vec<String> =
        rules.iter().filter(|rule| !holds(look, context, rule)).map(|rule| shown(rule)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = context.user.groups.iter().map(|group| format!("{group:?}")).collect();
    let text = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        context.user.name,
        groups.join(" "),
        missing.join("\n")
    );
    Err(forbidden(context, object, text))
}

/// Asks for each verb on each resource: a wildcard in the rule is held only by who has the wildcard.
fn holds(look: &Registry, context: &Context, rule: &PolicyRule) -> bool {
    let allowed =
        |asked: Attributes<'_>| matches!(look.authorizer.authorize(&context.user, &asked), Decision::Allow(_));
    let (none, any) = (Vec::new(), vec![String::new()]);
    let names = rule.resource_names.as_ref().filter(|names| !names.is_empty()).unwrap_or(&any);
    let urls = rule.non_resource_urls.as_ref().unwrap_or(&none);
    rule.verbs.iter().all(|verb| {
        let on_resources = rule.api_groups.as_ref().unwrap_or(&none).iter().all(|group| {
            rule.resources.as_ref().unwrap_or(&none).iter().all(|resource| {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                names.iter().all(|name| {
                    allowed(Attributes {
                        verb,
                        namespace: &context.namespace,
                        group,
                        version: "*",
                        resource,
                        subresource,
                        name,
                        resource_request: true,
                        ..Attributes::default()
                    })
                })
            })
        });
        on_resources && urls.iter().all(|path| allowed(Attributes { verb, path, ..Attributes::default() }))
    })
}

/// As upstream prints a rule.
fn shown(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", rule.api_groups.as_ref()),
        ("Resources", rule.resources.as_ref()),
        ("ResourceNames", rule.resource_names.as_ref()),
        ("NonResourceURLs", rule.non_resource_urls.as_ref()),
        ("Verbs", Some(&rule.verbs)),
    ];
    let texts = parts.into_iter().filter_map(|(name, list)| {
        let list = list.filter(|list| !list.is_empty())?;
        let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
        Some(format!("{name}:[{}]", items.join(" ")))
    });
    format!("{{{}}}", texts.collect::<Vec<_>>().join(", "))
}
