//! The whole scheduler against a small API in memory, on paused time: what is written, in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_api::meta::GroupResource;
use coracle_api::status::Status;
use coracle_client::{Body, BoxError, Client, Informers, RandomIds, TaskScope, TokioClock, full_body};
use expect_test::{Expect, expect};
use futures::StreamExt as _;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::cluster::{Words, node, pod};
use crate::SchedulerConfig;

#[derive(Default)]
struct Api {
    revision: u64,
    /// By path: `/api/v1/namespaces/default/pods/p`.
    objects: BTreeMap<String, Value>,
    watches: Vec<(String, UnboundedSender<Bytes>)>,
    log: Vec<String>,
    /// Answers to the next bindings, instead of carrying them out.
    refusals: Vec<Status>,
    /// Whether the next binding is carried out, whose news are slow; neither is answered, nor are so many questions after it.
    lost: Option<(bool, usize)>,
}

impl Api {
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let kind = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        self.objects.insert(path.to_owned(), object.clone());
        self.publish(path, kind, &object);
        object
    }

    fn change_unseen(&mut self, path: &str, node: Option<&str>) {
        self.revision += 1;
        let pod = self.objects.get_mut(path).unwrap();
        pod["metadata"]["resourceVersion"] = self.revision.to_string().into();
        pod["spec"]["nodeName"] = node.into();
    }

    fn delete(&mut self, path: &str) {
        self.revision += 1;
        let mut object = self.objects.remove(path).unwrap();
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.publish(path, "DELETED", &object);
    }

    fn publish(&mut self, path: &str, kind: &str, object: &Value) {
        let resource = path.rsplit('/').nth(1).unwrap();
        for (_, watch) in self.watches.iter().filter(|(watched, _)| watched == resource) {
            let _ = watch.unbounded_send(line(kind, object));
        }
    }

    fn watch(&mut self, path: &str) -> Body {
        let resource = path.rsplit('/').next().unwrap().to_owned();
        let (sender, receiver) = unbounded();
        for (_, object) in self.objects.iter().filter(|(path, _)| path.rsplit('/').nth(1) == Some(&*resource)) {
            sender.unbounded_send(line("ADDED", object)).unwrap();
        }
        let end = json!({ "metadata": {
            "resourceVersion": self.revision.to_string(), "annotations": { "k8s.io/initial-events-end": "true" }
        } });
        sender.unbounded_send(line("BOOKMARK", &end)).unwrap();
        self.watches.push((resource, sender));
        StreamBody::new(receiver.map(|bytes| Ok::<_, BoxError>(Frame::data(bytes)))).boxed_unsync()
    }

    fn bind(&mut self, path: &str, binding: &Value) -> Result<Value, Status> {
        if let Some(refusal) = self.refusals.pop() {
            return Err(refusal);
        }
        let name = path.rsplit('/').next().unwrap();
        let missing = || Status::not_found(&GroupResource::new("", "pods"), name);
        let mut pod = self.objects.get(path).cloned().ok_or_else(missing)?;
        assert_eq!(pod["metadata"]["uid"], binding["metadata"]["uid"]);
        assert!(pod["spec"]["nodeName"].is_null(), "{name} is bound twice");
        match self.lost {
            None => {}
            Some((true, _)) => {
                self.log.push(format!("bind {name} to {}, nobody hears of it", text(&binding["target"]["name"])));
                self.change_unseen(path, binding["target"]["name"].as_str());
                return Ok(Value::Null);
            }
            Some((false, _)) => return Ok(Value::Null),
        }
        pod["spec"]["nodeName"] = binding["target"]["name"].clone();
        self.log.push(format!("bind {name} to {}", text(&binding["target"]["name"])));
        Ok(self.put(path, pod))
    }

    fn patch_status(&mut self, path: &str, patch: &Value) -> Result<Value, Status> {
        let name = path.rsplit('/').next().unwrap();
        let mut pod = self.objects.get(path).cloned().unwrap();
        let expected = &patch["metadata"]["resourceVersion"];
        if !expected.is_null() && *expected != pod["metadata"]["resourceVersion"] {
            self.log.push(format!("status {name} comes late"));
            return Err(Status::conflict(&GroupResource::new("", "pods"), name, "it was modified"));
        }
        let condition = &patch["status"]["conditions"][0];
        let nominated = &patch["status"]["nominatedNodeName"];
        let on = nominated.as_str().map(|node| format!(" nominated to {node}")).unwrap_or_default();
        let (kind, value) = (text(&condition["type"]), text(&condition["status"]));
        let (reason, message) = (text(&condition["reason"]), text(&condition["message"]));
        self.log.push(format!("status {name} {kind}={value} {reason}: {message}{on}"));
        pod["status"]["conditions"] = patch["status"]["conditions"].clone();
        if patch["status"].get("nominatedNodeName").is_some() {
            pod["status"]["nominatedNodeName"] = nominated.clone();
        }
        Ok(self.put(path, pod))
    }

    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> Result<Value, Status> {
        match (method.as_str(), path.strip_suffix("/binding"), path.strip_suffix("/status")) {
            ("POST", Some(pod), _) => self.bind(pod, body),
            ("PATCH", _, Some(pod)) => self.patch_status(pod, body),
            ("POST", None, None) => {
                let name = text(&body["involvedObject"]["name"]);
                let (kind, reason, message) = (text(&body["type"]), text(&body["reason"]), text(&body["message"]));
                self.log.push(format!("event {name} {kind} {reason}: {message}"));
                Ok(body.clone())
            }
            ("PATCH", _, None) => {
                self.log.push(format!("event again {}: {}", body["count"], text(&body["message"])));
                Ok(body.clone())
            }
            ("DELETE", _, _) => {
                self.log.push(format!("delete {}", path.rsplit('/').next().unwrap()));
                self.delete(path);
                Ok(json!({}))
            }
            ("GET", _, _) => Ok(self.objects[path].clone()),
            other => panic!("no such request: {other:?} {path}"),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({ "type": kind, "object": object })))
}

