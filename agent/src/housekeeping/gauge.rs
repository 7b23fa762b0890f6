//! What is left of the host's memory, disk and processes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What is left of something, and how much there is of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub available: u64,
    pub capacity: u64,
}

/// One look at the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    pub memory: Level,
    /// Of the file system that holds the agent's folder, in bytes and in inodes.
    pub disk: Level,
    pub inodes: Level,
    pub processes: Level,
}

/// Measures the host.
pub trait Gauge: Send + Sync + 'static {
    /// `data_dir` is on the disk that counts. `None`: this host is an imaginary one, and nothing runs out on it.
    fn levels(&self, data_dir: &Path) -> io::Result<Option<Levels>>;

    /// The disk that holds an image store.
    fn disk(&self, path: &Path) -> io::Result<Option<Level>>;
}

/// For simulations: nothing ever runs out.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGauge;

impl Gauge for NoGauge {
    fn levels(&self, _data_dir: &Path) -> io::Result<Option<Levels>> {
        Ok(None)
    }

    fn disk(&self, _path: &Path) -> io::Result<Option<Level>> {
        Ok(None)
    }
}

/// This host, by /proc and statvfs.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostGauge;

impl Gauge for HostGauge {
    fn levels(&self, data_dir: &Path) -> io::Result<Option<Levels>> {
        let memory = memory(&fs::read_to_string("/proc/meminfo")?)
            .ok_or_else(|| io::Error::other("/proc/meminfo names no MemAvailable"))?;
        let stat = rustix::fs::statvfs(data_dir)?;
        let processes = processes(
            &fs::read_to_string("/proc/loadavg")?,
            &fs::read_to_string("/proc/sys/kernel/pid_max")?,
            &fs::read_to_string("/proc/sys/kernel/threads-max")?,
        );
        Ok(Some(Levels {
            memory,
            disk: level(stat.f_bavail, stat.f_blocks, stat.f_frsize),
            inodes: level(stat.f_favail, stat.f_files, 1),
            processes: processes.ok_or_else(|| io::Error::other("/proc/loadavg cannot be read"))?,
        }))
    }

    fn disk(&self, path: &Path) -> io::Result<Option<Level>> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Some(level(stat.f_bavail, stat.f_blocks, stat.f_frsize)))
    }
}

fn level(available: u64, capacity: u64, unit: u64) -> Level {
    Level { available: available.saturating_mul(unit), capacity: capacity.saturating_mul(unit) }
}

fn memory(meminfo: &str) -> Option<Level> {
    let bytes = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Level { available: bytes("MemAvailable:")?, capacity: bytes("MemTotal:")? })
}

/// The fourth word of /proc/loadavg is `running/all`.
fn processes(loadavg: &str, pid_max: &str, threads_max: &str) -> Option<Level> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let all = number(loadavg.split_whitespace().nth(3)?.split_once('/')?.1)?;
    let capacity = number(pid_max)?.min(number(threads_max)?);
    Some(Level { available: capacity.saturating_sub(all), capacity })
}

/// What a folder takes on its disk, without what is mounted in it, such as volumes in memory. What vanishes meanwhile
/// takes nothing.
pub(super) fn folder_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| bytes_on(path, meta.dev()))
}

fn bytes_on(path: &Path, device: u64) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.dev() != device => 0,
        Ok(meta) if meta.is_dir() => meta.blocks() * 512 + bytes_on(&entry.path(), device),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_read() {
        let levels = HostGauge.levels(Path::new("/")).unwrap().unwrap();
        for level in [levels.memory, levels.disk, levels.processes] {
            assert!(level.available > 0 && level.available <= level.capacity, "{levels:?}");
        }
        assert_eq!(
            memory("MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:   40 kB\n"),
            Some(Level { available: 40 << 10, capacity: 100 << 10 })
        );
        assert_eq!(processes("0.1 0.2 0.3 2/400 77", "1000\n", "500\n"), Some(Level { available: 100, capacity: 500 }));
    }

    #[test]
    fn a_folder_is_summed_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), vec![1; 1 << 20]).unwrap();
        fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
        let bytes = folder_bytes(dir.path());
        assert!((1 << 20..4 << 20).contains(&bytes), "{bytes}");
        assert_eq!(folder_bytes(&dir.path().join("none")), 0);
    }
}
