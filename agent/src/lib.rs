//! coracle-agent: the node agent.

pub mod join;
pub mod logs;
pub mod pod;
pub mod server;
