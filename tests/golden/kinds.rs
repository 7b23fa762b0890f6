//! Every kind that can be created comes back as it was sent. Of upstream's golden objects, which fill in every field,
//! those that upstream's own validation would take; and of each kind one small object of ours.

use std::collections::BTreeMap;
use std::path::PathBuf;

use coracle_api::schema::{ResourceDef, Schema, Verb};
use coracle_client::{Pod, Wire as _};
use serde_json::{Map, Value, json};

use crate::folder;
use crate::world::World;

/// Golden objects are filled in without sense. These kinds are refused, as upstream would, for (among others) this.
const SENSELESS: &[(&str, &str)] = &[
    ("core/v1 Endpoints", "subsets[0].addresses[0].ip"),
    ("core/v1 LimitRange", "spec.limits[0].type"),
    ("core/v1 Namespace", "spec.finalizers[0]"),
    ("core/v1 Node", "metadata.taints[0].effect"),
    ("core/v1 PersistentVolume", "spec.accessModes"),
    ("core/v1 PersistentVolumeClaim", "spec.accessModes"),
    ("core/v1 Pod", "service account default/serviceAccountNameValue"),
    ("core/v1 PodTemplate", "may not specify more than 1 volume type"),
    ("core/v1 ReplicationController", "may not specify more than 1 volume type"),
    ("core/v1 ResourceQuota", "spec.hard[hardKey]"),
    ("core/v1 Service", "spec.ports[0].name"),
    ("apps/v1 DaemonSet", "spec.selector.matchExpressions[0].operator"),
    ("apps/v1 Deployment", "spec.selector.matchExpressions[0].operator"),
    ("apps/v1 ReplicaSet", "spec.selector.matchExpressions[0].operator"),
    ("apps/v1 StatefulSet", "spec.podManagementPolicy"),
    ("autoscaling/v2 HorizontalPodAutoscaler", "spec.metrics[0].type"),
    ("batch/v1 CronJob", "spec.schedule"),
    ("batch/v1 Job", "spec.completionMode"),
    ("certificates.k8s.io/v1 CertificateSigningRequest", "spec.request"),
    ("discovery.k8s.io/v1 EndpointSlice", "addressType"),
    ("events.k8s.io/v1 Event", "needs to be unset"),
    ("networking.k8s.io/v1 Ingress", "spec.rules[0].host"),
    ("networking.k8s.io/v1 IngressClass", "spec.controller"),
    ("networking.k8s.io/v1 NetworkPolicy", "spec.policyTypes[0]"),
    ("node.k8s.io/v1 RuntimeClass", "handler"),
    ("policy/v1 PodDisruptionBudget", "minAvailable and maxUnavailable cannot be both set"),
    ("rbac.authorization.k8s.io/v1 ClusterRole", "rules cannot apply to both regular resources and non-resource URLs"),
    ("rbac.authorization.k8s.io/v1 ClusterRoleBinding", "roleRef.kind"),
    ("rbac.authorization.k8s.io/v1 Role", "namespaced rules cannot apply to non-resource URLs"),
    ("rbac.authorization.k8s.io/v1 RoleBinding", "roleRef.kind"),
    ("scheduling.k8s.io/v1 PriorityClass", "preemptionPolicy"),
    ("storage.k8s.io/v1 StorageClass", "reclaimPolicy"),
];

/// Answered and never stored.
fn is_stored(def: &ResourceDef) -> bool {
    def.verbs.contains(Verb::Create) && def.verbs.contains(Verb::Get)
}

fn path(def: &ResourceDef) -> String {
    let root = if def.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/{}", def.group, def.version) };
    let namespace = if def.namespaced { "/namespaces/default" } else { "" };
    format!("{root}{namespace}/{}", def.plural)
}

