//! What the kernel says of a cluster's processes: resident memory and processor time.

use std::fs;

pub(crate) struct Usage {
    pub(crate) name: String,
    pub(crate) rss_kb: u64,
    /// Resident memory with pages shared by several processes counted once, in parts.
    pub(crate) pss_kb: u64,
    pub(crate) cpu_ticks: u64,
}

pub(crate) fn usage(ids: &[u32]) -> Vec<Usage> {
    ids.iter().filter_map(|id| one(*id)).collect()
}

fn one(id: u32) -> Option<Usage> {
    let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let mut words = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned());
    let program = words.next()?;
    let role = words.next().unwrap_or_default();
    let name = format!("{} {role}", program.rsplit('/').next().unwrap_or_default());
    let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?;
    let field = |name: &str| {
        rollup.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // utime and stime are fields 14 and 15; the third is the first behind the name.
    let cpu_ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Usage { name, rss_kb: field("Rss:"), pss_kb: field("Pss:"), cpu_ticks })
}
