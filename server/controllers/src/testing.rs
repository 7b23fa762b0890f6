//! Objects from lines of text, for tests: `pod web-1 node=n1 ready age=60` is a kind, a name, values and flags.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::Pod;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, PodCondition, PodIP, PodSpec, PodStatus, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

pub(crate) struct Line {
    pub(crate) kind: String,
    pub(crate) name: String,
    values: BTreeMap<String, String>,
}

pub(crate) fn lines(text: &str) -> Vec<Line> {
    text.split(['\n', ';']).map(str::trim).filter(|l| !l.is_empty()).map(Line::parse).collect()
}

impl Line {
    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let mut next = || words.next().map(str::to_owned);
        let (kind, name) = (next().unwrap(), next().unwrap_or_default());
        let pair = |word: &str| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            (key.to_owned(), value.to_owned())
        };
        Self { kind, name, values: words.map(pair).collect() }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    pub(crate) fn number(&self, key: &str) -> Option<i32> {
        self.text(key).map(|v| v.parse().unwrap_or_else(|_| panic!("{key}={v} is no number")))
    }

    /// `a:1,b:2`
    pub(crate) fn map(&self, key: &str) -> Option<BTreeMap<String, String>> {
        let pair = |p: &str| p.split_once(':').map(|(k, v)| (k.to_owned(), v.to_owned()));
        self.text(key).map(|v| v.split(',').filter_map(pair).collect())
    }

    /// That many seconds before [`now`].
    pub(crate) fn ago(&self, key: &str) -> Option<Time> {
        self.number(key).map(|s| ago(i64::from(s)))
    }

    /// Namespace `shop`; the UID is the name unless `uid=` says another.
    pub(crate) fn meta(&self) -> ObjectMeta {
        let owner = |uid: &str| OwnerReference {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            name: uid.into(),
            uid: uid.into(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some("shop".into()),
            uid: Some(self.text("uid").unwrap_or(&self.name).into()),
            resource_version: self.text("rv").map(str::to_owned),
            generation: Some(i64::from(self.number("generation").unwrap_or(1))),
            labels: self.map("labels"),
            annotations: self.map("annotations"),
            creation_timestamp: Some(self.ago("age").unwrap_or_else(|| ago(3600))),
            deletion_timestamp: self.has("deleting").then(|| ago(1)),
            owner_references: self.text("owner").map(|uid| vec![owner(uid)]),
            ..ObjectMeta::default()
        }
    }

    /// `phase= node= ip= ready[=seconds ago] labels= owner= …`; Running unless said otherwise.
    pub(crate) fn pod(&self) -> Pod {
        let ready = PodCondition {
            type_: "Ready".into(),
            status: if self.has("ready") { "True" } else { "False" }.into(),
            last_transition_time: Some(ago(self.text("ready").and_then(|s| s.parse().ok()).unwrap_or(600))),
            ..PodCondition::default()
        };
        let ips = self.text("ip").map(|ips| ips.split(',').map(|ip| PodIP { ip: ip.into() }).collect::<Vec<_>>());
        Pod {
            metadata: self.meta(),
            spec: Some(Arc::new(PodSpec {
                node_name: self.text("node").map(str::to_owned),
                hostname: self.text("hostname").map(str::to_owned),
                subdomain: self.text("subdomain").map(str::to_owned),
                containers: vec![Container { name: "main".into(), ..Container::default() }],
                ..PodSpec::default()
            })),
            status: Some(PodStatus {
                phase: Some(self.text("phase").unwrap_or("Running").into()),
                conditions: Some(vec![ready]),
                pod_ip: ips.as_ref().map(|ips| ips[0].ip.clone()),
                pod_ips: ips,
                ..PodStatus::default()
            }),
        }
    }

    /// A template of one container with the image `image=`.
    pub(crate) fn template(&self, labels: &[(&str, &str)]) -> PodTemplateSpec {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let container =
            Container { name: "main".into(), image: self.text("image").map(str::to_owned), ..Container::default() };
        PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
            spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
        }
    }
}

pub(crate) fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

pub(crate) fn ago(seconds: i64) -> Time {
    Time(now() - SignedDuration::from_secs(seconds))
}

/// Seconds from [`now`].
pub(crate) fn from_now(at: Timestamp) -> i64 {
    at.duration_since(now()).as_secs()
}
