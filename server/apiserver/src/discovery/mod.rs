//! Owns what tells a client which kinds are served: `/api`, `/apis` and below, in the old form (a request per group
//! version) and the aggregated one (one for all). Must not know how requests are routed or authorised.

mod aggregated;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::sync::Arc;

use axum::body::Body;
use coracle_api::schema::{ResourceDef, Verb, Verbs};
use coracle_api::status::Status;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::hooks::{Endpoint, RawRequest};
use crate::http::respond;
use crate::openapi::Served;

/// Groups in upstream's order of preference; those it does not name follow, by name.
const GROUP_ORDER: [&str; 21] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// A group with its versions, the preferred one first, and their resources.
struct Group {
    name: String,
    versions: Vec<(String, Vec<Arc<ResourceDef>>)>,
}

/// Answers discovery requests.
pub struct Discovery {
    served: Served,
    /// Where clients reach this server, `127.0.0.1:6443`.
    address: String,
}

impl Discovery {
    pub fn new(served: Served, address: String) -> Discovery {
        Discovery { served, address }
    }

    fn respond(&self, method: &Method, path: &str, headers: &HeaderMap) -> http::Response<Body> {
        if method != Method::GET && method != Method::HEAD {
            return respond::status(&Status::new(
                405,
                coracle_api::Reason::MethodNotAllowed,
                "discovery can only be read",
            ));
        }
        let groups = groups((self.served)());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let core = |group: &Group| group.name.is_empty();
        let document = match parts.as_slice() {
            ["api" | "apis"] => {
                let is_core = parts == ["api"];
                let listed: Vec<&Group> = groups.iter().filter(|group| core(group) == is_core).collect();
                if let Some(version) = aggregated::wanted(headers) {
                    return aggregated(headers, version, &listed);
                }
                if is_core { self.api_versions() } else { group_list(&listed) }
            }
            ["api", version] => match find(&groups, "", version) {
                Some(resources) => resource_list("v1", resources),
                None => return respond::status(&Status::no_such_path()),
            },
            ["apis", group] => match groups.iter().find(|own| own.name == *group && !core(own)) {
                Some(group) => api_group(group, true),
                None => return respond::status(&Status::no_such_path()),
            },
            ["apis", group, version] => match find(&groups, group, version) {
                Some(resources) => resource_list(&format!("{group}/{version}"), resources),
                None => return respond::status(&Status::no_such_path()),
            },
            _deeper => return respond::status(&Status::no_such_path()),
        };
        respond::plain(200, "application/json", Body::from(document.to_string()))
    }

    fn api_versions(&self) -> Value {
        json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": self.address }],
        })
    }
}

impl Endpoint for Discovery {
    fn call(&self, request: RawRequest) -> BoxFuture<'static, http::Response<Body>> {
        let response = self.respond(request.request.method(), &request.info.path, request.request.headers());
        std::future::ready(response).boxed()
    }
}

/// Every path of a discovery document, for the list at `/`.
pub fn paths(served: Vec<Arc<ResourceDef>>) -> Vec<String> {
    let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
    for group in groups(served) {
        let root = match group.name.as_str() {
            "" => "/api".to_owned(),
            name => format!("/apis/{name}"),
        };
        if !group.name.is_empty() {
            paths.push(root.clone());
        }
        paths.extend(group.versions.iter().map(|(version, _)| format!("{root}/{version}")));
    }
    paths
}

fn aggregated(headers: &HeaderMap, version: &'static str, groups: &[&Group]) -> http::Response<Body> {
    let body = aggregated::document(version, groups).to_string();
    let hash = crate::auth::hex(&Sha256::digest(&body)).to_uppercase();
    let etag = format!("\"{hash}\"");
    let known = headers.get_all(IF_NONE_MATCH).iter().any(|value| {
        let value = value.to_str().unwrap_or_default();
        value.split(',').any(|one| one.trim().trim_start_matches("W/") == etag || one.trim() == "*")
    });
    let mut response = respond::plain(200, "application/json", Body::empty());
    let of_version = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let own = response.headers_mut();
    for (name, value) in [(CONTENT_TYPE, of_version.as_str()), (ETAG, &etag), (VARY, ACCEPT.as_str())] {
        if let Ok(value) = HeaderValue::from_str(value) {
            own.insert(name, value);
        }
    }
    own.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("public"));
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = Body::from(body);
    }
    response
}

