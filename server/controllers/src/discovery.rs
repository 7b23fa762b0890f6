//! What the server serves at this moment, asked of the server: built-in kinds, custom ones and aggregated ones alike.

use coracle_client::{Client, Error, ResourceRef, empty_body};
use http::{HeaderValue, Method, Request, header};
use serde::Deserialize;

const AGGREGATED: HeaderValue =
    HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");

/// One resource of one group and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) resource: ResourceRef,
    verbs: Vec<String>,
    /// Of several versions of a resource the server names this one first.
    pub(crate) preferred: bool,
}

impl Served {
    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Discovered {
    /// Sorted by group, resource and version.
    pub(crate) served: Vec<Served>,
    /// `group/version` whose server did not answer: what it serves is not known.
    pub(crate) stale: Vec<String>,
}

pub(crate) async fn discover(client: &Client) -> Result<Discovered, Error> {
    let mut discovered = Discovered::default();
    for path in ["/api", "/apis"] {
        let request = Request::builder().method(Method::GET).uri(path).header(header::ACCEPT, AGGREGATED);
        let request = request.body(empty_body()).expect("the parts of the request are constants");
        let list: GroupList = client.json(request).await?;
        list.items.iter().for_each(|group| discovered.take(group));
    }
    discovered.served.sort_by_key(|s| s.resource.group_resource());
    Ok(discovered)
}

impl Discovered {
    fn take(&mut self, group: &Group) {
        let name = group.metadata.name.as_str();
        let mut seen: Vec<&str> = Vec::new();
        for version in &group.versions {
            if version.freshness == "Stale" {
                self.stale.push(coracle_api::meta::api_version(name, &version.version));
                continue;
            }
            for resource in &version.resources {
                let Some(kind) = resource.response_kind.as_ref().map(|k| k.kind.as_str()) else { continue };
                let namespaced = resource.scope == "Namespaced";
                self.served.push(Served {
                    resource: ResourceRef::new(name, &version.version, &resource.resource, kind, namespaced),
                    verbs: resource.verbs.clone(),
                    preferred: !seen.contains(&resource.resource.as_str()),
                });
                seen.push(&resource.resource);
            }
        }
    }
}

#[derive(Deserialize)]
struct GroupList {
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: GroupMeta,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize, Default)]
struct GroupMeta {
    /// Absent for the core group.
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Resource>,
    #[serde(default)]
    freshness: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    resource: String,
    response_kind: Option<ResponseKind>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct ResponseKind {
    #[serde(default)]
    kind: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use std::fmt::Write as _;

    #[test]
    fn versions_are_told_apart_and_the_stale_ones_named() {
        let text = r#"{"items":[
            {"versions":[{"version":"v1","resources":[
                {"resource":"pods","responseKind":{"group":"","version":"v1","kind":"Pod"},"scope":"Namespaced","verbs":["list","delete"]},
                {"resource":"nodes","responseKind":{"kind":"Node"},"scope":"Cluster","verbs":["list"]}]}]},
            {"metadata":{"name":"autoscaling"},"versions":[
                {"version":"v2","resources":[{"resource":"scalers","responseKind":{"kind":"Scaler"},"scope":"Namespaced","verbs":[]}],"freshness":"Current"},
                {"version":"v1","resources":[{"resource":"scalers","responseKind":{"kind":"Scaler"},"scope":"Namespaced","verbs":[]}]}]},
            {"metadata":{"name":"metrics.k8s.io"},"versions":[{"version":"v1","freshness":"Stale"}]}]}"#;
        let list: GroupList = serde_json::from_str(text).unwrap();
        let mut discovered = Discovered::default();
        list.items.iter().for_each(|group| discovered.take(group));
        let mut out = String::new();
        for s in &discovered.served {
            let r = &s.resource;
            writeln!(
                out,
                "{} {} namespaced={} preferred={} delete={}",
                r.api_version(),
                r.plural,
                r.namespaced,
                s.preferred,
                s.can("delete")
            )
            .unwrap();
        }
        writeln!(out, "stale {:?}", discovered.stale).unwrap();
        expect![[r#"
            v1 pods namespaced=true preferred=true delete=true
            v1 nodes namespaced=false preferred=true delete=false
            autoscaling/v2 scalers namespaced=true preferred=true delete=false
            autoscaling/v1 scalers namespaced=true preferred=false delete=false
            stale ["metrics.k8s.io/v1"]
        "#]]
        .assert_eq(&out);
    }
}