/// What a client may set: the server fills in the rest of the metadata, and the status where that is a subresource.
fn admissible(def: &ResourceDef, object: &Value) -> Value {
    let mut object = object.clone();
    let map = object.as_object_mut().expect("an object");
    let metadata = map.get_mut("metadata").and_then(Value::as_object_mut).expect("metadata");
    metadata.retain(|field, _| matches!(field.as_str(), "name" | "labels" | "annotations"));
    if def.has_status() {
        map.remove("status");
    }
    // Taken in, never given out.
    map.remove("stringData");
    object
}

/// Whether everything of `sent` is in `got`: defaults may have come to it.
fn missing(sent: &Value, got: &Value, path: &str, out: &mut Vec<String>) {
    match (sent, got) {
        (Value::Object(sent), Value::Object(got)) => {
            for (key, value) in sent {
                let path = format!("{path}.{key}");
                match got.get(key) {
                    Some(got) => missing(value, got, &path, out),
                    // Upstream leaves out what is empty.
                    None if *value == json!("")
                        || *value == json!([])
                        || *value == json!({})
                        || *value == json!(0)
                        || *value == json!(false) => {}
                    None => out.push(format!("{path}: {value} is gone")),
                }
            }
        }
        // What the server adds to a list comes after what was sent.
        (Value::Array(sent), Value::Array(got)) if sent.len() <= got.len() => {
            for (at, (sent, got)) in sent.iter().zip(got).enumerate() {
                missing(sent, got, &format!("{path}[{at}]"), out);
            }
        }
        (sent, got) if sent == got => {}
        (sent, got) => out.push(format!("{path}: {sent} became {got}")),
    }
}

struct Tried {
    code: u16,
    answer: Value,
    lost: Vec<String>,
}

async fn try_kind(world: &World, def: &ResourceDef, object: &Value) -> Tried {
    let (code, answer) = world.call("POST", &format!("{}?fieldValidation=Strict", path(def)), object).await;
    let mut lost = Vec::new();
    if code == 201 {
        let name = answer["metadata"]["name"].as_str().expect("a stored object has a name");
        let (code, got) = world.call("GET", &format!("{}/{name}", path(def)), &Value::Null).await;
        assert_eq!(code, 200, "{got}");
        assert_eq!(got, answer, "what a create answers is what a get shows");
        missing(object, &got, "", &mut lost);
    }
    Tried { code, answer, lost }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime starts")
}

/// Where upstream's golden objects lie, if they do: they are no part of this repository.
fn golden() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "a test may be told where its data is")]
    let given = std::env::var("CORACLE_GOLDEN").ok().map(PathBuf::from);
    let dir = given.unwrap_or_else(|| folder().join("../../../shared/data/kubernetes-1.36/golden"));
    if !dir.is_dir() {
        println!("not run: upstream's golden objects are not at {} (set CORACLE_GOLDEN)", dir.display());
        return None;
    }
    Some(dir)
}

#[test]
fn golden_objects_say_the_same_in_protobuf() {
    let Some(dir) = golden() else { return };
    let mut wrong = Vec::new();
    let mut read = 0;
    for def in Schema::v1_36().resources() {
        let group = if def.group.is_empty() { "core" } else { &*def.group };
        let file = |extension| dir.join(format!("{group}.{}.{}.{extension}", def.version, def.kind));
        let Ok(protobuf) = std::fs::read(file("pb")) else { continue };
        let json = std::fs::read(file("json")).expect("golden objects come as JSON too");
        let json: Value = serde_json::from_slice(&json).expect("golden JSON");
        match coracle_api::protobuf::decode(&protobuf, Schema::v1_36()) {
            Ok(object) => {
                missing(&json, &Value::Object(object.clone()), &format!("{group}/{}", def.kind), &mut wrong);
                missing(&Value::Object(object), &json, &format!("JSON of {group}/{}", def.kind), &mut wrong);
            }
            Err(error) => wrong.push(format!("{group}/{} {}: {error}", def.version, def.kind)),
        }
        read += 1;
    }
    assert!(wrong.is_empty(), "of {read} kinds\n{}", wrong.join("\n"));
    assert!(read > 60, "only {read} golden kinds");
}

