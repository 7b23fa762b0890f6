//! Cuts the cluster's address range into one piece for each node. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The pieces of `cluster`, each of `mask` bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranges {
    cluster: Ipv4Net,
    mask: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node mask /{mask} does not divide cluster CIDR {cluster}: it must be between /{} and /30", cluster.prefix_len())]
pub struct RangeError {
    cluster: Ipv4Net,
    mask: u8,
}

impl Ranges {
    pub(crate) fn new(cluster: Ipv4Net, mask: u8) -> Result<Self, RangeError> {
        let cluster = cluster.trunc();
        // A node needs addresses for itself and for a pod besides network and broadcast.
        if mask == 0 || mask < cluster.prefix_len() || mask > 30 {
            return Err(RangeError { cluster, mask });
        }
        Ok(Self { cluster, mask })
    }

    fn count(self) -> u32 {
        // At most 2^30 pieces: the mask is 30 at most.
        1 << (self.mask - self.cluster.prefix_len())
    }

    fn size(self) -> u32 {
        1 << (32 - self.mask)
    }

    fn piece(self, index: u32) -> Ipv4Net {
        let base = u32::from(self.cluster.network()) + index * self.size();
        Ipv4Net::new(Ipv4Addr::from(base), self.mask).expect("the mask was checked to be at most 30")
    }

    /// Indexes of the pieces that `taken` touches, whatever its size.
    fn touched(self, taken: Ipv4Net) -> std::ops::RangeInclusive<u32> {
        let (start, end) = (u32::from(self.cluster.network()), u32::from(self.cluster.broadcast()));
        let (first, last) = (u32::from(taken.network()), u32::from(taken.broadcast()));
        if last < start || first > end {
            #[expect(clippy::reversed_empty_ranges, reason = "nothing is touched")]
            return 1..=0;
        }
        (first.max(start) - start) / self.size()..=(last.min(end) - start) / self.size()
    }

    /// The lowest piece that overlaps none of `taken`.
    pub(crate) fn free(self, taken: &BTreeSet<Ipv4Net>) -> Option<Ipv4Net> {
        let mut used: Vec<(u32, u32)> =
            taken.iter().map(|t| self.touched(*t)).filter(|r| !r.is_empty()).map(|r| (*r.start(), *r.end())).collect();
        used.sort_unstable();
        let mut next = 0;
        for (first, last) in used {
            if first > next {
                break;
            }
            next = next.max(last + 1);
        }
        (next < self.count()).then(|| self.piece(next))
    }
}
