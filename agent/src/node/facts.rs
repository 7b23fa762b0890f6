//! What the host is and has, read once from /proc and /etc.

use std::fs;
use std::io;
use std::path::Path;

/// Facts about the host. Tests make their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    pub hostname: String,
    pub cpus: u32,
    pub memory_bytes: i64,
    /// Of the file system that holds the data folder.
    pub storage_bytes: i64,
    /// As Go names it: `amd64`, `arm64`.
    pub architecture: String,
    pub kernel_version: String,
    pub os_image: String,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
}

impl HostFacts {
    /// What only describes the host is left empty if it cannot be read; how much memory and disk there is must be known.
    pub fn read() -> io::Result<Self> {
        let text = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let cpus =
            std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let machine_id = text("/etc/machine-id");
        let system_uuid = Some(text("/sys/class/dmi/id/product_uuid")).filter(|uuid| !uuid.is_empty());
        let memory_bytes = memory(&fs::read_to_string("/proc/meminfo")?);
        let memory_bytes = memory_bytes.ok_or_else(|| io::Error::other("/proc/meminfo names no MemTotal"))?;
        Ok(Self {
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            cpus,
            memory_bytes,
            storage_bytes: storage(Path::new("/"))?,
            architecture: architecture.to_owned(),
            kernel_version: rustix::system::uname().release().to_string_lossy().into_owned(),
            os_image: os_image(&text("/etc/os-release")),
            system_uuid: system_uuid.unwrap_or_else(|| machine_id.clone()),
            machine_id,
            boot_id: text("/proc/sys/kernel/random/boot_id"),
        })
    }

    /// The disk that counts is the one that holds this folder.
    pub fn with_storage_of(mut self, folder: &Path) -> io::Result<Self> {
        // The folder itself may not be there yet.
        let existing = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        self.storage_bytes = storage(existing)?;
        Ok(self)
    }
}

fn memory(meminfo: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: i64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

fn os_image(release: &str) -> String {
    let line = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map(|name| name.trim_matches('"').to_owned()).unwrap_or_default()
}

fn storage(path: &Path) -> io::Result<i64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(i64::try_from(stat.f_blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX))
}
