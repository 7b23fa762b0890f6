//! The front: speaks CRI, and owns what guests must not: images, addresses, sockets, volumes, log files, the record of
//! what exists. It runs no guest code and holds no thread for long.
//!
//! ```text
//! service   CRI's calls, one by one: checks, converts, answers
//! pods      what exists and how it changes; the only one that touches the state
//! prepare   what a guest is given, opened for it
//! workers   worker processes: which pods share one, how they come and go
//! link      one of them
//! adopt     what is done about workers of the front before
//! unrecorded   ends that could not be written down
//! upgrade   how workers of another build are left
//! host_ports   pods' ports on the node's addresses
//! exec, attach, streaming   commands and clients beside a container's own program
//! chosen    which program of an image that is
//! looks, scratch   what is done on threads beside: looking at volumes, removing what was made for containers
//! plan, programs, mounts, addresses   decisions without I/O
//! records   the state on disk
//! ```
//!
//! Workers outlive the front: a front that was killed, or that handed over, is followed by one that finds them and what
//! runs in them. Containers of a worker that died are reported as exited.

mod addresses;
mod adopt;
mod attach;
mod cgroup;
mod chosen;
mod config;
mod containers;
mod convert;
mod domain;
mod events;
mod exec;
mod falls;
mod host_ports;
mod image_service;
mod keyvalue;
mod limits;
mod link;
mod logs;
mod looks;
mod mounts;
mod packed;
mod plan;
mod pods;
mod prepare;
mod process;
mod programs;
mod records;
mod roots;
mod run;
mod runtime_service;
mod scratch;
mod state;
mod streaming;
mod terminal;
mod unrecorded;
mod upgrade;
mod usage;
mod workers;

pub use config::{DEFAULT_CODE_BYTES, FrontConfig};
pub use run::{FrontError, end_left_behind, run};
