//! The two pauses that grow: between restarts of a container and between pulls of an image.

use std::time::Duration;

/// Kubelet's for both: 10 s doubling to 5 minutes, forgotten after twice the maximum without use.
const INITIAL: Duration = Duration::from_secs(10);
const MAX: Duration = Duration::from_secs(300);
const FORGET: Duration = Duration::from_secs(600);

/// The pause of one container or image. Times are since the agent's start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackOff {
    state: Option<(Duration, Duration)>,
}

impl BackOff {
    /// Until when to wait after a failure at `failed`; `None` if there is nothing to wait for.
    pub fn until(&self, failed: Duration) -> Option<Duration> {
        let (delay, used) = self.state?;
        (failed.saturating_sub(used) <= FORGET).then(|| failed + delay)
    }

    /// The present pause; zero if none.
    pub fn delay(&self) -> Duration {
        self.state.map_or(Duration::ZERO, |(delay, _)| delay)
    }

    /// A new attempt is made at `now`, after a failure at `failed`: the next pause is longer.
    pub fn next(&mut self, failed: Duration, now: Duration) {
        let delay = match self.state {
            Some((delay, used)) if failed.saturating_sub(used) <= FORGET => (delay * 2).min(MAX),
            Some(_) | None => INITIAL,
        };
        self.state = Some((delay, now));
    }
}

/// A duration as Go prints it (`10s`, `2m40s`, `1.5s`), which is how kubelet's messages show it.
pub fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (unit, scale) = match nanos {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", fraction(nanos, scale));
    }
    let seconds = nanos / 1_000_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = fraction(nanos - (hours * 3600 + minutes * 60) * 1_000_000_000, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        (_, _) => format!("{hours}h{minutes}m{rest}s"),
    }
}

fn fraction(value: u128, scale: u128) -> String {
    let (whole, part) = (value / scale, value % scale);
    if part == 0 {
        return whole.to_string();
    }
    let digits = scale.ilog10() as usize;
    let text = format!("{part:0digits$}");
    format!("{whole}.{}", text.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_to_its_maximum_and_is_forgotten() {
        let mut backoff = BackOff::default();
        let mut now = Duration::ZERO;
        let mut seen = Vec::new();
        for _ in 0..8 {
            let until = backoff.until(now).unwrap_or(now);
            seen.push((until - now).as_secs());
            backoff.next(now, until);
            now = until;
        }
        assert_eq!(seen, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.until(now + FORGET + Duration::from_secs(1)), None);
        backoff.next(now + FORGET * 2, now + FORGET * 2);
        assert_eq!(backoff.delay(), INITIAL);
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let write = |millis| go_duration(Duration::from_millis(millis));
        assert_eq!(
            [write(12), write(10_000), write(160_000), write(300_000), write(1_500)],
            ["12ms", "10s", "2m40s", "5m0s", "1.5s"]
        );
        assert_eq!(go_duration(Duration::from_secs(3661)), "1h1m1s");
    }
}
