//! One entry of a CRI log.

use jiff::Timestamp;

/// `2026-01-01T00:00:00.000000000Z stdout F text`
pub(super) struct Entry<'a> {
    /// As written; empty if the entry is not in CRI's format.
    pub(super) time: &'a str,
    pub(super) stream: &'a str,
    /// The line goes on in the next entry.
    pub(super) partial: bool,
    pub(super) text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// What cannot be parsed is text: a user would rather see a broken line than none.
    pub(super) fn parse(raw: &'a [u8]) -> Entry<'a> {
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        Entry::parts(raw).unwrap_or(Entry { time: "", stream: "stdout", partial: false, text: raw })
    }

    fn parts(raw: &'a [u8]) -> Option<Entry<'a>> {
        let (time, rest) = word(raw)?;
        let (stream, rest) = word(rest)?;
        // An empty line has no blank behind its tag when an editor has trimmed it.
        let (tag, text) = word(rest).unwrap_or((std::str::from_utf8(rest).ok()?, &[]));
        // Tags are a list: F or P first, more may follow.
        let partial = match tag.split(':').next()? {
            "F" => false,
            "P" => true,
            _ => return None,
        };
        matches!(stream, "stdout" | "stderr").then_some(Entry { time, stream, partial, text })
    }

    pub(super) fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

fn word(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|b| *b == b' ')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}
