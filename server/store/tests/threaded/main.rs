//! The store as a server runs it, from outside: with its thread, with real processes and at random.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod concurrent;
mod crash;
mod drafts;
mod model;
