//! A client of the OCI distribution API, as much of it as images of this runtime need.
//!
//! ```text
//! settings    what the user says about registries: `registries.yaml`, flags
//! endpoints   where an image may be had from, in which order; no I/O
//! transport   connections, TLS, time limits
//! auth        challenges and tokens
//! session     requests about one repository: next endpoint, again, redirected, refused
//! ```
//!
//! It knows digests and media types, and nothing of the store.

mod auth;
mod endpoints;
mod session;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod transport;

pub(super) use endpoints::home;
pub(super) use session::{Fault, Place, Session, Verb};
pub use settings::{ConfigFile, Credentials, DEFAULT_REGISTRIES_FILE, Registries, Timing};
pub(super) use transport::{Body, empty, full};
