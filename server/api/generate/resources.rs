//! Which resources are served, from swagger's paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Map, Value};

use crate::facts;

#[derive(Default)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
    pub(crate) verbs: BTreeSet<&'static str>,
    pub(crate) ty: String,
    pub(crate) subresources: BTreeMap<String, Subresource>,
}

#[derive(Default)]
pub(crate) struct Subresource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) verbs: BTreeSet<&'static str>,
    pub(crate) ty: String,
}

pub(crate) fn collect(swagger: &Value) -> Result<Vec<Resource>, String> {
    let paths = swagger["paths"].as_object().ok_or("swagger has no paths")?;
    let mut resources: BTreeMap<(String, String, String), Resource> = BTreeMap::new();
    for (path, item) in paths {
        let Some(place) = Place::parse(path) else { continue };
        let key = (place.group.to_owned(), place.version.to_owned(), place.plural.to_owned());
        let resource = resources.entry(key).or_default();
        (resource.group, resource.version) = (place.group.to_owned(), place.version.to_owned());
        resource.plural = place.plural.to_owned();
        resource.namespaced |= place.namespaced;
        if place.watch {
            resource.verbs.insert("watch");
            continue;
        }
        let item = item.as_object().ok_or_else(|| format!("{path} is no object"))?;
        for (method, operation) in item.iter().filter(|(method, _)| *method != "parameters") {
            match place.subresource {
                None => on_resource(resource, method, operation),
                Some(name) => {
                    on_subresource(resource.subresources.entry(name.to_owned()).or_default(), &place, method, operation)
                }
            }
            .map_err(|e| format!("{path} {method}: {e}"))?;
        }
    }
    resources.retain(|_, r| !r.plural.is_empty());
    for resource in resources.values() {
        if resource.kind.is_empty() || resource.ty.is_empty() {
            return Err(format!("{}/{} has no kind", resource.group, resource.plural));
        }
    }
    for fact in facts::FACTS {
        if !resources.values().any(|r| r.group == fact.group && r.plural == fact.plural) {
            return Err(format!("facts.rs speaks of {}/{}, which is not served", fact.group, fact.plural));
        }
    }
    Ok(resources.into_values().collect())
}

struct Place<'a> {
    group: &'a str,
    version: &'a str,
    plural: &'a str,
    subresource: Option<&'a str>,
    namespaced: bool,
    watch: bool,
}

impl<'a> Place<'a> {
    fn parse(path: &'a str) -> Option<Place<'a>> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, mut rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        // Alpha and beta versions are not served by default.
        if !version.strip_prefix('v')?.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let watch = rest.first() == Some(&"watch");
        if watch {
            rest = &rest[1..];
        }
        let namespaced = matches!(rest, ["namespaces", "{namespace}", _, ..]);
        if namespaced {
            rest = &rest[2..];
        }
        let (plural, subresource) = match rest {
            [plural] | [plural, "{name}"] => (plural, None),
            [plural, "{name}", sub] | [plural, "{name}", sub, "{path}"] => (plural, Some(*sub)),
            _ => return None,
        };
        Some(Place { group, version, plural, subresource, namespaced, watch })
    }
}

fn on_resource(resource: &mut Resource, method: &str, operation: &Value) -> Result<(), String> {
    let action = operation["x-kubernetes-action"].as_str().unwrap_or_default();
    resource.verbs.insert(verb(action).ok_or_else(|| format!("unknown action {action:?}"))?);
    let kind = operation["x-kubernetes-group-version-kind"]["kind"].as_str().unwrap_or_default();
    if !resource.kind.is_empty() && resource.kind != kind {
        return Err(format!("kind {kind} and {}", resource.kind));
    }
    resource.kind = kind.to_owned();
    if matches!(method, "post" | "put") || (method == "get" && action == "get") {
        resource.ty = body_type(operation).ok_or("no type")?;
    }
    Ok(())
}

fn on_subresource(sub: &mut Subresource, place: &Place<'_>, method: &str, operation: &Value) -> Result<(), String> {
    let action = operation["x-kubernetes-action"].as_str().unwrap_or_default();
    let verb = match (action, method) {
        // Discovery lists what a connection's methods mean as verbs.
        ("connect", "get") => "get",
        ("connect", "post") => "create",
        ("connect", "put") => "update",
        ("connect", "patch") => "patch",
        ("connect", "delete") => "delete",
        ("connect", "head" | "options") => return Ok(()),
        (action, _) => verb(action).ok_or_else(|| format!("unknown action {action:?}"))?,
    };
    sub.verbs.insert(verb);
    let gvk = &operation["x-kubernetes-group-version-kind"];
    let text = |key: &str| gvk[key].as_str().unwrap_or_default().to_owned();
    (sub.group, sub.version, sub.kind) = (text("group"), text("version"), text("kind"));
    let is_here = |(plural, name, _): &&(&str, &str, &str)| *plural == place.plural && Some(*name) == place.subresource;
    if action == "connect" {
        let (_, _, kind) = facts::CONNECT_KINDS.iter().find(is_here).ok_or("a connection without a kind")?;
        sub.kind = (*kind).to_owned();
        "-".clone_into(&mut sub.ty);
    } else {
        sub.ty = body_type(operation).unwrap_or_else(|| "-".to_owned());
    }
    Ok(())
}

fn verb(action: &str) -> Option<&'static str> {
    Some(match action {
        "post" => "create",
        "put" => "update",
        "get" => "get",
        "list" => "list",
        "patch" => "patch",
        "delete" => "delete",
        "deletecollection" => "deletecollection",
        _ => return None,
    })
}

/// The type that a write takes or a read gives.
fn body_type(operation: &Value) -> Option<String> {
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let body = parameters.iter().filter_map(Value::as_object).find(|p| is_body(p)).and_then(|p| p.get("schema"));
    let answer = &operation["responses"]["200"]["schema"];
    let reference = body.unwrap_or(answer)["$ref"].as_str().or_else(|| answer["$ref"].as_str())?;
    let name = reference.strip_prefix("#/definitions/")?;
    if name == facts::NOT_A_TYPE {
        return Some(answer["$ref"].as_str()?.strip_prefix("#/definitions/")?.to_owned());
    }
    Some(name.to_owned())
}

fn is_body(parameter: &Map<String, Value>) -> bool {
    parameter.get("in").is_some_and(|v| v == "body")
}

impl Resource {
    pub(crate) fn write(&self, out: &mut String) {
        let fact = facts::FACTS.iter().find(|f| f.group == self.group && f.plural == self.plural);
        let list = |names: Option<&[&str]>| match names {
            Some(names) if !names.is_empty() => names.join(","),
            Some(_) | None => "-".to_owned(),
        };
        let verbs: Vec<&str> = self.verbs.iter().copied().collect();
        let _ = writeln!(
            out,
            "R {} {} {} {} {} {} {} {} {} {} {}",
            dash(&self.group),
            self.version,
            self.plural,
            self.kind,
            if self.namespaced { "namespaced" } else { "cluster" },
            self.kind.to_lowercase(),
            list(fact.map(|f| f.short_names)),
            list(fact.map(|f| f.categories)),
            verbs.join(","),
            self.ty,
            list(fact.map(|f| f.selectable)),
        );
        for (name, sub) in &self.subresources {
            let verbs: Vec<&str> = sub.verbs.iter().copied().collect();
            let (group, version) = (dash(&sub.group), dash(&sub.version));
            let _ = writeln!(out, "S {name} {group} {version} {} {} {}", sub.kind, verbs.join(","), sub.ty);
        }
    }
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
