//! The store driven by scripts, on paused time and without a thread: text in, text out.

mod history;
mod opening;
mod script;
mod semantics;
