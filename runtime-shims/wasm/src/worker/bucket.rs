//! Allowances that fill up again with time: processor time by the period, log bytes by the second. Decided here without
//! a clock of its own: whoever asks says what time it is.

use std::time::Duration;

use tokio::time::Instant;

/// Processor time as the kernel's scheduler gives it to a group with a quota: so much in each period, nothing saved up
/// from the last one. What was used beyond it is owed, so that in the long run it comes out even.
#[derive(Debug)]
pub(super) struct CpuQuota {
    quota_ns: i64,
    period: Duration,
    balance_ns: i64,
    /// When the present period began.
    began: Instant,
}

impl CpuQuota {
    /// A quota of 0 would never let anything run, so 1 ms is the least, as it is for the kernel.
    pub(super) fn new(quota: Duration, period: Duration, now: Instant) -> CpuQuota {
        let quota_ns = i64::try_from(quota.as_nanos()).unwrap_or(i64::MAX).max(1_000_000);
        CpuQuota { quota_ns, period: period.max(Duration::from_millis(1)), balance_ns: quota_ns, began: now }
    }

    /// Another quota from now on. What is owed stays owed.
    pub(super) fn change(&mut self, quota: Duration, period: Duration, now: Instant) {
        self.refill(now);
        let new = CpuQuota::new(quota, period, now);
        let balance_ns = self.balance_ns.min(new.quota_ns);
        *self = CpuQuota { balance_ns, began: self.began, ..new };
    }

    pub(super) fn charge(&mut self, ns: u64) {
        self.balance_ns = self.balance_ns.saturating_sub(i64::try_from(ns).unwrap_or(i64::MAX));
    }

    /// None if something may run now; else when.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Instant> {
        self.refill(now);
        if self.balance_ns > 0 {
            return None;
        }
        let periods = self.balance_ns.unsigned_abs() / self.quota_ns.unsigned_abs() + 1;
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        Some(self.began + self.period.saturating_mul(periods).min(LONGEST))
    }

    fn refill(&mut self, now: Instant) {
        let periods = now.saturating_duration_since(self.began).as_nanos() / self.period.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.began += self.period.saturating_mul(periods).min(now.saturating_duration_since(self.began));
        let gained = self.quota_ns.saturating_mul(i64::from(periods));
        self.balance_ns = self.balance_ns.saturating_add(gained).min(self.quota_ns);
    }
}

/// Nobody waits longer without looking again: the quota may have been changed meanwhile.
const LONGEST: Duration = Duration::from_secs(1);

/// Bytes at a steady rate, with a reserve for bursts. Time is in nanoseconds since whenever.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: u64,
    burst: u64,
    /// In billionths of a byte, so that nothing is lost between two calls.
    level: u128,
    looked: i64,
}

const NANO: u128 = 1_000_000_000;

impl Rate {
    pub(super) fn new(per_second: u64, burst: u64, now: i64) -> Rate {
        let burst = burst.max(1);
        Rate { per_second, burst, level: u128::from(burst) * NANO, looked: now }
    }

    pub(super) fn per_second(&self) -> u64 {
        self.per_second
    }

    /// Takes `bytes` if they are there.
    pub(super) fn take(&mut self, bytes: usize, now: i64) -> bool {
        // A wall clock may be set back.
        let passed = u128::from(u64::try_from(now.saturating_sub(self.looked)).unwrap_or(0));
        self.looked = now;
        let full = u128::from(self.burst) * NANO;
        self.level = (self.level + passed * u128::from(self.per_second)).min(full);
        let wanted = bytes as u128 * NANO;
        // Something larger than the whole reserve would never pass.
        if self.level < wanted.min(full) {
            return false;
        }
        self.level = self.level.saturating_sub(wanted);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A guest that spins in slices of `slice_ms`, on `threads` threads at once: the part of a processor it gets.
    fn spun(quota_ms: u32, slice_ms: u32, threads: u32, seconds: u32) -> f64 {
        let start = Instant::now();
        let mut quota = CpuQuota::new(MS * quota_ms, MS * 100, start);
        let (mut now, mut used) = (start, Duration::ZERO);
        while now < start + Duration::from_secs(u64::from(seconds)) {
            match quota.wait(now) {
                Some(until) => {
                    assert!(until > now, "a wait must lead somewhere");
                    now = until;
                }
                None => {
                    now += MS * slice_ms;
                    let spent = MS * slice_ms * threads;
                    quota.charge(u64::try_from(spent.as_nanos()).expect("it is short"));
                    used += spent;
                }
            }
        }
        used.as_secs_f64() / f64::from(seconds)
    }

    #[test]
    fn in_the_long_run_a_spinning_guest_gets_its_quota() {
        for (quota_ms, slice_ms, threads) in [(20, 5, 1), (50, 5, 2), (1, 5, 1), (3, 7, 4), (150, 5, 2), (10, 60, 1)] {
            let (got, wanted) = (spun(quota_ms, slice_ms, threads, 60), f64::from(quota_ms) / 100.0);
            let off = (got - wanted).abs() / wanted;
            assert!(off < 0.03, "{quota_ms} ms in slices of {slice_ms} on {threads}: {got} instead of {wanted}");
        }
    }

    #[test]
    fn nothing_is_saved_up_for_later() {
        let start = Instant::now();
        let mut quota = CpuQuota::new(MS * 10, MS * 100, start);
        assert_eq!(quota.wait(start + MS * 10_000), None);
        quota.charge(10_000_000);
        assert_eq!(quota.wait(start + MS * 10_050), Some(start + MS * 10_100));
        assert_eq!(quota.wait(start + MS * 10_100), None);
    }

    #[test]
    fn a_new_quota_holds_at_once() {
        let start = Instant::now();
        let mut quota = CpuQuota::new(MS * 10, MS * 100, start);
        quota.charge(40_000_000);
        assert_eq!(quota.wait(start), Some(start + MS * 400), "three periods are owed, and in the next it may run");
        quota.change(MS * 100, MS * 100, start);
        assert_eq!(quota.wait(start), Some(start + MS * 100));
    }

    #[test]
    fn a_rate_lets_a_burst_through_and_then_its_bytes_per_second() {
        const SECOND: i64 = 1_000_000_000;
        let mut rate = Rate::new(1000, 5000, 0);
        let passed = |rate: &mut Rate, at: i64| (0..100).filter(|_| rate.take(100, at)).count();
        assert_eq!(passed(&mut rate, 0), 50);
        assert_eq!(passed(&mut rate, 0), 0);
        assert_eq!(passed(&mut rate, SECOND), 10);
        // Many short moments are as good as a long one.
        let steps: usize = (1..=1000).map(|step| passed(&mut rate, SECOND + step * SECOND / 1000)).sum();
        assert_eq!(steps, 10);
        // A clock that is set back takes nothing away.
        assert_eq!(passed(&mut rate, 0), 0);
        assert_eq!(passed(&mut rate, SECOND), 10);
    }

    #[test]
    fn a_piece_larger_than_the_reserve_passes_when_it_is_full() {
        let mut rate = Rate::new(10, 100, 0);
        assert!(rate.take(1000, 0));
        assert!(!rate.take(1, 0));
    }
}
