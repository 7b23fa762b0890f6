//! How labels and selectable fields lie in a row: two lists of pairs, each text with its length before it. They are
//! kept beside the object so that opening a store needs no JSON parser.

use crate::entry::{Fields, Labels};
use crate::pending::Texts;

pub(crate) fn encode(labels: &Labels, fields: &Fields, out: &mut Vec<u8>) {
    out.clear();
    length(labels.len(), out);
    for (key, value) in labels {
        text(key, out);
        text(value, out);
    }
    length(fields.len(), out);
    for (path, value) in fields {
        text(path, out);
        text(value, out);
    }
}

pub(crate) fn decode(mut bytes: &[u8], texts: &mut Texts) -> Option<(Labels, Fields)> {
    let bytes = &mut bytes;
    let mut labels = Labels::new();
    for _ in 0..take_length(bytes)? {
        let key = take_text(bytes)?.to_owned();
        labels.insert(key, take_text(bytes)?.to_owned());
    }
    let count = take_length(bytes)?;
    let mut fields = Fields::with_capacity(count.min(64));
    for _ in 0..count {
        let path = texts.share_str(take_text(bytes)?);
        fields.push((path, take_text(bytes)?.to_owned()));
    }
    bytes.is_empty().then_some((labels, fields))
}

fn length(length: usize, out: &mut Vec<u8>) {
    let length = u32::try_from(length).expect("objects are far smaller than 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
}

fn text(text: &str, out: &mut Vec<u8>) {
    length(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    usize::try_from(u32::from_le_bytes(*head)).ok()
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = take_length(bytes)?;
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(head).ok()
}
