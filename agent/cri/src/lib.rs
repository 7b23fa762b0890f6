//! CRI v1: messages, client, server, the router from a RuntimeClass handler to a runtime, and a scripted fake.
//!
//! Owns: what goes over the wire between node agent and container runtimes. Must not know: any Kubernetes object,
//! any particular runtime.

mod endpoint;
pub mod fake;
mod router;
mod server;
pub mod streaming;

pub use endpoint::{Endpoint, ImageClient, RuntimeClient, Transport};
pub use router::{RuntimeRouter, UnknownHandler};
pub use server::{ServeError, routes, serve_unix};

/// Re-exported so that callers speak of the same `Status` and `Code` as the generated code.
pub use tonic::{Code, Request, Response, Status};

/// What PullImage answers for an image that is none of the runtime's kind, as an OCI image is none for a Wasm runtime:
/// another runtime may take it.
pub fn other_kind(message: impl Into<String>) -> Status {
    Status::failed_precondition(message)
}

/// The generated messages, clients and server traits of `proto/cri.proto`.
#[allow(clippy::all, missing_docs, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");

    impl std::fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AuthConfig")
                .field("username", &self.username)
                .field("server_address", &self.server_address)
                .finish_non_exhaustive()
        }
    }
}
