//! coracle-api: what a Kubernetes object is, as plain data and synchronous functions.
//!
//! Owns the schema of every built-in kind (one table drives decoding, patches, OpenAPI and codecs), strict decoding,
//! the object wrapper, quantities, selectors, name rules, patches and the API's `Status`. It does no I/O, knows no
//! clock, no store, no HTTP and no tokio.

pub mod decode;
mod depth;
pub mod fields;
pub mod meta;
pub mod names;
pub mod object;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod time;

pub use fields::{FieldError, FieldErrorKind, FieldPath};
pub use meta::{GroupKind, GroupResource, GroupVersionKind, NodeName, ObjectKey, PodKey, Revision, Uid};
pub use object::Object;
pub use quantity::Quantity;
pub use schema::{ResourceDef, Schema, TypeId};
pub use status::{Reason, Status};
