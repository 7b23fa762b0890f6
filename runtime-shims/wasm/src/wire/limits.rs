//! What a container and its pod may use, as the front decided it and the worker keeps it.

use serde::{Deserialize, Serialize};

/// What one container may use; all its instances together, unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GuestLimits {
    pub(crate) cpu: CpuSpec,
    pub(crate) at_memory_limit: AtMemoryLimit,
    /// Open sockets and connections, whoever opened them.
    pub(crate) sockets: usize,
    /// Open files and directories, volumes not counted.
    pub(crate) files: usize,
    /// Names that are being looked up.
    pub(crate) lookups: usize,
    /// Streams, requests, timers and the like that the host keeps for one instance.
    pub(crate) host_objects: usize,
    pub(crate) log: LogLimits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CpuSpec {
    /// Of each period; none is no limit.
    pub(crate) quota_us: Option<u64>,
    pub(crate) period_us: u64,
    /// Against other busy containers, 1024 for one processor that was asked for.
    pub(crate) weight: u64,
}

impl Default for CpuSpec {
    fn default() -> CpuSpec {
        CpuSpec { quota_us: None, period_us: 100_000, weight: 1024 }
    }
}

/// What happens to a guest that wants more memory than it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AtMemoryLimit {
    /// It ends, as the kernel would end a process.
    Kill,
    /// It is told no: `memory.grow` gives -1.
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogLimits {
    pub(crate) bytes_per_second: u64,
    /// What may come at once after a time of silence.
    pub(crate) burst_bytes: u64,
    /// Longer lines are cut into parts.
    pub(crate) line_bytes: usize,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits { bytes_per_second: 8 << 20, burst_bytes: 32 << 20, line_bytes: 16 << 10 }
    }
}

impl Default for GuestLimits {
    fn default() -> GuestLimits {
        GuestLimits {
            cpu: CpuSpec::default(),
            at_memory_limit: AtMemoryLimit::Kill,
            sockets: 2048,
            files: 1024,
            lookups: 64,
            host_objects: 10_000,
            log: LogLimits::default(),
        }
    }
}

/// How a container's pod binds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodSpec {
    pub(crate) limits: PodLimits,
    /// Whether its processor time counts there, if there is a limit, and its memory.
    pub(crate) cpu: bool,
    pub(crate) memory: bool,
}

/// What the containers of a pod may use together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodLimits {
    /// Containers that name the same pod share one allowance.
    pub(crate) pod: String,
    pub(crate) cpu_quota_us: Option<u64>,
    pub(crate) cpu_period_us: u64,
    pub(crate) memory_bytes: Option<u64>,
}
