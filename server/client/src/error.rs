//! What can go wrong with a request. A variant exists where callers act differently.

use std::time::Duration;

use coracle_api::status::{Reason, Status};

use crate::body::BoxError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered, and the answer is no.
    #[error("{0}")]
    Api(Box<Status>),
    /// No whole answer arrived. The request may or may not have had its effect.
    #[error("{request}: {source}")]
    Transport {
        /// Method and path.
        request: String,
        #[source]
        source: BoxError,
    },
    /// No answer arrived within the client's deadline. The request may or may not have had its effect.
    #[error("{request}: no answer within {after:?}")]
    Timeout { request: String, after: Duration },
    /// The answer is not what the request asks for.
    #[error("{subject}: the answer cannot be read: {source}")]
    Decode {
        subject: String,
        #[source]
        source: serde_json::Error,
    },
    /// The request cannot be formed, such as a name with a slash in it.
    #[error("{0}")]
    Request(String),
    /// The client cannot be built from its configuration.
    #[error("{0}")]
    Config(String),
}

impl Error {
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api(status) => Some(status),
            Self::Transport { .. }
            | Self::Timeout { .. }
            | Self::Decode { .. }
            | Self::Request(_)
            | Self::Config(_) => None,
        }
    }

    /// The HTTP status of the answer, if there was one.
    pub fn code(&self) -> Option<u16> {
        self.status().map(|status| status.code)
    }

    fn is(&self, reason: &Reason) -> bool {
        self.status().is_some_and(|status| status.reason == *reason)
    }

    pub fn is_not_found(&self) -> bool {
        self.is(&Reason::NotFound)
    }

    /// The object changed since it was read.
    pub fn is_conflict(&self) -> bool {
        self.is(&Reason::Conflict)
    }

    pub fn is_already_exists(&self) -> bool {
        self.is(&Reason::AlreadyExists)
    }

    /// The revision or continue token is too old (410).
    pub fn is_expired(&self) -> bool {
        self.is(&Reason::Expired) || self.is(&Reason::Gone)
    }

    pub fn is_forbidden(&self) -> bool {
        self.is(&Reason::Forbidden)
    }

    pub fn is_unauthorized(&self) -> bool {
        self.is(&Reason::Unauthorized)
    }

    pub fn is_invalid(&self) -> bool {
        self.is(&Reason::Invalid)
    }

    /// The server asks for a revision it does not have yet, as after a restore from a backup.
    pub fn is_future_revision(&self) -> bool {
        self.status()
            .and_then(|status| status.details.as_deref())
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "ResourceVersionTooLarge"))
    }

    /// The same request may succeed later without anybody changing anything.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Api(status) => matches!(status.code, 429 | 500 | 502 | 503 | 504),
            Self::Transport { .. } | Self::Timeout { .. } => true,
            Self::Decode { .. } | Self::Request(_) | Self::Config(_) => false,
        }
    }

    /// How long the server asks to wait before the next attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.status()?.retry_after_seconds()?;
        u64::try_from(seconds).ok().map(Duration::from_secs)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Api(Box::new(status))
    }
}