#[test]
fn a_golden_pod_is_read_and_written_alike_by_caches() {
    let Some(dir) = golden() else { return };
    let text = std::fs::read_to_string(dir.join("core.v1.Pod.json")).expect("a golden pod");
    let theirs: k8s_openapi::api::core::v1::Pod = serde_json::from_str(&text).expect("a golden pod");
    let ours = Pod::decode(&text).expect("a golden pod");
    assert_eq!(ours, Pod::from(theirs.clone()));
    assert_eq!(ours.encode().expect("a pod"), serde_json::to_vec(&theirs).expect("a pod"));
}

#[test]
fn golden_objects_are_stored_whole() {
    let Some(dir) = golden() else { return };
    let mut wrong = Vec::new();
    let mut stored = 0;
    let runtime = runtime();
    let world = runtime.block_on(World::new());
    for def in Schema::v1_36().resources().iter().filter(|def| is_stored(def)) {
        let group = if def.group.is_empty() { "core" } else { &*def.group };
        let file = dir.join(format!("{group}.{}.{}.json", def.version, def.kind));
        // The kinds of apiextensions and the aggregator are not among upstream's golden objects.
        let Ok(text) = std::fs::read(&file) else { continue };
        let mut object = admissible(def, &serde_json::from_slice(&text).expect("golden JSON"));
        // Versions of a kind share their objects: each gets a name of its own.
        object["metadata"]["name"] = format!("golden-{}", def.version).into();
        let tried = runtime.block_on(try_kind(&world, def, &object));
        let kind = format!("{group}/{} {}", def.version, def.kind);
        let reason = SENSELESS.iter().find(|(own, _)| *own == kind).map(|(_, reason)| *reason);
        let message = tried.answer["message"].as_str().unwrap_or_default();
        match (tried.code, reason) {
            (201, None) => stored += 1,
            (403 | 422, Some(reason)) if message.contains(reason) => {}
            (code, reason) => wrong.push(format!("{kind}: {code}, expected for {reason:?}: {message:.300}")),
        }
        wrong.extend(tried.lost.iter().map(|lost| format!("{kind}: {lost}")));
    }
    assert!(wrong.is_empty(), "{stored} stored; wrong:\n{}", wrong.join("\n"));
    assert!(stored > 10, "only {stored} golden objects were stored");
}

#[test]
fn every_kind_is_stored_whole() {
    let text = std::fs::read_to_string(folder().join("kinds.yaml")).expect("kinds.yaml lies beside this file");
    let mut objects: BTreeMap<(String, String), Value> = BTreeMap::new();
    for document in serde_norway::Deserializer::from_str(&text) {
        let object: Map<String, Value> = serde::Deserialize::deserialize(document).expect("YAML documents");
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = (text("apiVersion"), text("kind"));
        assert!(objects.insert(key, Value::Object(object)).is_none(), "a kind is there twice");
    }
    let mut wrong = Vec::new();
    let runtime = runtime();
    let world = runtime.block_on(World::new());
    for def in Schema::v1_36().resources().iter().filter(|def| is_stored(def)) {
        let key = (def.api_version(), def.kind.to_string());
        let Some(object) = objects.remove(&key) else {
            wrong.push(format!("{} {} is not in kinds.yaml", key.0, key.1));
            continue;
        };
        let tried = runtime.block_on(try_kind(&world, def, &object));
        if tried.code != 201 {
            wrong.push(format!("{} {}: {}", key.0, key.1, tried.answer["message"]));
        }
        wrong.extend(tried.lost.iter().map(|lost| format!("{} {}: {lost}", key.0, key.1)));
    }
    wrong.extend(objects.keys().map(|(version, kind)| format!("{version} {kind} is not served")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
