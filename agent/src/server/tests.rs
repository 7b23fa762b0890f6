use std::path::Path;

use axum::body::Body;
use axum::http::Request;
use coracle_client::TokioClock;
use expect_test::{Expect, expect};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

use super::routes::router;
use super::tls::Caller;
use super::*;

struct OnePod {
    log: PathBuf,
    /// Where its runtime takes connections.
    runtime: String,
}

impl PodSource for OnePod {
    fn pods(&self) -> Vec<Arc<Pod>> {
        let mut pod = Pod::default();
        pod.metadata.name = Some("p".to_owned());
        vec![Arc::new(pod)]
    }

    fn stream<'a>(&'a self, _: &'a str, pod: &'a str, wanted: Wanted) -> BoxFuture<'a, Result<String, NoStream>> {
        let answer = match (pod, &wanted) {
            ("p", Wanted::Attach { container, .. }) if container == "x" => {
                Err(NoStream::Container { container: "x".to_owned() })
            }
            ("p", wanted) => {
                let wanted = format!("{wanted:?}").replace([' ', '"', '{', '}', '[', ']'], "");
                Ok(format!("{}/{wanted}", self.runtime))
            }
            _ => Err(NoStream::Pod),
        };
        Box::pin(std::future::ready(answer))
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
    let response =
        router(Arc::new(OnePod { log: log.to_path_buf(), runtime: String::new() }), clock, axum::Router::new())
            .oneshot(request)
            .await
            .unwrap();
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
        ],
        expect![[r#"
            404 pod "q" does not exist
            404 container "x" not found in pod "p"
            400 container "w" in pod "p" is waiting to start: ContainerCreating
            400 previous terminated container "c" in pod "p" not found
            400 tailLines: "-1" is no number of at least 0
            400 sinceTime: "today" is no RFC 3339 time: failed to parse four digit integer as year: invalid digit, expected 0-9 but got t
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

/// A runtime that takes one connection and echoes: what it was asked.
async fn echo(listener: TcpListener) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: x\r\n\r\n";
    stream.write_all(answer).await.unwrap();
    let mut said = [0; 4];
    stream.read_exact(&mut said).await.unwrap();
    stream.write_all(&said).await.unwrap();
    let head = String::from_utf8(head).unwrap();
    let kept = |line: &&str| ["POST", "upgrade", "x-stream"].iter().any(|start| line.starts_with(start));
    head.lines().filter(kept).collect::<Vec<_>>().join(", ")
}

/// Asks for a change of protocol: the answer's status, and what follows it.
async fn upgraded(path: &str, runtime: String) -> String {
    let clock = TokioClock::shared("2026-01-01T00:01:00Z".parse().unwrap());
    let routes = router(Arc::new(OnePod { log: PathBuf::new(), runtime }), clock, axum::Router::new());
    let upgrades = Upgrades::default();
    let left = upgrades.clone();
    let service = tower::ServiceBuilder::new()
        .map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(api_server());
            request.extensions_mut().insert(left.clone());
            request
        })
        .service(routes);
    let (mut ours, theirs) = tokio::io::duplex(1024);
    let serving = async {
        let served = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
            .serve_connection_with_upgrades(TokioIo::new(theirs), TowerToHyperService::new(service))
            .await;
        assert!(served.is_ok());
        if let Some(session) = upgrades.take() {
            session.await;
        }
    };
    let talking = async {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: node\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\
             x-stream-protocol-version: v4.channel.k8s.io\r\n\r\n"
        );
        ours.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(ours.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().to_owned();
        if status == "101" {
            ours.write_all(b"ping").await.unwrap();
        }
        let mut rest = vec![0; 200];
        let got = ours.read(&mut rest).await.unwrap();
        drop(ours);
        format!("{status} {}", String::from_utf8_lossy(&rest[..got]))
    };
    tokio::join!(serving, talking).1
}

#[tokio::test]
async fn connections_to_commands_containers_and_ports_go_to_the_runtime_as_they_are() {
    let mut told = String::new();
    for path in [
        "/exec/default/p/c?command=ls&command=-l&input=1&output=1&error=1",
        "/attach/default/p/c?output=1&error=1&tty=1",
        "/portForward/default/p?port=80",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let runtime = format!("http://{}", listener.local_addr().unwrap());
        let (asked, seen) = tokio::join!(echo(listener), upgraded(path, runtime));
        told += &format!("{asked}: {seen}\n");
    }
    expect![[r#"
        POST /Execcontainer:c,command:ls,-l,streams:Streamsstdin:true,stdout:true,stderr:true,tty:false HTTP/1.1, upgrade: SPDY/3.1, x-stream-protocol-version: v4.channel.k8s.io: 101 ping
        POST /Attachcontainer:c,streams:Streamsstdin:false,stdout:true,stderr:false,tty:true HTTP/1.1, upgrade: SPDY/3.1, x-stream-protocol-version: v4.channel.k8s.io: 101 ping
        POST /PortForwardports:80 HTTP/1.1, upgrade: SPDY/3.1, x-stream-protocol-version: v4.channel.k8s.io: 101 ping
    "#]]
    .assert_eq(&told);
}

#[tokio::test]
async fn what_cannot_be_spoken_to_is_said_so() {
    let mut told = String::new();
    for path in [
        "/exec/default/q/c?command=ls&output=1",
        "/attach/default/p/x?output=1",
        "/exec/default/p/c?command=ls",
        "/portForward/default/p?port=0",
    ] {
        told += &format!("{}\n", upgraded(path, String::new()).await);
    }
    expect![[r#"
        404 pod does not exist
        500 container not found ("x")
        400 you must specify at least 1 of stdin, stdout, stderr
        400 invalid port: "0"
    "#]]
    .assert_eq(&told);
    check_answers(
        &["/exec/default/p/c?command=ls&output=1"],
        expect![[r#"
            400 this asks for a connection that changes its protocol (Upgrade: websocket or SPDY/3.1)
        "#]],
    )
    .await;
}
