//! coracle-client: how every part of Coracle reaches the API, in one process or over the network.
//!
//! Owns the client over any tower service, watches and informers, the work queue and `drive()`, supervised tasks, the
//! event recorder, and the injected clock and ids. It knows the API's semantics and none of the server's insides.
//! Everything here works on a current-thread runtime with paused time and is deterministic for a seed.

mod api;
mod body;
mod cache;
mod client;
mod clock;
mod dynamic;
mod error;
pub mod events;
mod ids;
mod informer;
mod kinds;
mod params;
mod pod;
mod queue;
mod reflector;
mod remote;
mod resource;
mod scope;
mod shared;
#[cfg(test)]
mod testing;
pub mod upgrade;
mod watch;
pub mod watched;

pub use api::{Api, List};
pub use body::{Body, BoxError, empty as empty_body, full as full_body};
pub use client::Client;
pub use clock::{Clock, SystemClock, TokioClock};
pub use dynamic::DynamicApi;
pub use error::Error;
pub use ids::{IdSource, Ids, RandomIds, suffix_of};
pub use informer::{Change, Changes, Index, Informer, Informers};
pub use kinds::Wire;
pub use params::{DeleteParams, ListParams, Preconditions, Propagation, WatchParams};
pub use pod::Pod;
pub use queue::{Outcome, WorkQueue, drive};
pub use remote::{ConnectError, Identity, Remote, RemoteConfig, fetch_ca, tls_without_trust};
pub use resource::{Cached, Kind, PartialObjectMetadata, ResourceRef, is_namespaced, key_of};
pub use scope::{Backoff, Fatal, OnExit, TaskInfo, TaskOutput, TaskScope, TaskState};
pub use shared::Shared;
pub use watch::{Unreadable, WatchEvent, WatchStream};
