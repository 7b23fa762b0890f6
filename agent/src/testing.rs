//! For the agent's own tests: an API server in memory, small enough to read, that knows objects, watches and patches
//! and nothing of what they mean.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use coracle_api::Schema;
use coracle_client::{Body, Client, empty_body, full_body};
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// Objects by (plural, namespace, name).
type Objects = BTreeMap<(String, String, String), Value>;

#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<(String, Value, String)>,
}

#[derive(Default)]
struct State {
    objects: Objects,
    revision: u64,
    down: bool,
    /// Writes of pods' statuses that are refused as conflicts.
    conflicts: u32,
    /// How long a token takes.
    token_wait: std::time::Duration,
    log: Vec<String>,
}

struct Place {
    plural: String,
    kind: String,
    namespace: String,
    name: String,
    sub: String,
    query: String,
}

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), events: broadcast::channel(4096).0 }
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        Client::new(tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        }))
    }

    /// While down every request fails and every watch is cut.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.lock().down = down;
        if down {
            let _ = self.events.send(("cut".into(), Value::Null, String::new()));
        }
    }

    /// The next writes of pods' statuses are conflicts with somebody else's.
    pub(crate) fn set_conflicts(&self, times: u32) {
        self.state.lock().conflicts = times;
    }

    pub(crate) fn set_token_wait(&self, wait: std::time::Duration) {
        self.state.lock().token_wait = wait;
    }

    /// Makes or replaces an object, as some other client would.
    pub(crate) fn put(&self, plural: &str, mut object: Value) {
        let key = key_of(plural, &object);
        let known = self.state.lock().objects.contains_key(&key);
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", key.2).into();
        }
        self.write(key, object, if known { "MODIFIED" } else { "ADDED" });
    }

    pub(crate) fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state.lock().objects.get(&(plural.into(), namespace.into(), name.into())).cloned()
    }

    /// Asks for a pod's end as `kubectl delete` does.
    pub(crate) fn delete_pod(&self, namespace: &str, name: &str, grace: i64) {
        let mut pod = self.get("pods", namespace, name).expect("the pod is there");
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        self.put("pods", pod);
    }

    pub(crate) fn remove(&self, plural: &str, namespace: &str, name: &str) {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let removed = self.state.lock().objects.remove(&key);
        if let Some(object) = removed {
            self.tell("DELETED", object, plural);
        }
    }

    /// Requests that changed something since the last time, events left out.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().log)
    }

    /// `reason: message` of every Event, oldest first.
    pub(crate) fn told(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut events: Vec<&Value> =
            state.objects.iter().filter(|(key, _)| key.0 == "events").map(|(_, v)| v).collect();
        events.sort_by_key(|event| event["metadata"]["resourceVersion"].as_str().and_then(|rv| rv.parse::<u64>().ok()));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events.iter().map(|event| format!("{}: {}", text(&event["reason"]), text(&event["message"]))).collect()
    }

    fn write(&self, key: (String, String, String), mut object: Value, event: &str) -> Value {
        let mut state = self.state.lock();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let plural = key.0.clone();
        state.objects.insert(key, object.clone());
        drop(state);
        self.tell(event, object.clone(), &plural);
        object
    }

    fn tell(&self, event: &str, mut object: Value, plural: &str) {
        if event == "DELETED" {
            let mut state = self.state.lock();
            state.revision += 1;
            object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        }
        let _ = self.events.send((event.to_owned(), object, plural.to_owned()));
    }

    async fn serve(&self, request: Request<Body>) -> Response<Body> {
        if self.state.lock().down {
            return answer(StatusCode::SERVICE_UNAVAILABLE, failure(503, "ServiceUnavailable", "the server is away"));
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let place = Place::of(&head.uri);
        if head.method != Method::GET && place.plural != "events" && place.plural != "leases" {
            let sub = if place.sub.is_empty() { String::new() } else { format!("/{}", place.sub) };
            let line = format!("{} {}/{}{sub}", head.method, place.plural, place.name);
            self.state.lock().log.push(line);
        }
        match (head.method.as_str(), place.name.as_str(), place.sub.as_str()) {
            ("GET", "", _) if place.query.contains("watch=1") => self.watch(&place),
            ("GET", "", _) => answer(StatusCode::OK, json!({ "metadata": {}, "items": self.list(&place) })),
            ("POST", _, "token") => {
                let wait = self.state.lock().token_wait;
                tokio::time::sleep(wait).await;
                answer(StatusCode::CREATED, token(&place))
            }
            ("PATCH", _, "status") if place.plural == "pods" && self.is_conflict() => {
                answer(StatusCode::CONFLICT, failure(409, "Conflict", "the object has been modified"))
            }
            ("POST", _, _) => self.create(&place, body),
            ("GET", _, _) => self.one(&place, Ok),
            ("PATCH", _, _) => {
                let strategic = head.headers["content-type"].to_str().unwrap().contains("strategic");
                self.one(&place, |old| patch(&place, old, body, strategic))
            }
            ("DELETE", _, _) => {
                self.remove(&place.plural, &place.namespace, &place.name);
                answer(StatusCode::OK, json!({}))
            }
            (method, _, _) => panic!("{method} {}", head.uri),
        }
    }

    fn is_conflict(&self) -> bool {
        let mut state = self.state.lock();
        let left = state.conflicts;
        state.conflicts = left.saturating_sub(1);
        left > 0
    }

    fn one(&self, place: &Place, change: impl FnOnce(Value) -> Result<Value, Value>) -> Response<Body> {
        let Some(old) = self.get(&place.plural, &place.namespace, &place.name) else {
            let message = format!("{} \"{}\" not found", place.plural, place.name);
            return answer(StatusCode::NOT_FOUND, failure(404, "NotFound", &message));
        };
        match change(old.clone()) {
            Ok(new) if new == old => answer(StatusCode::OK, new),
            Ok(new) => answer(StatusCode::OK, self.write(key_of(&place.plural, &new), new, "MODIFIED")),
            Err(failure) => answer(StatusCode::CONFLICT, failure),
        }
    }

    fn create(&self, place: &Place, mut object: Value) -> Response<Body> {
        if object["metadata"]["namespace"].is_null() && !place.namespace.is_empty() {
            object["metadata"]["namespace"] = place.namespace.clone().into();
        }
        let key = key_of(&place.plural, &object);
        if self.state.lock().objects.contains_key(&key) {
            return answer(StatusCode::CONFLICT, failure(409, "AlreadyExists", "it exists"));
        }
        object["metadata"]["uid"] = format!("uid-{}", key.2).into();
        if place.plural == "nodes" {
            object["spec"]["podCIDR"] = "127.42.16.0/20".into();
        }
        answer(StatusCode::CREATED, self.write(key, object, "ADDED"))
    }

    fn list(&self, place: &Place) -> Vec<Value> {
        let state = self.state.lock();
        let matching = state.objects.iter().filter(|(key, object)| key.0 == place.plural && place.selects(object));
        matching.map(|(_, object)| object.clone()).collect()
    }

    fn watch(&self, place: &Place) -> Response<Body> {
        let receiver = self.events.subscribe();
        // It keeps no history: whoever comes back later than now has to list.
        let from = place.value("resourceVersion").and_then(|text| text.parse::<u64>().ok());
        if from.is_some_and(|from| from < self.state.lock().revision) && !place.query.contains("sendInitialEvents") {
            return answer(StatusCode::GONE, failure(410, "Expired", "too old resource version"));
        }
        let mut first: Vec<String> = Vec::new();
        if place.query.contains("sendInitialEvents") {
            let line = |object: Value| json!({ "type": "ADDED", "object": object }).to_string();
            first.extend(self.list(place).into_iter().map(line));
            let annotations = json!({ "k8s.io/initial-events-end": "true" });
            let revision = self.state.lock().revision.to_string();
            let meta = json!({ "resourceVersion": revision, "annotations": annotations });
            let (group, kind) = (place.group(), &place.kind);
            let object = json!({ "apiVersion": group, "kind": kind, "metadata": meta });
            first.push(json!({ "type": "BOOKMARK", "object": object }).to_string());
        }
        let (selector, plural) = (place.selector(), place.plural.clone());
        let rest = futures::stream::unfold(receiver, |mut receiver| async move {
            let event = receiver.recv().await.ok().filter(|(kind, _, _)| kind != "cut")?;
            Some((event, receiver))
        });
        let rest = rest.filter_map(move |(kind, object, of)| {
            let wanted = of == plural && selector(&object);
            std::future::ready(wanted.then(|| json!({ "type": kind, "object": object }).to_string()))
        });
        let lines = futures::stream::iter(first).chain(rest);
        let frames = lines.map(|line| Ok::<_, coracle_client::BoxError>(Frame::data(format!("{line}\n").into())));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

impl Place {
    fn of(uri: &http::Uri) -> Self {
        let mut parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        parts.drain(..if parts[0] == "api" { 2 } else { 3 });
        let namespace = if parts[0] == "namespaces" && parts.len() > 2 { parts.drain(..2).nth(1) } else { None };
        let part = |index: usize| parts.get(index).copied().unwrap_or_default().to_owned();
        let kind = match parts[0] {
            "configmaps" => "ConfigMap".to_owned(),
            plural => {
                let singular = plural.trim_end_matches('s');
                singular[..1].to_uppercase() + &singular[1..]
            }
        };
        Self {
            plural: part(0),
            kind,
            namespace: namespace.unwrap_or_default().to_owned(),
            name: part(1),
            sub: part(2),
            query: uri.query().unwrap_or_default().replace("%3D", "="),
        }
    }

    fn group(&self) -> &'static str {
        "v1"
    }

    /// What follows `name=` in the query, be it a parameter or a term of a selector.
    fn value(&self, name: &str) -> Option<String> {
        let at = self.query.find(&format!("{name}="))? + name.len() + 1;
        Some(self.query[at..].split('&').next().unwrap_or_default().to_owned())
    }

    fn selects(&self, object: &Value) -> bool {
        self.selector()(object)
    }

    fn selector(&self) -> impl Fn(&Value) -> bool + Send + Sync + 'static {
        let (name, node) = (self.value("metadata.name"), self.value("spec.nodeName"));
        let namespace = self.namespace.clone();
        move |object| {
            let is =
                |wanted: &Option<String>, found: &Value| wanted.as_ref().is_none_or(|wanted| found == wanted.as_str());
            is(&name, &object["metadata"]["name"])
                && is(&node, &object["spec"]["nodeName"])
                && (namespace.is_empty() || object["metadata"]["namespace"] == namespace.as_str())
        }
    }
}

