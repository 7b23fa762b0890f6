//! Owns how long times read: `5m10s`, `3h`, `2y30d`, as upstream's `duration.HumanDuration` words them.

use jiff::{SignedDuration, Timestamp};

/// A duration to two significant units.
pub fn human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    // Clocks of two machines may differ by a second; more than that is a mistake worth showing.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if duration.is_negative() {
        return "0s".to_owned();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        two(days, 'd', hours % 24, 'h')
    } else if hours < 24 * 365 * 2 {
        format!("{days}d")
    } else if hours < 24 * 365 * 8 {
        two(days / 365, 'y', days % 365, 'd')
    } else {
        format!("{}y", days / 365)
    }
}

fn two(large: i64, large_unit: char, small: i64, small_unit: char) -> String {
    if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
}

/// How long ago `at` was; `<unknown>` when it is not known.
pub(super) fn since(at: Option<Timestamp>, now: Timestamp) -> String {
    match at {
        Some(at) => human(at.duration_until(now)),
        None => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use jiff::SignedDuration;

    #[test]
    fn durations_read_as_upstream_words_them() {
        let minute = 60;
        let (hour, day) = (60 * minute, 24 * 60 * minute);
        let read: Vec<String> = [
            -2,
            -1,
            0,
            119,
            120,
            125,
            10 * minute - 1,
            10 * minute,
            179 * minute,
            3 * hour,
            3 * hour + 5 * minute,
            8 * hour,
            47 * hour,
            2 * day,
            2 * day + hour,
            8 * day,
            729 * day,
            730 * day,
            731 * day,
            8 * 365 * day,
        ]
        .into_iter()
        .map(|seconds| super::human(SignedDuration::from_secs(seconds)))
        .collect();
        expect!["<invalid> 0s 0s 119s 2m 2m5s 9m59s 10m 179m 3h 3h5m 8h 47h 2d 2d1h 8d 729d 2y 2y1d 8y"]
            .assert_eq(&read.join(" "));
    }
}
