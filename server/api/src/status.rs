//! `Status`: how the API says no (and, after a deletion, yes). The one place where its JSON form, its codes, reasons
//! and upstream's wording live.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fields::FieldError;
use crate::meta::{GroupKind, GroupResource};

/// The machine-readable reason of a Status. `Unknown` is the empty reason, or one that this version does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reason {
    #[default]
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    const ALL: [Reason; 20] = [
        Reason::Unknown,
        Reason::Unauthorized,
        Reason::Forbidden,
        Reason::NotFound,
        Reason::AlreadyExists,
        Reason::Conflict,
        Reason::Gone,
        Reason::Invalid,
        Reason::ServerTimeout,
        Reason::StoreReadError,
        Reason::Timeout,
        Reason::TooManyRequests,
        Reason::BadRequest,
        Reason::MethodNotAllowed,
        Reason::NotAcceptable,
        Reason::RequestEntityTooLarge,
        Reason::UnsupportedMediaType,
        Reason::InternalError,
        Reason::Expired,
        Reason::ServiceUnavailable,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Unknown => "",
            Reason::Unauthorized => "Unauthorized",
            Reason::Forbidden => "Forbidden",
            Reason::NotFound => "NotFound",
            Reason::AlreadyExists => "AlreadyExists",
            Reason::Conflict => "Conflict",
            Reason::Gone => "Gone",
            Reason::Invalid => "Invalid",
            Reason::ServerTimeout => "ServerTimeout",
            Reason::StoreReadError => "StorageReadError",
            Reason::Timeout => "Timeout",
            Reason::TooManyRequests => "TooManyRequests",
            Reason::BadRequest => "BadRequest",
            Reason::MethodNotAllowed => "MethodNotAllowed",
            Reason::NotAcceptable => "NotAcceptable",
            Reason::RequestEntityTooLarge => "RequestEntityTooLarge",
            Reason::UnsupportedMediaType => "UnsupportedMediaType",
            Reason::InternalError => "InternalError",
            Reason::Expired => "Expired",
            Reason::ServiceUnavailable => "ServiceUnavailable",
        }
    }

    pub fn parse(text: &str) -> Reason {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).unwrap_or(Reason::Unknown)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer).map(|text| Reason::parse(&text))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDetails {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The kind, or the plural of the resource: upstream puts either here.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusCause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The API's answer when it is not an object. An error unless `is_success`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    pub details: Option<Box<StatusDetails>>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.message.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{} ({})", self.reason, self.code)
    }
}

impl std::error::Error for Status {}

