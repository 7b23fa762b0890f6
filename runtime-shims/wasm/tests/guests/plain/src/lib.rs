//! The least a web service can do, for measuring what is around it: `/` answers with a short text, `/log` writes a line
//! first.

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Plain;

wasi::http::proxy::export!(Plain);

const TEXT: &[u8] = b"Hello from a Wasm pod\n";

impl Guest for Plain {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        if request.path_with_query().as_deref() == Some("/log") {
            println!("GET /log");
        }
        let headers = Fields::new();
        let _ = headers.set("content-length", &[TEXT.len().to_string().into_bytes()]);
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("the response's body is taken once");
        ResponseOutparam::set(out, Ok(response));
        // A client that has left is no fault of ours.
        let _ = body.write().expect("the body's stream is taken once").blocking_write_and_flush(TEXT);
        let _ = OutgoingBody::finish(body, None);
    }
}
