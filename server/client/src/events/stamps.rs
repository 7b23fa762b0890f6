//! What makes an event's name its own: the time it was first seen at, so that a list of events is in their order.

use jiff::Timestamp;

use crate::Ids;

/// Nanoseconds that chance replaces (65 µs): several components may see one instant, or a clock stand still.
const RANDOM: u64 = 0xffff;

pub(super) struct Stamps {
    ids: Ids,
    last: u64,
}

impl Stamps {
    pub(super) fn new(ids: Ids) -> Self {
        Self { ids, last: 0 }
    }

    /// Sixteen digits, as upstream's `<object>.<nanoseconds>`; later than every one before.
    pub(super) fn next(&mut self, at: Timestamp) -> String {
        let nanoseconds = u64::try_from(at.as_nanosecond()).unwrap_or(0);
        let stamp = nanoseconds & !RANDOM | self.ids.u64() & RANDOM;
        self.last = stamp.max(self.last.saturating_add(1));
        format!("{:016x}", self.last)
    }
}
