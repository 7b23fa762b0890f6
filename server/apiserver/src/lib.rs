//! coracle-apiserver: the Kubernetes API over the store.
//!
//! ```text
//!  http (parse, authenticate, authorise, negotiate) ─► registry (one for all kinds) ─► store
//!        │                                               ├─ strategy (per kind: defaults, validation)
//!        └─ hooks: auth, table, discovery, openapi,      └─ admission (other objects, who asks)
//!           node_proxy
//! ```
//!
//! It knows no scheduler, controller or agent: they are its clients, in this process or elsewhere.

mod admission;
mod assembly;
pub mod auth;
pub mod discovery;
pub mod documents;
pub mod hooks;
pub mod http;
pub mod node_proxy;
pub mod openapi;
pub mod registry;
pub mod serve;
mod server;
pub mod strategy;
pub mod table;
#[cfg(test)]
mod testing;

pub use assembly::{Assembly, AssemblyConfig, AssemblyError, KUBERNETES_VERSION};
pub use hooks::{Hooks, UserInfo};
pub use server::{ApiServer, ApiServerConfig, BuildError};
