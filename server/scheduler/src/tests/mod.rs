//! Clusters and pods as text, decisions and messages as text.

mod cluster;
mod decisions;
mod queue;
mod running;
