//! Events are kept for an hour after their last change, as upstream keeps them. One task knows when each is due, from a
//! watch; it sleeps until the earliest deadline and deletes what nobody has changed since.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use coracle_api::meta::Revision;
use coracle_store::{Draft, Entry, EventKind, Key, Op, Prefix};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Registry;

const LIFE: Duration = Duration::from_secs(60 * 60);
const EVENTS: &str = "events";
/// Deleted in one commit.
const BATCH: usize = 256;

/// An Event as it was at a revision, and when that is too old. In the order of deadlines.
type Due = VecDeque<(Instant, Key, Revision)>;

impl Registry {
    /// Runs until cancelled, or until the watch falls behind (then it is to be run again).
    pub(crate) async fn expire_events(self: Arc<Self>, cancel: CancellationToken) {
        let (snapshot, mut watch) = self.store.snapshot_and_watch(Prefix::resource(EVENTS));
        // How old they are already is not known exactly and does not matter: after a start they get a full life.
        let start = Instant::now() + LIFE;
        let mut due: Due = snapshot
            .range(&Prefix::resource(EVENTS), None)
            .map(|entry| (start, entry.key.clone(), entry.revision))
            .collect();
        drop(snapshot);
        loop {
            let next = due.front().map(|(at, ..)| *at);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                event = watch.next() => {
                    let Some(Ok(event)) = event else { return };
                    if event.kind != EventKind::Deleted {
                        due.push_back((Instant::now() + LIFE, event.entry.key.clone(), event.entry.revision));
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.delete_due(&mut due).await,
            }
        }
    }

    async fn delete_due(&self, due: &mut Due) {
        let now = Instant::now();
        let snapshot = self.store.snapshot();
        let mut ops = Vec::new();
        while let Some((at, key, revision)) = due.front()
            && *at <= now
            && ops.len() < BATCH
        {
            // A later revision has its own place further back.
            if let Some(entry) = snapshot.get(key).filter(|entry| entry.revision == *revision) {
                ops.push((key.clone(), Op::Delete { expect: entry.revision, last: self.last_draft(entry) }));
            }
            due.pop_front();
        }
        if ops.is_empty() {
            return;
        }
        if let Err(error) = self.store.commit(ops).await {
            // An Event that changed meanwhile has a new deadline; what else failed is deleted by the next start's round.
            tracing::debug!(%error, "could not delete expired events");
        }
    }

    /// The stored bytes again, without their revision.
    fn last_draft(&self, entry: &Entry) -> Draft {
        let events = self.catalog.get("", "v1", EVENTS).expect("core/v1 Events are built in");
        let (json, revision_at) = events.header.without_revision(&entry.json);
        Draft {
            uid: entry.uid.clone(),
            labels: (*entry.labels).clone(),
            fields: entry.fields.clone(),
            json,
            revision_at,
        }
    }
}