impl Status {
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    pub fn with_details(mut self, details: StatusDetails) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    pub fn with_retry_after(mut self, seconds: i32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    pub fn with_cause(mut self, reason: impl Into<String>, message: impl Into<String>) -> Self {
        let cause = StatusCause { reason: reason.into(), message: message.into(), field: String::new() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The answer to a deletion that is done.
    pub fn success(details: Option<StatusDetails>) -> Self {
        Self { code: 200, reason: Reason::Unknown, message: String::new(), details: details.map(Box::new) }
    }

    pub fn is_success(&self) -> bool {
        self.code < 400
    }

    pub fn retry_after_seconds(&self) -> Option<i32> {
        self.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0)
    }

    pub fn not_found(gr: &GroupResource, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{gr} {name:?} not found")).about(gr, name)
    }

    /// A path that leads nowhere.
    pub fn no_such_path() -> Self {
        Self::new(404, Reason::NotFound, "the server could not find the requested resource")
            .with_details(StatusDetails::default())
    }

    pub fn already_exists(gr: &GroupResource, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{gr} {name:?} already exists")).about(gr, name)
    }

    pub fn conflict(gr: &GroupResource, name: &str, message: impl fmt::Display) -> Self {
        Self::new(409, Reason::Conflict, format!("Operation cannot be fulfilled on {gr} {name:?}: {message}"))
            .about(gr, name)
    }

    /// The conflict of two writers, in the words that clients show.
    pub fn modified(gr: &GroupResource, name: &str) -> Self {
        Self::conflict(
            gr,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn invalid(gk: &GroupKind, name: &str, errors: Vec<FieldError>) -> Self {
        let mut lines: Vec<String> = Vec::with_capacity(errors.len());
        for error in &errors {
            let line = error.to_string();
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let message = match lines.as_slice() {
            [] => format!("{gk} {name:?} is invalid"),
            [one] => format!("{gk} {name:?} is invalid: {one}"),
            many => format!("{gk} {name:?} is invalid: [{}]", many.join(", ")),
        };
        let causes = errors
            .into_iter()
            .map(|e| StatusCause { reason: e.kind.reason().to_owned(), message: e.body(), field: e.field })
            .collect();
        Self::new(422, Reason::Invalid, message).with_details(StatusDetails {
            name: name.to_owned(),
            group: gk.group.to_string(),
            kind: gk.kind.to_string(),
            causes,
            ..StatusDetails::default()
        })
    }

    pub fn forbidden(gr: &GroupResource, name: &str, message: impl fmt::Display) -> Self {
        let text = if gr.resource.is_empty() {
            format!("forbidden: {message}")
        } else if name.is_empty() {
            format!("{gr} is forbidden: {message}")
        } else {
            format!("{gr} {name:?} is forbidden: {message}")
        };
        Self::new(403, Reason::Forbidden, text).about(gr, name)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(401, Reason::Unauthorized, if message.is_empty() { "Unauthorized".to_owned() } else { message })
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Gone, message)
    }

    pub fn timeout(message: impl fmt::Display, retry_after_seconds: i32) -> Self {
        Self::new(504, Reason::Timeout, format!("Timeout: {message}")).with_retry_after(retry_after_seconds)
    }

    pub fn server_timeout(gr: &GroupResource, operation: &str, retry_after_seconds: i32) -> Self {
        let message =
            format!("The {operation} operation against {gr} could not be completed at this time, please try again.");
        let mut status = Self::new(500, Reason::ServerTimeout, message).about(gr, operation);
        status.details.get_or_insert_default().retry_after_seconds = retry_after_seconds;
        status
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        Self::new(429, Reason::TooManyRequests, message).with_retry_after(retry_after_seconds)
    }

    pub fn request_entity_too_large(message: impl fmt::Display) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, format!("Request entity too large: {message}"))
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, Reason::UnsupportedMediaType, message)
    }

    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, Reason::NotAcceptable, message)
    }

    pub fn method_not_allowed(gr: &GroupResource, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind \"{gr}\"");
        Self::new(405, Reason::MethodNotAllowed, message).about(gr, "")
    }

    pub fn internal(error: impl fmt::Display) -> Self {
        let text = error.to_string();
        Self::new(500, Reason::InternalError, format!("Internal error occurred: {text}")).with_cause("", text)
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    /// Someone asked for a state that this server has not seen yet.
    pub fn too_large_resource_version(asked: u64, current: u64, retry_after_seconds: i32) -> Self {
        Self::timeout(format_args!("Too large resource version: {asked}, current: {current}"), retry_after_seconds)
            .with_cause("ResourceVersionTooLarge", "Too large resource version")
    }

    fn about(self, gr: &GroupResource, name: &str) -> Self {
        self.with_details(StatusDetails {
            name: name.to_owned(),
            group: gr.group.to_string(),
            kind: gr.resource.to_string(),
            ..StatusDetails::default()
        })
    }
}

/// The JSON form; read leniently, since it may come from another server.
#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Wire<'a> {
    kind: Cow<'a, str>,
    api_version: Cow<'a, str>,
    metadata: serde_json::Map<String, serde_json::Value>,
    status: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Cow<'a, StatusDetails>>,
    #[serde(skip_serializing_if = "is_zero")]
    code: i32,
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let success = self.is_success();
        Wire {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: serde_json::Map::new(),
            status: if success { "Success" } else { "Failure" }.into(),
            message: self.message.as_str().into(),
            reason: self.reason.as_str().into(),
            details: self.details.as_deref().map(Cow::Borrowed),
            // Upstream leaves the code of a plain success out of the body, and says 201.
            code: if success && self.code == 200 { 0 } else { i32::from(self.code) },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let assumed = if wire.status == "Success" { 200 } else { 500 };
        Ok(Status {
            code: u16::try_from(wire.code).ok().filter(|c| *c != 0).unwrap_or(assumed),
            reason: Reason::parse(&wire.reason),
            message: wire.message.into_owned(),
            details: wire.details.map(|d| Box::new(d.into_owned())),
        })
    }
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests;
