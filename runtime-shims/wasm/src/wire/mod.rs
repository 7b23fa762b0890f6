//! What front and worker say to each other: JSON in datagrams, with the descriptors it speaks of attached.
//!
//! Orders are answered by a [`Report::Done`] with their number; exits are reported when they happen. Orders name
//! containers by id and are harmless when repeated, so that a front that comes back could go on where it was.

mod socket;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use socket::{Channel, Message, receive_blocking};

use crate::compile::GuestKind;
use crate::engine::Profile;

/// Which of the descriptors that came along, counted from 0.
pub(crate) type FdIndex = usize;

/// The first message to a worker. Descriptor 0 is the directory of machine code, 1 the empty root directory, 2 the lock
/// that workers hold until they are gone.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) profile: Profile,
    /// Threads that run guests.
    pub(crate) threads: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) number: u64,
    pub(crate) what: Command,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Start(Box<GuestSpec>),
    /// Ends a guest, gently where it can be told. Already ended is fine.
    Stop {
        id: String,
        grace_ms: u64,
    },
    /// Descriptor 0 is the new log file.
    ReopenLog {
        id: String,
    },
    /// Descriptor 0 is the reading end of a pipe; what comes out of it goes to the guest's standard input until the pipe
    /// ends. A guest that takes no input refuses.
    AttachStdin {
        id: String,
    },
    SetMemoryLimit {
        id: String,
        bytes: Option<u64>,
    },
    Stats,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GuestSpec {
    pub(crate) id: String,
    /// For logs of the worker itself: namespace/pod/container.
    pub(crate) title: String,
    pub(crate) kind: GuestKind,
    /// Relative to the directory of machine code.
    pub(crate) code: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_dir: Option<String>,
    pub(crate) stdin: StdinMode,
    pub(crate) volumes: Vec<VolumeSpec>,
    /// All instances of the container together.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) log: Option<FdIndex>,
    pub(crate) http: Option<HttpSpec>,
    pub(crate) net: NetSpec,
}

/// Whether a guest's standard input may ever have something in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StdinMode {
    Closed,
    /// Until the stop; with `once`, until the first who attaches leaves.
    Open {
        once: bool,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VolumeSpec {
    pub(crate) guest_path: String,
    pub(crate) readonly: bool,
    pub(crate) dir: FdIndex,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HttpSpec {
    pub(crate) listener: FdIndex,
    /// Requests at once; as many again wait, more get 503.
    pub(crate) concurrency: usize,
    /// Until the head of the response.
    pub(crate) timeout_ms: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct NetSpec {
    /// The pod's address; none for a pod in the host's network.
    pub(crate) ip: Option<IpAddr>,
    pub(crate) dns_servers: Vec<SocketAddr>,
    pub(crate) dns_searches: Vec<String>,
    pub(crate) dns_ndots: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Set up; orders are taken.
    Ready,
    Done {
        number: u64,
        outcome: Result<Answer, String>,
    },
    Exited {
        id: String,
        exit: Exit,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Nothing,
    Stats(Vec<GuestStats>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GuestStats {
    pub(crate) id: String,
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_ns: u64,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) reason: ExitReason,
    /// For the termination message.
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ExitReason {
    Completed,
    Error,
    OomKilled,
}

impl ExitReason {
    /// As containerd spells it and kubectl shows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ExitReason::Completed => "Completed",
            ExitReason::Error => "Error",
            ExitReason::OomKilled => "OOMKilled",
        }
    }
}

impl Exit {
    /// An ending the guest chose.
    pub(crate) fn with_code(code: i32) -> Exit {
        let reason = if code == 0 { ExitReason::Completed } else { ExitReason::Error };
        Exit { code, reason, message: String::new() }
    }
}
