//! For tests: a server on paused time with a store of its own, driven by scripts.
//!
//! A script is a line per step; the outcome is the answers as text:
//!
//! ```text
//!  METHOD PATH [Header: value] {body} | field.a field.b      a request; with `|` only these fields of the answer
//!  as system:node:n1 system:nodes                            who asks from here on
//!  watch NAME PATH                                           opens a watch
//!  next NAME                                                 its next line ("nothing" if none comes within a second)
//!  sleep SECONDS                                             lets time pass
//! ```
//!
//! `$rv`, `$uid` and `$continue` stand for those of the last answer. Revisions are shown relative to the start (`r1`),
//! UIDs not at all.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::BytesMut;
use coracle_api::object::Object;
use coracle_api::schema::ResourceDef;
use coracle_api::status::Status;
use coracle_client::{RandomIds, TokioClock};
use coracle_store::{Mode, Store, StoreConfig};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::admission::Admission;
use crate::hooks::{
    Attributes, Authenticator, Authorizer, Column, Decision, Endpoint, Hooks, RawRequest, Row, RuleList, SignedToken,
    Tables, TokenIdentity, TokenSigner, TokenSpec, UserInfo,
};
use crate::http::{self as api, Limits, Server};
use crate::registry::Registry;
use crate::registry::addresses::ServiceAddresses;
use crate::registry::catalog::Catalog;

pub(crate) struct World {
    pub(crate) router: Router,
    pub(crate) server: Arc<Server>,
    user: Arc<UserInfo>,
    base: u64,
    last: BTreeMap<&'static str, String>,
    watches: BTreeMap<String, (Body, BytesMut)>,
    _dir: TempDir,
}

struct Outsider;

impl Authenticator for Outsider {
    fn authenticate(&self, parts: &http::request::Parts) -> Result<Arc<UserInfo>, Status> {
        parts.extensions.get::<Arc<UserInfo>>().cloned().ok_or_else(|| Status::unauthorized(""))
    }

    fn review_token(&self, token: &str, audiences: &[String]) -> Result<TokenIdentity, String> {
        match token {
            "good" => Ok(TokenIdentity { user: UserInfo::new("jane", &["devs"]), audiences: audiences.to_vec() }),
            _ => Err("invalid bearer token".to_owned()),
        }
    }
}

impl Authorizer for Outsider {
    /// The user `nobody` may do nothing, `editor` everything but to read secrets, to bind and to escalate, `updater`
    /// everything but to create.
    fn authorize(&self, user: &UserInfo, asked: &Attributes<'_>) -> Decision {
        let held = match user.name.as_str() {
            "nobody" => false,
            "updater" => asked.verb != "create",
            "editor" => !matches!(asked.verb, "bind" | "escalate" | "*") && asked.resource != "secrets",
            _ => true,
        };
        if held { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }

    fn rules(&self, _user: &UserInfo, _namespace: &str) -> RuleList {
        RuleList::default()
    }
}

impl TokenSigner for Outsider {
    fn sign(&self, spec: &TokenSpec) -> Result<SignedToken, Status> {
        let token = format!(
            "token of {}/{} bound to {:?}",
            spec.namespace,
            spec.service_account,
            spec.bound.as_ref().map(|b| &b.name)
        );
        let expires = "2026-01-01T01:00:00Z".parse().expect("a valid time");
        Ok(SignedToken { token, audiences: spec.audiences.clone(), expires })
    }
}

impl Tables for Outsider {
    fn columns(&self, _def: &ResourceDef) -> Vec<Column> {
        let text = |text: &str| text.to_owned();
        vec![Column {
            name: text("Name"),
            r#type: text("string"),
            format: text("name"),
            description: text("d"),
            priority: 0,
        }]
    }

    fn row(&self, _def: &ResourceDef, object: &Object, _now: Timestamp) -> Row {
        Row { cells: vec![object.name().into()], conditions: Vec::new() }
    }
}

impl Endpoint for Outsider {
    fn call(&self, request: RawRequest) -> BoxFuture<'static, Response<Body>> {
        async move {
            assert!(!request.info.path.ends_with("/panic"), "asked to panic");
            Response::new(Body::from(format!("hook for {}", request.info.path)))
        }
        .boxed()
    }
}

