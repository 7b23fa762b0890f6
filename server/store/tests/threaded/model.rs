//! Random scripts against a model that is plainly right: a map, a list of changes, and their copies at each revision.
//! A failure prints its seed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::drafts::draft;
use coracle_api::meta::Revision;
use coracle_store::{CommitError, EventKind, Key, Mode, Op, Prefix, Store, StoreConfig};

type Objects = BTreeMap<Key, (u64, Revision)>;

/// xorshift64*: small, seeded, the same on every machine.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }
}

struct Model {
    objects: Objects,
    past: BTreeMap<Revision, Objects>,
    /// As of the last orderly end or known flush: what a crash leaves of the volatile tier is one of these values.
    issued: Revision,
}

struct Run {
    seed: u64,
    chance: Chance,
    config: StoreConfig,
    store: Store,
    model: Model,
}

fn key(chance: &mut Chance) -> Key {
    let resource = ["pods", "pods", "deployments.apps", "leases.coordination.k8s.io"][chance.below(4) as usize];
    Key::new(resource, ["a", "b"][chance.below(2) as usize], format!("n{}", chance.below(6)))
}

impl Run {
    async fn commit(&mut self) {
        let many = if self.chance.below(4) == 0 { 1 + self.chance.below(3) } else { 1 };
        let mut objects = self.model.objects.clone();
        let (mut ops, mut fails) = (Vec::new(), false);
        let mut expected = Vec::new();
        for _ in 0..many {
            let key = key(&mut self.chance);
            let value = self.chance.below(1000);
            let current = objects.get(&key).copied();
            // The revision an operation inside the same commit will get is not known to callers, so they cannot expect it.
            let stale = self.chance.below(5) == 0;
            let expect =
                if stale { Revision(1_000_000_007) } else { current.map_or(Revision(9), |(_, revision)| revision) };
            let (op, kind) = match self.chance.below(3) {
                0 => (Op::Create(draft(&key, value)), EventKind::Added),
                1 => (Op::Update { expect, draft: draft(&key, value) }, EventKind::Modified),
                _ => (Op::Delete { expect, last: draft(&key, value) }, EventKind::Deleted),
            };
            fails |= match kind {
                EventKind::Added => current.is_some(),
                EventKind::Modified | EventKind::Deleted => current.is_none_or(|(_, revision)| revision != expect),
            };
            let revision = Revision(self.store.revision().0 + 1 + expected.len() as u64);
            match kind {
                EventKind::Added | EventKind::Modified => drop(objects.insert(key.clone(), (value, revision))),
                EventKind::Deleted => drop(objects.remove(&key)),
            }
            expected.push((revision, objects.clone()));
            ops.push((key, op));
        }
        let answer = self.store.commit(ops).await;
        match (&answer, fails) {
            (Ok(entries), false) => {
                let revisions: Vec<Revision> = entries.iter().map(|entry| entry.revision).collect();
                let planned: Vec<Revision> = expected.iter().map(|(revision, _)| *revision).collect();
                assert_eq!(revisions, planned, "seed {}", self.seed);
                assert!(revisions[0] > self.model.issued, "seed {}: a revision was given twice", self.seed);
                self.model.issued = *revisions.last().unwrap();
                self.model.past.extend(expected);
                self.model.objects = objects;
            }
            (Err(CommitError::Exists(_) | CommitError::Conflict { .. }), true) => {}
            other => panic!("seed {}: {other:?}", self.seed),
        }
    }

