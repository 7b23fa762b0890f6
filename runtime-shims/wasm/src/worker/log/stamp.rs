//! The time before each line.

use std::io::Write as _;

use crate::clock::UnixNanos;

const NANOS: i64 = 1_000_000_000;

/// RFC 3339 with all nine digits, so that lines sort. Keeps the last one: lines come by the thousand in a second, and only
/// the digits behind it differ.
#[derive(Debug)]
pub(super) struct Stamp {
    second: i64,
    text: [u8; 30],
}

impl Default for Stamp {
    fn default() -> Stamp {
        Stamp { second: 0, text: *b"1970-01-01T00:00:00.000000000Z" }
    }
}

impl Stamp {
    pub(super) fn at(&mut self, now: UnixNanos) -> &[u8; 30] {
        let second = now.div_euclid(NANOS);
        if second != self.second {
            self.second = second;
            let at = jiff::Timestamp::from_second(second).expect("64 bits of nanoseconds end in the year 2262");
            write!(&mut self.text[..], "{at:.9}").expect("a time of these centuries has thirty characters");
        }
        let mut rest = now.rem_euclid(NANOS);
        for digit in self.text[20..29].iter_mut().rev() {
            // One of ten, so it fits.
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_is_as_the_library_writes_it() {
        let mut stamp = Stamp::default();
        let moments = [
            0,
            1,
            999_999_999,
            NANOS,
            -1,
            1_767_225_599_999_000_000,
            1_767_225_599_999_999_999,
            1_767_225_600_000_000_000,
            1_767_225_599_000_000_001,
            UnixNanos::MAX,
            UnixNanos::MIN,
        ];
        for now in moments {
            let expected = format!("{:.9}", jiff::Timestamp::from_nanosecond(now.into()).expect("it is near"));
            assert_eq!(String::from_utf8_lossy(stamp.at(now)), expected, "{now}");
        }
    }
}
