//! `wasi:http/handler` of WASI 0.3. Instances are kept between requests, which `/count` shows.
//!
//! `/count` (how many requests this instance has had) · `/echo` (the request's body, as it comes) · `/wait` (answers
//! after a minute) · `/behind` (answers, and goes on for an hour) · `/trap` · `/say` (writes to the log) · `/ask/AUTHORITY` (the status another server answers with)

use std::sync::atomic::{AtomicU32, Ordering};

use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::wit_bindgen::spawn_local;
use wasip3::{wit_future, wit_stream};

wasip3::http::service::export!(Service);

struct Service;

static COUNT: AtomicU32 = AtomicU32::new(0);

impl wasip3::exports::http::handler::Guest for Service {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
        let path = request.get_path_with_query().unwrap_or_default();
        match path.as_str() {
            "/count" => Ok(text(format!("{count}\n"))),
            "/echo" => {
                let (_, done) = wit_future::new(|| Ok(()));
                let (body, trailers) = Request::consume_body(request, done);
                Ok(Response::new(Fields::new(), Some(body), trailers).0)
            }
            "/wait" => {
                wasip3::clocks::monotonic_clock::wait_for(60_000_000_000).await;
                Ok(text("waited\n".to_owned()))
            }
            "/trap" => panic!("as asked"),
            "/behind" => {
                spawn_local(wasip3::clocks::monotonic_clock::wait_for(3_600_000_000_000));
                Ok(text("answered\n".to_owned()))
            }
            "/say" => {
                println!("request {count}");
                Ok(text("said\n".to_owned()))
            }
            other => match other.strip_prefix("/ask/") {
                Some(authority) => Ok(text(ask(authority).await)),
                None => {
                    let response = text("nothing here\n".to_owned());
                    response.set_status_code(404).expect("a status");
                    Ok(response)
                }
            },
        }
    }
}

async fn ask(authority: &str) -> String {
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), None, trailers, None);
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request.set_authority(Some(authority)).expect("an authority");
    request.set_path_with_query(Some("/")).expect("a path");
    match wasip3::http::client::send(request).await {
        Ok(response) => format!("{}\n", response.get_status_code()),
        Err(error) => format!("{error:?}\n"),
    }
}

fn text(text: String) -> Response {
    let (mut body, reader) = wit_stream::new();
    let (done, trailers) = wit_future::new(|| Ok(None));
    drop(done);
    let (response, _sent) = Response::new(Fields::new(), Some(reader), trailers);
    spawn_local(async move {
        let rest = body.write_all(text.into_bytes()).await;
        drop(rest);
    });
    response
}
