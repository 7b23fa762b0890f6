//! What the host uses, from /proc.

use std::fs;
use std::io;

/// Linux tells processor time to programs in hundredths of a second, whatever it counts in itself.
const TICK_NS: u64 = 10_000_000;

/// The host as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostUsage {
    /// Of all processors since the boot, idling and waiting for disks not counted.
    pub cpu_ns: u64,
    /// Memory in use.
    pub usage_bytes: u64,
    /// Of it, what could not be dropped at once: files that nobody has read lately are left out.
    pub working_set_bytes: u64,
    pub available_bytes: u64,
    /// Seconds since 1970.
    pub boot_time: i64,
}

impl HostUsage {
    pub fn read() -> io::Result<HostUsage> {
        let stat = fs::read_to_string("/proc/stat")?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        parse(&stat, &memory).ok_or_else(|| io::Error::other("/proc/stat or /proc/meminfo is not as expected"))
    }
}

fn parse(stat: &str, memory: &str) -> Option<HostUsage> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests' time is within user and nice.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum();
    let boot_time = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let bytes = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let total = bytes("MemTotal")?;
    let usage_bytes = total.saturating_sub(bytes("MemFree")?);
    let working_set_bytes = usage_bytes.saturating_sub(bytes("Inactive(file)").unwrap_or(0));
    Some(HostUsage {
        cpu_ns: busy * TICK_NS,
        usage_bytes,
        working_set_bytes,
        available_bytes: total.saturating_sub(working_set_bytes),
        boot_time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_busy_and_what_cannot_be_dropped() {
        let stat = "cpu  100 20 30 5000 700 4 6 50 10 0\ncpu0 1 1 1 1\nbtime 1767225600\n";
        let memory = "MemTotal: 1000 kB\nMemFree: 200 kB\nInactive(file): 300 kB\n";
        let expected = HostUsage {
            cpu_ns: 1_600_000_000,
            usage_bytes: 800 << 10,
            working_set_bytes: 500 << 10,
            available_bytes: 500 << 10,
            boot_time: 1_767_225_600,
        };
        assert_eq!(parse(stat, memory), Some(expected));
        assert_eq!(parse("", memory), None);
    }

    #[test]
    fn this_host_can_be_read() {
        assert!(HostUsage::read().is_ok_and(|usage| usage.cpu_ns > 0 && usage.working_set_bytes > 0));
    }
}
