//! The server under test, and who speaks to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::BytesMut;
use coracle_apiserver::auth::pki::PkiConfig;
use coracle_apiserver::{ApiServerConfig, Assembly, AssemblyConfig, UserInfo};
use coracle_client::{IdSource, TokioClock};
use coracle_store::{Draft, Key, Mode, Op, Store, StoreConfig};
use futures::FutureExt as _;
use http::Response;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::script::{Request, Step};
use crate::show;

/// The revision at which scripts begin.
const FIRST_REVISION: u64 = 1000;

/// Numbers in place of chance. What is made before a script begins has UIDs of its own, so that a script's do not move
/// when a release brings another role.
struct Numbered {
    chance: AtomicU64,
    uids: AtomicU64,
}

const SCRIPT_UIDS: u64 = 1 << 32;

impl IdSource for Numbered {
    /// SplitMix64.
    fn u64(&self) -> u64 {
        let state = self.chance.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn uuid(&self) -> String {
        let number = self.uids.fetch_add(1, Ordering::Relaxed);
        let (when, number) = (number / SCRIPT_UIDS, number % SCRIPT_UIDS);
        format!("{when:08}-0000-4000-8000-{number:012}")
    }
}

struct OpenWatch {
    body: Body,
    waiting: BytesMut,
    shown: Vec<String>,
    ended: bool,
}

pub(crate) struct World {
    router: Router,
    /// None: nothing but what the request's headers say.
    user: Option<Arc<UserInfo>>,
    bearer: Option<String>,
    last: Value,
    known: BTreeMap<String, String>,
    watches: BTreeMap<String, OpenWatch>,
    times: usize,
    _dir: TempDir,
}

impl World {
    pub(crate) async fn new() -> World {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let mut store = StoreConfig::new(dir.path().join("state.db"));
        store.mode = Mode::Inline;
        store.sync = false;
        let store = Store::open(store).expect("an empty store opens");
        let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        let config = AssemblyConfig {
            api: ApiServerConfig::new((address, 6443).into()),
            pki: PkiConfig {
                data_dir: dir.path().to_path_buf(),
                hostname: "server".to_owned(),
                tls_san: Vec::new(),
                addresses: vec![address],
                service_ip: Ipv4Addr::new(127, 43, 0, 1).into(),
                cluster_domain: "cluster.local".to_owned(),
                server_url: "https://192.0.2.1:6443".to_owned(),
            },
            token: None,
        };
        let clock = TokioClock::shared("2030-01-01T00:00:00Z".parse().expect("a valid time"));
        let ids = Arc::new(Numbered { chance: AtomicU64::new(1), uids: AtomicU64::new(0) });
        let assembly = Assembly::build(config, store.clone(), clock, ids.clone()).await.expect("the server starts");
        let world = World {
            router: assembly.api.router(),
            user: Some(Arc::new(UserInfo::system("admin"))),
            bearer: None,
            last: Value::Null,
            known: BTreeMap::new(),
            watches: BTreeMap::new(),
            times: 1,
            _dir: dir,
        };
        // No controller runs here, and every pod needs this account.
        ids.uids.store(SCRIPT_UIDS, Ordering::Relaxed);
        let account = serde_json::json!({"metadata": {"name": "default"}});
        let (code, answer) = world.call("POST", "/api/v1/namespaces/default/serviceaccounts", &account).await;
        assert_eq!(code, 201, "{answer}");
        fill(&store).await;
        ids.chance.store(1, Ordering::Relaxed);
        ids.uids.store(2 * SCRIPT_UIDS + 1, Ordering::Relaxed);
        world
    }

    pub(crate) async fn run(&mut self, steps: &[Step]) -> String {
        let mut out = String::new();
        for step in steps {
            match step {
                Step::Heading(line) => write!(out, "\n{line}\n").expect("into a String"),
                Step::As(words) => self.become_user(words),
                Step::Wait(seconds) => tokio::time::sleep(Duration::from_secs(*seconds)).await,
                Step::Times(times) => self.times = *times,
                Step::Keep { name, field } => {
                    let value = show::field(&self.last, field).unwrap_or_else(|| panic!("{field} in {}", self.last));
                    self.known.insert(name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                }
                Step::Request(request) => {
                    let mut answer = String::new();
                    for n in 1..=std::mem::replace(&mut self.times, 1) {
                        self.known.insert("n".to_owned(), n.to_string());
                        answer = self.answer(request).await;
                    }
                    write!(out, "\n> {}\n{answer}", request.line).expect("into a String");
                }
                Step::Watch { name, request } => {
                    let response = self.send(request).await;
                    writeln!(out, "\n> {}\n{}", request.line, self.open(name, request, response).await)
                        .expect("into a String");
                }
                Step::Next(name) => {
                    write!(out, "\n> NEXT {name}\n{}", self.next(name)).expect("into a String");
                }
            }
        }
        out.trim_start().to_owned()
    }

    fn become_user(&mut self, words: &[String]) {
        (self.user, self.bearer) = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["anonymous"] => (None, None),
            ["bearer", token] => (None, Some(self.substitute(token))),
            ["admin"] => (Some(Arc::new(UserInfo::system("admin"))), None),
            [name, groups @ ..] => {
                let groups: Vec<&str> = groups.iter().copied().chain(["system:authenticated"]).collect();
                (Some(Arc::new(UserInfo::new(name, &groups))), None)
            }
            [] => panic!("AS names nobody"),
        };
    }

