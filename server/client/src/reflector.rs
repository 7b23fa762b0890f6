//! The reflector: keeps a cache equal to what the server holds, through one watch after another.
//!
//! ```text
//!   no position ── watch with initial events ──► bookmark initial-events-end: the cache is replaced ─┐
//!        ▲                                                                                           ▼
//!        └──── 410, or a revision the server does not know ◄── position = revision of the last event ┤
//!                                                                   ▲                                │
//!                                                                   └── watch from position ◄── end, error, silence
//! ```
//!
//! The cache stays as it was until a new listing is complete, and a new listing tells what was deleted meanwhile.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_api::meta::ObjectKey;
use futures::StreamExt as _;
use http::{HeaderValue, Method, header};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    Backoff, Client, Error, Ids,
    cache::Cache,
    client::request,
    dynamic::AS_METADATA,
    params::{ListParams, WatchParams},
    resource::{Cached, ResourceRef},
    shared::Shared,
    watch::{Unreadable, WatchEvent, WatchStream},
};

const BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(30), reset_after: Duration::from_secs(10) };

/// Bookmarks come about once a minute: a watch that is silent for longer than this is dead, whatever TCP believes.
const SILENCE: Duration = Duration::from_secs(150);

/// What is reflected.
pub(crate) struct Source {
    client: Client,
    pub(crate) resource: ResourceRef,
    pub(crate) params: ListParams,
    metadata_only: bool,
}

impl Source {
    pub(crate) fn objects(client: Client, resource: ResourceRef, params: &ListParams) -> Self {
        Self { client, resource, params: params.clone(), metadata_only: false }
    }

    pub(crate) fn metadata(client: Client, resource: ResourceRef) -> Self {
        Self { client, resource, params: ListParams::default(), metadata_only: true }
    }

    pub(crate) fn task_name(&self) -> String {
        let mut name = self.resource.group_resource().to_string();
        if self.metadata_only {
            name.push_str(".metadata");
        }
        for selector in [&self.params.label_selector, &self.params.field_selector].into_iter().flatten() {
            name = format!("{name}[{selector}]");
        }
        name
    }

    async fn open<T>(&self, position: Option<&str>) -> Result<WatchStream<T>, Error> {
        let mut params = WatchParams::selecting(&self.params);
        params.resource_version = position.map(str::to_owned);
        params.send_initial_events = position.is_none();
        let uri = format!("{}{}", self.resource.path(None, None, None)?, params.query());
        let mut request = request(Method::GET, &uri, None);
        if self.metadata_only {
            request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(AS_METADATA));
        }
        self.client.watch(request).await
    }
}

/// Runs until cancelled.
pub(crate) async fn reflect<T: Cached>(
    source: Arc<Source>,
    cache: Arc<Cache<T>>,
    shared: Shared,
    ids: Ids,
    cancel: CancellationToken,
) {
    let mut reflector = Reflector { source, cache, shared, position: None, failures: 0 };
    loop {
        let began = Instant::now();
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            result = reflector.watch() => result,
        };
        let healthy = began.elapsed() >= BACKOFF.reset_after;
        if healthy {
            reflector.failures = 0;
        }
        if let Err(error) = result {
            reflector.failed(&error);
        } else if healthy {
            continue;
        }
        let wait = ids.jitter(BACKOFF.wait(reflector.failures));
        reflector.failures += 1;
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            () = sleep(wait) => {}
        }
    }
    reflector.cache.close();
}

struct Reflector<T> {
    source: Arc<Source>,
    cache: Arc<Cache<T>>,
    shared: Shared,
    /// Everything up to this revision is in the cache.
    position: Option<String>,
    /// Runs in a row that failed soon.
    failures: u32,
}

impl<T: Cached> Reflector<T> {
    /// One watch, from its request to its end.
    async fn watch(&mut self) -> Result<(), Error> {
        let mut stream = self.source.open::<T>(self.position.as_deref()).await?;
        let mut listing = self.position.is_none().then(BTreeMap::new);
        if self.failures > 0 {
            debug!(resource = %self.source.task_name(), "watch is open again");
        }
        loop {
            let Ok(event) = timeout(SILENCE, stream.next()).await else {
                self.source.client.distrust_connection(SILENCE);
                let request = format!("watch {}", self.source.task_name());
                return Err(Error::Timeout { request, after: SILENCE });
            };
            let Some(event) = event else {
                return Ok(());
            };
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let object = self.shared.share(trim(object));
                    match &mut listing {
                        Some(listing) => drop(listing.insert(object.key(), object)),
                        None => {
                            self.advance(object.meta().resource_version.clone());
                            self.cache.apply(object);
                        }
                    }
                }
                WatchEvent::Deleted(object) => match &mut listing {
                    Some(listing) => drop(listing.remove(&object.key())),
                    None => {
                        self.advance(object.meta().resource_version.clone());
                        self.cache.delete(Arc::new(trim(object)));
                    }
                },
                WatchEvent::Unreadable(object) => self.pass_over(object, listing.as_mut()),
                WatchEvent::Bookmark { resource_version, initial_end } => {
                    if initial_end && let Some(listing) = listing.take() {
                        info!(resource = %self.source.task_name(), objects = listing.len(), rv = resource_version, "listed");
                        self.cache.replace(listing);
                    }
                    if listing.is_none() {
                        self.cache.saw(&resource_version);
                        self.advance(Some(resource_version));
                    }
                }
            }
        }
    }

    /// An object that no client of this kind can read, which trying again would not change. The cache keeps the last
    /// state that could be read, for the object is there; its end can be told all the same.
    fn pass_over(&mut self, object: Unreadable, listing: Option<&mut BTreeMap<ObjectKey, Arc<T>>>) {
        let Unreadable { key, resource_version, deleted, problem } = object;
        let resource = self.source.task_name();
        warn!(resource, object = %key, rv = resource_version, problem, "an object cannot be read and is passed over; correct or delete it");
        let known = self.cache.get(&key);
        match (listing, known) {
            (Some(listing), _) if deleted => drop(listing.remove(&key)),
            (Some(listing), Some(known)) => drop(listing.entry(key).or_insert(known)),
            (Some(_), None) => {}
            (None, known) => {
                if let Some(known) = known.filter(|_| deleted) {
                    self.cache.delete(known);
                }
                if let Some(revision) = &resource_version {
                    self.cache.saw(revision);
                }
                self.advance(resource_version);
            }
        }
    }

    fn advance(&mut self, revision: Option<String>) {
        if revision.is_some() {
            self.position = revision;
        }
    }

    fn failed(&mut self, error: &Error) {
        let resource = self.source.task_name();
        if error.is_expired() || error.is_future_revision() {
            debug!(resource, position = self.position, "the position is unknown to the server, listing again");
            self.position = None;
        } else if self.failures == 0 {
            warn!(resource, %error, "watch failed, trying again");
        } else {
            debug!(resource, %error, failures = self.failures, "watch failed again");
        }
    }
}

fn trim<T: Cached>(mut object: T) -> T {
    object.trim();
    object
}