async fn serve(api: Arc<Mutex<Api>>, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let (head, body) = request.into_parts();
    if head.uri.query().is_some_and(|query| query.contains("watch=1")) {
        return Ok(Response::new(api.lock().watch(head.uri.path())));
    }
    let body = body.collect().await?.to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut api = api.lock();
    let answer = api.answer(&head.method, head.uri.path(), &body);
    let asks = head.uri.path().ends_with("/binding") || head.method == Method::GET;
    if asks && let Some((_, left)) = &mut api.lost {
        match left.checked_sub(1) {
            Some(less) => *left = less,
            None => api.lost = None,
        }
        return Err("connection reset".into());
    }
    drop(api);
    let (code, answer) = match answer {
        Ok(object) => (200, object.to_string()),
        Err(status) => (status.code, serde_json::to_string(&status).unwrap()),
    };
    Ok(Response::builder().status(code).body(full_body(answer)).unwrap())
}

/// Lines are nodes and pods as in [`super::cluster`] (created or changed), and:
///
/// ```text
/// gone NAME         a pod is deleted
/// late NAME [on=N]  somebody else writes to a pod (or binds it), and the news is slow
/// refuse MESSAGE    the next binding is refused
/// lose before N     the next binding is lost, and the answers to the N questions after it
/// lose after N      the same, but the binding is carried out
/// pass SECONDS
/// ```
async fn run(script: &str) -> String {
    let api = Arc::new(Mutex::new(Api::default()));
    let served = api.clone();
    let client = Client::new(tower::service_fn(move |request| serve(served.clone(), request)));
    let scope = TaskScope::root();
    let ids = RandomIds::seeded(1);
    let clock = TokioClock::shared("2026-01-01T00:00:00Z".parse().unwrap());
    let informers = Informers::new(client.clone(), &scope, ids.clone());
    crate::start(SchedulerConfig::default(), &client, &informers, &clock, &ids, &scope);
    // On paused time this returns when there is nothing left to do: time moves only when all tasks wait.
    let settle = || tokio::time::sleep(Duration::from_millis(1));
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words = Words::of(line);
        let path = format!("/api/v1/namespaces/default/pods/{}", words.name());
        match words.kind() {
            "node" => {
                let node = serde_json::to_value(node(line)).unwrap();
                api.lock().put(&format!("/api/v1/nodes/{}", words.name()), node);
            }
            "pod" => drop(api.lock().put(&path, serde_json::to_value(pod(line)).unwrap())),
            "gone" => api.lock().delete(&path),
            "late" => api.lock().change_unseen(&path, words.get("on")),
            "refuse" => api.lock().refusals.push(Status::internal(line)),
            "lose" => {
                let (when, questions) = line.trim_start_matches("lose ").split_once(' ').unwrap();
                api.lock().lost = Some((when == "after", questions.parse().unwrap()));
            }
            "pass" => tokio::time::sleep(Duration::from_secs(words.name().parse().unwrap())).await,
            other => panic!("no such act: {other}"),
        }
        // Lines that end with a plus happen at once with the next one.
        if !line.ends_with('+') {
            settle().await;
            api.lock().log.push("--".into());
        }
    }
    scope.shutdown().await;
    let log = api.lock().log.join("\n");
    format!("{log}\n")
}

fn check(script: &str, expect: Expect) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    expect.assert_eq(&runtime.block_on(run(script)));
}

