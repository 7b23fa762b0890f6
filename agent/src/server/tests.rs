use std::path::Path;

use axum::body::Body;
use axum::http::Request;
use coracle_client::TokioClock;
use expect_test::{Expect, expect};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::routes::router;
use super::tls::Caller;
use super::*;

struct OnePod {
    log: PathBuf,
}

impl PodSource for OnePod {
    fn pods(&self) -> Vec<Arc<Pod>> {
        let mut pod = Pod::default();
        pod.metadata.name = Some("p".to_owned());
        vec![Arc::new(pod)]
    }

    fn container_log(&self, _: &str, pod: &str, container: &str, previous: bool) -> Result<ContainerLog, NoLog> {
        let (pod, container) = (pod.to_owned(), container.to_owned());
        match (pod.as_str(), container.as_str(), previous) {
            ("p", "c", false) => Ok(ContainerLog { path: self.log.clone(), ended: Stop::new() }),
            ("p", "c", true) => Err(NoLog::NoPrevious { pod, container }),
            ("p", "w", _) => Err(NoLog::Waiting { pod, container, reason: "ContainerCreating".to_owned() }),
            ("p", _, _) => Err(NoLog::Container { pod, container }),
            _ => Err(NoLog::Pod { pod }),
        }
    }
}

fn api_server() -> Caller {
    Caller { name: "kube-apiserver".to_owned(), groups: vec!["system:masters".to_owned()] }
}

async fn answer(log: &Path, caller: Option<Caller>, path: &str) -> String {
    let clock = TokioClock::shared("2026-01-01T00:01:00Z".parse().unwrap());
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    let response = router(Arc::new(OnePod { log: log.to_path_buf() }), clock).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    format!("{status} {}\n", String::from_utf8_lossy(&body).trim_end())
}

async fn check_answers(paths: &[&str], expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    std::fs::write(&log, "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:50Z stdout F two\n").unwrap();
    let mut text = String::new();
    for path in paths {
        text.push_str(&answer(&log, Some(api_server()), path).await);
    }
    expected.assert_eq(&text);
}

#[tokio::test]
async fn gives_what_of_a_log_is_asked_for() {
    check_answers(
        &[
            "/containerLogs/default/p/c",
            "/containerLogs/default/p/c?tailLines=1&timestamps=true",
            "/containerLogs/default/p/c?sinceSeconds=20",
            "/containerLogs/default/p/c?sinceTime=2026-01-01T00:00:30Z",
            "/containerLogs/default/p/c?limitBytes=2",
        ],
        expect![[r#"
            200 one
            two
            200 2026-01-01T00:00:50Z two
            200 two
            200 two
            200 on
        "#]],
    )
    .await;
}

#[tokio::test]
async fn says_why_there_is_no_log() {
    check_answers(
        &[
            "/containerLogs/default/q/c",
            "/containerLogs/default/p/x",
            "/containerLogs/default/p/w",
            "/containerLogs/default/p/c?previous=true",
            "/containerLogs/default/p/c?tailLines=-1",
            "/containerLogs/default/p/c?sinceTime=today",
            "/exec/default/p/c",
        ],
        expect![[r#"
            404 pod "q" does not exist
            404 container "x" not found in pod "p"
            400 container "w" in pod "p" is waiting to start: ContainerCreating
            400 previous terminated container "c" in pod "p" not found
            400 tailLines: "-1" is no number of at least 0
            400 sinceTime: "today" is no RFC 3339 time: failed to parse four digit integer as year: invalid digit, expected 0-9 but got t
            501 exec is not supported by this node yet
        "#]],
    )
    .await;
}

#[tokio::test]
async fn answers_the_api_server_only() {
    let node = Caller { name: "system:node:other".to_owned(), groups: vec!["system:nodes".to_owned()] };
    let missing = Path::new("/nowhere");
    expect![[r#"
        403 Forbidden (user=system:node:other): only the API server may call a node's API
    "#]]
    .assert_eq(&answer(missing, Some(node), "/pods").await);
    expect![[r#"
        401 Unauthorized
    "#]]
    .assert_eq(&answer(missing, None, "/pods").await);
    let pods = answer(missing, Some(api_server()), "/pods").await;
    assert!(pods.contains(r#""name":"p""#), "{pods}");
}
