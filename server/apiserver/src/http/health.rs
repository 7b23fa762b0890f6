//! /version, /healthz, /livez, /readyz and /metrics.

use axum::body::Body;
use bytes::Bytes;
use coracle_api::status::Status;
use coracle_store::Prefix;
use http::{HeaderMap, Method};
use serde_json::json;

use super::Server;
use super::negotiate;
use super::request_info::RequestInfo;
use super::respond::{self, Response, Style};

/// The version of the API that is served.
const MAJOR: &str = "1";
const MINOR: &str = "36";

/// The answer if the path is one of these.
pub(super) fn answer(server: &Server, info: &RequestInfo, headers: &HeaderMap) -> Result<Option<Response>, Status> {
    let path = info.path.trim_end_matches('/');
    let probe = ["/healthz", "/livez", "/readyz"]
        .iter()
        .find(|probe| path.strip_prefix(**probe).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if probe.is_none() && !matches!(path, "/version" | "/metrics") {
        return Ok(None);
    }
    if !matches!(info.method, Method::GET | Method::HEAD) {
        return Err(Status::new(405, coracle_api::status::Reason::MethodNotAllowed, "only GET is served here"));
    }
    if let Some(probe) = probe {
        return Ok(Some(health(server, probe, &path[probe.len()..], info)));
    }
    if path == "/version" {
        let style = Style::new(negotiate::accept(headers, false)?, headers, &info.query);
        return style.body(200, version()).map(Some);
    }
    let snapshot = server.registry.store.snapshot();
    let objects: Vec<(String, usize)> = snapshot
        .resources()
        .map(|resource| (resource.to_string(), snapshot.count(&Prefix::resource(resource.clone()))))
        .collect();
    let text = server.metrics.render(snapshot.revision().0, &objects);
    Ok(Some(respond::plain(200, "text/plain; version=0.0.4", Body::from(text))))
}

fn version() -> Bytes {
    let own = env!("CARGO_PKG_VERSION");
    let version = json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+coracle.{own}"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    });
    version.to_string().into()
}

fn health(server: &Server, probe: &str, check: &str, info: &RequestInfo) -> Response {
    let stopping = server.stopping.is_cancelled();
    let mut checks = vec![("ping", true), ("store", true)];
    if probe == "/readyz" {
        checks.push(("shutdown", !stopping));
    }
    let excluded: Vec<&str> = info.query.all("exclude").collect();
    let name = check.trim_start_matches('/');
    let asked: Vec<_> =
        checks.into_iter().filter(|(own, _)| (name.is_empty() || *own == name) && !excluded.contains(own)).collect();
    if asked.is_empty() && !name.is_empty() {
        return respond::status(&Status::no_such_path());
    }
    let well = asked.iter().all(|(_, well)| *well);
    let verbose = info.query.get("verbose").is_some();
    let mut text = String::new();
    if verbose || !well {
        for (own, well) in &asked {
            text.push_str(&format!(
                "[{}]{own} {}\n",
                if *well { '+' } else { '-' },
                if *well { "ok" } else { "failed" }
            ));
        }
        let what = probe.trim_start_matches('/');
        text.push_str(&format!("{what} check {}\n", if well { "passed" } else { "failed" }));
    } else {
        text.push_str("ok");
    }
    respond::plain(if well { 200 } else { 500 }, "text/plain; charset=utf-8", Body::from(text))
}
