//! The front: speaks CRI, and owns what guests must not: images, addresses, sockets, volumes, log files, the record of
//! what exists. It runs no guest code and holds no thread for long.
//!
//! ```text
//! service   CRI's calls, one by one: checks, converts, answers
//! pods      what exists and how it changes; the only one that touches the state
//! link      a worker process
//! plan, mounts, addresses   decisions without I/O
//! records   the state on disk
//! ```
//!
//! Containers of a worker that died are reported as exited, and so are those of workers that died with an earlier front:
//! a worker does not outlive the front that started it, and the front waits for that before it serves.

mod addresses;
mod config;
mod containers;
mod convert;
mod events;
mod image_service;
mod link;
mod logs;
mod mounts;
mod plan;
mod pods;
mod records;
mod run;
mod runtime_service;
mod state;

pub use config::FrontConfig;
pub use run::{FrontError, run};
