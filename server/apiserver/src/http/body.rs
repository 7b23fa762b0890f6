//! Reads request bodies, up to a limit.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use coracle_api::status::Status;
use http_body::Body as _;
use http_body_util::BodyExt as _;

/// Upstream's limit for a resource's body: twice what its store takes.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// How long a client may take to send one.
const PATIENCE: Duration = Duration::from_secs(60);

/// The whole body, or 413 as soon as it is known to be too long, 400 if it breaks off, or 504 if it takes too long.
pub async fn read(body: Body, limit: usize) -> Result<Bytes, Status> {
    let late = || {
        let text = format!("the request's body did not arrive within {} seconds", PATIENCE.as_secs());
        Status::timeout(text, 0)
    };
    tokio::time::timeout(PATIENCE, read_all(body, limit)).await.unwrap_or_else(|_| Err(late()))
}

async fn read_all(mut body: Body, limit: usize) -> Result<Bytes, Status> {
    let too_large = || Status::request_entity_too_large(format!("limit is {limit}"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("the request's body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            return Err(too_large());
        }
        // Nearly every body is one frame: it is taken as it is.
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&first);
            first = Bytes::new();
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}
