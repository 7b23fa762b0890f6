//! patch: the three patches, applied to the object as the client's version shows it and decoded by schema again.
//! Server-side apply is not served: it is refused as a media type.

use coracle_api::decode::{DecodeError, FieldValidation, Target, decode_value};
use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::meta::GroupKind;
use coracle_api::object::Object;
use coracle_api::patch;
use coracle_api::status::Status;
use serde_json::Value;

use super::context::Context;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

impl PatchKind {
    /// 415 for what is no patch, or one that this server does not know.
    pub fn of(media_type: &str) -> Result<Self, Status> {
        match media_type {
            JSON => Ok(Self::Json),
            MERGE => Ok(Self::Merge),
            STRATEGIC => Ok(Self::Strategic),
            APPLY | "application/apply-patch+cbor" => Err(Status::unsupported_media_type(format!(
                "server-side apply is not served by this server; apply on the client's side (kubectl apply without --server-side), or send one of: {JSON}, {MERGE}, {STRATEGIC}"
            ))),
            _ => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {JSON}, {MERGE}, {STRATEGIC}"
            ))),
        }
    }
}

/// A patch as it was sent.
#[derive(Debug)]
pub struct Patch {
    kind: PatchKind,
    body: Value,
}

impl Patch {
    /// From the body and its media type.
    pub fn parse(media_type: &str, body: &[u8]) -> Result<Self, Status> {
        let kind = PatchKind::of(media_type)?;
        let body = serde_json::from_slice(body)
            .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
        Ok(Self { kind, body })
    }

    /// The patched object. `current` and `target` are in the version that the client speaks.
    pub fn apply(&self, context: &Context, target: &Target<'_>, current: Object) -> Result<Object, Status> {
        let original = current.into_value();
        let body = self.body.clone();
        let patched = match self.kind {
            PatchKind::Json => patch::json(original, body),
            PatchKind::Merge => patch::merge(original, body),
            PatchKind::Strategic => patch::strategic(original, body, target.schema, target.ty),
        };
        let patched = patched.map_err(|error| error.status(&context.served.group_resource(), &context.name))?;
        let validation = context.field_validation;
        let decoded = decode_value(patched.clone(), target, validation)
            .map_err(|error| not_decodable(error, || self.blamed(&patched, target)))?;
        if validation == FieldValidation::Warn {
            decoded.warnings.into_iter().for_each(|text| context.warn(text));
        }
        Ok(decoded.object)
    }

    fn blamed(&self, patched: &Value, target: &Target<'_>) -> (String, Option<String>) {
        match self.kind {
            PatchKind::Json | PatchKind::Merge => (patched.to_string(), None),
            // This one alone is not decoded from JSON again, but from Go's own maps.
            PatchKind::Strategic => (patch::go_text(&self.body), patch::mismatch(patched, target.schema, target.ty)),
        }
    }
}

/// Upstream blames the patch, not the object it makes. `blamed` gives the patch, and what is wrong with it if there are
/// words for that.
fn not_decodable(error: DecodeError, blamed: impl FnOnce() -> (String, Option<String>)) -> Status {
    let (shown, mismatch) = blamed();
    let detail = match error {
        DecodeError::Strict { problems, .. } => format!("strict decoding error: {}", problems.join(", ")),
        DecodeError::Mismatch(message) => mismatch.unwrap_or(message),
        DecodeError::Syntax(message) => message,
        DecodeError::WrongKind(message) => return Status::bad_request(message),
    };
    let error = FieldError::invalid(&FieldPath::new("patch"), shown, detail);
    Status::invalid(&GroupKind::new("", ""), "", vec![error])
}