fn group_list(groups: &[&Group]) -> Value {
    let groups: Vec<Value> = groups.iter().map(|group| api_group(group, false)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

fn api_group(group: &Group, alone: bool) -> Value {
    let version = |version: &str| json!({ "groupVersion": format!("{}/{version}", group.name), "version": version });
    let versions: Vec<Value> = group.versions.iter().map(|(name, _)| version(name)).collect();
    let mut value = json!({ "name": group.name, "versions": versions, "preferredVersion": versions.first() });
    if let (true, Some(fields)) = (alone, value.as_object_mut()) {
        fields.insert("kind".to_owned(), Value::from("APIGroup"));
        fields.insert("apiVersion".to_owned(), Value::from("v1"));
    }
    value
}

fn resource_list(group_version: &str, resources: &[Arc<ResourceDef>]) -> Value {
    let mut list = Vec::new();
    for def in resources {
        let mut own = json!({
            "name": &*def.plural,
            "singularName": &*def.singular,
            "namespaced": def.namespaced,
            "kind": &*def.kind,
            "verbs": verbs(def.verbs),
        });
        if let Some(fields) = own.as_object_mut() {
            for (key, names) in [("shortNames", &def.short_names), ("categories", &def.categories)] {
                if !names.is_empty() {
                    fields.insert(key.to_owned(), names.iter().map(|name| &**name).collect());
                }
            }
            if def.verbs.contains(Verb::Get) && def.verbs.contains(Verb::List) {
                fields.insert("storageVersionHash".to_owned(), Value::from(storage_version_hash(def)));
            }
        }
        list.push(own);
        for subresource in &def.subresources {
            let mut value = json!({
                "name": format!("{}/{}", def.plural, subresource.name),
                "singularName": "",
                "namespaced": def.namespaced,
                "kind": &*subresource.kind,
                "verbs": verbs(subresource.verbs),
            });
            let elsewhere = subresource.group != def.group || subresource.version != def.version;
            if let (true, Some(fields)) = (elsewhere, value.as_object_mut()) {
                fields.insert("group".to_owned(), Value::from(&*subresource.group));
                fields.insert("version".to_owned(), Value::from(&*subresource.version));
            }
            list.push(value);
        }
    }
    list.sort_by(|one, other| one["name"].as_str().cmp(&other["name"].as_str()));
    let mut value = json!({ "kind": "APIResourceList", "groupVersion": group_version, "resources": list });
    if let (true, Some(fields)) = (group_version.contains('/'), value.as_object_mut()) {
        fields.insert("apiVersion".to_owned(), Value::from("v1"));
    }
    value
}

/// Tells clients whether two versions are stored as one; upstream's way of making it.
fn storage_version_hash(def: &ResourceDef) -> String {
    use base64::Engine;
    let text = format!("{}/{}/{}", def.group, def.version, def.kind);
    base64::engine::general_purpose::STANDARD.encode(&Sha256::digest(text)[..8])
}

fn verbs(verbs: Verbs) -> Value {
    let mut names: Vec<&str> = verbs.iter().map(Verb::as_str).collect();
    names.sort_unstable();
    Value::from(names)
}

fn find<'a>(groups: &'a [Group], group: &str, version: &str) -> Option<&'a [Arc<ResourceDef>]> {
    let group = groups.iter().find(|own| own.name == group)?;
    group.versions.iter().find(|(own, _)| own == version).map(|(_, resources)| resources.as_slice())
}

fn groups(served: Vec<Arc<ResourceDef>>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for def in served {
        let at = groups.iter().position(|group| *group.name == *def.group).unwrap_or_else(|| {
            groups.push(Group { name: def.group.to_string(), versions: Vec::new() });
            groups.len() - 1
        });
        let versions = &mut groups[at].versions;
        match versions.iter_mut().find(|(version, _)| **version == *def.version) {
            Some((_, resources)) => resources.push(def),
            None => versions.push((def.version.to_string(), vec![def])),
        }
    }
    for group in &mut groups {
        group.versions.sort_by_key(|(version, _)| Reverse(precedence(version)));
    }
    let rank = |name: &str| GROUP_ORDER.iter().position(|known| *known == name).unwrap_or(GROUP_ORDER.len());
    groups.sort_by(|one, other| (rank(&one.name), &one.name).cmp(&(rank(&other.name), &other.name)));
    groups
}

/// v2 before v1, stable before beta before alpha, and what is no version of Kubernetes last.
fn precedence(version: &str) -> (u8, u32, u32) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let major: u32 = rest[..digits].parse().ok()?;
        let (stage, minor) = match &rest[digits..] {
            "" => (3, 0),
            tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(minor), _) => (2, minor.parse().ok()?),
                (None, Some(minor)) => (1, minor.parse().ok()?),
                (None, None) => return None,
            },
        };
        Some((stage, major, minor))
    };
    parse().unwrap_or((0, 0, 0))
}
