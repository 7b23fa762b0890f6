//! Owns the aggregated form: all groups, versions, resources and subresources in one `APIGroupDiscoveryList`.

use std::sync::Arc;

use coracle_api::schema::ResourceDef;
use http::HeaderMap;
use http::header::ACCEPT;
use serde_json::{Value, json};

use super::{Group, verbs};

/// The version of the aggregated form that the client prefers to the old one, if it knows it at all.
pub(super) fn wanted(headers: &HeaderMap) -> Option<&'static str> {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in accepted.flat_map(|value| value.split(',')) {
        let mut words = range.split(';').map(str::trim);
        let media = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        if media == "application/json" && words.contains(&"as=APIGroupDiscoveryList") {
            if !words.contains(&"g=apidiscovery.k8s.io") {
                continue;
            }
            match words.iter().find_map(|word| word.strip_prefix("v=")) {
                Some("v2") => return Some("v2"),
                Some("v2beta1") => return Some("v2beta1"),
                Some(_) | None => {}
            }
        } else if words.is_empty() && matches!(media, "application/json" | "application/*" | "*/*") {
            return None;
        }
    }
    None
}

pub(super) fn document(version: &str, groups: &[&Group]) -> Value {
    let items: Vec<Value> = groups.iter().map(|group| item(group)).collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn item(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|(version, resources)| {
            let resources: Vec<Value> = resources.iter().map(resource).collect();
            json!({ "version": version, "resources": resources, "freshness": "Current" })
        })
        .collect();
    let metadata = if group.name.is_empty() { json!({}) } else { json!({ "name": group.name }) };
    json!({ "metadata": metadata, "versions": versions })
}

fn resource(def: &Arc<ResourceDef>) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    let mut value = json!({
        "resource": &*def.plural,
        "responseKind": kind(&def.group, &def.version, &def.kind),
        "scope": if def.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": &*def.singular,
        "verbs": verbs(def.verbs),
    });
    let Some(fields) = value.as_object_mut() else { return value };
    for (key, names) in [("shortNames", &def.short_names), ("categories", &def.categories)] {
        if !names.is_empty() {
            fields.insert(key.to_owned(), names.iter().map(|name| &**name).collect());
        }
    }
    if !def.subresources.is_empty() {
        let subresources = def.subresources.iter().map(|own| {
            json!({
                "subresource": &*own.name,
                "responseKind": kind(&own.group, &own.version, &own.kind),
                "verbs": verbs(own.verbs),
            })
        });
        fields.insert("subresources".to_owned(), subresources.collect());
    }
    value
}
