//! The least a web service can do, for measuring what is around it: `/` answers with a short text; `/line` writes a line
//! to the standard output of WASI 0.2 first; so does `/log`, but with `println!`, which comes there through an adapter
//! from WASI 0.1 that has the memory grow.

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Plain;

wasi::http::proxy::export!(Plain);

const TEXT: &[u8] = b"Hello from a Wasm pod\n";

impl Guest for Plain {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        match request.path_with_query().as_deref() {
            Some("/log") => println!("GET /log"),
            Some("/line") => {
                let _ = wasi::cli::stdout::get_stdout().blocking_write_and_flush(b"GET /line\n");
            }
            _ => {}
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
