//! ```text
//! node NAME [cpu=4] [memory=8Gi] [pods=110] [other=RESOURCE:N] [label=K:V] [taint=K:V:EFFECT] [image=NAME:BYTES]
//!           [cordoned]
//! pod NAME [on=NODE] [cpu=1] [memory=1Gi] [other=RESOURCE:N] [port=N] [priority=N] [select=K:V] [never] [labels=K:V]
//!          [tolerate=K:V:EFFECT] [tolerate=K] [need=K,OP,V|V] [needname=A|B] [like=WEIGHT,K,OP,V] [image=NAME]
//!          [init=CPU] [sidecar=CPU] [overhead=CPU] [nominated=NODE] [started=N] [leaving] [scheduler=NAME] [gate=NAME]
//! budget NAME K:V allowed=N
//! ```

use std::sync::Arc;

use coracle_client::Pod;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Map, Value, json};

use crate::info::PodInfo;
use crate::preempt::Budget;
use crate::snapshot::Snapshot;

pub(super) struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    pub(super) fn of(line: &'a str) -> Self {
        Self(line.split_whitespace().collect())
    }

    pub(super) fn kind(&self) -> &'a str {
        self.0[0]
    }

    pub(super) fn name(&self) -> &'a str {
        self.0[1]
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='))
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.all(key).next()
    }

    fn has(&self, word: &str) -> bool {
        self.0.contains(&word)
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.get(key).map(|text| text.parse().unwrap())
    }

    fn map(&self, key: &str) -> Map<String, Value> {
        self.all(key)
            .map(|text| text.split_once(':').unwrap())
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect()
    }

    fn resources(&self, defaults: &[(&str, &str)]) -> Map<String, Value> {
        let mut resources = self.map("other");
        for (name, default) in defaults {
            let amount = self.get(name).unwrap_or(default);
            if !amount.is_empty() {
                resources.insert((*name).to_owned(), amount.into());
            }
        }
        resources
    }
}

pub(super) fn node(line: &str) -> Node {
    let words = Words::of(line);
    let taints: Vec<Value> = words
        .all("taint")
        .map(|taint| {
            let parts: Vec<&str> = taint.split(':').collect();
            json!({ "key": parts[0], "value": parts[1], "effect": parts[2] })
        })
        .collect();
    let images: Vec<Value> = words
        .all("image")
        .map(|image| image.rsplit_once(':').unwrap())
        .map(|(name, size)| json!({ "names": [name], "sizeBytes": size.parse::<i64>().unwrap() }))
        .collect();
    serde_json::from_value(json!({
        "metadata": { "name": words.name(), "labels": words.map("label") },
        "spec": { "taints": taints, "unschedulable": words.has("cordoned") },
        "status": {
            "allocatable": words.resources(&[("cpu", "4"), ("memory", "8Gi"), ("pods", "110"), ("ephemeral-storage", "10Gi")]),
            "images": images,
        },
    }))
    .unwrap()
}

/// `zone,In,east|west`
fn expression(text: &str) -> Value {
    let parts: Vec<&str> = text.split(',').collect();
    let values: Vec<&str> = parts.get(2).map(|values| values.split('|').collect()).unwrap_or_default();
    json!({ "key": parts[0], "operator": parts[1], "values": values })
}

fn tolerations(words: &Words<'_>) -> Vec<Value> {
    let toleration = |text: &str| match text.split(':').collect::<Vec<_>>()[..] {
        [key] => json!({ "key": key, "operator": "Exists" }),
        [key, value, effect] => json!({ "key": key, "value": value, "effect": effect }),
        _ => panic!("no such toleration: {text}"),
    };
    words.all("tolerate").map(toleration).collect()
}

fn affinity(words: &Words<'_>) -> Value {
    let needs: Vec<Value> = words.all("need").map(expression).collect();
    let named = |names: &str| names.split('|').map(str::to_owned).collect::<Vec<_>>();
    let names: Vec<Value> = words
        .all("needname")
        .map(|names| json!({ "key": "metadata.name", "operator": "In", "values": named(names) }))
        .collect();
    let likes: Vec<Value> = words
        .all("like")
        .map(|text| text.split_once(',').unwrap())
        .map(|(weight, rest)| {
            json!({ "weight": weight.parse::<i64>().unwrap(), "preference": { "matchExpressions": [expression(rest)] } })
        })
        .collect();
    let mut affinity = json!({});
    if !needs.is_empty() || !names.is_empty() {
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!({ "nodeSelectorTerms": [{ "matchExpressions": needs, "matchFields": names }] });
    }
    if !likes.is_empty() {
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = likes.into();
    }
    affinity
}

