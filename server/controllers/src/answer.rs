//! What an answer of the API means for the one who asked for an effect.

use std::time::Duration;

use coracle_client::{Error, Outcome};

const CONFLICT_RETRY: Duration = Duration::from_millis(5);

/// Somebody else wrote the object meanwhile, which is no failure: decide anew as soon as the cache shows it.
pub(crate) fn unless_conflict(result: Result<Outcome, Error>) -> Result<Outcome, Error> {
    match result {
        Err(error) if error.is_conflict() => Ok(Outcome::RequeueAfter(CONFLICT_RETRY)),
        result => result,
    }
}

/// The effect may or may not have come about.
pub(crate) fn is_ambiguous(error: &Error) -> bool {
    match error {
        Error::Transport { .. } | Error::Timeout { .. } | Error::Decode { .. } => true,
        // 500 and above: something went wrong on the way, perhaps after the commit.
        Error::Api(status) => status.code >= 500,
        Error::Request(_) | Error::Config(_) => false,
    }
}

/// Nothing can be made in a namespace that is going or gone: no reason to try again.
pub(crate) fn is_namespace_terminating(error: &Error) -> bool {
    let Some(details) = error.status().and_then(|status| status.details.as_deref()) else { return false };
    let gone = error.is_not_found() && details.kind == "namespaces";
    gone || details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Success also when the object is gone.
pub(crate) fn unless_gone<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
