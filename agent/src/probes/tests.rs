use std::collections::VecDeque;

use coracle_client::events::Source;
use coracle_client::{Client, RandomIds, TaskScope, TokioClock};
use coracle_cri::RuntimeRouter;
use coracle_cri::fake::FakeRuntime;
use expect_test::{Expect, expect};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::runtime::Runtimes;

/// Answers by a script of `o` (ok), `x` (fails) and `-` (never answers); the last repeats.
struct Scripted {
    answers: Mutex<VecDeque<char>>,
}

impl Prober for Scripted {
    fn try_once<'a>(&'a self, _: &'a Check) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        let mut answers = self.answers.lock();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().copied() };
        match answer {
            Some('o') => Box::pin(async { Ok(()) }),
            Some('x') => Box::pin(async { Err("HTTP probe failed with statuscode: 500".to_owned()) }),
            _ => Box::pin(std::future::pending()),
        }
    }
}

async fn run(kind: ProbeKind, probe: Value, script: &str, seconds: u64) -> String {
    let scope = TaskScope::root();
    let client = Client::new(tower::service_fn(|_: http::Request<coracle_client::Body>| async {
        Ok::<_, std::io::Error>(http::Response::new(coracle_client::empty_body()))
    }));
    let clock = TokioClock::shared("2026-01-01T00:00:00Z".parse().unwrap());
    let source = Source { component: "kubelet".into(), host: "n".into() };
    let recorder = Recorder::new(&client, clock, RandomIds::seeded(1), source, &scope);
    let mailbox = Arc::new(Mailbox::default());
    let fake = FakeRuntime::new(0);
    let task = ProbeTask {
        kind,
        rhythm: Rhythm::of(&serde_json::from_value(probe).unwrap()),
        check: Ok(Check::Tcp { host: "h".into(), port: 1 }),
        container: "web".into(),
        container_id: "c1".into(),
        runtime: Runtimes::new(RuntimeRouter::new(fake.endpoint())).all()[0].clone(),
        prober: Arc::new(Scripted { answers: Mutex::new(script.chars().collect()) }),
        mailbox: mailbox.clone(),
        recorder,
        reference: ObjectReference::default(),
    };
    let start = Instant::now();
    let mut out = String::new();
    let watch = async {
        loop {
            for ((_, kind), verdict) in mailbox.take().await.verdicts {
                out +=
                    &format!("{}s {kind} {}\n", start.elapsed().as_secs(), if verdict.healthy { "ok" } else { "bad" });
            }
        }
    };
    let ended = async {
        tokio::select! {
            biased;
            () = task.run() => "ended",
            () = tokio::time::sleep(Duration::from_secs(seconds)) => "goes on",
        }
    };
    let state = tokio::select! {
        biased;
        state = ended => state,
        () = watch => unreachable!(),
    };
    for ((_, kind), verdict) in mailbox.take_now().verdicts {
        out += &format!("{}s {kind} {}\n", start.elapsed().as_secs(), if verdict.healthy { "ok" } else { "bad" });
    }
    scope.shutdown().await;
    out + state
}

async fn check(kind: ProbeKind, probe: Value, script: &str, expected: Expect) {
    expected.assert_eq(&run(kind, probe, script, 100).await);
}

