//! How little of a host's resources may be left before pods have to go, as kubelet's `--eviction-hard` says it.

use std::collections::BTreeMap;
use std::str::FromStr;

use coracle_api::Quantity;

use super::eviction::Pressure;
use super::gauge::{Level, Levels};

/// For each signal the least that may be left. What is not named may run out unseen.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds(BTreeMap<Signal, Least>);

/// One of them: `memory.available<100Mi`, `nodefs.available<5%`.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    signal: Signal,
    /// `None` for 0 % and 100 %, which switch the signal off.
    least: Option<Least>,
}

/// What runs out, what matters most first. Images are looked for where the agent's folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
    Memory,
    Disk,
    ImageDisk,
    Inodes,
    ImageInodes,
    Processes,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Least {
    /// Bytes, inodes or processes.
    Amount(u64),
    /// The same, but a host that has not even twice as much may use half of what it has.
    UpToHalf(u64),
    /// Of the capacity, 0 to 1.
    Share(f64),
}

impl Thresholds {
    /// What a command line says of them, with [`Self::default`] as it would be given.
    pub const HELP: &str = "How little of the host may be left before pods have to go, as for kubelet \
                            [default: memory.available<100Mi,nodefs.available<5%,nodefs.inodesFree<5%,pid.available<5%]";

    /// The given ones; of two for one signal the last. If none is given, the default.
    pub fn given(all: &[Threshold]) -> Self {
        if all.is_empty() {
            return Self::default();
        }
        let last: BTreeMap<_, _> = all.iter().map(|one| (one.signal, one.least)).collect();
        Self(last.into_iter().filter_map(|(signal, least)| Some((signal, least?))).collect())
    }

    /// Each signal with its level and the least that may be left of it, what matters most first.
    pub(super) fn of(&self, levels: &Levels) -> impl Iterator<Item = (Signal, Level, u64)> {
        self.0.iter().map(|(signal, least)| {
            let level = signal.level(levels);
            (*signal, level, least.of(level))
        })
    }
}

/// Memory and process ids as kubelet, disk as k3s: a tenth of a large disk is much to do without.
impl Default for Thresholds {
    fn default() -> Self {
        Self(BTreeMap::from([
            (Signal::Memory, Least::UpToHalf(100 << 20)),
            (Signal::Disk, Least::Share(0.05)),
            (Signal::Inodes, Least::Share(0.05)),
            (Signal::Processes, Least::Share(0.05)),
        ]))
    }
}

impl Signal {
    fn level(self, levels: &Levels) -> Level {
        match self {
            Signal::Memory => levels.memory,
            Signal::Disk | Signal::ImageDisk => levels.disk,
            Signal::Inodes | Signal::ImageInodes => levels.inodes,
            Signal::Processes => levels.processes,
        }
    }

    pub(super) fn pressure(self) -> Pressure {
        match self {
            Signal::Memory => Pressure::Memory,
            Signal::Disk | Signal::ImageDisk | Signal::Inodes | Signal::ImageInodes => Pressure::Disk,
            Signal::Processes => Pressure::Pid,
        }
    }

    /// As messages name what ran out.
    pub(super) fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::Disk | Signal::ImageDisk => "ephemeral-storage",
            Signal::Inodes | Signal::ImageInodes => "inodes",
            Signal::Processes => "pids",
        }
    }
}

impl Least {
    fn of(self, level: Level) -> u64 {
        match self {
            Least::Amount(amount) => amount,
            Least::UpToHalf(amount) => amount.min(level.capacity / 2),
            Least::Share(share) => (level.capacity as f64 * share) as u64,
        }
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (signal, least) = text.split_once('<').ok_or_else(|| format!("{text:?} is not SIGNAL<THRESHOLD"))?;
        let signal = match signal.trim() {
            "memory.available" => Signal::Memory,
            "nodefs.available" => Signal::Disk,
            "nodefs.inodesFree" => Signal::Inodes,
            "imagefs.available" => Signal::ImageDisk,
            "imagefs.inodesFree" => Signal::ImageInodes,
            "pid.available" => Signal::Processes,
            other => {
                let known = "memory.available, nodefs.available, nodefs.inodesFree, imagefs.available, \
                             imagefs.inodesFree, pid.available";
                return Err(format!("{other:?} is no signal: there are {known}"));
            }
        };
        Ok(Threshold { signal, least: least_of(least.trim())? })
    }
}

fn least_of(text: &str) -> Result<Option<Least>, String> {
    let wrong = || format!("{text:?} is neither a positive amount (500Mi) nor a share (5%)");
    let Some(percent) = text.strip_suffix('%') else {
        let amount: Quantity = text.parse().map_err(|_| wrong())?;
        let amount = u64::try_from(amount.value()).ok().filter(|amount| *amount > 0);
        return amount.map(|amount| Some(Least::Amount(amount))).ok_or_else(wrong);
    };
    match percent.parse::<f64>() {
        Ok(percent) if percent == 0.0 || percent == 100.0 => Ok(None),
        Ok(percent) if (0.0..100.0).contains(&percent) => Ok(Some(Least::Share(percent / 100.0))),
        Ok(_) | Err(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Thresholds {
        Thresholds::given(&text.split(',').map(|one| one.parse().unwrap()).collect::<Vec<_>>())
    }

    fn least(text: &str) -> Vec<(Signal, u64)> {
        let level = Level { available: 0, capacity: 1000 };
        let levels = Levels { memory: level, disk: level, inodes: level, processes: level };
        given(text).of(&levels).map(|(signal, _, least)| (signal, least)).collect()
    }

    #[test]
    fn thresholds_are_written_as_kubelets() {
        assert_eq!(least(" memory.available<12.5% "), [(Signal::Memory, 125)]);
        let ordered = [(Signal::Memory, 900), (Signal::Disk, 50), (Signal::ImageDisk, 150), (Signal::Processes, 7)];
        assert_eq!(
            least("pid.available<7,imagefs.available<15%,nodefs.available<5%,memory.available<900"),
            ordered,
            "what matters most is first"
        );
        assert_eq!(least("memory.available<10%,memory.available<1"), [(Signal::Memory, 1)], "the last counts");
        assert_eq!(least("memory.available<100%,pid.available<0%,nodefs.inodesFree<1"), [(Signal::Inodes, 1)]);
    }

    #[test]
    fn the_default_is_what_the_help_says_but_for_small_hosts() {
        let large = Level { available: 0, capacity: 8 << 30 };
        let levels = Levels { memory: large, disk: large, inodes: large, processes: large };
        let all = |thresholds: Thresholds| thresholds.of(&levels).collect::<Vec<_>>();
        let said = Thresholds::HELP.split_once("[default: ").unwrap().1.trim_end_matches(']');
        assert_eq!(all(Thresholds::given(&[])), all(given(said)));
        let small = Levels { memory: Level { available: 0, capacity: 128 << 20 }, ..levels };
        assert_eq!(Thresholds::default().of(&small).next().unwrap().2, 64 << 20);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("nodefs.free<1%", "\"nodefs.free\" is no signal"),
            ("nodefs.available>1%", "\"nodefs.available>1%\" is not SIGNAL<THRESHOLD"),
            ("nodefs.available<101%", "\"101%\" is neither"),
            ("nodefs.available<much", "\"much\" is neither"),
            ("nodefs.available<-1Gi", "\"-1Gi\" is neither"),
            ("nodefs.available<0", "\"0\" is neither"),
            ("nodefs.available<NaN%", "\"NaN%\" is neither"),
        ] {
            let error = text.parse::<Threshold>().unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
