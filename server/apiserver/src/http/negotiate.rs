//! Content negotiation: which form of which encoding an answer takes (`Accept`), and what a body is (`Content-Type`).
//! Protobuf is read and not written: an `Accept` list falls through to its next entry.

use coracle_api::status::Status;
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};

/// What typed clients send.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
}

impl Encoding {
    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }
}

/// What becomes of the objects in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Object,
    Table,
    /// Metadata only; `PartialObjectMetadata` asked for on a single object or watch.
    Partial,
    /// `PartialObjectMetadataList` asked for.
    PartialList,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub form: Form,
    /// `v1beta1` was asked for in `as=...;v=`: the answer must say so.
    pub beta: bool,
}

impl Accepted {
    pub const JSON: Accepted = Accepted { encoding: Encoding::Json, form: Form::Object, beta: false };

    /// `meta.k8s.io/v1` or what was asked for.
    pub fn meta_version(self) -> &'static str {
        if self.beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
    }
}

const NOT_ACCEPTABLE: &str = "only the following media types are accepted: application/json, application/yaml";
const UNSUPPORTED: &str = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml";

struct MediaRange<'a> {
    kind: &'a str,
    quality: u16,
    target: &'a str,
    group: &'a str,
    version: &'a str,
    stream: &'a str,
}

fn parse_range(text: &str) -> Option<MediaRange<'_>> {
    let mut params = text.split(';').map(str::trim);
    let mut range = MediaRange { kind: params.next()?, quality: 1000, target: "", group: "", version: "", stream: "" };
    for param in params {
        let Some((key, value)) = param.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "q" => range.quality = value.parse::<f32>().map_or(0, |q| (q.clamp(0.0, 1.0) * 1000.0) as u16),
            "as" => range.target = value,
            "g" => range.group = value,
            "v" => range.version = value,
            "stream" => range.stream = value,
            _ => {}
        }
    }
    Some(range)
}

impl MediaRange<'_> {
    fn accepts(&self, streams: bool) -> Option<Accepted> {
        let encoding = match self.kind {
            "*/*" | "application/*" | "application/json" => Encoding::Json,
            "application/yaml" if !streams => Encoding::Yaml,
            _ => return None,
        };
        if self.quality == 0 || !(self.stream.is_empty() || (streams && self.stream == "watch")) {
            return None;
        }
        let form = match (self.target, self.group) {
            ("", _) => return Some(Accepted { encoding, form: Form::Object, beta: false }),
            ("Table", "meta.k8s.io") => Form::Table,
            ("PartialObjectMetadata", "meta.k8s.io") => Form::Partial,
            ("PartialObjectMetadataList", "meta.k8s.io") => Form::PartialList,
            _ => return None,
        };
        match self.version {
            "v1" => Some(Accepted { encoding, form, beta: false }),
            "v1beta1" => Some(Accepted { encoding, form, beta: true }),
            _ => None,
        }
    }
}

/// The first acceptable entry of the `Accept` list, best quality first; JSON without a list; 406 if none fits.
/// `streams`: the answer is a watch, which has no YAML framing.
pub fn accept(headers: &HeaderMap, streams: bool) -> Result<Accepted, Status> {
    let mut values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if values.peek().is_none() {
        return Ok(Accepted::JSON);
    }
    let mut ranges: Vec<MediaRange<'_>> =
        values.flat_map(|value| value.split(',')).filter_map(|text| parse_range(text.trim())).collect();
    if ranges.iter().all(|range| range.kind.is_empty()) {
        return Ok(Accepted::JSON);
    }
    ranges.sort_by_key(|range| std::cmp::Reverse(range.quality));
    let found = ranges.iter().find_map(|range| range.accepts(streams));
    found.ok_or_else(|| Status::not_acceptable(NOT_ACCEPTABLE))
}

/// What the body is. Without a `Content-Type` it is read as JSON, as upstream does.
pub fn body_encoding(headers: &HeaderMap) -> Result<Encoding, Status> {
    match media_type(headers) {
        // Protobuf is made into JSON where the body is read.
        "" | "application/json" | "*/*" | PROTOBUF => Ok(Encoding::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Encoding::Yaml),
        _ => Err(Status::unsupported_media_type(UNSUPPORTED)),
    }
}

/// The media type of the body without its parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Whether the client takes gzip.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut codings = values.flat_map(|value| value.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|param| matches!(param, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}
