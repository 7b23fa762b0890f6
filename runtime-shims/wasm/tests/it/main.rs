//! The shim as its users have it: the real program, its real worker and compiler processes, spoken to over CRI.
#![allow(unreachable_pub, reason = "a test is no library")]

mod anywhere;
mod commands;
mod cri;
mod distribution;
mod footprint;
mod guests;
mod host_ports;
mod hostile;
mod hostile_registry;
mod http;
mod images;
mod limits;
mod network;
mod pods;
mod registry;
mod restarts;
mod shim;
mod silent;
mod state;
mod streaming;
mod tls;
mod trust;
mod volumes;
mod wasi;
mod wasi3;
mod workers;