    fn contents(&self, snapshot: &coracle_store::Snapshot) -> Objects {
        let resources: Vec<_> = snapshot.resources().cloned().collect();
        let prefixes = resources.into_iter().map(Prefix::resource);
        let mut found = Objects::new();
        for prefix in prefixes {
            let entries: Vec<_> = snapshot.range(&prefix, None).collect();
            assert_eq!(entries.len(), snapshot.count(&prefix), "seed {}", self.seed);
            assert!(entries.is_sorted_by(|a, b| a.key < b.key), "seed {}", self.seed);
            found.extend(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), (entry.field("v").unwrap().parse().unwrap(), entry.revision))),
            );
        }
        found
    }

    fn check_now(&self) {
        assert_eq!(self.contents(&self.store.snapshot()), self.model.objects, "seed {}", self.seed);
    }

    /// Any revision whose state is kept must be the state as it was; what is not kept must say so.
    fn check_past(&mut self) {
        let at = Revision(1 + self.chance.below(self.store.revision().0.max(1)));
        let Ok(snapshot) = self.store.snapshot_at(at) else { return };
        let empty = Objects::new();
        let then = self.model.past.range(..=at).next_back().map_or(&empty, |(_, objects)| objects);
        assert_eq!(&self.contents(&snapshot), then, "seed {} at {at}", self.seed);
    }

    /// The events from a revision on lead from the state then to the state now.
    fn check_watch(&mut self) {
        let from = Revision(self.chance.below(self.store.revision().0 + 1));
        let Ok(mut watch) = self.store.watch(Prefix::resource("pods"), from) else { return };
        let pods = |objects: &Objects| -> Objects {
            objects
                .iter()
                .filter(|(key, _)| &*key.resource == "pods")
                .map(|(key, value)| (key.clone(), *value))
                .collect()
        };
        let mut copy = self.model.past.range(..=from).next_back().map(|(_, objects)| pods(objects)).unwrap_or_default();
        while let Some(event) = watch.try_next() {
            let entry = &event.as_ref().unwrap().entry;
            let value = (entry.field("v").unwrap().parse().unwrap(), entry.revision);
            match event.as_ref().unwrap().kind {
                EventKind::Added | EventKind::Modified => drop(copy.insert(entry.key.clone(), value)),
                EventKind::Deleted => drop(copy.remove(&entry.key)),
            }
        }
        assert_eq!(copy, pods(&self.model.objects), "seed {} from {from}", self.seed);
        assert_eq!(watch.progress(), self.store.revision(), "seed {}", self.seed);
    }

    fn is_volatile(&self, key: &Key) -> bool {
        self.config.volatile.contains(&key.resource)
    }

    async fn reopen(self) -> Self {
        let Self { seed, mut chance, config, store, mut model } = self;
        let orderly = chance.below(2) == 0;
        if orderly {
            store.close().await.unwrap();
        }
        drop(store);
        let store = Store::open(config.clone()).unwrap();
        assert!(store.revision() >= model.issued, "seed {seed}");
        let mut run = Self { seed, chance, config, store, model: Model { objects: Objects::new(), ..model } };
        let found = run.contents(&run.store.snapshot());
        model =
            Model { objects: found.clone(), past: std::mem::take(&mut run.model.past), issued: run.store.revision() };
        let before = model.past.last_key_value().map(|(_, objects)| objects.clone()).unwrap_or_default();
        let durable = |objects: &Objects| -> Objects {
            objects.iter().filter(|(key, _)| orderly || !run.is_volatile(key)).map(|(k, v)| (k.clone(), *v)).collect()
        };
        assert_eq!(durable(&found), durable(&before), "seed {seed}");
        for (key, value) in found.iter().filter(|(key, _)| run.is_volatile(key)) {
            let ever = model.past.values().any(|objects| objects.get(key) == Some(value));
            assert!(ever, "seed {seed}: {key} was never like this");
        }
        model.past.insert(run.store.revision(), found);
        run.model = model;
        run
    }
}

async fn run(seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        mode: Mode::Inline,
        history: Duration::from_secs(60),
        history_events: 64,
        volatile_flush: Duration::from_secs(30),
        sync: false,
        ..StoreConfig::new(directory.path().join("state.db"))
    };
    let store = Store::open(config.clone()).unwrap();
    let model = Model { objects: Objects::new(), past: BTreeMap::new(), issued: Revision(0) };
    let mut run = Run { seed, chance: Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), config, store, model };
    for _ in 0..400 {
        match run.chance.below(40) {
            0 => run = run.reopen().await,
            1..4 => tokio::time::advance(Duration::from_secs(run.chance.below(40))).await,
            4..8 => run.check_past(),
            8..12 => run.check_watch(),
            _ => run.commit().await,
        }
        run.check_now();
    }
}

#[test]
fn the_store_agrees_with_a_model() {
    for seed in 0..60 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(seed));
    }
}
