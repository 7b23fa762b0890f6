//! One line is one act; each answers with one line or more:
//!
//! ```text
//! create|update|delete RESOURCE NAMESPACE/NAME [expect=N] [v=TEXT] [label=KEY:VALUE] [& another, in the same commit]
//! list RESOURCE [ns=NAMESPACE] [after=NAMESPACE/NAME] [at=N]      get RESOURCE NAMESPACE/NAME
//! watch W RESOURCE [ns=NAMESPACE] [from=N]      drain W      progress W
//! keep      (the present state, for pages)
//! pass SECONDS      churn N RESOURCE      rows      close      reopen      crash
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::{Revision, Uid};
use expect_test::Expect;

use crate::{
    CommitError, Draft, Entry, Event, EventKind, Fields, Key, Mode, Op, Prefix, Snapshot, Store, StoreConfig, Watch,
};

pub(super) fn draft(key: &Key, value: &str) -> Draft {
    let json = format!(r#"{{"metadata":{{"name":"{}"}},"v":"{value}"}}"#, key.name);
    Draft {
        uid: Uid::from(format!("uid-{}", key.name)),
        labels: BTreeMap::new(),
        fields: Fields::new(["spec.v".into()].into(), [value]),
        revision_at: r#"{"metadata":{"#.len(),
        json: json.into_bytes(),
    }
}

/// Runs `script` on a store in an own directory with a history of five minutes and 2,000 events.
pub(super) fn check(script: &str, expect: Expect) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    expect.assert_eq(&runtime.block_on(run(script)));
}

async fn run(script: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        mode: Mode::Inline,
        history_events: 2000,
        sync: false,
        ..StoreConfig::new(directory.path().join("state.db"))
    };
    let mut scene = Scene {
        store: Some(Store::open(config.clone()).unwrap()),
        config,
        watches: HashMap::new(),
        out: String::new(),
    };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        scene.act(line).await;
    }
    scene.out
}

struct Scene {
    store: Option<Store>,
    config: StoreConfig,
    watches: HashMap<String, Watch>,
    out: String,
}

struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        Self(line.split_whitespace().collect())
    }

    fn option(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn key(&self) -> Key {
        let (namespace, name) = self.0[2].split_once('/').unwrap();
        Key::new(self.0[1], namespace, name)
    }

    fn prefix(&self, resource: usize) -> Prefix {
        Prefix { resource: self.0[resource].into(), namespace: self.option("ns").map(Arc::from) }
    }

    fn revision(&self, name: &str) -> Option<Revision> {
        self.option(name).map(|text| text.parse().unwrap())
    }

    fn op(&self) -> (Key, Op) {
        let key = self.key();
        let mut draft = draft(&key, self.option("v").unwrap_or("0"));
        if let Some((label, value)) = self.option("label").and_then(|text| text.split_once(':')) {
            draft.labels.insert(label.into(), value.into());
        }
        let expect = self.revision("expect").unwrap_or_default();
        let op = match self.0[0] {
            "create" => Op::Create(draft),
            "update" => Op::Update { expect, draft },
            "delete" => Op::Delete { expect, last: draft },
            other => panic!("no such act: {other}"),
        };
        (key, op)
    }
}

impl Scene {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn say(&mut self, line: impl std::fmt::Display) {
        writeln!(self.out, "{line}").unwrap();
    }

