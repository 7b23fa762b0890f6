//! Which endpoint a client gets: round robin, or the one it had before. No I/O.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::plan::Backends;

/// Clients whose endpoint is remembered for one listener; beyond that the one that was away longest is forgotten.
const MAX_STICKY: usize = 10_000;

/// The shared state of a listener: replaced as a whole when endpoints change, read by each new connection.
pub(super) struct Balancer {
    state: Mutex<State>,
}

struct State {
    backends: Backends,
    next: usize,
    sticky: BTreeMap<IpAddr, Sticky>,
}

struct Sticky {
    endpoint: SocketAddr,
    used: Instant,
}

impl Balancer {
    pub(super) fn new(backends: Backends) -> Self {
        Self { state: Mutex::new(State { backends, next: 0, sticky: BTreeMap::new() }) }
    }

    pub(super) fn replace(&self, backends: Backends) {
        let mut state = self.state.lock();
        if backends.affinity.is_none() {
            state.sticky.clear();
        }
        state.sticky.retain(|_, sticky| backends.endpoints.contains(&sticky.endpoint));
        state.backends = backends;
    }

    /// Whether connections may still go to this endpoint.
    pub(super) fn has(&self, endpoint: SocketAddr) -> bool {
        self.state.lock().backends.endpoints.binary_search(&endpoint).is_ok()
    }

    /// The endpoints to try for a new connection, each once, best first.
    pub(super) fn candidates(&self, client: IpAddr, now: Instant) -> Vec<SocketAddr> {
        let mut state = self.state.lock();
        let count = state.backends.endpoints.len();
        if count == 0 {
            return Vec::new();
        }
        let first = match state.remembered(client, now) {
            Some(index) => index,
            None => {
                let index = state.next % count;
                state.next = index + 1;
                index
            }
        };
        let endpoints = &state.backends.endpoints;
        endpoints[first..].iter().chain(&endpoints[..first]).copied().collect()
    }

    /// The client was connected to this endpoint.
    pub(super) fn connected(&self, client: IpAddr, endpoint: SocketAddr, now: Instant) {
        let mut state = self.state.lock();
        let Some(timeout) = state.backends.affinity else { return };
        if state.sticky.len() >= MAX_STICKY && !state.sticky.contains_key(&client) {
            state.make_room(timeout, now);
        }
        state.sticky.insert(client, Sticky { endpoint, used: now });
    }

    /// The endpoint the client had does not answer.
    pub(super) fn refused(&self, client: IpAddr, endpoint: SocketAddr) {
        let mut state = self.state.lock();
        if state.sticky.get(&client).is_some_and(|sticky| sticky.endpoint == endpoint) {
            state.sticky.remove(&client);
        }
    }
}

impl State {
    fn remembered(&self, client: IpAddr, now: Instant) -> Option<usize> {
        let timeout = self.backends.affinity?;
        let sticky = self.sticky.get(&client).filter(|sticky| now.duration_since(sticky.used) < timeout)?;
        self.backends.endpoints.binary_search(&sticky.endpoint).ok()
    }

    fn make_room(&mut self, timeout: Duration, now: Instant) {
        self.sticky.retain(|_, sticky| now.duration_since(sticky.used) < timeout);
        while self.sticky.len() >= MAX_STICKY
            && let Some(oldest) = self.sticky.iter().min_by_key(|(_, sticky)| sticky.used).map(|(client, _)| *client)
        {
            self.sticky.remove(&oldest);
        }
    }
}
