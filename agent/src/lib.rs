//! coracle-agent: the node agent. It runs the pods that the cluster has bound to its node, through the node's container
//! runtimes, and tells the cluster how they are.
//!
//! Owns pods' lives (`pod`), their volumes and probes, the Node object, the node API, and the records from which a boot
//! without server starts. Must not know: a particular runtime, or anything of the server beyond its API.

mod agent;
pub mod config;
pub mod host_network;
pub mod housekeeping;
pub mod join;
pub mod local;
pub mod logging;
pub mod logs;
pub mod mailbox;
pub mod node;
pub mod pod;
mod pods;
pub mod probes;
mod rotation;
pub mod runtime;
pub mod server;
pub mod sources;
pub mod starts;
pub mod stats;
pub mod status;
mod streams;
#[cfg(test)]
mod testing;
pub mod tokens;
pub mod volumes;

pub use agent::{Agent, AgentHandle, StartError};
