//! What every controller is given, and how its informers feed its queue. Knows no controller.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::events::{EventType, Recorder, Source, reference};
use coracle_client::{Change, Client, Clock, Ids, Informer, Informers, Kind, OnExit, Outcome, TaskScope};
use futures::FutureExt as _;
use jiff::Timestamp;

use crate::time::until;

/// How long a write may go unseen before the controller looks again by itself. Usually the watch is quicker; this is for
/// what happened while the watch was broken, of which it never tells.
pub(crate) const UNSEEN_RECHECK: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) ids: Ids,
    pub(crate) scope: TaskScope,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
}

impl Context {
    pub(crate) fn new(
        client: Client,
        informers: Informers,
        clock: Arc<dyn Clock>,
        ids: Ids,
        scope: &TaskScope,
    ) -> Self {
        let source = Source { component: "controllers".into(), host: "".into() };
        let recorder = Recorder::new(&client, clock.clone(), ids.clone(), source, scope);
        Self { client, informers, ids, scope: scope.clone(), clock, recorder }
    }

    /// The context of one controller: its tasks and its requests carry its name.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self {
            client: self.client.clone().with_user_agent(name),
            recorder: self.recorder.for_component(name),
            scope: self.scope.child(name),
            ..self.clone()
        }
    }

    /// The same under another name in events, where upstream's events carry another one than its tasks.
    pub(crate) fn reporting_as(mut self, component: &str) -> Self {
        self.recorder = self.recorder.for_component(component);
        self
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn event<K: Kind>(&self, object: &K, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder.event(&reference(object), kind, reason, message);
    }

    /// Done until something changes, or until the given time.
    pub(crate) fn outcome(&self, wake: Option<Timestamp>) -> Outcome {
        match wake {
            None => Outcome::Done,
            // At least a moment: a deadline that has just passed must not spin.
            Some(at) => Outcome::RequeueAfter(until(at, self.now()).max(Duration::from_millis(1))),
        }
    }

    /// Calls `start` once, when `synced` has resolved.
    pub(crate) fn when<F>(&self, synced: F, start: impl FnOnce() + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut once = Some((synced.boxed(), start));
        self.scope.spawn("start", OnExit::Finish, move |cancel| {
            let once = once.take();
            async move {
                let Some((synced, start)) = once else { return };
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => {}
                    () = synced => start(),
                }
            }
        });
    }

    /// Tells `on` of every change, beginning with a `Resync`; it must not take long.
    pub(crate) fn feed<T>(&self, name: &str, informer: &Informer<T>, on: impl Fn(Change<T>) + Send + Sync + 'static)
    where
        T: coracle_client::Cached,
    {
        feed(&self.scope, name, informer, on);
    }
}

pub(crate) fn feed<T>(
    scope: &TaskScope,
    name: &str,
    informer: &Informer<T>,
    on: impl Fn(Change<T>) + Send + Sync + 'static,
) where
    T: coracle_client::Cached,
{
    let (informer, on) = (informer.clone(), Arc::new(on));
    scope.spawn(&format!("watch-{name}"), OnExit::restart(), move |cancel| {
        // A new subscription begins with a Resync: nothing is lost by a restart.
        let (mut changes, on) = (informer.subscribe(), on.clone());
        async move {
            loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    change = changes.next() => match change {
                        Some(change) => on(change),
                        None => return,
                    },
                }
            }
        }
    });
}
