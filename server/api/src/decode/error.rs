//! Why a body was refused, in upstream's words.

use super::Target;
use crate::meta::api_version;
use crate::status::Status;

/// All of these are the client's fault: 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is no JSON or YAML.
    #[error("{0}")]
    Syntax(String),
    /// A field has a value of a wrong type.
    #[error("{0}")]
    Mismatch(String),
    /// Fields are unknown or given twice, and that was to be an error.
    #[error("{message}")]
    Strict { message: String, problems: Vec<String> },
    /// It is another kind, or another version of it.
    #[error("{0}")]
    WrongKind(String),
}

impl From<DecodeError> for Status {
    fn from(error: DecodeError) -> Self {
        Status::bad_request(error.to_string())
    }
}

pub(super) fn syntax(target: &Target<'_>, error: impl std::fmt::Display, bytes: &[u8]) -> DecodeError {
    let (kind, shown) = (target.kind, summary(bytes));
    DecodeError::Syntax(format!(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {error} ({shown})"
    ))
}

pub(super) fn mismatch(target: &Target<'_>, message: String) -> DecodeError {
    DecodeError::Mismatch(cannot_handle(target, target.kind, target.version, &message))
}

pub(super) fn strict(target: &Target<'_>, problems: Vec<String>) -> DecodeError {
    let message = format!("strict decoding error: {}", problems.join(", "));
    DecodeError::Strict { message: cannot_handle(target, target.kind, target.version, &message), problems }
}

pub(super) fn wrong_kind(target: &Target<'_>, kind: &str, version: &str) -> DecodeError {
    let why = format!("converting ({version}.{kind}) to ({}.{}): unknown conversion", target.version, target.kind);
    DecodeError::WrongKind(cannot_handle(target, kind, version, &why))
}

pub(super) fn wrong_version(target: &Target<'_>, claimed: &str) -> DecodeError {
    let expected = api_version(target.group, target.version);
    DecodeError::WrongKind(format!(
        "the API version in the data ({claimed}) does not match the expected API version ({expected})"
    ))
}

fn cannot_handle(target: &Target<'_>, kind: &str, version: &str, why: &str) -> String {
    format!("{kind} in version {version:?} cannot be handled as a {}: {why}", target.kind)
}

/// The beginning of a body: as text if it looks like JSON, else in hex.
fn summary(bytes: &[u8]) -> String {
    const MAX: usize = 30;
    let (shown, more) = match bytes.split_at_checked(MAX) {
        Some((first, rest)) if !rest.is_empty() => (first, " ..."),
        Some(_) | None => (bytes, ""),
    };
    let text = match bytes.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().map(|b| format!("{b:02x}")).collect(),
    };
    format!("{text}{more}")
}
