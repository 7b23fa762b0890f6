//! Gives out pod addresses from the node's range. No I/O: what is in use is in the sandboxes' records.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

#[derive(Debug, Default)]
pub(super) struct Addresses {
    range: Option<Ipv4Net>,
    used: HashSet<Ipv4Addr>,
    /// The one given out last: an address that was just freed is not reused at once, while others may still know it.
    last: Option<Ipv4Addr>,
}

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAddress {
    #[error("the pod network is not ready: no pod range is known yet (UpdateRuntimeConfig gives it)")]
    NoRange,
    #[error("the pod range {0} is used up")]
    UsedUp(Ipv4Net),
}

impl Addresses {
    pub(super) fn range(&self) -> Option<Ipv4Net> {
        self.range
    }

    /// The node's own, which no pod gets.
    pub(super) fn node(&self) -> Option<Ipv4Addr> {
        self.range.and_then(|range| range.hosts().next())
    }

    /// Addresses of another range that are in use stay with their pods.
    pub(super) fn set_range(&mut self, range: Ipv4Net) {
        if self.range != Some(range) {
            self.range = Some(range);
            self.last = None;
        }
    }

    pub(super) fn mark_used(&mut self, address: Ipv4Addr) {
        self.used.insert(address);
    }

    pub(super) fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }

    /// The next free one. The first host of the range is the node itself.
    pub(super) fn allocate(&mut self) -> Result<Ipv4Addr, NoAddress> {
        let range = self.range.ok_or(NoAddress::NoRange)?;
        let first = u32::from(range.network()).saturating_add(2);
        let last = u32::from(range.broadcast()).saturating_sub(1);
        if first > last {
            return Err(NoAddress::UsedUp(range));
        }
        let count = last - first + 1;
        let start = match self.last.map(u32::from) {
            Some(before) if (first..last).contains(&before) => before + 1,
            Some(_) | None => first,
        };
        for step in 0..count {
            let candidate = Ipv4Addr::from(first + (start - first + step) % count);
            if self.used.insert(candidate) {
                self.last = Some(candidate);
                return Ok(candidate);
            }
        }
        Err(NoAddress::UsedUp(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(range: &str) -> Addresses {
        let mut addresses = Addresses::default();
        addresses.set_range(range.parse().expect("a range"));
        addresses
    }

    fn next(addresses: &mut Addresses) -> String {
        match addresses.allocate() {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn network_node_and_broadcast_are_left_out_and_the_freed_one_comes_last() {
        let mut addresses = addresses("10.0.0.0/29");
        let all: Vec<String> = (0..5).map(|_| next(&mut addresses)).collect();
        assert_eq!(all, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(next(&mut addresses), "the pod range 10.0.0.0/29 is used up");
        addresses.release(Ipv4Addr::new(10, 0, 0, 3));
        addresses.release(Ipv4Addr::new(10, 0, 0, 6));
        assert_eq!(next(&mut addresses), "10.0.0.3");
        assert_eq!(next(&mut addresses), "10.0.0.6");
    }

    #[test]
    fn a_freed_address_rests() {
        let mut addresses = addresses("127.42.16.0/20");
        assert_eq!(next(&mut addresses), "127.42.16.2");
        addresses.release(Ipv4Addr::new(127, 42, 16, 2));
        assert_eq!(next(&mut addresses), "127.42.16.3");
    }

    #[test]
    fn what_runs_keeps_its_address_over_a_restart() {
        let mut addresses = addresses("10.0.0.0/29");
        addresses.mark_used(Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(next(&mut addresses), "10.0.0.3");
    }

    #[test]
    fn without_a_range_there_is_none() {
        assert_eq!(Addresses::default().allocate(), Err(NoAddress::NoRange));
        assert_eq!(next(&mut addresses("10.0.0.0/31")), "the pod range 10.0.0.0/31 is used up");
    }
}
