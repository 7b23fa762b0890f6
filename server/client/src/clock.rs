//! Wall time, injected: below `main` nobody asks the system for it, so that a simulation can hold it still.
//!
//! Durations and deadlines are tokio's; this is only what is written into objects (timestamps, certificates).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

/// A source of wall time.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

/// The host's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the host's clock is read")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Follows tokio's time from a fixed base, so that it stands still and jumps with a paused runtime.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    base: Timestamp,
    start: tokio::time::Instant,
}

impl TokioClock {
    /// `base` is what the clock says at this moment of tokio's time.
    pub fn new(base: Timestamp) -> Self {
        Self { base, start: tokio::time::Instant::now() }
    }

    pub fn shared(base: Timestamp) -> Arc<dyn Clock> {
        Arc::new(Self::new(base))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::MAX);
        self.base.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn tokio_clock_moves_with_paused_time_only() {
        let clock = TokioClock::shared("2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(clock.now().to_string(), "2026-01-01T00:00:00Z");
        tokio::time::advance(Duration::from_millis(90_500)).await;
        assert_eq!(clock.now().to_string(), "2026-01-01T00:01:30.5Z");
    }
}
