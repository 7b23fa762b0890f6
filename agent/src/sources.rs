//! The config maps and secrets that pods of this node refer to.
//!
//! Owns one watch per object in use, however many pods use it. A pod that refers to an object that is not there, or
//! that changes, is told through its mailbox. Must not know: what the objects are for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_api::Uid;
use coracle_client::watched;
use coracle_client::{Backoff, Client, Error, Kind, OnExit, TaskScope, WatchEvent, WatchParams};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::mailbox::Mailbox;

/// How long a pod waits for the server's first word about an object.
const FIRST_WORD: Duration = Duration::from_secs(10);
const RETRY: Backoff =
    Backoff { initial: Duration::from_millis(200), max: Duration::from_secs(30), reset_after: Duration::from_secs(60) };

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceKind {
    ConfigMap,
    Secret,
}

impl SourceKind {
    /// As kubelet names it in messages.
    pub fn noun(self) -> &'static str {
        match self {
            SourceKind::ConfigMap => "configmap",
            SourceKind::Secret => "secret",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceKey {
    pub kind: SourceKind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// A config map or secret, with its values as bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub values: BTreeMap<String, Vec<u8>>,
    /// The object itself, for the records a boot without server starts from.
    pub object: SourceObject,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SourceObject {
    ConfigMap(Box<ConfigMap>),
    Secret(Box<Secret>),
}

impl From<ConfigMap> for Source {
    fn from(object: ConfigMap) -> Self {
        let text = object.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let binary = object.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
        Self { values: text.chain(binary).collect(), object: SourceObject::ConfigMap(Box::new(object)) }
    }
}

impl From<Secret> for Source {
    fn from(object: Secret) -> Self {
        let values = object.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
        Self { values, object: SourceObject::Secret(Box::new(object)) }
    }
}

/// Why a source cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("{} \"{name}\" not found", kind.noun())]
    NotFound { kind: SourceKind, name: Arc<str> },
    /// The server refuses or is out of reach.
    #[error("{0}")]
    Failed(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Known {
    Nothing,
    Missing,
    Found(Arc<Source>),
    Failed(String),
}

struct Entry {
    known: watched::Sender<Known>,
    users: BTreeMap<Uid, Arc<Mailbox>>,
    token: CancellationToken,
}

/// The sources in use. Cheap to clone.
#[derive(Clone)]
pub struct Sources {
    client: Client,
    scope: TaskScope,
    entries: Arc<Mutex<BTreeMap<SourceKey, Entry>>>,
}

impl Sources {
    pub fn new(client: Client, scope: &TaskScope) -> Self {
        Self { client, scope: scope.child("sources"), entries: Arc::default() }
    }

    /// From now on the pod uses exactly these; nothing of it is watched any longer when the set is empty.
    pub fn hold(&self, pod: &Uid, mailbox: &Arc<Mailbox>, keys: &BTreeSet<SourceKey>) {
        let mut started = Vec::new();
        let mut entries = self.entries.lock();
        entries.retain(|key, entry| {
            if !keys.contains(key) {
                entry.users.remove(pod);
            }
            let used = !entry.users.is_empty() || keys.contains(key);
            if !used {
                entry.token.cancel();
            }
            used
        });
        for key in keys {
            let entry = entries.entry(key.clone()).or_insert_with(|| {
                let token = self.scope.token().child_token();
                started.push((key.clone(), token.clone()));
                Entry { known: watched::Sender::new(Known::Nothing), users: BTreeMap::new(), token }
            });
            entry.users.insert(pod.clone(), mailbox.clone());
        }
        drop(entries);
        for (key, token) in started {
            self.start(key, token);
        }
    }

    /// What was recorded on this node, to go by until the server answers.
    pub fn seed(&self, pod: &Uid, mailbox: &Arc<Mailbox>, recorded: Vec<(SourceKey, Source)>) {
        self.hold(pod, mailbox, &recorded.iter().map(|(key, _)| key.clone()).collect());
        let entries = self.entries.lock();
        for (key, source) in recorded {
            if let Some(entry) = entries.get(&key) {
                entry.known.send_if_modified(|known| {
                    let unknown = *known == Known::Nothing;
                    if unknown {
                        *known = Known::Found(Arc::new(source));
                    }
                    unknown
                });
            }
        }
    }

    /// The object as it is now known; waits for the server's first word. It must be held.
    pub async fn get(&self, key: &SourceKey) -> Result<Arc<Source>, SourceError> {
        let receiver = self.entries.lock().get(key).map(|entry| entry.known.subscribe());
        let Some(mut receiver) = receiver else {
            return Err(SourceError::Failed(format!("{} \"{}\" is not in use", key.kind.noun(), key.name)));
        };
        let first = tokio::time::timeout(FIRST_WORD, receiver.wait_for(|known| *known != Known::Nothing)).await;
        let known = match first {
            Ok(Ok(known)) => known.clone(),
            Ok(Err(_)) | Err(_) => Known::Nothing,
        };
        match known {
            Known::Found(source) => Ok(source),
            Known::Missing => Err(SourceError::NotFound { kind: key.kind, name: key.name.clone() }),
            Known::Failed(message) => Err(SourceError::Failed(message)),
            Known::Nothing => {
                let (noun, name) = (key.kind.noun(), &key.name);
                Err(SourceError::Failed(format!(
                    "failed to sync {noun} cache: timed out waiting for {noun} \"{name}\""
                )))
            }
        }
    }

    fn start(&self, key: SourceKey, token: CancellationToken) {
        let name = format!("{}-{}-{}", key.kind.noun(), key.namespace, key.name);
        let sources = self.clone();
        // It ends when the last pod that uses the object is gone, which is no reason to start it again.
        self.scope.spawn(&name, OnExit::Finish, move |_| {
            let (sources, key, token) = (sources.clone(), key.clone(), token.clone());
            async move {
                let follow = async {
                    match key.kind {
                        SourceKind::ConfigMap => sources.follow::<ConfigMap>(&key).await,
                        SourceKind::Secret => sources.follow::<Secret>(&key).await,
                    }
                };
                tokio::select! {
                    biased;
                    () = token.cancelled() => {}
                    () = follow => {}
                }
            }
        });
    }

    async fn follow<K: Kind + Into<Source>>(&self, key: &SourceKey) {
        let mut failures = 0;
        loop {
            if let Err(error) = self.watch::<K>(key, &mut failures).await {
                tracing::debug!(kind = key.kind.noun(), name = %key.name, %error, "watch failed");
                // A view that was good stays good while the server is away.
                self.learn(key, |known| match known {
                    Known::Nothing | Known::Failed(_) => Some(Known::Failed(error.to_string())),
                    Known::Missing | Known::Found(_) => None,
                });
                tokio::time::sleep(RETRY.wait(failures)).await;
                failures += 1;
            }
        }
    }

    async fn watch<K: Kind + Into<Source>>(&self, key: &SourceKey, failures: &mut u32) -> Result<(), Error> {
        let api = self.client.namespaced::<K>(&key.namespace);
        let params = WatchParams::default().fields(format!("metadata.name={}", key.name)).with_initial_events();
        let mut events = api.watch(&params).await?;
        let mut seen = false;
        while let Some(event) = events.next().await {
            *failures = 0;
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    seen = true;
                    let source = Arc::new(object.into());
                    self.learn(key, |_| Some(Known::Found(source)));
                }
                WatchEvent::Deleted(_) => {
                    seen = false;
                    self.learn(key, |_| Some(Known::Missing));
                }
                WatchEvent::Bookmark { initial_end: true, .. } if !seen => self.learn(key, |_| Some(Known::Missing)),
                // What was known of it stays: it is there, and the next change may be one that can be read.
                WatchEvent::Unreadable(object) => {
                    tracing::warn!(object = %object.key, problem = object.problem, "an object cannot be read");
                }
                WatchEvent::Bookmark { .. } => {}
            }
        }
        Ok(())
    }

    fn learn(&self, key: &SourceKey, change: impl FnOnce(&Known) -> Option<Known>) {
        let entries = self.entries.lock();
        let Some(entry) = entries.get(key) else { return };
        let mut told = false;
        entry.known.send_if_modified(|known| match change(known) {
            Some(new) if new != *known => {
                // The first word is what `get` waits for; only what comes after it is news.
                told = *known != Known::Nothing;
                *known = new;
                true
            }
            Some(_) | None => false,
        });
        if told {
            for mailbox in entry.users.values() {
                mailbox.put(|mail| mail.sources_changed = true);
            }
        }
    }
}