#[tokio::test(start_paused = true)]
async fn verdicts_change_at_the_thresholds() {
    let probe = json!({"periodSeconds": 5, "failureThreshold": 2, "successThreshold": 2, "initialDelaySeconds": 3});
    check(
        ProbeKind::Readiness,
        probe,
        "xoooxoxxo",
        expect![[r#"
        13s Readiness ok
        38s Readiness bad
        48s Readiness ok
        goes on"#]],
    )
    .await;
    check(
        ProbeKind::Liveness,
        json!({"periodSeconds": 5}),
        "oxxoxxx",
        expect![[r#"
        30s Liveness bad
        ended"#]],
    )
    .await;
    check(
        ProbeKind::Startup,
        json!({"periodSeconds": 1, "failureThreshold": 30}),
        "xxxo",
        expect![[r#"
        3s Startup ok
        ended"#]],
    )
    .await;
    check(
        ProbeKind::Startup,
        json!({"periodSeconds": 1}),
        "-",
        expect![[r#"
        3s Startup bad
        ended"#]],
    )
    .await;
}

fn container() -> Container {
    serde_json::from_value(json!({"name": "web", "ports": [{"name": "http", "containerPort": 8080}]})).unwrap()
}

fn check_target(probe: Value, expected: Expect) {
    let probe: Probe = serde_json::from_value(probe).unwrap();
    let text = match check_of(&probe, &container(), Some("127.42.0.2".parse().unwrap())) {
        Ok(Check::Http(http)) => http.url(),
        Ok(other) => format!("{other:?}"),
        Err(error) => error,
    };
    expected.assert_eq(&text);
}

#[test]
fn ports_may_be_named() {
    check_target(json!({"httpGet": {"port": "http", "path": "healthz"}}), expect!["http://127.42.0.2:8080/healthz"]);
    check_target(json!({"httpGet": {"port": "nope"}}), expect![[r#"couldn't find port: "nope" in pod"#]]);
    check_target(json!({"tcpSocket": {"port": 70000}}), expect!["invalid port number: 70000"]);
    check_target(
        json!({"grpc": {"port": 9, "service": "s"}}),
        expect![[r#"Grpc { host: "127.42.0.2", port: 9, service: "s" }"#]],
    );
    check_target(json!({}), expect!["missing probe handler"]);
}

/// Tries once against a server that answers every connection with `answer`.
async fn against(answer: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let read = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    };
    let http = HttpCheck {
        scheme: "http".into(),
        host: "127.0.0.1".into(),
        port,
        path: "/healthz?a=1".into(),
        headers: BTreeMap::from([("X-A".to_owned(), "b".to_owned())]),
    };
    let (check, prober) = (Check::Http(http), HostProber::default());
    let (request, outcome) = tokio::join!(serve, prober.try_once(&check));
    format!("{request}{outcome:?}").replace(&port.to_string(), "PORT").replace('\r', "")
}

#[tokio::test]
async fn http_answers_are_judged_by_their_code() {
    expect![[r#"
        GET /healthz?a=1 HTTP/1.1
        host: 127.0.0.1:PORT
        user-agent: kube-probe/1.36
        accept: */*
        x-a: b
        connection: close

        Ok(())"#]]
    .assert_eq(&against("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await);
    let outcome = against("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
    assert!(outcome.ends_with("Err(\"HTTP probe failed with statuscode: 503\")"), "{outcome}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let refused = HostProber::default().try_once(&Check::Tcp { host: "127.0.0.1".into(), port }).await.unwrap_err();
    assert_eq!(refused, format!("dial tcp 127.0.0.1:{port}: connect: connection refused"));
}

#[tokio::test(start_paused = true)]
async fn a_readiness_probe_that_fails_from_the_beginning_says_so() {
    // An agent that was started anew goes by what the one before it found until then.
    let probe = serde_json::json!({ "periodSeconds": 10, "failureThreshold": 3 });
    assert_eq!(run(ProbeKind::Readiness, probe, "x", 60).await, "20s Readiness bad\ngoes on");
}

/// The outcome of a probe for `/a b` against a server that sends `/a%20b` to `location` and answers 503 to all else, and
/// the paths it was asked for.
async fn redirected(location: &str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let location = location.replace("PORT", &port.to_string());
    let asked = Mutex::new(Vec::new());
    let serve = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            let text = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = text.split(' ').nth(1).unwrap().to_owned();
            let answer = match &*path {
                "/a%20b" => format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"),
                _ => "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_owned(),
            };
            asked.lock().push(path);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let (host, headers) = ("127.0.0.1".to_owned(), BTreeMap::new());
    let check = Check::Http(HttpCheck { scheme: "http".into(), host, port, path: "/a b".into(), headers });
    let prober = HostProber::default();
    let outcome = tokio::select! {
        biased;
        outcome = prober.try_once(&check) => outcome,
        () = serve => unreachable!(),
    };
    format!("{} {}", asked.into_inner().join(" "), outcome.err().unwrap_or("ok".into()))
        .replace(&port.to_string(), "PORT")
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host() {
    assert_eq!(redirected("/login").await, "/a%20b /login HTTP probe failed with statuscode: 503");
    assert_eq!(redirected("login?x").await, "/a%20b /login?x HTTP probe failed with statuscode: 503");
    let whole = redirected("http://127.0.0.1:PORT/login").await;
    assert_eq!(whole, "/a%20b /login HTTP probe failed with statuscode: 503");
    assert_eq!(redirected("https://other.example/login").await, "/a%20b ok");
    let circle = redirected("/a%20b").await;
    assert!(circle.ends_with("Get \"http://127.0.0.1:PORT/a%20b\": stopped after 10 redirects"), "{circle}");
}

/// A probe that runs `command` in a container of the fake runtime, once.
async fn exec(command: &str) -> String {
    use coracle_cri::v1::*;
    let fake = FakeRuntime::new(0).scripted("app", "exec 0 good; exec 1 bad; exec never hang");
    let runtime = Runtimes::new(RuntimeRouter::new(fake.endpoint())).all()[0].clone();
    let metadata = PodSandboxMetadata { name: "web".into(), uid: "u".into(), namespace: "ns".into(), attempt: 0 };
    let sandbox_config = Some(PodSandboxConfig { metadata: Some(metadata), ..Default::default() });
    let network_config = Some(NetworkConfig { pod_cidr: "127.42.16.0/20".into() });
    let runtime_config = Some(RuntimeConfig { network_config });
    let mut client = fake.endpoint().runtime();
    client.update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).await.unwrap();
    let sandbox = runtime.run_sandbox(sandbox_config.clone().unwrap(), "").await.unwrap();
    let image = Some(ImageSpec { image: "app".into(), ..Default::default() });
    runtime.pull(PullImageRequest { image: image.clone(), ..Default::default() }, || ()).await.unwrap();
    let metadata = Some(ContainerMetadata { name: "main".into(), attempt: 0 });
    let config = Some(ContainerConfig { metadata, image, ..Default::default() });
    let request = CreateContainerRequest { pod_sandbox_id: sandbox, config, sandbox_config };
    let id = runtime.create_container(Box::new(request)).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    let scope = TaskScope::root();
    let client = Client::new(tower::service_fn(|_: http::Request<coracle_client::Body>| async {
        Ok::<_, std::io::Error>(http::Response::new(coracle_client::empty_body()))
    }));
    let clock = TokioClock::shared("2026-01-01T00:00:00Z".parse().unwrap());
    let source = Source { component: "kubelet".into(), host: "n".into() };
    let task = ProbeTask {
        kind: ProbeKind::Liveness,
        rhythm: Rhythm::of(&Probe::default()),
        check: Ok(Check::Exec { command: command.split(' ').map(str::to_owned).collect() }),
        container: "main".into(),
        container_id: id.into(),
        runtime,
        prober: Arc::new(NoProber),
        mailbox: Arc::new(Mailbox::default()),
        recorder: Recorder::new(&client, clock, RandomIds::seeded(1), source, &scope),
        reference: ObjectReference::default(),
    };
    let outcome = task.try_a_few_times(Duration::from_secs(1)).await;
    scope.shutdown().await;
    format!("{command}: {}\n", outcome.map_or_else(|fault| fault.to_string(), |()| "ok".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn commands_are_judged_by_their_exit_code_and_one_that_is_not_there_judges_nothing() {
    let mut told = String::new();
    for command in ["good", "bad", "hang", "sh -c true"] {
        told += &exec(command).await;
    }
    expect![[r#"
        good: ok
        bad: failed: bad says no
        hang: failed: command timed out: "hang" timed out after 1s
        sh -c true: errored and resulted in unknown state: rpc error: code = Unknown desc = exec: "sh -c true": executable file not found in $PATH
    "#]]
    .assert_eq(&told);
}
