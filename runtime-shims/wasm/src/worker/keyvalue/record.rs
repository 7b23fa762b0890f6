//! Records of a key-value log.
//!
//! ```text
//! record   length u32, checksum u32 (CRC-32 of the payload), payload
//! payload  changes, one after the other: bucket length u16, key length u16, id u64, value length u32 (all ones for a
//!          deletion), bucket, key, value
//! ```
//!
//! All numbers have their lowest byte first.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub(super) const HEADER_BYTES: usize = 8;
/// A longer one is damage.
pub(super) const BYTES_MAX: usize = 64 << 20;
const CHANGE_BYTES: usize = 16;
const DELETED: u32 = u32::MAX;

/// One key's new value, or that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) id: u64,
    pub(super) value: Option<Vec<u8>>,
}

/// The same, as it lies in a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen<'a> {
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    pub(super) id: u64,
    pub(super) value_bytes: Option<u32>,
}

/// Names are shorter than 64 KiB and values than 4 GiB: the store checks that.
pub(super) fn encode(changes: &[Change]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    for change in changes {
        bytes.extend((change.bucket.len() as u16).to_le_bytes());
        bytes.extend((change.key.len() as u16).to_le_bytes());
        bytes.extend(change.id.to_le_bytes());
        bytes.extend(change.value.as_ref().map_or(DELETED, |value| value.len() as u32).to_le_bytes());
        bytes.extend(change.bucket.as_bytes());
        bytes.extend(change.key.as_bytes());
        bytes.extend(change.value.iter().flatten());
    }
    let payload = &bytes[HEADER_BYTES..];
    let (length, checksum) = (payload.len() as u32, checksum(payload));
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// How long the payload gets that sets `entries`.
pub(super) fn payload_bytes(bucket: &str, entries: &[(String, Vec<u8>)]) -> usize {
    entries.iter().map(|(key, value)| CHANGE_BYTES + bucket.len() + key.len() + value.len()).sum()
}

/// The payload of the record at `at`; none if there is no whole one before `end`.
pub(super) fn read(log: &File, at: u64, end: u64) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER_BYTES];
    if end.saturating_sub(at) < HEADER_BYTES as u64 {
        return Ok(None);
    }
    log.read_exact_at(&mut header, at)?;
    let word = |from: usize| u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]]);
    let length = word(0) as usize;
    // An empty one is what a file that grew before a crash is full of.
    if length == 0 || length > BYTES_MAX || end - at - (HEADER_BYTES as u64) < length as u64 {
        return Ok(None);
    }
    let mut payload = vec![0; length];
    log.read_exact_at(&mut payload, at + HEADER_BYTES as u64)?;
    Ok((checksum(&payload) == word(4)).then_some(payload))
}

/// The changes of a payload, each with where its value begins.
pub(super) fn decode(payload: &[u8]) -> io::Result<Vec<(Seen<'_>, usize)>> {
    let mut changes = Vec::new();
    let mut at = 0;
    while at < payload.len() {
        let (change, value_at) = decode_one(payload, at).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        at = value_at + change.value_bytes.unwrap_or(0) as usize;
        changes.push((change, value_at));
    }
    Ok(changes)
}

fn decode_one(payload: &[u8], at: usize) -> Option<(Seen<'_>, usize)> {
    let head: &[u8; CHANGE_BYTES] = payload.get(at..at + CHANGE_BYTES)?.try_into().ok()?;
    let bucket_bytes = usize::from(u16::from_le_bytes([head[0], head[1]]));
    let key_bytes = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let id = u64::from_le_bytes(head[4..12].try_into().ok()?);
    let value_bytes = Some(u32::from_le_bytes(head[12..].try_into().ok()?)).filter(|bytes| *bytes != DELETED);
    let bucket_at = at + CHANGE_BYTES;
    let key_at = bucket_at + bucket_bytes;
    let value_at = key_at + key_bytes;
    let bucket = std::str::from_utf8(payload.get(bucket_at..key_at)?).ok()?;
    let key = std::str::from_utf8(payload.get(key_at..value_at)?).ok()?;
    payload.get(value_at..value_at + value_bytes.unwrap_or(0) as usize)?;
    Some((Seen { bucket, key, id, value_bytes }, value_at))
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
