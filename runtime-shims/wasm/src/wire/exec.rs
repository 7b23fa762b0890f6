//! Commands beside a container's own program, and listening to its output.
//!
//! Both live as long as their descriptors do: a front that closes them has called them off, and one that is gone has too.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::FdIndex;
use crate::compile::GuestKind;

/// Another instance in a running container. Descriptor 0 is a connected stream socket: the worker writes the
/// [`Exit`](super::Exit) to it as JSON when the command has ended and its output is written; its end calls the command
/// off.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExecSpec {
    pub(crate) container: String,
    pub(crate) kind: GuestKind,
    /// Relative to the directory of machine code.
    pub(crate) code: PathBuf,
    pub(crate) args: Vec<String>,
    /// The others are pipes, or one terminal.
    pub(crate) stdin: Option<FdIndex>,
    pub(crate) stdout: Option<FdIndex>,
    pub(crate) stderr: Option<FdIndex>,
    pub(crate) terminal: bool,
}

/// From now on, what the container writes is also written to these pipes. One that is full is closed: the container does
/// not wait for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AttachSpec {
    pub(crate) container: String,
    pub(crate) stdout: Option<FdIndex>,
    pub(crate) stderr: Option<FdIndex>,
}
