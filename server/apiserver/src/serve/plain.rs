//! Owns what becomes of those who speak plain HTTP where TLS is spoken: they are told so, as by Go's servers, and not left
//! with a closed connection.

use std::io::{Error, ErrorKind};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a TLS connection begins with: a record of the type "handshake".
const HANDSHAKE: u8 = 22;
const TOLD: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// What of a plain request is read before the connection is closed: with something unread, the answer might be lost.
const REST_BYTES: u64 = 64 * 1024;

/// Whether the client begins as TLS does. Waits for its first byte and leaves it where it is.
pub(super) async fn begins_tls(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0] == HANDSHAKE)
}

/// Answers a request in plain HTTP; what is something else gets no answer.
pub(super) async fn refuse(mut stream: TcpStream) -> Error {
    match answer(&mut stream).await {
        Ok(true) => Error::new(ErrorKind::InvalidData, "a request in plain HTTP"),
        Ok(false) => Error::new(ErrorKind::InvalidData, "neither TLS nor HTTP"),
        Err(error) => error,
    }
}

async fn answer(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    if ![b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO", b"PATCH", b"DELET"].contains(&&head) {
        return Ok(false);
    }
    stream.write_all(TOLD).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(REST_BYTES), &mut tokio::io::sink()).await?;
    Ok(true)
}
