//! The real binary, the real `kubectl`, real guests, a real registry: what a user does, and what goes wrong for them.

mod agents;
mod crash;
mod disk;
mod failures;
mod images;
mod kubectl;
mod streams;
mod top;
mod up;
mod wasm_config;
