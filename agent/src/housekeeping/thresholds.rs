//! How little of a host's resources may be left before pods have to go, as kubelet's `--eviction-hard` says it.

use std::str::FromStr;

use coracle_api::Quantity;

use super::eviction::Pressure;
use super::gauge::{Level, Levels};

/// Signals with the least that may be left, what matters most first: `memory.available<100Mi,nodefs.available<5%`.
/// What is not named may run out unseen. Images lie on the disk that holds the agent's folder, so `imagefs` is `nodefs`.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds(Vec<(Signal, Least)>);

/// What runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Memory,
    Disk,
    Inodes,
    Processes,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Least {
    /// Bytes, inodes or processes. A host that has not even twice as much may use half of what it has.
    Amount(u64),
    /// Of the capacity, 0 to 1.
    Share(f64),
}

impl Thresholds {
    /// Memory and process ids as kubelet, disk as k3s: a tenth of a large disk is much to do without.
    pub const DEFAULT: &str = "memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%,pid.available<5%";

    /// Each signal with its level and the least that may be left of it.
    pub(super) fn of(&self, levels: &Levels) -> impl Iterator<Item = (Signal, Level, u64)> {
        self.0.iter().map(|(signal, least)| {
            let level = signal.level(levels);
            (*signal, level, least.of(level))
        })
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::DEFAULT.parse().expect("a test parses it")
    }
}

impl Signal {
    fn level(self, levels: &Levels) -> Level {
        match self {
            Signal::Memory => levels.memory,
            Signal::Disk => levels.disk,
            Signal::Inodes => levels.inodes,
            Signal::Processes => levels.processes,
        }
    }

    pub(super) fn pressure(self) -> Pressure {
        match self {
            Signal::Memory => Pressure::Memory,
            Signal::Disk | Signal::Inodes => Pressure::Disk,
            Signal::Processes => Pressure::Pid,
        }
    }

    /// As messages name what ran out.
    pub(super) fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::Disk => "ephemeral-storage",
            Signal::Inodes => "inodes",
            Signal::Processes => "pids",
        }
    }
}

impl Least {
    fn of(self, level: Level) -> u64 {
        match self {
            Least::Amount(amount) => amount.min(level.capacity / 2),
            Least::Share(share) => (level.capacity as f64 * share) as u64,
        }
    }
}

impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(threshold)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn threshold(text: &str) -> Result<(Signal, Least), String> {
    let (signal, least) = text.split_once('<').ok_or_else(|| format!("{text:?} is not SIGNAL<THRESHOLD"))?;
    let signal = match signal.trim() {
        "memory.available" => Signal::Memory,
        "nodefs.available" | "imagefs.available" => Signal::Disk,
        "nodefs.inodesFree" | "imagefs.inodesFree" => Signal::Inodes,
        "pid.available" => Signal::Processes,
        other => {
            let known = "memory.available, nodefs.available, nodefs.inodesFree, imagefs.available, imagefs.inodesFree, pid.available";
            return Err(format!("{other:?} is no signal: there are {known}"));
        }
    };
    let wrong = || format!("{least:?} is neither an amount (500Mi) nor a share (5%)");
    let least = match least.trim().strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.parse().map_err(|_| wrong())?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(wrong());
            }
            Least::Share(percent / 100.0)
        }
        None => {
            let amount: Quantity = least.trim().parse().map_err(|_| wrong())?;
            Least::Amount(u64::try_from(amount.value()).map_err(|_| wrong())?)
        }
    };
    Ok((signal, least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_written_as_kubelets() {
        let levels = Levels { memory: Level { available: 0, capacity: 1000 }, ..Levels::default() };
        let least = |text: &str| -> Vec<_> {
            let thresholds: Thresholds = text.parse().unwrap();
            thresholds.of(&levels).map(|(signal, _, least)| (signal, least)).collect()
        };
        assert_eq!(least(" memory.available<12.5% "), [(Signal::Memory, 125)]);
        assert_eq!(least("memory.available<100,pid.available<0"), [(Signal::Memory, 100), (Signal::Processes, 0)]);
        assert_eq!(least("memory.available<1Gi"), [(Signal::Memory, 500)], "more than a small host has to give");
        assert_eq!(least(""), []);
        assert_eq!(Thresholds::default().0.len(), 4);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("nodefs.free<1%", "\"nodefs.free\" is no signal"),
            ("nodefs.available>1%", "\"nodefs.available>1%\" is not SIGNAL<THRESHOLD"),
            ("nodefs.available<101%", "\"101%\" is neither"),
            ("nodefs.available<much", "\"much\" is neither"),
            ("nodefs.available<-1Gi", "\"-1Gi\" is neither"),
            ("nodefs.available<NaN%", "\"NaN%\" is neither"),
        ] {
            let error = text.parse::<Thresholds>().unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
