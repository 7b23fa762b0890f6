//! Pods: what is decided about them, and the carrying out of it.

pub mod acts;
pub mod backoff;
pub mod config;
pub mod context;
pub mod downward;
pub mod env;
pub mod image;
pub mod machine;
pub mod observe;
pub mod qos;
mod route;
pub mod status;
pub mod worker;