impl World {
    pub(crate) async fn new() -> World {
        Self::with(|_| {}, Limits::default()).await
    }

    pub(crate) async fn with(configure: impl FnOnce(&mut StoreConfig), limits: Limits) -> World {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let mut config = StoreConfig::new(dir.path().join("state.db"));
        config.mode = Mode::Inline;
        config.sync = false;
        configure(&mut config);
        let store = Store::open(config).expect("an empty store opens");
        let registry = Registry {
            store,
            catalog: Arc::new(Catalog::builtin()),
            clock: TokioClock::shared("2026-01-01T00:00:00Z".parse().expect("a valid time")),
            ids: RandomIds::seeded(1),
            authorizer: Arc::new(Outsider),
            admission: Admission::default(),
            addresses: ServiceAddresses::new("127.43.0.0/16".parse().expect("a valid network"), 30_000..=32_767),
        };
        registry.bootstrap("127.0.0.1:6443".parse().expect("a valid address")).await.expect("bootstrap succeeds");
        let base = registry.store.revision().0;
        let hooks = Hooks {
            authenticator: Arc::new(Outsider),
            authorizer: Arc::new(Outsider),
            signer: Arc::new(Outsider),
            tables: Arc::new(Outsider),
            discovery: Arc::new(Outsider),
            documents: Arc::new(Outsider),
            node_proxy: Arc::new(Outsider),
        };
        let server = Arc::new(Server::new(Arc::new(registry), hooks, limits));
        World {
            router: api::router(server.clone()),
            server,
            user: Arc::new(UserInfo::system("admin")),
            base,
            last: BTreeMap::new(),
            watches: BTreeMap::new(),
            _dir: dir,
        }
    }

