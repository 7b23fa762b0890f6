//! What is taken of the Services' addresses and ports: an index over the stored Services that follows their changes, and
//! the claims of writes that are under way.
//!
//! ```text
//!             claim                     the commit can be seen, or failed
//!   free ────────────► claimed ─────────────────────────────────────────► taken by a stored Service, or free
//! ```
//!
//! A claim goes into the commit and ends with it, not with the request that asked for it: a client that leaves early
//! frees nothing that may yet be committed. The index is of the store's own changes, so nothing leaks or goes stale.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_api::object::Object;
use coracle_api::status::Status;
use coracle_store::{EventKind, Key, Prefix, Store, Watch};
use parking_lot::Mutex;
use serde_json::Value;

use crate::registry::codec;

/// Addresses and ports of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    addresses: Vec<Ipv4Addr>,
    ports: Vec<u16>,
}

#[derive(Default)]
pub(super) struct Book(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    /// Behind it is everything that `services` does not show yet; none before the first look.
    changes: Option<Watch>,
    services: HashMap<Key, Numbers>,
    /// Who has it. Two may, if a store of another release says so.
    addresses: HashMap<Ipv4Addr, HashSet<Key>>,
    ports: HashMap<u16, HashSet<Key>>,
    claims: Vec<(u64, Key, Numbers)>,
    next_claim: u64,
}

/// Holds addresses and ports until it is dropped.
pub struct Claim {
    book: Arc<Book>,
    number: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.book.0.lock().claims.retain(|(number, ..)| *number != self.number);
    }
}

/// What others have.
pub(super) struct Taken<'a> {
    pages: &'a Pages,
    own: &'a Key,
}

impl Taken<'_> {
    pub(super) fn address(&self, address: Ipv4Addr) -> bool {
        let stored = self.pages.addresses.get(&address).is_some_and(|who| who.iter().any(|key| key != self.own));
        stored || self.claimed(|numbers| numbers.addresses.contains(&address))
    }

    pub(super) fn port(&self, port: u16) -> bool {
        let stored = self.pages.ports.get(&port).is_some_and(|who| who.iter().any(|key| key != self.own));
        stored || self.claimed(|numbers| numbers.ports.contains(&port))
    }

    /// Claims of the same Service do not count: of several writes of one name at most one is committed.
    fn claimed(&self, has: impl Fn(&Numbers) -> bool) -> bool {
        self.pages.claims.iter().any(|(_, key, numbers)| key != self.own && has(numbers))
    }
}

impl Book {
    /// Lets `choose` choose among what is free for `own`, and claims what it chose.
    pub(super) fn claim(
        self: &Arc<Self>,
        store: &Store,
        own: &Key,
        choose: impl FnOnce(&Taken<'_>) -> Result<Numbers, Status>,
    ) -> Result<Claim, Status> {
        let mut pages = self.0.lock();
        pages.follow(store)?;
        let chosen = choose(&Taken { pages: &pages, own })?;
        let number = pages.next_claim;
        pages.next_claim += 1;
        pages.claims.push((number, own.clone(), chosen));
        Ok(Claim { book: self.clone(), number })
    }
}

impl Pages {
    /// Takes in what has changed since the last look.
    fn follow(&mut self, store: &Store) -> Result<(), Status> {
        while let Some(changes) = &mut self.changes {
            match changes.try_next() {
                None => return Ok(()),
                Some(Ok(event)) => {
                    self.strike(&event.entry.key);
                    match event.kind {
                        EventKind::Added | EventKind::Modified => {
                            let numbers = codec::object(&event.entry).map(|service| numbers_of(&service));
                            // Begun anew next time: an index with a gap would give out what is taken.
                            self.changes = numbers.is_ok().then(|| self.changes.take()).flatten();
                            self.enter(event.entry.key.clone(), numbers?);
                        }
                        EventKind::Deleted => {}
                    }
                }
                // More has changed than the store keeps: from the beginning.
                Some(Err(_lagged)) => self.changes = None,
            }
        }
        let (snapshot, changes) = store.snapshot_and_watch(Prefix::resource("services"));
        self.services.clear();
        self.addresses.clear();
        self.ports.clear();
        for entry in snapshot.range(&Prefix::resource("services"), None) {
            let numbers = numbers_of(&codec::object(entry)?);
            self.enter(entry.key.clone(), numbers);
        }
        self.changes = Some(changes);
        Ok(())
    }

    fn enter(&mut self, key: Key, numbers: Numbers) {
        for address in &numbers.addresses {
            self.addresses.entry(*address).or_default().insert(key.clone());
        }
        for port in &numbers.ports {
            self.ports.entry(*port).or_default().insert(key.clone());
        }
        self.services.insert(key, numbers);
    }

    fn strike(&mut self, key: &Key) {
        let Some(numbers) = self.services.remove(key) else { return };
        for address in numbers.addresses {
            leave(&mut self.addresses, &address, key);
        }
        for port in numbers.ports {
            leave(&mut self.ports, &port, key);
        }
    }
}

fn leave<N: std::hash::Hash + Eq>(who: &mut HashMap<N, HashSet<Key>>, number: &N, key: &Key) {
    if let Some(keys) = who.get_mut(number) {
        keys.remove(key);
        if keys.is_empty() {
            who.remove(number);
        }
    }
}

pub(super) fn numbers_of(service: &Object) -> Numbers {
    let single = service.field(&["spec", "clusterIP"]);
    let listed = service.list(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    let mut addresses: Vec<Ipv4Addr> = listed.chain(single).filter_map(|text| text.parse().ok()).collect();
    addresses.dedup();
    let health = service.int(&["spec", "healthCheckNodePort"]);
    let ports = service.list(&["spec", "ports"]).iter().cloned().filter_map(|port| Object::from_value(port).ok());
    let ports = ports.filter_map(|port| port.int(&["nodePort"])).chain(health);
    let ports = ports.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port > 0).collect();
    Numbers { addresses, ports }
}
