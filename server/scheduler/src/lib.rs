//! The scheduler: gives each pod that has no node the best node that does, and says why when none does.
//!
//! Deciding is synchronous and pure ([`schedule()`], [`preempt()`]) over a [`Snapshot`] that informers keep up; one task
//! owns snapshot and queue and carries decisions out through the API, as a scheduler outside would. It knows no store
//! and no server. A new concern is a new file in `plugins` and a line in [`Profile::standard`].

mod effects;
mod framework;
mod info;
pub mod plugins;
mod preempt;
mod queue;
mod resources;
mod schedule;
mod snapshot;
mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coracle_client::events::{Recorder, Source};
use coracle_client::{Client, Clock, Ids, Informers, OnExit, TaskScope};

pub use framework::{
    Configured, DEFAULT_SCHEDULER, Happened, MAX_SCORE, Normalize, Plugin, PreFilter, Profile, Rejection,
};
pub use info::{HostPort, NodeInfo, PodInfo};
pub use preempt::{Budget, Preemption, preempt};
pub use resources::{Requests, Resources};
pub use schedule::{Chance, Decision, Diagnosis, schedule};
pub use snapshot::Snapshot;

/// What pods this process schedules, and how.
pub struct SchedulerConfig {
    pub profiles: Vec<Profile>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { profiles: vec![Profile::standard()] }
    }
}

/// Starts the scheduler in `scope`.
pub fn start(
    config: SchedulerConfig,
    client: &Client,
    informers: &Informers,
    clock: &Arc<dyn Clock>,
    ids: &Ids,
    scope: &TaskScope,
) {
    let scope = scope.child("scheduler");
    let recorder = |profile: &Profile| {
        let source = Source { component: profile.scheduler_name.as_str().into(), host: "".into() };
        Recorder::new(client, clock.clone(), ids.clone(), source, &scope)
    };
    let recorders: Arc<[Recorder]> = config.profiles.iter().map(recorder).collect();
    let profiles: Arc<[Profile]> = config.profiles.into();
    let (client, informers, clock, ids) = (client.clone(), informers.clone(), clock.clone(), ids.clone());
    scope.spawn("decide", OnExit::restart(), move |cancel| {
        // A restart begins with nothing and learns all of it from the informers.
        let context = task::Context {
            profiles: profiles.clone(),
            client: client.clone(),
            informers: informers.clone(),
            clock: clock.clone(),
            ids: ids.clone(),
            recorders: recorders.clone(),
        };
        task::run(context, cancel)
    });
}
