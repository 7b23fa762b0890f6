//! Nobody gives away what they do not have: a role may only hold what its author may do, and a binding only refer to a
//! role whose rules its author has, unless they are allowed to `escalate` or `bind`.

use coracle_api::object::Object;
use coracle_api::status::Status;

use super::{Plugin, forbidden};
use crate::auth::authz::{Rule, role_rules};
use crate::auth::objects::StoredObjects;
use crate::hooks::{Attributes, Decision};
use crate::http::request_info::Verb;
use crate::registry::Registry;
use crate::registry::context::Context;

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
    // By its labels other roles have its rules too.
    let labels = old.is_some_and(|old| old.labels() == role.labels());
    if unchanged("rules") && unchanged("aggregationRule") && labels {
        return Ok(());
    }
    if may(look, context, "escalate", &context.def.plural, role.name()) {
        return Ok(());
    }
    let mut wanted = rules(role)?;
    if [Some(role), old].into_iter().flatten().any(|role| role.path(&["aggregationRule"]).is_some()) {
        // It may come to hold anything, or have held it.
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
    let objects = StoredObjects::new(look.store.clone());
    let Some(wanted) = role_rules(&objects, namespace, name) else {
        let subject = coracle_api::meta::GroupResource::new(GROUP, plural);
        return Err(Status::not_found(&subject, name));
    };
    grant(look, context, binding, &wanted)
}

fn rules(role: &Object) -> Result<Vec<Rule>, Status> {
    let rules = role.typed_at::<Vec<Rule>>(&["rules"]);
    rules.map(Option::unwrap_or_default).map_err(|error| Status::bad_request(error.to_string()))
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
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
fn grant(look: &Registry, context: &Context, object: &Object, rules: &[Rule]) -> Result<(), Status> {
    let missing: Vec<String> = rules.iter().filter(|rule| !holds(look, context, rule)).map(shown).collect();
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
fn holds(look: &Registry, context: &Context, rule: &Rule) -> bool {
    let allowed =
        |asked: Attributes<'_>| matches!(look.authorizer.authorize(&context.user, &asked), Decision::Allow(_));
    let any = [String::new()];
    let names = if rule.resource_names.is_empty() { &any[..] } else { &rule.resource_names };
    rule.verbs.iter().all(|verb| {
        let on_resources = rule.api_groups.iter().all(|group| {
            rule.resources.iter().all(|resource| {
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
        on_resources
            && rule.non_resource_urls.iter().all(|path| allowed(Attributes { verb, path, ..Attributes::default() }))
    })
}

/// As upstream prints a rule.
fn shown(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("Verbs", &rule.verbs),
    ];
    let texts = parts.into_iter().filter_map(|(name, list)| {
        let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
        (!list.is_empty()).then(|| format!("{name}:[{}]", items.join(" ")))
    });
    format!("{{{}}}", texts.collect::<Vec<_>>().join(", "))
}
