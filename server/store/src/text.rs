//! Texts one behind the other, each with its length before it.

pub(crate) fn put(text: &str, out: &mut Vec<u8>) {
    put_length(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_length(length: usize, out: &mut Vec<u8>) {
    let length = u32::try_from(length).expect("objects are far smaller than 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
}

/// `None` when `bytes` is not what was put.
pub(crate) fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = take_length(bytes)?;
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(head).ok()
}

pub(crate) fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    usize::try_from(u32::from_le_bytes(*head)).ok()
}
