//! Which occurrence becomes which write: client-go's `EventCorrelator` as a synchronous function.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;

use super::{EventType, Source};

/// Objects, groups and events remembered, as client-go's LRU caches.
const REMEMBERED: usize = 4096;
/// Events an object may have at once, and the seconds until it may have one more.
const BURST: f64 = 25.0;
const SECONDS_PER_TOKEN: f64 = 300.0;
/// More different messages than this of one reason within the interval are combined.
const MAX_SIMILAR: usize = 10;
const SIMILAR_INTERVAL: SignedDuration = SignedDuration::from_mins(10);

/// Something happened.
#[derive(Debug, Clone)]
pub(super) struct Occurrence {
    pub(super) object: ObjectReference,
    pub(super) source: Source,
    pub(super) kind: EventType,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) at: Timestamp,
}

/// What is to be written: a new event if `count` is 1, else a new count on an old one.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) count: i32,
    pub(super) first: Timestamp,
    pub(super) occurrence: Occurrence,
    key: EventKey,
}

/// Digests of what makes occurrences the same. The texts themselves, three times for each object that anything happened
/// to, would be most of what this process holds; that two of some thousands have the same digest is beyond all chance,
/// and would only mean that one is counted with the other.
type SpamKey = u64;
type GroupKey = u64;
/// The message is that of the group once events are combined.
type EventKey = u64;

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Group {
    /// Digests of the different ones, up to as many as make a group of them.
    messages: Vec<u64>,
    last: Timestamp,
}

struct Known {
    name: String,
    count: i32,
    first: Timestamp,
}

pub(super) struct Correlator {
    buckets: Recent<SpamKey, Bucket>,
    groups: Recent<GroupKey, Group>,
    known: Recent<EventKey, Known>,
}

impl Correlator {
    pub(super) fn new() -> Self {
        Self { buckets: Recent::new(), groups: Recent::new(), known: Recent::new() }
    }

    /// `None`: the object floods and this occurrence is not told. `suffix` makes a name unique.
    pub(super) fn observe(&mut self, mut occurrence: Occurrence, suffix: impl FnOnce() -> String) -> Option<Write> {
        let spam = digest((&occurrence.source, facts(&occurrence.object)));
        let group = digest((spam, occurrence.kind, &occurrence.reason));
        let combined = self.is_combined(group, &occurrence);
        let key = if combined {
            occurrence.message = format!("(combined from similar events): {}", occurrence.message);
            digest((group, ""))
        } else {
            digest((group, &occurrence.message))
        };
        let object = occurrence.object.name.clone().unwrap_or_default();
        let at = occurrence.at;
        let known = self.known.get_or_insert(key, || Known { name: name(&object, &suffix()), count: 0, first: at });
        known.count = known.count.saturating_add(1);
        let write = Write {
            namespace: occurrence.object.namespace.clone().filter(|n| !n.is_empty()).unwrap_or("default".to_owned()),
            name: known.name.clone(),
            count: known.count,
            first: known.first,
            key,
            occurrence,
        };
        self.is_allowed(spam, at).then_some(write)
    }

    /// The server did not take a new event: the next occurrence is new again.
    pub(super) fn refused(&mut self, write: &Write) {
        if write.count == 1 {
            self.known.remove(&write.key);
        }
    }

    fn is_combined(&mut self, key: GroupKey, occurrence: &Occurrence) -> bool {
        let at = occurrence.at;
        let group = self.groups.get_or_insert(key, || Group { messages: Vec::with_capacity(1), last: at });
        if at.duration_since(group.last) > SIMILAR_INTERVAL {
            group.messages.clear();
        }
        group.last = at;
        let message = digest(&occurrence.message);
        if group.messages.len() < MAX_SIMILAR && !group.messages.contains(&message) {
            group.messages.push(message);
        }
        // As upstream: from the tenth different message on.
        group.messages.len() >= MAX_SIMILAR
    }

    fn is_allowed(&mut self, key: SpamKey, at: Timestamp) -> bool {
        let bucket = self.buckets.get_or_insert(key, || Bucket { tokens: BURST, at });
        let passed = at.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.at = at.max(bucket.at);
        bucket.tokens = (bucket.tokens + passed / SECONDS_PER_TOKEN).min(BURST);
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }
}

fn digest(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

fn facts(object: &ObjectReference) -> [&Option<String>; 6] {
    let ObjectReference { api_version, kind, namespace, name, uid, field_path, resource_version: _ } = object;
    [api_version, kind, namespace, name, uid, field_path]
}

/// `web-1.17f0c…`, cut so that it is a name still.
fn name(object: &str, suffix: &str) -> String {
    let room = 253 - 1 - suffix.len();
    let cut = object.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|end| *end <= room).last().unwrap_or(0);
    format!("{}.{suffix}", object[..cut].trim_end_matches(['-', '.']))
}

/// The most recently used entries.
struct Recent<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    tick: u64,
}

impl<K: Ord + Clone, V> Recent<K, V> {
    fn new() -> Self {
        Self { entries: BTreeMap::new(), order: BTreeMap::new(), tick: 0 }
    }

    fn get_or_insert(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.tick += 1;
        let tick = self.tick;
        if let Some((used, _)) = self.entries.get(&key) {
            self.order.remove(used);
        } else if self.entries.len() >= REMEMBERED
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.order.insert(tick, key.clone());
        let (used, value) = self.entries.entry(key).or_insert_with(|| (tick, make()));
        *used = tick;
        value
    }

    fn remove(&mut self, key: &K) {
        if let Some((used, _)) = self.entries.remove(key) {
            self.order.remove(&used);
        }
    }
}
