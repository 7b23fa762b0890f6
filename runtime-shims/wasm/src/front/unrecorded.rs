//! Ends of containers that could not be written down, mostly because a disk is full. Part of [`Pods`].
//!
//! ```text
//! reported ──▶ on record ──▶ forgotten by its worker
//!     └──(the disk is full)──▶ unrecorded ──(tried again)──▶ on record
//! ```
//!
//! The worker keeps such an end for the next front, to which the record says that the container runs. So it has to stay,
//! though nothing runs in it.

use std::sync::Arc;
use std::time::Duration;

use super::pods::Pods;
use super::state::State;

/// Between two tries. A full disk stays full for long.
const PAUSE: Duration = Duration::from_secs(5);

impl Pods {
    /// Writes ends down that could not be, for as long as it takes. Runs until the front stops.
    pub(super) async fn record_ends(self: Arc<Pods>) {
        loop {
            let later = async {
                if self.try_to_record_ends() {
                    tokio::time::sleep(PAUSE).await;
                } else {
                    self.unrecorded_more.notified().await;
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = later => {}
            }
        }
    }

    /// Whether there are still some left.
    fn try_to_record_ends(&self) -> bool {
        let mut guard = self.state.lock();
        let State { containers, unrecorded, .. } = &mut *guard;
        let before = unrecorded.len();
        unrecorded.retain(|id, generation| {
            // For one that was removed nobody asks any more.
            let fails =
                containers.get(id).is_some_and(|container| self.records.save_container(&container.record).is_err());
            if !fails && let Some(link) = self.workers.get(*generation) {
                link.acknowledge(id.clone());
            }
            fails
        });
        if unrecorded.len() < before {
            tracing::info!(
                written = before - unrecorded.len(),
                left = unrecorded.len(),
                "ends of containers are on record"
            );
            self.workers.emptier.notify_one();
        }
        !unrecorded.is_empty()
    }
}
