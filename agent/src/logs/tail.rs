//! Where the last lines of a file begin, found from its end.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use super::line::Entry;

const BLOCK_BYTES: u64 = 8 * 1024;
/// Enough of an entry to see its tag.
const HEAD_BYTES: u64 = 128;

/// The offset at which the last `lines` lines begin. Parts of a line count as the one line they are.
pub(super) fn start_of_last(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut found = 0;
    let mut block_end = end;
    let mut block = Vec::new();
    while block_end > 0 {
        let block_start = block_end.saturating_sub(BLOCK_BYTES);
        read_at(file, block_start, block_end - block_start, &mut block)?;
        for at in (0..block.len()).rev().filter(|at| block[*at] == b'\n') {
            let start = block_start + at as u64 + 1;
            // The last byte of the file ends a line; nothing begins there.
            if start == end || follows_part(file, start)? {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(start);
            }
        }
        block_end = block_start;
    }
    Ok(0)
}

/// Whether the entry before `start` is a part that goes on at `start`.
fn follows_part(file: &mut File, start: u64) -> std::io::Result<bool> {
    // The entry before may be long: its head is what is looked for, back from its end.
    let mut entry_start = 0;
    let mut block_end = start - 1;
    let mut block = Vec::new();
    while block_end > 0 {
        let block_start = block_end.saturating_sub(BLOCK_BYTES);
        read_at(file, block_start, block_end - block_start, &mut block)?;
        if let Some(at) = block.iter().rposition(|b| *b == b'\n') {
            entry_start = block_start + at as u64 + 1;
            break;
        }
        block_end = block_start;
    }
    read_at(file, entry_start, HEAD_BYTES.min(start - entry_start), &mut block)?;
    Ok(Entry::parse(&block).partial)
}

fn read_at(file: &mut File, start: u64, length: u64, into: &mut Vec<u8>) -> std::io::Result<()> {
    into.clear();
    file.seek(SeekFrom::Start(start))?;
    file.take(length).read_to_end(into)?;
    Ok(())
}