    /// Runs a script; see the module's text.
    pub(crate) async fn run(&mut self, script: &str) -> String {
        let mut out = String::new();
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let line = self.substitute(line);
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match word {
                "as" => {
                    let mut words = rest.split(' ');
                    let name = words.next().unwrap_or_default();
                    self.user = Arc::new(UserInfo::new(name, &words.collect::<Vec<_>>()));
                }
                "sleep" => tokio::time::sleep(Duration::from_secs(rest.parse().expect("seconds"))).await,
                "watch" => {
                    let (name, request) = rest.split_once(' ').expect("watch NAME PATH");
                    let (path, header) =
                        request.split_once(" [").map_or((request, None), |(p, h)| (p, h.strip_suffix(']')));
                    let response = self.send("GET", path, header, "").await;
                    if response.status() == 200 {
                        self.watches.insert(name.to_owned(), (response.into_body(), BytesMut::new()));
                    } else {
                        let text = self.show(response, None).await;
                        writeln!(out, "{word} {name}: {text}").expect("into a String");
                    }
                }
                "next" => {
                    let text = self.next(rest).await;
                    writeln!(out, "{rest}: {text}").expect("into a String");
                }
                method => {
                    let (request, fields) = match rest.rsplit_once(" | ") {
                        Some((request, fields)) => (request, Some(fields)),
                        None => (rest, None),
                    };
                    let (path, tail) = request.split_once(' ').unwrap_or((request, ""));
                    let (header, body) = match tail.strip_prefix('[') {
                        Some(tail) => {
                            tail.split_once(']').map(|(header, body)| (Some(header), body.trim())).expect("]")
                        }
                        None => (None, tail),
                    };
                    let response = self.send(method, path, header, body).await;
                    let text = self.show(response, fields).await;
                    writeln!(out, "{text}").expect("into a String");
                }
            }
        }
        out
    }

    fn substitute(&self, line: &str) -> String {
        let known = self.last.iter().fold(line.to_owned(), |line, (name, value)| line.replace(name, value));
        known.replace("$future", &(self.base + 1_000_000).to_string()).replace("$start", &self.base.to_string())
    }

    pub(crate) async fn send(&self, method: &str, path: &str, header: Option<&str>, body: &str) -> Response<Body> {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).expect("a method")).uri(path);
        for header in header.iter().flat_map(|all| all.split("; ")) {
            let (name, value) = header.split_once(": ").expect("Header: value");
            request = request.header(name, value);
        }
        let mut request = request.body(Body::from(body.to_owned())).expect("a valid request");
        if method == "PATCH" && !request.headers().contains_key("content-type") {
            let json = http::HeaderValue::from_static("application/merge-patch+json");
            request.headers_mut().insert("content-type", json);
        }
        request.extensions_mut().insert(self.user.clone());
        self.router.clone().oneshot(request).await.expect("the router always answers")
    }

    async fn show(&mut self, response: Response<Body>, fields: Option<&str>) -> String {
        let code = response.status().as_u16();
        let warnings: Vec<String> = response
            .headers()
            .get_all("warning")
            .iter()
            .map(|value| format!("  {}", value.to_str().expect("a warning is text")))
            .collect();
        let bytes = response.into_body().collect().await.expect("a body arrives whole").to_bytes();
        let mut text = match serde_json::from_slice::<Value>(&bytes) {
            Ok(value) => format!("{code} {}", self.show_value(value, fields)),
            Err(_) => format!("{code} {}", String::from_utf8_lossy(&bytes).trim_end()),
        };
        for warning in warnings {
            text.push('\n');
            text.push_str(&warning);
        }
        text
    }

    fn show_value(&mut self, mut value: Value, fields: Option<&str>) -> String {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let found = [
            ("$rv", text("/metadata/resourceVersion")),
            ("$uid", text("/metadata/uid")),
            ("$continue", text("/metadata/continue")),
        ];
        self.last.extend(found.into_iter().filter_map(|(name, value)| Some((name, value?))));
        mask(&mut value, self.base);
        let Some(fields) = fields else { return value.to_string() };
        let shown: Vec<String> = fields
            .split(' ')
            .map(|field| {
                let pointer = format!("/{}", field.replace('.', "/"));
                let value = value.pointer(&pointer).map_or_else(|| "-".to_owned(), ToString::to_string);
                format!("{field}={value}")
            })
            .collect();
        shown.join(" ")
    }

    async fn next(&mut self, name: &str) -> String {
        let (mut body, mut buffer) = self.watches.remove(name).expect("the watch was opened");
        let line = loop {
            if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                break Ok(buffer.split_to(end + 1));
            }
            match tokio::time::timeout(Duration::from_secs(1), body.frame()).await {
                Err(_) => break Err("nothing"),
                Ok(None) => break Err("the end"),
                Ok(Some(frame)) => {
                    buffer.extend_from_slice(frame.expect("a frame arrives").data_ref().expect("a frame of data"));
                }
            }
        };
        self.watches.insert(name.to_owned(), (body, buffer));
        match line {
            Ok(line) => {
                let mut value: Value = serde_json::from_slice(&line).expect("a line of JSON");
                mask(&mut value, self.base);
                let kind = value["type"].as_str().unwrap_or_default().to_owned();
                format!("{kind} {}", value["object"])
            }
            Err(text) => text.to_owned(),
        }
    }
}

/// Makes an answer the same in each run: revisions count from the start, UIDs and tokens are hidden.
fn mask(value: &mut Value, base: u64) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match (key.as_str(), &*value) {
                    ("resourceVersion", Value::String(text)) => {
                        if let Ok(revision) = text.parse::<i128>() {
                            *value = format!("r{}", revision - i128::from(base)).into();
                        }
                    }
                    ("uid", Value::String(_)) => *value = "<uid>".into(),
                    ("continue", Value::String(_)) => *value = "<token>".into(),
                    _ => mask(value, base),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| mask(value, base)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Runs a script on a fresh server and compares the outcome.
pub(crate) async fn check_script(script: &str, expected: expect_test::Expect) {
    let outcome = World::new().await.run(script).await;
    expected.assert_eq(&outcome);
}
