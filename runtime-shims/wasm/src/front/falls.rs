//! How often a worker died, and what that means for the next one. No I/O.

use std::time::Duration;

use tokio::time::Instant;

/// A worker that lived so long did not die of what killed the one before it.
const STEADY: Duration = Duration::from_secs(60);
/// So many may die in a row before the next one waits.
const AT_ONCE: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Deaths of one domain's workers, in a row.
#[derive(Debug, Default)]
pub(super) struct Falls {
    count: u32,
    not_before: Option<Instant>,
    last: String,
}

impl Falls {
    /// A worker died that had lived for `lived`; `how` in words.
    pub(super) fn fell(&mut self, now: Instant, lived: Duration, how: &str) {
        if lived >= STEADY {
            self.count = 0;
        }
        self.count += 1;
        how.clone_into(&mut self.last);
        let doublings = self.count.checked_sub(AT_ONCE + 1);
        self.not_before =
            doublings.map(|doublings| now + FIRST_PAUSE.saturating_mul(1 << doublings.min(16)).min(LAST_PAUSE));
    }

    /// Why no worker is to be started yet, if so.
    pub(super) fn why_wait(&self, now: Instant) -> Option<String> {
        let left = self.not_before?.checked_duration_since(now).filter(|left| !left.is_zero())?;
        let seconds = left.as_millis().div_ceil(1000);
        Some(format!(
            "ended {} times in a row, the last time: {}; the next one is started in {seconds} s",
            self.count, self.last
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds until the next start after each death, where each worker lived for that many seconds.
    fn pauses(lives: &[u64]) -> Vec<u64> {
        let mut falls = Falls::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for lived in lives {
            now += Duration::from_secs(*lived);
            falls.fell(now, Duration::from_secs(*lived), "killed by signal 11 (SIGSEGV)");
            let pause = (0..1000).find(|pause| falls.why_wait(now + Duration::from_secs(*pause)).is_none());
            pauses.push(pause.expect("it ends"));
            now += Duration::from_secs(*pauses.last().expect("one"));
        }
        pauses
    }

    #[test]
    fn workers_that_die_in_a_row_come_back_slower_and_slower() {
        assert_eq!(pauses(&[0; 12]), [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
    }

    #[test]
    fn one_that_lived_well_begins_anew() {
        assert_eq!(pauses(&[1, 1, 1, 1, 600, 1, 1]), [0, 0, 1, 2, 0, 0, 1]);
    }

    #[test]
    fn the_reason_says_how_often_and_how() {
        let mut falls = Falls::default();
        let now = Instant::now();
        for _ in 0..4 {
            falls.fell(now, Duration::ZERO, "exit code 1");
        }
        assert_eq!(
            falls.why_wait(now).expect("it waits"),
            "ended 4 times in a row, the last time: exit code 1; the next one is started in 2 s"
        );
    }
}
