//! What can go wrong with an image, in words for whoever reads `kubectl describe pod`.

use std::io;
use std::path::PathBuf;

/// Why an image is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name itself is wrong.
    #[error("invalid image name {name:?}: {why}")]
    InvalidName { name: String, why: String },

    /// The store has no such image.
    #[error(
        "image {name:?} is not in the store; pull it, or take it in with `coracle image import FILE --name {name}`"
    )]
    Unknown { name: String },

    /// The registry answered that it has no such image.
    #[error("failed to {verb} image {name:?}: not found in the registry")]
    NotFound { verb: &'static str, name: String },

    /// The registry wants other credentials. Where they come from, the caller knows.
    #[error("failed to {verb} image {name:?}: {why}")]
    Unauthorized { verb: &'static str, name: String, why: String },

    /// The registry could not be reached, or broke off.
    #[error("failed to {verb} image {name:?}: {why}")]
    Registry { verb: &'static str, name: String, why: String },

    /// What the user says about registries or signatures makes no sense, so nothing is fetched.
    #[error("the settings for image {name:?} cannot be used: {why}")]
    Settings { name: String, why: String },

    /// The policy does not accept it.
    #[error("image {name:?} is refused by the signature policy: {why}")]
    Untrusted { name: String, why: String },

    /// It is an image, but not of this kind.
    #[error("{name:?} is not a WebAssembly image: {why}")]
    NotWasm { name: String, why: String },

    /// Content that is not what it says it is.
    #[error("{what} is corrupt: {why}")]
    Corrupt { what: String, why: String },

    /// Refused for its size.
    #[error("{what} is larger than the limit of {limit_bytes} bytes")]
    TooLarge { what: String, limit_bytes: u64 },

    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    pub(crate) fn io(verb: &'static str, path: impl Into<PathBuf>, source: io::Error) -> ImageError {
        ImageError::Io { verb, path: path.into(), source }
    }

    pub(crate) fn corrupt(what: impl Into<String>, why: impl ToString) -> ImageError {
        ImageError::Corrupt { what: what.into(), why: why.to_string() }
    }
}

/// An error with everything that caused it, because the cause is usually the part that helps.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
