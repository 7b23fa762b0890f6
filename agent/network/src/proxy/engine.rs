//! Carries a plan out: opens, updates and closes listeners, and tries again those that could not be opened.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_client::{
    Backoff, OnExit, TaskScope,
    events::{EventType, Recorder},
};
use k8s_openapi::api::core::v1::ObjectReference;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use super::{
    Backends, Change, Listener, ListenerState, ProxyConfig, Status,
    balance::Balancer,
    diff,
    tcp::{self, Tcp},
    udp::{self, Datagram, Udp},
};
use crate::socket::{BindError, Protocol, listen_tcp, listen_udp};

const RETRY: Backoff =
    Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(60), reset_after: Duration::MAX };

pub(super) struct Engine {
    config: ProxyConfig,
    scope: TaskScope,
    recorder: Option<Recorder>,
    status: watch::Sender<Arc<Status>>,
    datagram: Datagram,
    /// What was asked for; `open` and `failed` together have the same listeners.
    current: BTreeMap<Listener, Backends>,
    open: BTreeMap<Listener, Open>,
    failed: BTreeMap<Listener, Failed>,
    plans: u64,
    /// Should the proxy's own task fail, its listeners end with it, and the next run begins with none.
    _end: DropGuard,
}

struct Open {
    balancer: Arc<Balancer>,
    closed: CancellationToken,
    udp: Option<Arc<Udp>>,
}

struct Failed {
    reason: String,
    attempts: u32,
    again: Instant,
}

impl Engine {
    pub(super) fn new(
        config: ProxyConfig,
        scope: TaskScope,
        recorder: Option<Recorder>,
        status: watch::Sender<Arc<Status>>,
    ) -> Self {
        Self {
            config,
            _end: scope.token().clone().drop_guard(),
            scope,
            recorder,
            status,
            datagram: udp::datagram(),
            current: BTreeMap::new(),
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
            plans: 0,
        }
    }

    pub(super) fn apply(&mut self, desired: BTreeMap<Listener, Backends>) {
        for change in diff(&self.current, &desired) {
            match change {
                Change::Open(listener, backends) => self.open(listener, &backends, 0),
                Change::Update(listener, backends) => self.update(listener, backends),
                Change::Close(listener) => self.close(listener),
            }
        }
        self.current = desired;
        self.plans += 1;
        self.report();
    }

    /// When the next failed listener is to be tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.failed.values().map(|failed| failed.again).min()
    }

    pub(super) fn retry(&mut self) {
        let now = Instant::now();
        let due: Vec<_> =
            self.failed.iter().filter(|(_, f)| f.again <= now).map(|(listener, f)| (*listener, f.attempts)).collect();
        for (listener, attempts) in due {
            if let Some(backends) = self.current.get(&listener).cloned() {
                self.open(listener, &backends, attempts);
            }
        }
        self.report();
    }

    fn open(&mut self, listener: Listener, backends: &Backends, attempts: u32) {
        match self.listen(listener, backends) {
            Ok(open) => {
                debug!(%listener, service = %backends.service, endpoints = backends.endpoints.len(), "listening");
                if self.failed.remove(&listener).is_some() {
                    info!(%listener, service = %backends.service, "the port could be opened at last");
                }
                self.open.insert(listener, open);
            }
            Err(error) => self.failed(listener, backends, &error, attempts),
        }
    }

    fn listen(&self, listener: Listener, backends: &Backends) -> Result<Open, BindError> {
        let balancer = Arc::new(Balancer::new(backends.clone()));
        let closed = CancellationToken::new();
        let name = listener.to_string();
        let udp = match listener.protocol {
            Protocol::Tcp => {
                let socket = listen_tcp(listener.socket_address(), true)?;
                let tcp = Arc::new(Tcp {
                    listener,
                    socket: Mutex::new(Some(Arc::new(socket))),
                    closed: closed.clone(),
                    balancer: balancer.clone(),
                    max_connections: self.config.max_connections,
                });
                self.scope.spawn(&name, OnExit::Finish, move |cancel| tcp::run(tcp.clone(), cancel));
                None
            }
            Protocol::Udp => {
                let udp = Arc::new(Udp {
                    listener,
                    socket: listen_udp(listener.socket_address(), true)?,
                    closed: closed.clone(),
                    changed: Notify::new(),
                    balancer: balancer.clone(),
                    config: self.config,
                    datagram: self.datagram.clone(),
                });
                let task = udp.clone();
                self.scope.spawn(&name, OnExit::Finish, move |cancel| udp::run(task.clone(), cancel));
                Some(udp)
            }
        };
        Ok(Open { balancer, closed, udp })
    }

    fn failed(&mut self, listener: Listener, backends: &Backends, error: &BindError, attempts: u32) {
        let reason = error.to_string();
        let news = self.failed.get(&listener).is_none_or(|failed| failed.reason != reason);
        if news {
            warn!(%listener, service = %backends.service, %error, "a service's port cannot be opened, it is tried again");
            if let Some(recorder) = &self.recorder {
                let service = ObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Service".to_owned()),
                    namespace: Some(backends.service.namespace.to_string()),
                    name: Some(backends.service.name.to_string()),
                    uid: Some(backends.uid.to_string()).filter(|uid| !uid.is_empty()),
                    ..ObjectReference::default()
                };
                recorder.event(&service, EventType::Warning, "PortNotAvailable", reason.clone());
            }
        }
        let again = Instant::now() + RETRY.wait(attempts);
        self.failed.insert(listener, Failed { reason, attempts: attempts + 1, again });
    }

    fn update(&mut self, listener: Listener, backends: Backends) {
        if let Some(open) = self.open.get(&listener) {
            open.balancer.replace(backends);
            if let Some(udp) = &open.udp {
                udp.changed.notify_one();
            }
        }
    }

    fn close(&mut self, listener: Listener) {
        self.failed.remove(&listener);
        if let Some(open) = self.open.remove(&listener) {
            debug!(%listener, "not listening any more");
            open.closed.cancel();
        }
    }

    fn report(&self) {
        let open = self.open.keys().map(|listener| (*listener, ListenerState::Open));
        let failed = self.failed.iter().map(|(l, failed)| (*l, ListenerState::Failed(failed.reason.clone())));
        self.status.send_replace(Arc::new(Status { plans: self.plans, listeners: open.chain(failed).collect() }));
    }
}
