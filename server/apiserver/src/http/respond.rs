//! Makes answers: encodings, tables, metadata-only forms, indentation, compression, warnings.

use axum::body::Body;
use bytes::Bytes;
use coracle_api::object::Object;
use coracle_api::status::Status;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::negotiate::{Accepted, Encoding, Form, takes_gzip};
use super::query::Query;
use super::{gzip, pretty};
use crate::registry::catalog::Resource;
use crate::registry::list::{self, Page};

pub type Response = http::Response<Body>;

/// How this client wants its answer.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    pub accepted: Accepted,
    gzip: bool,
    pretty: bool,
}

impl Style {
    pub fn new(accepted: Accepted, headers: &HeaderMap, query: &Query) -> Self {
        // People who look with these see indented JSON, unless they say otherwise.
        let agent = headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let human = ["curl", "Wget", "Mozilla/5.0"].iter().any(|name| agent.starts_with(name));
        Self { accepted, gzip: takes_gzip(headers), pretty: query.flag("pretty").unwrap_or(human) }
    }

    /// An answer in JSON, in whatever encoding was asked for.
    pub fn body(self, code: u16, json: Bytes) -> Result<Response, Status> {
        let bytes = match self.accepted.encoding {
            Encoding::Yaml => to_yaml(&json)?,
            Encoding::Json if self.pretty => pretty::pretty(&json).into(),
            Encoding::Json => json,
        };
        let mut response = plain(code, self.accepted.encoding.content_type(), Body::empty());
        if self.gzip && bytes.len() > gzip::THRESHOLD_BYTES {
            let headers = response.headers_mut();
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
            *response.body_mut() = gzip::body(bytes);
        } else {
            *response.body_mut() = Body::from(bytes);
        }
        Ok(response)
    }

    /// One object in the served version, in the form that was asked for. `tables` makes a Table of it.
    pub fn object(
        self,
        code: u16,
        json: Bytes,
        table: impl FnOnce(Bytes) -> Result<Bytes, Status>,
    ) -> Result<Response, Status> {
        let json = match self.accepted.form {
            Form::Object => json,
            Form::Table => table(json)?,
            Form::Partial => partial(&json, self.accepted.meta_version())?,
            Form::PartialList => {
                return Err(Status::not_acceptable(
                    "you requested PartialObjectMetadataList, but the requested object is not a list",
                ));
            }
        };
        self.body(code, json)
    }

    pub fn list(
        self,
        resource: &Resource,
        page: &Page,
        table: impl FnOnce(&Page) -> Result<Bytes, Status>,
    ) -> Result<Response, Status> {
        let json = match self.accepted.form {
            Form::Object => list::encode(resource, page)?,
            Form::Table => table(page)?,
            Form::PartialList => partial_list(page, self.accepted.meta_version())?,
            Form::Partial => {
                return Err(Status::not_acceptable(
                    "you requested PartialObjectMetadata, but the requested object is a list",
                ));
            }
        };
        self.body(200, json)
    }

    /// A Status is never a table, but YAML if that was asked for.
    pub fn status(self, status: &Status) -> Response {
        let json = status_json(status);
        let retry = status.retry_after_seconds();
        let mut response = self
            .body(status.code, json.clone())
            .unwrap_or_else(|_| plain(status.code, Encoding::Json.content_type(), Body::from(json)));
        if let Some(seconds) = retry.filter(|_| !status.is_success()) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A Status for a client whose wishes are not known: JSON.
pub fn status(status: &Status) -> Response {
    Style { accepted: Accepted::JSON, gzip: false, pretty: false }.status(status)
}

/// A 410 for a page that is gone, with the token that goes on in the newest state.
pub fn page_expired(status: &Status, continue_token: &str) -> Response {
    let mut object: Object =
        serde_json::from_slice(&status_json(status)).expect("a Status was just written as a JSON object");
    object.set(&["metadata", "continue"], continue_token);
    let json = serde_json::to_vec(&object).expect("a JSON tree is written without fail");
    plain(status.code, Encoding::Json.content_type(), Body::from(json))
}

pub fn plain(code: u16, content_type: &'static str, body: Body) -> Response {
    let mut response = http::Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Adds `Warning: 299 - "…"` for each text, as long as they fit.
pub fn add_warnings(response: &mut Response, warnings: &[String]) {
    const ALL_BYTES_MAX: usize = 4 * 1024;
    let mut total = 0;
    for text in warnings {
        let clean: String = text.chars().filter(|c| !c.is_control()).collect();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        total += quoted.len();
        if total > ALL_BYTES_MAX {
            return;
        }
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        } else if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

pub fn status_json(status: &Status) -> Bytes {
    serde_json::to_vec(status).expect("a Status of strings and numbers becomes JSON").into()
}

fn to_yaml(json: &[u8]) -> Result<Bytes, Status> {
    let value: serde_json::Value = serde_json::from_slice(json).map_err(Status::internal)?;
    serde_norway::to_string(&value).map(Bytes::from).map_err(Status::internal)
}

/// The part of an object that metadata-only forms need; the rest is skipped, not decoded.
#[derive(Deserialize)]
struct MetadataOnly<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// PartialObjectMetadata of an object.
pub fn partial(json: &[u8], meta_version: &str) -> Result<Bytes, Status> {
    let mut out = Vec::with_capacity(json.len().min(4096));
    write_partial(&mut out, json, meta_version)?;
    Ok(out.into())
}

pub fn write_partial(out: &mut Vec<u8>, json: &[u8], meta_version: &str) -> Result<(), Status> {
    let only: MetadataOnly<'_> = serde_json::from_slice(json).map_err(Status::internal)?;
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"");
    out.extend_from_slice(meta_version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    out.extend_from_slice(only.metadata.get().as_bytes());
    out.push(b'}');
    Ok(())
}

fn partial_list(page: &Page, meta_version: &str) -> Result<Bytes, Status> {
    let mut out = Vec::with_capacity(page.entries.len() * 512 + 512);
    list::open_list(&mut out, "PartialObjectMetadataList", meta_version, page);
    for (at, entry) in page.entries.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_partial(&mut out, &entry.json, meta_version)?;
    }
    out.extend_from_slice(b"]}\n");
    Ok(out.into())
}
