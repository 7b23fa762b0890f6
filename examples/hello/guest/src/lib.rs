//! A web service as a WebAssembly component: it exports `wasi:http/incoming-handler`, and an instance of it is made for
//! each request.
//!
//! `/` greets; `/env` shows the environment that Kubernetes gives the container; `/echo` sends the body back; all else
//! is 404.

use wasi::exports::http::incoming_handler::Guest;
use wasi::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasi::io::streams::StreamError;

struct Hello;

wasi::http::proxy::export!(Hello);

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        println!("{} {target}", method(&request.method()));
        match path {
            "/" => {
                let pod = std::env::var("POD_NAME").unwrap_or_else(|_| "a Wasm pod".to_owned());
                let who = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
                text(out, 200, &format!("{who} from {pod}\n"));
            }
            "/env" => {
                let mut lines: Vec<String> = std::env::vars().map(|(key, value)| format!("{key}={value}\n")).collect();
                lines.sort();
                text(out, 200, &lines.concat());
            }
            "/echo" => echo(request, out),
            _ => text(out, 404, "not found\n"),
        }
    }
}

fn method(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(other) => other,
    }
}

fn text(out: ResponseOutparam, status: u16, text: &str) {
    let headers = Fields::new();
    let _ = headers.set("content-type", &[b"text/plain; charset=utf-8".to_vec()]);
    let body = start(out, status, headers);
    {
        let stream = body.write().expect("the body's stream is taken once");
        // A client that has left is no fault of ours.
        for piece in text.as_bytes().chunks(4096) {
            if stream.blocking_write_and_flush(piece).is_err() {
                break;
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
}

/// Copies as it comes: neither side's speed matters, and nothing is held.
fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().expect("the request's body is taken once");
    let input = incoming.stream().expect("the body's stream is taken once");
    let body = start(out, 200, Fields::new());
    {
        let output = body.write().expect("the body's stream is taken once");
        loop {
            match input.blocking_read(4096) {
                Ok(piece) if output.blocking_write_and_flush(&piece).is_ok() => {}
                Ok(_) | Err(StreamError::Closed) | Err(StreamError::LastOperationFailed(_)) => break,
            }
        }
    }
    drop(input);
    IncomingBody::finish(incoming);
    let _ = OutgoingBody::finish(body, None);
}

fn start(out: ResponseOutparam, status: u16, headers: Fields) -> OutgoingBody {
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(status);
    let body = response.body().expect("the response's body is taken once");
    ResponseOutparam::set(out, Ok(response));
    body
}
