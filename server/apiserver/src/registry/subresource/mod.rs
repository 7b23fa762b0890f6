//! Subresources with rules of their own. Those that are another way to write the object (scale, finalize, approval…) are
//! a `View`: what the client sees and how what it sends back changes the object. Those that are actions (binding,
//! eviction, token) are functions of the registry.

mod action;
mod eviction;
mod view;

pub use view::{View, view_of};
