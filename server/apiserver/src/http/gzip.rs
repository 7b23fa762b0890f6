//! Compresses long answers, piece by piece so that one large list does not hold up a worker.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::{Buf as _, Bytes};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::Frame;

/// Shorter answers are sent as they are, as upstream does.
pub(super) const THRESHOLD_BYTES: usize = 128 * 1024;

const PIECE_BYTES: usize = 64 * 1024;

pub(super) fn body(plain: Bytes) -> Body {
    Body::new(Gzip { plain, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) })
}

struct Gzip {
    plain: Bytes,
    /// None once everything has been handed out.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl http_body::Body for Gzip {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = &mut *self;
        let Some(mut encoder) = this.encoder.take() else { return Poll::Ready(None) };
        while !this.plain.is_empty() {
            let piece = this.plain.len().min(PIECE_BYTES);
            if let Err(error) = encoder.write_all(&this.plain[..piece]) {
                return Poll::Ready(Some(Err(error)));
            }
            this.plain.advance(piece);
            if !encoder.get_ref().is_empty() && !this.plain.is_empty() {
                let out = std::mem::take(encoder.get_mut());
                this.encoder = Some(encoder);
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
        Poll::Ready(Some(encoder.finish().map(|out| Frame::data(out.into()))))
    }
}
