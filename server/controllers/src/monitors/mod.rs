//! A view of the metadata of every object that can be deleted: one informer for each resource that the server serves,
//! shared by the garbage collector and namespace deletion. Follows the server: when a custom resource or an aggregated
//! API comes or goes, so does its monitor.
//!
//! Costs one watch for each resource and nothing while nothing changes; kinds that the controllers watch anyway cost not
//! even that. Does not decide anything.

mod objects;

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::meta::{ObjectKey, split_api_version};
use coracle_client::{Error, OnExit, ResourceRef, TaskScope};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use self::objects::objects;
pub(crate) use self::objects::{Meta, Objects, Seen};
use crate::context::Context;
use crate::discovery::discover;

/// Objects that own nothing and are owned by nobody, and of which there are many.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];
/// Resources whose objects change what is served.
const DEFINING: [(&str, &str); 2] =
    [("apiextensions.k8s.io", "customresourcedefinitions"), ("apiregistration.k8s.io", "apiservices")];

type Listener = Box<dyn Fn(&Monitor, &Seen) + Send + Sync>;

pub(crate) struct Monitor {
    pub(crate) resource: ResourceRef,
    pub(crate) objects: Box<dyn Objects>,
    scope: TaskScope,
}

pub(crate) struct Monitors {
    context: Context,
    state: RwLock<State>,
    listeners: Mutex<Vec<Listener>>,
    rediscover: Arc<Notify>,
    discovered: coracle_client::watched::Sender<bool>,
}

#[derive(Default)]
struct State {
    monitors: BTreeMap<ResourceRef, Arc<Monitor>>,
    /// Every served group, version and kind, monitored or not.
    kinds: BTreeMap<(String, String), ResourceRef>,
}

impl Monitors {
    pub(crate) fn new(context: &Context) -> Arc<Self> {
        Arc::new(Self {
            context: context.clone(),
            state: RwLock::default(),
            listeners: Mutex::default(),
            rediscover: Arc::default(),
            discovered: coracle_client::watched::Sender::new(false),
        })
    }

    /// Tells `listener` of every change, each monitor's beginning with a `Resync`. Only before `start`.
    pub(crate) fn listen(&self, listener: impl Fn(&Monitor, &Seen) + Send + Sync + 'static) {
        self.listeners.lock().push(Box::new(listener));
    }

