//! The event recorder: what happened to an object, told to users as core/v1 Events.
//!
//! Follows client-go's correlator: an object that floods is silenced by a token bucket, many similar events become one
//! "(combined from similar events)", and a repeated event is a count on the first. Recording never waits and never
//! fails: the queue is bounded, and what does not fit is dropped and counted.

mod correlate;
mod stamps;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Event, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde_json::json;
use tokio::{
    sync::{Mutex, mpsc},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::{
    correlate::{Correlator, Occurrence, Write},
    stamps::Stamps,
};
use crate::{Backoff, Client, Clock, Error, Ids, Kind, OnExit, TaskScope};

/// Events waiting to be written.
const QUEUE_LENGTH: usize = 1000;
/// Attempts to write one event while the server is out of reach, as client-go.
const ATTEMPTS: u32 = 12;
const RETRY: Backoff =
    Backoff { initial: Duration::from_millis(200), max: Duration::from_secs(10), reset_after: Duration::MAX };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Who reports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// As upstream names it: `kubelet`, `deployment-controller`, `default-scheduler`.
    pub component: Arc<str>,
    /// The node, for an agent; "" else.
    pub host: Arc<str>,
}

/// Records events of one component. Cheap to clone; clones share the aggregation.
#[derive(Clone)]
pub struct Recorder {
    source: Source,
    clock: Arc<dyn Clock>,
    queue: mpsc::Sender<Occurrence>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// Starts the task that writes the events, in `scope`.
    pub fn new(client: &Client, clock: Arc<dyn Clock>, ids: Ids, source: Source, scope: &TaskScope) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE_LENGTH);
        // The receiver outlives a restart of the writing task.
        let receiver = Arc::new(Mutex::new(receiver));
        let client = client.clone();
        let name = format!("events-{}", source.component);
        scope.spawn(&name, OnExit::restart(), move |cancel| {
            let writer = Writer { client: client.clone(), ids: ids.clone() };
            let receiver = receiver.clone();
            async move { writer.run(&mut *receiver.lock().await, cancel).await }
        });
        Self { source, clock, queue, dropped: Arc::default() }
    }

    /// The same queue and aggregation under another component's name.
    #[must_use]
    pub fn for_component(&self, component: &str) -> Self {
        let source = Source { component: component.into(), host: self.source.host.clone() };
        Self { source, ..self.clone() }
    }

    /// Records that something happened to `object`.
    pub fn event(&self, object: &ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let occurrence = Occurrence {
            object: object.clone(),
            source: self.source.clone(),
            kind,
            reason: reason.into(),
            message: message.into(),
            at: self.clock.now(),
        };
        if self.queue.try_send(occurrence).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                warn!(component = %self.source.component, dropped, "the queue of events is full, events are dropped");
            }
        }
    }

    /// Events that did not fit into the queue.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A reference to an object for its events.
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

struct Writer {
    client: Client,
    ids: Ids,
}

impl Writer {
    async fn run(&self, queue: &mut mpsc::Receiver<Occurrence>, cancel: CancellationToken) {
        let (mut correlator, mut stamps) = (Correlator::new(), Stamps::new(self.ids.clone()));
        loop {
            let occurrence = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                next = queue.recv() => match next {
                    Some(occurrence) => occurrence,
                    None => return cancel.cancelled().await,
                },
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.record(&mut correlator, &mut stamps, occurrence) => {}
            }
        }
    }

    async fn record(&self, correlator: &mut Correlator, stamps: &mut Stamps, occurrence: Occurrence) {
        let at = occurrence.at;
        let Some(write) = correlator.observe(occurrence, || stamps.next(at)) else {
            return;
        };
        for attempt in 0..ATTEMPTS {
            match self.write(&write).await {
                Ok(()) => return,
                Err(error) if error.status().is_none() && error.is_retriable() => {
                    debug!(event = write.name, %error, attempt, "the event waits for the server");
                    sleep(self.ids.jitter(RETRY.wait(attempt))).await;
                }
                Err(error) => {
                    // As upstream: an event the server refuses, such as one in a namespace that ends, is let go.
                    debug!(event = write.name, %error, "the server refuses the event");
                    correlator.refused(&write);
                    return;
                }
            }
        }
        warn!(event = write.name, "the event could not be written and is dropped");
    }

    async fn write(&self, write: &Write) -> Result<(), Error> {
        let api = self.client.namespaced::<Event>(&write.namespace);
        if write.count > 1 {
            let last = Time(write.occurrence.at);
            let patch = json!({ "count": write.count, "lastTimestamp": last, "message": write.occurrence.message });
            match api.strategic_patch(&write.name, &patch).await {
                Ok(_) => return Ok(()),
                // It was collected meanwhile; it begins anew with its count.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        match api.create(&write.event()).await {
            Ok(_) => Ok(()),
            // An earlier attempt had its effect although its answer was lost.
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Write {
    fn event(&self) -> Event {
        let Occurrence { object, source, kind, reason, message, at } = &self.occurrence;
        Event {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: object.clone(),
            reason: Some(reason.clone()),
            message: Some(message.clone()),
            source: Some(k8s_openapi::api::core::v1::EventSource {
                component: Some(source.component.to_string()),
                host: Some(source.host.to_string()).filter(|host| !host.is_empty()),
            }),
            reporting_component: Some(source.component.to_string()),
            reporting_instance: Some(source.host.to_string()),
            type_: Some(kind.as_str().to_owned()),
            first_timestamp: Some(Time(self.first)),
            last_timestamp: Some(Time(*at)),
            count: Some(self.count),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests;
