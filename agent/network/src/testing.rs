//! Services and EndpointSlices from text, and an API server that serves them to informers, for this crate's tests.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use bytes::Bytes;
use coracle_client::{Body, BoxError, Client, Informers, RandomIds, TaskScope};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Objects of a cluster.
///
/// ```text
///   service NS/NAME ip=A[,B] [type=T] [to=EXTERNAL-NAME] [affinity=SECONDS] [internal=Local] [external=Local]
///           [label=KEY] port=[NAME:]PORT/PROTOCOL[:NODEPORT]...
///   slice NS/SERVICE [n=NUMBER] [label=KEY] port=[NAME:]PORT/PROTOCOL... ep=ADDRESS[,not|ending][,node=N][,host=H]...
/// ```
pub(crate) struct World {
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
}

impl World {
    pub(crate) fn parse(text: &str) -> Self {
        let mut world = Self { services: Vec::new(), slices: Vec::new() };
        for object in objects(text) {
            match object["kind"].as_str() {
                Some("Service") => world.services.push(Arc::new(serde_json::from_value(object).unwrap())),
                _ => world.slices.push(Arc::new(serde_json::from_value(object).unwrap())),
            }
        }
        world
    }
}

fn objects(text: &str) -> Vec<Value> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let (namespace, name) = words[1].split_once('/').unwrap();
            let fields: Vec<_> = words[2..].iter().map(|word| word.split_once('=').unwrap()).collect();
            match words[0] {
                "service" => service(namespace, name, &fields),
                "slice" => slice(namespace, name, &fields),
                other => panic!("unknown object {other}"),
            }
        })
        .collect()
}

fn service(namespace: &str, name: &str, fields: &[(&str, &str)]) -> Value {
    let (mut labels, mut spec, mut ports) = (json!({}), json!({}), Vec::new());
    for (key, value) in fields {
        match *key {
            "ip" => {
                let all: Vec<_> = value.split(',').collect();
                (spec["clusterIP"], spec["clusterIPs"]) = (json!(all[0]), json!(all));
            }
            "type" => spec["type"] = json!(value),
            "to" => spec["externalName"] = json!(value),
            "affinity" => {
                spec["sessionAffinity"] = json!("ClientIP");
                spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": value.parse::<i32>().unwrap()}});
            }
            "internal" => spec["internalTrafficPolicy"] = json!(value),
            "external" => spec["externalTrafficPolicy"] = json!(value),
            "label" => labels[value] = json!("x"),
            "port" => ports.push(port(value)),
            other => panic!("unknown field {other}"),
        }
    }
    spec["ports"] = json!(ports);
    let metadata = json!({"namespace": namespace, "name": name, "labels": labels, "resourceVersion": "1", "uid": "u1"});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

fn slice(namespace: &str, service: &str, fields: &[(&str, &str)]) -> Value {
    let mut labels = json!({"kubernetes.io/service-name": service});
    let (mut number, mut family, mut ports, mut endpoints) = ("0", "IPv4", Vec::new(), Vec::new());
    for (key, value) in fields {
        match *key {
            "n" => number = value,
            "label" => labels[value] = json!("x"),
            "port" => ports.push(port(value)),
            "ep" => {
                let mut parts = value.split(',');
                let address = parts.next().unwrap();
                if address.contains(':') {
                    family = "IPv6";
                }
                let mut endpoint = json!({"addresses": [address]});
                for part in parts {
                    match part.split_once('=') {
                        None if part == "not" => endpoint["conditions"] = json!({"ready": false}),
                        None if part == "ending" => {
                            endpoint["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
                        }
                        Some(("node", node)) => endpoint["nodeName"] = json!(node),
                        Some(("host", host)) => endpoint["hostname"] = json!(host),
                        _ => panic!("unknown part {part}"),
                    }
                }
                endpoints.push(endpoint);
            }
            other => panic!("unknown field {other}"),
        }
    }
    let name = format!("{service}-{number}");
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family, "ports": ports,
        "endpoints": endpoints,
        "metadata": {"namespace": namespace, "name": name, "labels": labels, "resourceVersion": "1"},
    })
}

fn port(text: &str) -> Value {
    let (head, tail) = text.split_once('/').unwrap();
    let (name, number) = head.split_once(':').unwrap_or(("", head));
    let (protocol, node_port) = tail.split_once(':').map_or((tail, None), |(p, n)| (p, Some(n)));
    let mut port = json!({"name": name, "port": number.parse::<i32>().unwrap(), "protocol": protocol});
    if let Some(node_port) = node_port {
        port["nodePort"] = json!(node_port.parse::<i32>().unwrap());
    }
    port
}

/// An API server that knows how to be watched.
#[derive(Clone)]
pub(crate) struct FakeApi {
    /// All events so far, with the path they are for.
    events: watch::Sender<Vec<(&'static str, String)>>,
    /// What was posted to it.
    posted: watch::Sender<Vec<Value>>,
}

impl FakeApi {
    /// The initial objects.
    pub(crate) fn new(text: &str) -> Self {
        let api = Self { events: watch::Sender::new(Vec::new()), posted: watch::Sender::new(Vec::new()) };
        api.send("ADDED", text);
        api.events.send_modify(|events| {
            for path in [SERVICES, SLICES] {
                let end = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"1","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
                events.push((path, format!("{end}\n")));
            }
        });
        api
    }

    /// Sends events of this type for the objects in `text`.
    pub(crate) fn send(&self, kind: &str, text: &str) {
        self.events.send_modify(|events| {
            for mut object in objects(text) {
                object["metadata"]["resourceVersion"] = json!((events.len() + 2).to_string());
                let path = if object["kind"] == "Service" { SERVICES } else { SLICES };
                events.push((path, format!("{}\n", json!({"type": kind, "object": object}))));
            }
        });
    }

    pub(crate) fn informers(&self, scope: &TaskScope) -> Informers {
        Informers::new(self.client(), scope, RandomIds::seeded(1))
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        Client::new(tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (head, body) = request.into_parts();
                if head.method == Method::GET {
                    return Ok::<_, Infallible>(api.watch(head.uri.path().to_owned()));
                }
                let bytes = body.collect().await.unwrap().to_bytes();
                api.posted.send_modify(|posted| posted.push(serde_json::from_slice(&bytes).unwrap()));
                Ok(Response::new(coracle_client::full_body(bytes)))
            }
        }))
    }

    /// Waits for the first object that is posted.
    pub(crate) async fn posted(&self) -> Value {
        self.posted.subscribe().wait_for(|posted| !posted.is_empty()).await.unwrap()[0].clone()
    }

    fn watch(&self, path: String) -> Response<Body> {
        let state = (self.events.subscribe(), 0, path);
        let stream = futures::stream::unfold(state, |(mut events, mut next, path)| async move {
            loop {
                let found = events.borrow_and_update().get(next).cloned();
                match found {
                    Some((of, line)) => {
                        next += 1;
                        if of == path {
                            let frame = Ok::<_, BoxError>(Frame::data(Bytes::from(line)));
                            return Some((frame, (events, next, path)));
                        }
                    }
                    None => events.changed().await.ok()?,
                }
            }
        });
        Response::new(StreamBody::new(stream).boxed_unsync())
    }
}

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// An address of this process and test alone: sockets share addresses, and other tests may run beside this one.
pub(crate) fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let id = std::process::id() % 50_000;
    let [high, low] = ((id + 5_000) as u16).to_be_bytes();
    Ipv4Addr::new(127, 64 + NEXT.fetch_add(1, Ordering::Relaxed), high, low)
}