    /// Begins to watch, if anybody listens.
    pub(crate) fn start(self: &Arc<Self>) {
        let listeners: Arc<[Listener]> = std::mem::take(&mut *self.listeners.lock()).into();
        if listeners.is_empty() {
            return;
        }
        let this = self.clone();
        self.context.scope.spawn("discovery", OnExit::restart(), move |cancel| {
            let (this, listeners) = (this.clone(), listeners.clone());
            async move {
                loop {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return Ok::<(), Error>(()),
                        done = this.refresh(&listeners) => done?,
                    }
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return Ok(()),
                        () = this.rediscover.notified() => {}
                    }
                }
            }
        });
    }

    /// Resolves when all that is served is known and has been listed once.
    pub(crate) async fn synced(&self) {
        // The sender lives in `self`.
        let _ = self.discovered.subscribe().wait_for(|done| *done).await;
        for monitor in self.all() {
            monitor.objects.synced().await;
        }
    }

    /// Whether every monitor shows all there is: only then may anybody conclude that there is nothing.
    pub(crate) fn is_complete(&self) -> bool {
        *self.discovered.borrow() && self.state.read().monitors.values().all(|m| m.objects.is_synced())
    }

    pub(crate) fn all(&self) -> Vec<Arc<Monitor>> {
        self.state.read().monitors.values().cloned().collect()
    }

    pub(crate) fn of(&self, resource: &ResourceRef) -> Option<Arc<Monitor>> {
        self.state.read().monitors.get(resource).cloned()
    }

    /// The resource of a kind, if it is served in that version.
    pub(crate) fn resource_of(&self, api_version: &str, kind: &str) -> Option<ResourceRef> {
        self.state.read().kinds.get(&(api_version.to_owned(), kind.to_owned())).cloned()
    }

    /// The monitor that sees objects of this resource, be it through another version of it.
    pub(crate) fn seeing(&self, resource: &ResourceRef) -> Option<Arc<Monitor>> {
        let state = self.state.read();
        let same = |m: &&Arc<Monitor>| m.resource.group == resource.group && m.resource.plural == resource.plural;
        state.monitors.get(resource).or_else(|| state.monitors.values().find(same)).cloned()
    }

    /// Objects that name this UID as an owner. An owner in a namespace has dependents in that namespace only.
    pub(crate) fn dependents(&self, uid: &str, namespace: &str) -> Vec<(ResourceRef, Arc<Meta>)> {
        let mut found = Vec::new();
        for monitor in self.all() {
            let here = |m: &Arc<Meta>| namespace.is_empty() || m.meta().namespace.as_deref() == Some(namespace);
            let dependents = monitor.objects.by_owner(uid).into_iter().filter(here);
            found.extend(dependents.map(|m| (monitor.resource.clone(), m)));
        }
        found
    }

    async fn refresh(&self, listeners: &Arc<[Listener]>) -> Result<(), Error> {
        let discovered = discover(&self.context.client).await?;
        let mut wanted = BTreeMap::new();
        let mut kinds = BTreeMap::new();
        for served in &discovered.served {
            let resource = &served.resource;
            let (group, plural) = (&*resource.group, &*resource.plural);
            kinds.insert((resource.api_version(), resource.kind.to_string()), resource.clone());
            let deletable = ["list", "watch", "delete"].iter().all(|verb| served.can(verb));
            if served.preferred && deletable && !IGNORED.contains(&(group, plural)) {
                wanted.insert(resource.clone(), ());
            }
        }
        let stale: Vec<(&str, &str)> = discovered.stale.iter().map(|gv| split_api_version(gv)).collect();
        let gone: Vec<Arc<Monitor>> = {
            let mut state = self.state.write();
            let is_stale = |r: &ResourceRef| stale.contains(&(&*r.group, &*r.version));
            // What a silent server serves is not known to be gone.
            kinds.extend(state.kinds.iter().filter(|(_, r)| is_stale(r)).map(|(k, r)| (k.clone(), r.clone())));
            state.kinds = kinds;
            let gone: Vec<_> = state
                .monitors
                .values()
                .filter(|m| !wanted.contains_key(&m.resource) && !is_stale(&m.resource))
                .cloned()
                .collect();
            state.monitors.retain(|_, m| !gone.iter().any(|g| g.resource == m.resource));
            gone
        };
        for monitor in gone {
            tracing::info!(resource = %monitor.resource.group_resource(), "is no longer served");
            monitor.scope.cancel();
            monitor.objects.forget(&self.context.informers);
        }
        for resource in wanted.into_keys() {
            if self.of(&resource).is_none() {
                self.add(resource, listeners);
            }
        }
        self.discovered.send_replace(true);
        Ok(())
    }

    fn add(&self, resource: ResourceRef, listeners: &Arc<[Listener]>) {
        let objects = objects(&self.context.informers, &resource);
        let name = format!("{}.{}", resource.group_resource(), resource.version);
        let monitor = Arc::new(Monitor { scope: self.context.scope.child(&name), resource, objects });
        self.state.write().monitors.insert(monitor.resource.clone(), monitor.clone());
        let defines = DEFINING.contains(&(&*monitor.resource.group, &*monitor.resource.plural));
        let rediscover = self.rediscover.clone();
        // Not the monitor itself: that holds the scope in which this runs.
        let (this, listeners) = (Arc::downgrade(&monitor), listeners.clone());
        let tell = move |change: Seen| {
            let Some(this) = this.upgrade() else { return };
            listeners.iter().for_each(|listen| listen(&this, &change));
            if defines && !matches!(change, Seen::Resync) {
                rediscover.notify_one();
            }
        };
        monitor.objects.feed(&monitor.scope, Arc::new(tell));
    }
}

/// An object of some resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Item {
    pub(crate) resource: ResourceRef,
    pub(crate) key: ObjectKey,
}
