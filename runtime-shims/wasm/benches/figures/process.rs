//! What processes use, as the kernel counts it.

use std::fs;
use std::path::Path;

/// Memory of several processes together, in KiB.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) processes: usize,
    /// Shared pages counted in each process.
    pub(crate) resident: usize,
    /// Shared pages counted once.
    pub(crate) proportional: usize,
}

/// All processes that run `program` as front or worker: workers may have another parent.
pub(crate) fn memory_of(program: &Path) -> Memory {
    let mut sum = Memory::default();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let dir = entry.path();
        if fs::read_link(dir.join("exe")).is_ok_and(|exe| exe == program)
            && let Ok(text) = fs::read_to_string(dir.join("smaps_rollup"))
        {
            sum.processes += 1;
            sum.resident += field(&text, "Rss:");
            sum.proportional += field(&text, "Pss:");
        }
    }
    sum
}

fn field(text: &str, name: &str) -> usize {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0)
}
