//! Whom an image is believed from: the policy, keys, cosign's signatures, and machine code that travels in an image.
//!
//! Nothing here fetches anything large, and nothing here runs.

mod bundle;
pub(super) mod cosign;
mod keys;
mod policy;
pub(super) mod precompiled;
#[cfg(test)]
mod tests;

pub(super) use keys::PublicKey;
pub use keys::SigningKey;
pub use policy::DEFAULT_POLICY_FILE;
pub(super) use policy::{Policy, Verdict};
