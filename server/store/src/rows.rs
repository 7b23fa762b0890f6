//! How labels and selectable fields lie in a row: two lists of pairs, each text with its length before it. They are
//! kept beside the object so that opening a store needs no JSON parser.

use crate::entry::{Fields, Labels};
use crate::pending::Texts;
use crate::text;

pub(crate) fn encode(labels: &Labels, fields: &Fields, out: &mut Vec<u8>) {
    out.clear();
    text::put_length(labels.len(), out);
    for (key, value) in labels {
        text::put(key, out);
        text::put(value, out);
    }
    let fields = fields.iter();
    text::put_length(fields.len(), out);
    for (path, value) in fields {
        text::put(path, out);
        text::put(value, out);
    }
}

pub(crate) fn decode(mut bytes: &[u8], texts: &mut Texts) -> Option<(Labels, Fields)> {
    let bytes = &mut bytes;
    let mut labels = Labels::new();
    for _ in 0..text::take_length(bytes)? {
        let key = text::take(bytes)?.to_owned();
        labels.insert(key, text::take(bytes)?.to_owned());
    }
    let (mut paths, mut values) = (Vec::new(), Vec::new());
    for _ in 0..text::take_length(bytes)? {
        paths.push(texts.share_str(text::take(bytes)?));
        values.push(text::take(bytes)?);
    }
    let fields = Fields::new(texts.paths(&paths), values);
    bytes.is_empty().then_some((labels, fields))
}
