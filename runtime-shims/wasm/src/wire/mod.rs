//! What front and worker say to each other: JSON in datagrams, with the descriptors it speaks of attached.
//!
//! ```text
//! front ──Setup───▶ worker    once, when it is started
//! front ──Hello───▶ worker    each front's first word, also to workers that an earlier front started
//!       ◀─Welcome──           what runs there, and what ended without a front knowing
//!       ──Order────▶
//!       ◀─Done─────           one for each order, by its number
//!       ◀─Exited───           when it happens, and again to the next front until it is acknowledged
//! ```
//!
//! Orders name containers by id and are harmless when repeated, so that a front that comes back can go on where it was.
//!
//! Front and worker may be of different builds: a front that was upgraded speaks to workers of the build before. To
//! those it says only [`Hello`] and the orders that are marked *lasting*; what these and all reports look like may
//! only grow by fields that have a default. Anything else is a new [`VERSION`].

mod door;
mod exec;
mod limits;
mod sent;
mod socket;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use door::{Door, bind, connect, duplicate};
pub(crate) use exec::{AttachSpec, ExecSpec};
pub(crate) use limits::{AtMemoryLimit, CpuSpec, GuestLimits, LogLimits, PodLimits, PodSpec};
pub(crate) use sent::Sent;
pub(crate) use socket::{Channel, Message, is_out_of_files, receive_blocking};

use crate::clock::UnixNanos;
use crate::compile::GuestKind;
use crate::engine::Profile;

/// Which of the descriptors that came along, counted from 0.
pub(crate) type FdIndex = usize;

/// What is spoken here. A front speaks to workers from [`OLDEST`] on.
pub(crate) const VERSION: u32 = 1;
pub(crate) const OLDEST: u32 = 1;

/// The first message to a worker. Descriptor 0 is the directory of machine code, 1 the empty root directory, 2 the
/// socket that later fronts come to, 3 that socket's file; 4, where the node has one, a file of the
/// certificate authorities it trusts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) profile: Profile,
    /// Threads that run guests.
    pub(crate) threads: usize,
    /// Of the front that starts it, and so of the worker.
    pub(crate) build: String,
}

/// A front's first message to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) build: String,
}

/// The answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) version: u32,
    pub(crate) build: String,
    /// It was told to end when it is empty, and so takes no guests.
    pub(crate) retiring: bool,
    pub(crate) running: Vec<String>,
    /// What was not acknowledged yet.
    pub(crate) ended: Vec<Ended>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) number: u64,
    pub(crate) what: Command,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Start(Box<GuestSpec>),
    /// Ends a guest, gently where it can be told. Already ended is fine. Lasting.
    Stop {
        id: String,
        grace_ms: u64,
    },
    /// Descriptor 0 is the new log file. Lasting.
    ReopenLog {
        id: String,
    },
    /// Descriptor 0 is the reading end of a pipe; what comes out of it goes to the guest's standard input until the pipe
    /// ends. A guest that takes no input refuses.
    AttachStdin {
        id: String,
    },
    /// Another instance in a container that runs; the descriptors are the command's own.
    Exec(Box<ExecSpec>),
    AttachOutput(AttachSpec),
    /// Lasting.
    SetMemoryLimit {
        id: String,
        bytes: Option<u64>,
    },
    /// Lasting.
    SetCpu {
        id: String,
        cpu: CpuSpec,
    },
    /// For the containers of a pod together. Lasting.
    SetPod(PodLimits),
    /// Lasting.
    Stats,
    /// These ends are on record and need not be kept. Lasting.
    Acknowledge {
        ids: Vec<String>,
    },
    /// Answered with the listening socket of an HTTP guest, for the worker that goes on in its place. Lasting.
    Lend {
        id: String,
    },
    /// Ends a guest that runs elsewhere now: it finishes its requests within the grace, and its end is not reported.
    /// Lasting.
    Forget {
        id: String,
        grace_ms: u64,
    },
    /// The worker takes no guests any more and ends when it has none. Lasting.
    Retire,
}

impl Command {
    /// What a worker needs to know of an order that a later build gave it, to say no.
    pub(crate) fn number_of(message: &Message) -> std::io::Result<u64> {
        #[derive(Deserialize)]
        struct Number {
            number: u64,
        }
        message.parse::<Number>().map(|order| order.number)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GuestSpec {
    pub(crate) id: String,
    /// For logs of the worker itself: namespace/pod/container.
    pub(crate) title: String,
    /// The sandbox and the container's name, which each attempt has.
    pub(crate) place: (String, String),
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
    pub(crate) limits: GuestLimits,
    /// None where the container is not bound by its pod's limits.
    pub(crate) pod: Option<PodSpec>,
    pub(crate) log: Option<FdIndex>,
    pub(crate) http: Option<HttpSpec>,
    pub(crate) net: NetSpec,
    /// The directory whose files are the guest's configuration.
    pub(crate) config: Option<FdIndex>,
    pub(crate) keyvalue: Option<KeyvalueSpec>,
}

/// The key-value store of the guest's namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyvalueSpec {
    pub(crate) namespace: String,
    pub(crate) dir: FdIndex,
    pub(crate) limit_bytes: u64,
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
    /// Until the head of the response, and from its end on.
    pub(crate) timeout_ms: u64,
    /// Serve one request after the other with the same instance.
    #[serde(default)]
    pub(crate) keep_instances: bool,
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
    Welcome(Welcome),
    Done {
        number: u64,
        outcome: Result<Answer, String>,
    },
    Exited(Ended),
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) id: String,
    pub(crate) at: UnixNanos,
    pub(crate) exit: Exit,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Nothing,
    /// It came along as a descriptor.
    Descriptor,
    Stats(Vec<GuestStats>),
    /// No more containers fit into this worker; there may be room in another.
    Full(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GuestStats {
    pub(crate) id: String,
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_ns: u64,
    /// Payload, over all its sockets.
    #[serde(default)]
    pub(crate) received_bytes: u64,
    #[serde(default)]
    pub(crate) sent_bytes: u64,
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

/// Kubernetes shows 4096 bytes of a termination message.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4096;

/// What is shown of a message.
pub(crate) fn shown(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
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
