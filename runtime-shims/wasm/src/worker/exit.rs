//! From how a guest ended to what Kubernetes shows.

use wasmtime::component::ResourceTableError;
use wasmtime::{GcHeapOutOfMemory, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::memory::OutOfMemory;
use crate::wire::{Exit, ExitReason, shown};

/// As a process that was aborted (128 + SIGABRT): the guest's fault, but not for lack of memory.
const TRAPPED: i32 = 134;
/// As a process that was killed (128 + SIGKILL).
const KILLED: i32 = 137;
/// As a process without a handler for SIGTERM.
const TERMINATED: i32 = 143;
/// As runc reports what could not be started.
const NOT_STARTED: i32 = 128;

/// The outcome of a call into a guest that did not return.
pub(super) fn of_error(error: &wasmtime::Error) -> Exit {
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return Exit::with_code(*code);
    }
    if is_out_of_memory(error) {
        let message = match error.downcast_ref::<OutOfMemory>() {
            Some(out_of_memory) => out_of_memory.to_string(),
            None => "out of memory: the guest's garbage-collected heap is full and may not grow".to_owned(),
        };
        return Exit { code: KILLED, reason: ExitReason::OomKilled, message };
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        let message = "the guest holds as many host objects (streams, sockets, requests, timers) as it may; it must \
                       drop those it does not need, or be allowed more (annotation coracle.dev/max-host-objects)";
        return Exit { code: TRAPPED, reason: ExitReason::Error, message: format!("{message}\n{}", text(error)) };
    }
    let code = if error.is::<Trap>() || error.is::<WasmBacktrace>() { TRAPPED } else { NOT_STARTED };
    Exit { code, reason: ExitReason::Error, message: text(error) }
}

/// The guest wanted more memory than it may have. Of a heap that wasmtime collects it does not say why it could not grow; the
/// limit is the only reason there is, short of 4 GiB.
pub(super) fn is_out_of_memory(error: &wasmtime::Error) -> bool {
    error.is::<OutOfMemory>() || error.is::<GcHeapOutOfMemory<()>>()
}

/// The guest was ended from outside.
pub(super) fn stopped(gently: bool) -> Exit {
    if gently {
        Exit { code: TERMINATED, reason: ExitReason::Error, message: String::new() }
    } else {
        Exit { code: KILLED, reason: ExitReason::Error, message: String::new() }
    }
}

pub(super) fn panicked(what: &str) -> Exit {
    Exit {
        code: TRAPPED,
        reason: ExitReason::Error,
        message: shown(format!("the runtime failed while running the guest: {what}")),
    }
}

/// The cause first, because a reader may see only one line; then where in the guest it happened.
pub(super) fn text(error: &wasmtime::Error) -> String {
    let mut text = error.root_cause().to_string();
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>()
        && !backtrace.frames().is_empty()
    {
        text.push('\n');
        text.push_str(backtrace.to_string().trim_end());
    } else {
        let outer = error.to_string();
        if !outer.contains(&text) {
            text = format!("{outer}: {text}");
        }
    }
    shown(text)
}