    fn substitute(&self, text: &str) -> String {
        // The longest names first: `$rv` must not eat the beginning of `$rv2`.
        let mut known: Vec<_> = self.known.iter().collect();
        known.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        known.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
    }

    async fn send(&mut self, asked: &Request) -> Response<Body> {
        let mut request = http::Request::builder().method(asked.method.as_str()).uri(self.substitute(&asked.target));
        // Not left to the server, which would draw a UID for it.
        request = request.header("Audit-ID", "00000000-0000-4000-8000-000000000000");
        let has_type = asked.headers.iter().any(|(name, _)| name == "Content-Type");
        if !asked.body.is_empty() && !has_type {
            request = request.header("Content-Type", "application/json");
        }
        for (name, value) in &asked.headers {
            request = request.header(name, self.substitute(value));
        }
        if let Some(token) = &self.bearer {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut request = request.body(Body::from(self.substitute(&asked.body))).expect("a valid request");
        if let Some(user) = &self.user {
            request.extensions_mut().insert(user.clone());
        }
        self.router.clone().oneshot(request).await.expect("the router always answers")
    }

    async fn answer(&mut self, request: &Request) -> String {
        let response = self.send(request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body arrives whole").to_bytes();
        let is_text = parts.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/"));
        let parsed: Option<Value> = if is_text { None } else { serde_json::from_slice(&bytes).ok() };
        if let Some(value) = &parsed {
            let found =
                [("rv", "metadata.resourceVersion"), ("uid", "metadata.uid"), ("continue", "metadata.continue")];
            for (name, path) in found {
                if let Some(Value::String(text)) = show::field(value, path) {
                    self.known.insert(name.to_owned(), text);
                }
            }
            self.last = value.clone();
        }
        let code = parts.status.as_u16();
        show::head(code, &parts.headers, parsed.as_ref()) + &show::body(code, &bytes, parsed.as_ref(), &request.shown)
    }

    /// One request with a JSON body, outside of any script.
    pub(crate) async fn call(&self, method: &str, target: &str, body: &Value) -> (u16, Value) {
        let bytes = if body.is_null() { String::new() } else { body.to_string() };
        let request = http::Request::builder().method(method).uri(target).header("Content-Type", "application/json");
        let mut request = request.body(Body::from(bytes)).expect("a valid request");
        request.extensions_mut().insert(Arc::new(UserInfo::system("admin")));
        let response = self.router.clone().oneshot(request).await.expect("the router always answers");
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a body arrives whole").to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn open(&mut self, name: &str, request: &Request, response: Response<Body>) -> String {
        let (parts, body) = response.into_parts();
        let code = parts.status.as_u16();
        if code != 200 {
            let bytes = body.collect().await.expect("a body arrives whole").to_bytes();
            let parsed: Option<Value> = serde_json::from_slice(&bytes).ok();
            let head = show::head(code, &parts.headers, parsed.as_ref());
            return head + show::body(code, &bytes, parsed.as_ref(), &[]).trim_end();
        }
        let shown = request.shown.clone();
        self.watches.insert(name.to_owned(), OpenWatch { body, waiting: BytesMut::new(), shown, ended: false });
        show::head(code, &parts.headers, None) + self.next(name).trim_end()
    }

    /// Everything that the watch has to say at this moment: the store publishes before a write is answered.
    fn next(&mut self, name: &str) -> String {
        let watch = self.watches.get_mut(name).unwrap_or_else(|| panic!("no watch {name}"));
        while !watch.ended {
            // Not to be told to come again because this one task has done much already.
            match tokio::task::unconstrained(watch.body.frame()).now_or_never() {
                None => break,
                Some(None) => watch.ended = true,
                Some(Some(frame)) => {
                    let frame = frame.expect("a frame arrives");
                    watch.waiting.extend_from_slice(frame.data_ref().expect("a frame of data"));
                }
            }
        }
        let mut out = String::new();
        while let Some(end) = watch.waiting.iter().position(|byte| *byte == b'\n') {
            out.push_str(&show::event(&watch.waiting.split_to(end + 1), &watch.shown));
        }
        if watch.ended {
            out.push_str("(end)\n");
        } else if out.is_empty() {
            out.push_str("(nothing)\n");
        }
        out
    }
}

/// Brings the store to the revision at which scripts begin.
async fn fill(store: &Store) {
    let now = store.revision().0;
    assert!(now < FIRST_REVISION, "the server's start takes {now} revisions: let scripts begin later");
    let ops = (now..FIRST_REVISION).map(|number| {
        let draft = Draft {
            uid: "filler".into(),
            labels: BTreeMap::new(),
            fields: coracle_store::Fields::default(),
            json: b"{\"metadata\":{}}".to_vec(),
            revision_at: 13,
        };
        (Key::new("filler.coracle.test", "", number.to_string()), Op::Create(draft))
    });
    store.commit(ops.collect()).await.expect("the store takes the filler");
    assert_eq!(store.revision().0, FIRST_REVISION);
}
