//! The Wasm runtime: a CRI v1 server whose containers are wasmtime instances.
//!
//! It is three kinds of process, all the same file re-executed:
//!
//! ```text
//!  agent ──CRI──▶ front ──socketpair + descriptors──▶ worker (guests; no privileges, no credentials)
//!                   └─────stdin, stdout, stderr─────▶ compiler (one image; memory and time limited)
//! ```
//!
//! - [`front`] owns images, pod addresses, listening sockets, volumes, log files and the record of what exists. It
//!   never runs or compiles guest code.
//! - [`worker`] runs guests. Everything it may touch arrives as an open descriptor.
//! - [`compile`] turns a module or component into machine code in a process that may be killed.
//!
//! This crate knows CRI and no Kubernetes object. It must not import anything of ours but `coracle-cri`.

pub mod clock;
pub mod compile;
mod confine;
pub mod engine;
pub mod front;
pub mod images;
mod listed;
mod turns;
mod wire;
pub mod worker;