fn init_containers(words: &Words<'_>) -> Vec<Value> {
    let cpu = |key: &str| words.get(key).map(|cpu| json!({ "requests": { "cpu": cpu } }));
    let sidecar =
        cpu("sidecar").map(|resources| json!({ "name": "sidecar", "restartPolicy": "Always", "resources": resources }));
    let init = cpu("init").map(|resources| json!({ "name": "init", "resources": resources }));
    sidecar.into_iter().chain(init).collect()
}

fn main_container(words: &Words<'_>) -> Value {
    let ports: Vec<Value> = words
        .all("port")
        .map(|port| json!({ "containerPort": 80, "hostPort": port.parse::<i64>().unwrap() }))
        .collect();
    let requests = words.resources(&[("cpu", ""), ("memory", ""), ("ephemeral-storage", "")]);
    json!({ "name": "main", "image": words.get("image"), "ports": ports, "resources": { "requests": requests } })
}

pub(super) fn pod(line: &str) -> Pod {
    let words = Words::of(line);
    let gates: Vec<Value> = words.all("gate").map(|gate| json!({ "name": gate })).collect();
    serde_json::from_value(json!({
        "metadata": {
            "namespace": "default",
            "name": words.name(),
            "uid": format!("uid-{}", words.name()),
            "resourceVersion": "7",
            "labels": words.map("labels"),
            "deletionTimestamp": words.has("leaving").then_some("2026-01-01T00:00:00Z"),
        },
        "spec": {
            "nodeName": words.get("on"),
            "schedulerName": words.get("scheduler"),
            "schedulingGates": gates,
            "priority": words.number("priority"),
            "preemptionPolicy": words.has("never").then_some("Never"),
            "nodeSelector": words.map("select"),
            "affinity": { "nodeAffinity": affinity(&words) },
            "tolerations": tolerations(&words),
            "overhead": words.get("overhead").map(|cpu| json!({ "cpu": cpu })),
            "initContainers": init_containers(&words),
            "containers": [main_container(&words)],
        },
        "status": {
            "nominatedNodeName": words.get("nominated"),
            "startTime": words.number("started").map(|second| format!("2026-01-01T00:00:{second:02}Z")),
        },
    }))
    .unwrap()
}

pub(super) fn info(line: &str) -> Arc<PodInfo> {
    Arc::new(PodInfo::new(Arc::new(pod(line))))
}

fn budget(line: &str) -> Budget {
    let words = Words::of(line);
    let (key, value) = words.0[2].split_once(':').unwrap();
    let budget: PodDisruptionBudget = serde_json::from_value(json!({
        "metadata": { "namespace": "default", "name": words.name() },
        "spec": { "selector": { "matchLabels": { key: value } } },
        "status": { "disruptionsAllowed": words.number("allowed") },
    }))
    .unwrap();
    Budget::of(&budget).unwrap()
}

pub(super) struct Cluster {
    pub(super) snapshot: Snapshot,
    pub(super) budgets: Vec<Budget>,
}

/// A cluster from its lines; pods without `on` are nominated where they say.
pub(super) fn cluster(text: &str) -> Cluster {
    let mut cluster = Cluster { snapshot: Snapshot::default(), budgets: Vec::new() };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words = Words::of(line);
        match words.kind() {
            "node" => drop(cluster.snapshot.set_node(Arc::new(node(line)))),
            "pod" => {
                let info = info(line);
                match (words.get("on"), words.get("nominated")) {
                    (Some(on), _) => cluster.snapshot.set_pod(info, on),
                    (None, Some(nominated)) => cluster.snapshot.nominate(info, nominated),
                    (None, None) => panic!("the pod is nowhere: {line}"),
                }
            }
            "budget" => cluster.budgets.push(budget(line)),
            other => panic!("no such thing: {other}"),
        }
    }
    cluster
}