fn patch(place: &Place, old: Value, patch: Value, strategic: bool) -> Result<Value, Value> {
    let uid = &patch["metadata"]["uid"];
    if !uid.is_null() && *uid != old["metadata"]["uid"] {
        return Err(failure(409, "Conflict", "Precondition failed: UID in precondition"));
    }
    let schema = Schema::v1_36();
    let merged = if strategic {
        let ty = schema.resource("", "v1", &place.plural).expect("a core kind").ty;
        coracle_api::patch::strategic(old, patch, schema, ty)
    } else {
        coracle_api::patch::merge(old, patch)
    };
    Ok(merged.expect("a patch of ours fits"))
}

fn key_of(plural: &str, object: &Value) -> (String, String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (plural.to_owned(), text("namespace"), text("name"))
}

fn token(place: &Place) -> Value {
    let status = json!({ "token": format!("token-of-{}", place.name), "expirationTimestamp": "2026-01-01T01:00:00Z" });
    json!({ "spec": { "audiences": [] }, "status": status })
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message })
}

fn answer(status: StatusCode, body: Value) -> Response<Body> {
    let body = if body.is_null() { empty_body() } else { full_body(body.to_string()) };
    Response::builder().status(status).header("content-type", "application/json").body(body).expect("a valid answer")
}