    async fn act(&mut self, line: &str) {
        let words = Words::of(line);
        match words.0[0] {
            "create" | "update" | "delete" => {
                let ops = line.split('&').map(|op| Words::of(op).op()).collect();
                let answer = self.store().commit(ops).await;
                self.say(render_answer(answer));
            }
            "get" => {
                let found = self.store().snapshot().get(&words.key()).map_or("none".into(), |entry| render(entry));
                self.say(found);
            }
            "list" => self.list(&words),
            "watch" => match self.store().watch(words.prefix(2), words.revision("from").unwrap_or_default()) {
                Ok(watch) => drop(self.watches.insert(words.0[1].into(), watch)),
                Err(error) => self.say(error),
            },
            "keep" => {
                let snapshot = self.store().snapshot();
                self.store().keep(&snapshot);
                self.say(format!("kept {}", snapshot.revision()));
            }
            "drain" => self.drain(words.0[1]).await,
            "progress" => {
                let revision = self.watches.get_mut(words.0[1]).unwrap().progress();
                self.say(revision);
            }
            "pass" => tokio::time::advance(Duration::from_secs(words.0[1].parse().unwrap())).await,
            "churn" => self.churn(words.0[1].parse().unwrap(), words.0[2]).await,
            "rows" => {
                let rows = self.store().with_writer(|writer| writer.disk.rows_for_test());
                self.say(format!("{rows} rows"));
            }
            "close" => {
                self.store().close().await.unwrap();
                self.store = None;
            }
            "reopen" => self.store = Some(Store::open(self.config.clone()).unwrap()),
            "crash" => {
                self.store = None;
                self.store = Some(Store::open(self.config.clone()).unwrap());
                let revision = self.store().revision();
                self.say(format!("opened at {revision}"));
            }
            other => panic!("no such act: {other}"),
        }
    }

    fn list(&mut self, words: &Words<'_>) {
        let snapshot: Snapshot = match words.revision("at") {
            None => self.store().snapshot(),
            Some(revision) => match self.store().snapshot_at(revision) {
                Ok(snapshot) => snapshot,
                Err(error) => return self.say(error),
            },
        };
        let after = words.option("after").map(|after| {
            let (namespace, name) = after.split_once('/').unwrap();
            Key::new(words.0[1], namespace, name)
        });
        let prefix = words.prefix(1);
        let found: Vec<String> = snapshot.range(&prefix, after.as_ref()).map(|entry| render(entry)).collect();
        self.say(format!("at {} of {}: [{}]", snapshot.revision(), snapshot.count(&prefix), found.join(", ")));
    }

    async fn drain(&mut self, name: &str) {
        let watch = self.watches.get_mut(name).unwrap();
        let mut lines = Vec::new();
        while let Some(event) = watch.try_next() {
            lines.push(event.map_or_else(|lagged| lagged.to_string(), |event| render_event(&event)));
        }
        if self.store.is_none() {
            lines.push(format!("ended: {}", watch.next().await.is_none()));
        }
        let lines = if lines.is_empty() { "nothing".into() } else { lines.join(", ") };
        self.say(lines);
    }

    /// Updates one object many times.
    async fn churn(&mut self, times: u64, resource: &str) {
        let key = Key::new(resource, "default", "churned");
        for time in 0..times {
            let current = self.store().snapshot().get(&key).map(|entry| entry.revision);
            let draft = draft(&key, &time.to_string());
            let op = match current {
                None => Op::Create(draft),
                Some(expect) => Op::Update { expect, draft },
            };
            self.store().commit(vec![(key.clone(), op)]).await.unwrap();
        }
    }
}

fn render_answer(answer: Result<Vec<Arc<Entry>>, CommitError>) -> String {
    match answer {
        Ok(entries) => {
            let revisions: Vec<String> = entries.iter().map(|entry| entry.revision.to_string()).collect();
            format!("ok {}", revisions.join(" "))
        }
        Err(error) => error.to_string(),
    }
}

fn render(entry: &Entry) -> String {
    let value = entry.field("spec.v").unwrap();
    let json = std::str::from_utf8(&entry.json).unwrap();
    let whole = format!(
        r#"{{"metadata":{{"resourceVersion":"{}","name":"{}"}},"v":"{value}"}}"#,
        entry.revision, entry.key.name
    );
    assert_eq!(json, whole, "the object carries its revision and nothing else changed");
    let labels: String = entry.labels.iter().map(|(key, value)| format!(" {key}={value}")).collect();
    format!("{}/{}@{} v={value}{labels}", entry.key.namespace, entry.key.name, entry.revision)
}

fn render_event(event: &Event) -> String {
    let kind = match event.kind {
        EventKind::Added => "+",
        EventKind::Modified => "~",
        EventKind::Deleted => "-",
    };
    let before = event.previous.as_ref().map(|entry| format!(" was {}", entry.revision)).unwrap_or_default();
    format!("{kind}{}{before}", render(&event.entry))
}
