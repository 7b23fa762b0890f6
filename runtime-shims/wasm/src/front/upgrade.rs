//! Leaves workers of an earlier build, while pods serve. Part of [`Pods`].
//!
//! ```text
//!        old worker                    new worker
//!  lends the listening socket ───────▶ starts the guest on it      both answer now
//!  finishes its requests               on record as its worker
//!  forgets the guest                   serves alone
//! ```
//!
//! Guests that are not served by the front's own listening socket cannot be moved: they go on where they are until they
//! end. The old worker ends with the last of them.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::domain::Domain;
use super::link::Link;
use super::pods::Pods;
use super::prepare::Made;
use crate::wire::Answer;

/// What requests get to finish in a worker that is left.
pub(super) const DRAIN_MS: u64 = 600_000;
/// Containers that are moved at once.
const AT_ONCE: usize = 4;

/// A volume of which nothing is heard for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const SILENT: &str = "one of its volumes does not answer";

/// Why a container stays where it is.
#[derive(Debug, thiserror::Error)]
enum Stays {
    #[error("it ended meanwhile")]
    Ended,
    #[error("{0}")]
    Failed(String),
}

impl Pods {
    /// Moves what can be moved out of workers of other builds or settings, and lets them end when they are empty.
    pub(super) async fn leave_old_workers(self: &Arc<Pods>) {
        for link in self.workers.all() {
            if self.is_current(&link).await {
                continue;
            }
            // Also for those who stop what is moved meanwhile.
            link.set_retired();
            let containers = self.movable(&link);
            tracing::info!(
                worker = link.record.id,
                build = link.record.build,
                http = containers.len(),
                "leaving a worker of another build, or with another engine"
            );
            let old = &link;
            futures::stream::iter(containers)
                .for_each_concurrent(AT_ONCE, |id| async move {
                    match self.relocate(&id, old).await {
                        Ok(()) => tracing::debug!(container = id, "moved to a worker of this build"),
                        Err(why @ Stays::Ended) => tracing::debug!(container = id, %why, "not moved"),
                        Err(why @ Stays::Failed(_)) => {
                            tracing::warn!(container = id, %why, "the container stays in a worker of an earlier build");
                        }
                    }
                })
                .await;
            link.retire().await;
            // Nothing ended, and yet it may be empty.
            self.workers.emptier.notify_one();
        }
    }

    /// Removes machine code of settings that nothing runs under any more.
    pub(super) async fn forget_outdated_code(&self) {
        let used = self.workers.all().iter().map(|link| link.record.settings.clone()).collect::<Option<HashSet<_>>>();
        // A worker of which it is not known may need any of it.
        let Some(used) = used else { return };
        if let Err(error) = self.compiler.keep_only(&used).await {
            tracing::warn!(%error, "outdated machine code cannot be removed");
        }
    }

    fn movable(&self, link: &Link) -> Vec<String> {
        let state = self.state.lock();
        let served = state.containers.values().filter(|container| {
            container.generation == Some(link.generation) && container.is_running() && container.record.http.is_some()
        });
        served.map(|container| container.record.id.clone()).collect()
    }

    async fn relocate(self: &Arc<Pods>, id: &str, old: &Arc<Link>) -> Result<(), Stays> {
        let failed = |error: &dyn std::fmt::Display| Stays::Failed(error.to_string());
        let found = {
            let state = self.state.lock();
            state.containers.get(id).map(|container| (container.turn.clone(), container.record.clone()))
        };
        let (turn, record) = found.ok_or(Stays::Ended)?;
        // Compiling takes long, and whoever wants to stop the container should not wait for it.
        let image = self.image_run_by(&record).await.map_err(|status| failed(&status.message()))?;
        let compiled = self.compiled(&image).await.map_err(|status| failed(&status.message()))?;
        let _turn = turn.lock().await;
        let record = {
            let state = self.state.lock();
            let container = state.containers.get(id).filter(|container| container.is_running() && !container.stopping);
            container.filter(|container| container.generation == Some(old.generation)).map(|found| found.record.clone())
        };
        let record = record.ok_or(Stays::Ended)?;
        let (_, sandbox) = self.sandbox(&record.sandbox).map_err(|_stopping| Stays::Ended)?;
        let made = Arc::new(Made { sandbox, record, image, compiled });
        let listener = old.borrow_listener(id).await.map_err(|error| failed(&error))?;
        let preparing = self.prepare(made.clone(), Some(listener));
        // Others are to be moved too, and whoever stops this one waits for its turn.
        let prepared =
            tokio::time::timeout(PATIENCE, preparing).await.unwrap_or_else(|_elapsed| Err(SILENT.to_owned()));
        let prepared = prepared.map_err(Stays::Failed)?;
        let fds: Vec<_> = prepared.fds.iter().map(|fd| fd.as_fd()).collect();
        let (new, started) = loop {
            let lease = self.worker_for(&made.sandbox).await.map_err(|error| failed(&error))?;
            let new = lease.link.clone();
            // Should it end there before it is on record there, that is no end of the container.
            self.state.lock().begin_move(id, new.generation);
            drop(lease);
            let ends = new.ends();
            match new.order(self.start_order(&made, &prepared, &new), &fds).await {
                Ok(Answer::Full(_)) => {
                    self.state.lock().abandon_move(id);
                    new.was_full(ends);
                }
                other => break (new, other),
            }
        };
        let moved = started.is_ok() && self.settle(id, old, &new);
        if !moved {
            self.state.lock().abandon_move(id);
            new.forget(id, 0).await;
            return Err(started.err().map_or(Stays::Ended, |error| failed(&error)));
        }
        old.forget(id, DRAIN_MS).await;
        Ok(())
    }

    /// Requests of a container that workers of earlier builds still serve, since it was moved, end with it.
    pub(super) async fn forget_elsewhere(&self, id: &str, grace_ms: u64) {
        let others: Vec<Arc<Link>> = {
            let state = self.state.lock();
            let Some(container) = state.containers.get(id) else { return };
            let domain = state.sandboxes.get(&container.record.sandbox).map(Domain::of);
            let is_other = |link: &Arc<Link>| {
                link.is_retired()
                    && Some(link.generation) != container.generation
                    && Some(&link.record.domain) == domain.as_ref()
            };
            self.workers.all().into_iter().filter(is_other).collect()
        };
        futures::future::join_all(others.iter().map(|link| link.forget(id, grace_ms))).await;
    }

    /// The new worker has it from now on.
    fn settle(&self, id: &str, old: &Link, new: &Link) -> bool {
        let mut state = self.state.lock();
        let Some(container) = state.containers.get_mut(id) else { return false };
        if !container.is_running()
            || container.generation != Some(old.generation)
            || container.moving.take() != Some(new.generation)
        {
            return false;
        }
        container.generation = Some(new.generation);
        container.record.worker = Some(new.record.id.clone());
        if let Err(error) = self.records.save_container(&container.record) {
            // A later front would look for it in the old worker and find it lost: no restart before that.
            tracing::error!(container = id, %error, "cannot record where a container runs");
        }
        true
    }
}
