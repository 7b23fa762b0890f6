//! Instants as the API writes them: RFC 3339 in UTC, whole seconds (Time) or microseconds (MicroTime).

use jiff::Timestamp;

const TIME_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// `2026-01-31T12:00:00Z`: the form of `creationTimestamp`.
pub fn format_time(at: Timestamp) -> String {
    // `floor` and not `round`: Go's formatting cuts, and a time must not lie in the future of its event.
    Timestamp::from_second(floor_second(at)).expect("a whole second within jiff's range").to_string()
}

/// `2026-01-31T12:00:00.123456Z`: the form of a Lease's `renewTime`.
pub fn format_micro_time(at: Timestamp) -> String {
    let second = floor_second(at);
    let micros = (at.as_nanosecond() - i128::from(second) * 1_000_000_000) / 1_000;
    let whole = format_time(at);
    format!("{}.{micros:06}Z", whole.trim_end_matches('Z'))
}

/// Any RFC 3339 instant.
pub fn parse(text: &str) -> Option<Timestamp> {
    if !has_rfc3339_shape(text.as_bytes()) {
        return None;
    }
    text.parse().ok()
}

/// What Go says when it can't read a Time.
pub(crate) fn parse_error(text: &str, micro: bool) -> String {
    let layout = if micro { MICRO_LAYOUT } else { TIME_LAYOUT };
    format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")
}

/// The canonical text if `text` is not canonical already.
pub(crate) fn canonical(text: &str, micro: bool) -> Result<Option<String>, ()> {
    if !micro && is_plain_utc(text.as_bytes()) && parse(text).is_some() {
        return Ok(None);
    }
    let at = parse(text).ok_or(())?;
    Ok(Some(if micro { format_micro_time(at) } else { format_time(at) }))
}

fn floor_second(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond().div_euclid(1_000_000_000)).expect("a timestamp's seconds fit 64 bits")
}

fn is_plain_utc(text: &[u8]) -> bool {
    text.len() == 20 && text[19] == b'Z'
}

/// jiff reads more forms than RFC 3339 has; only those are let through.
fn has_rfc3339_shape(text: &[u8]) -> bool {
    let digits = |range: std::ops::Range<usize>| text[range].iter().all(u8::is_ascii_digit);
    if text.len() < 20 || !digits(0..4) || !digits(5..7) || !digits(8..10) || !digits(11..13) || !digits(14..16) {
        return false;
    }
    if !digits(17..19) || [text[4], text[7], text[10], text[13], text[16]] != *b"--T::" {
        return false;
    }
    let mut rest = &text[19..];
    if rest[0] == b'.' {
        let fraction = rest[1..].iter().take_while(|c| c.is_ascii_digit()).count();
        if fraction == 0 {
            return false;
        }
        rest = &rest[1 + fraction..];
    }
    match rest {
        b"Z" => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].into_iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
