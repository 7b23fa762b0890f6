//! The state of a cluster as a log of revisions.
//!
//! One SQLite file holds a log: each row is one change of one object, and the row's number is that object's
//! resourceVersion. The newest row of a key is its current state, so an object's bytes are written once and there is no
//! second table to keep in step. One writer takes whatever is waiting into one transaction (one sync of the disk for
//! many writes), publishes to memory after the commit, then answers. Everybody reads from memory:
//!
//! ```text
//!  commit() ─► queue ─► writer ─► SQLite (WAL, synchronous=FULL)
//!                          │ after the commit
//!                          ▼
//!                         hub: current state (persistent maps) + recent events ─► snapshot(), snapshot_at(), watch()
//! ```
//!
//! Leases and Events are a volatile tier: the same revisions, snapshots and watches, but in memory only, written every
//! few minutes. A block of revisions is reserved on disk before the volatile tier uses it, so no revision is given
//! twice, whatever happens to the power.
//!
//! This crate knows no Kubernetes kind: keys, labels, selectable fields and encoded bytes come from its caller.

mod disk;
mod entry;
mod error;
mod hub;
mod kept;
mod lock;
mod pending;
mod queue;
mod rows;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod text;
mod watch;
mod writer;

pub use entry::{Draft, Entry, Event, EventKind, Fields, Key, Labels, Op, Paths, Prefix};
pub use error::{CommitError, Lagged, OpenError, SnapshotError, WatchError};
pub use queue::Held;
pub use state::Snapshot;
pub use store::{Mode, Stats, Store, StoreConfig};
pub use watch::Watch;
