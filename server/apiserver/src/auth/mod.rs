//! Owns who a client is and what it may do: the cluster's certificates, tokens, authentication, authorisation,
//! impersonation and how machines join. Must not know what objects mean beyond roles, bindings and what pods refer to.

pub mod authn;
pub mod authz;
pub mod enrol;
pub mod impersonation;
pub mod join_token;
pub mod objects;
pub mod pki;
pub mod service_account;
mod signing;
#[cfg(test)]
mod tests;

pub(crate) use join_token::hex;