#[test]
fn pods_are_bound_as_they_come() {
    check(
        "node a cpu=1
         pod p cpu=400m +
         pod q cpu=400m
         pod r cpu=400m
         gone p
         pod s cpu=1",
        expect![[r#"
            --
            bind p to a
            bind q to a
            event p Normal Scheduled: Successfully assigned default/p to a
            event q Normal Scheduled: Successfully assigned default/q to a
            --
            status r PodScheduled=False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            event r Warning FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            --
            bind r to a
            event r Normal Scheduled: Successfully assigned default/r to a
            --
            status s PodScheduled=False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            event s Warning FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            --
        "#]],
    );
}

#[test]
fn a_pod_without_a_node_says_why_and_is_bound_when_it_can() {
    check(
        "pod p cpu=2
         node a cpu=1
         node b cpu=4
         gone p",
        expect![[r#"
            status p PodScheduled=False Unschedulable: no nodes available to schedule pods
            event p Warning FailedScheduling: no nodes available to schedule pods
            --
            status p PodScheduled=False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
            event p Warning FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
            --
            bind p to b
            event p Normal Scheduled: Successfully assigned default/p to b
            --
            --
        "#]],
    );
}

#[test]
fn what_is_not_ours_is_left_alone() {
    check(
        "node a
         pod other scheduler=custom
         pod gated gate=wait
         pod leaving leaving
         pod gated",
        expect![[r#"
            --
            --
            --
            --
            bind gated to a
            event gated Normal Scheduled: Successfully assigned default/gated to a
            --
        "#]],
    );
}

#[test]
fn a_refused_binding_frees_the_node_and_is_tried_again() {
    check(
        "node a cpu=1
         refuse because of a test
         pod p cpu=1
         pass 1
         pod q cpu=1",
        expect![[r#"
            --
            --
            status p PodScheduled=False SchedulerError: binding rejected: Internal error occurred: refuse because of a test
            event p Warning FailedScheduling: binding rejected: Internal error occurred: refuse because of a test
            --
            bind p to a
            event p Normal Scheduled: Successfully assigned default/p to a
            --
            status q PodScheduled=False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            event q Warning FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            --
        "#]],
    );
}

#[test]
fn a_binding_whose_answer_is_lost_holds_its_room() {
    check(
        "node a cpu=1
         lose after 2
         pod p cpu=1 +
         pod q cpu=1
         pass 1",
        expect![[r#"
            --
            --
            bind p to a, nobody hears of it
            status q PodScheduled=False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            event q Warning FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            --
            event p Normal Scheduled: Successfully assigned default/p to a
            --
        "#]],
    );
}

#[test]
fn a_binding_that_is_lost_itself_is_tried_again() {
    check(
        "node a cpu=1
         lose before 0
         pod p cpu=1
         pass 1",
        expect![[r#"
            --
            --
            status p PodScheduled=False SchedulerError: binding rejected: POST /api/v1/namespaces/default/pods/p/binding: connection reset
            event p Warning FailedScheduling: binding rejected: POST /api/v1/namespaces/default/pods/p/binding: connection reset
            --
            bind p to a
            event p Normal Scheduled: Successfully assigned default/p to a
            --
        "#]],
    );
}

#[test]
fn a_refusal_that_comes_late_is_written_again_unless_the_pod_has_a_node() {
    check(
        "node a cpu=1
         pod p cpu=2 +
         late p
         pod q cpu=2 +
         late q on=elsewhere",
        expect![[r#"
            --
            status p comes late
            status p PodScheduled=False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
            event p Warning FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
            --
            status q comes late
            event q Warning FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
            --
        "#]],
    );
}

#[test]
fn victims_are_evicted_and_their_place_is_taken() {
    check(
        "node a cpu=2
         pod low cpu=2 priority=1
         pod high cpu=2 priority=9",
        expect![[r#"
            --
            bind low to a
            event low Normal Scheduled: Successfully assigned default/low to a
            --
            status low DisruptionTarget=True PreemptionByScheduler: default-scheduler: preempting to accommodate a higher priority pod
            delete low
            status high PodScheduled=False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. nominated to a
            event high Warning FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu.
            event low Normal Preempted: Preempted by pod uid-high on node a
            bind high to a
            event high Normal Scheduled: Successfully assigned default/high to a
            --
        "#]],
    );
}

#[test]
fn heartbeats_of_nodes_wake_nobody() {
    check(
        "node a cpu=1
         pod p cpu=2
         node a cpu=1
         node a cpu=1 image=x:1:5",
        expect![[r#"
            --
            status p PodScheduled=False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
            event p Warning FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
            --
            --
            --
        "#]],
    );
}
