//! The store as a server runs it, from outside: with its thread, with real processes and at random.

mod common;
mod concurrent;
mod crash;
mod model;
