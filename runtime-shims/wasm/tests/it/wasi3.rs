//! Guests of WASI 0.3.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use coracle_cri::v1::{ContainerState, ContainerStatsRequest};

use crate::shim::{Guest, Shim, descriptors, eventually, get, guest, refusal, request, within};

fn allowed(image: &str) -> Guest {
    Guest { annotations: BTreeMap::from([("coracle.dev/wasi-0.3".to_owned(), "true".to_owned())]), ..guest(image) }
}

#[tokio::test]
async fn they_are_refused_until_somebody_asks_for_them() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("off", &[], &[]).await;
    let refused = refusal(shim.create(&sandbox, "main", guest("command3")).await);
    assert_eq!(
        refused,
        "InvalidArgument: the component is for WASI 0.3, which is off: set the annotation coracle.dev/wasi-0.3: \"true\" \
         on the pod, or start the Wasm runtime with --wasi-0.3 on, or build it for 0.2"
    );
    let annotated = shim.sandbox("annotated", &[], &[("coracle.dev/wasi-0.3", "true")]).await;
    shim.create(&annotated, "main", guest("command3")).await.expect("the pod asks for it");
    let open = Shim::start_with(&["--wasi-0.3", "on"]).await;
    let pod = open.run("on", guest("command3")).await;
    assert_eq!(open.ending(&pod.container).await, r#"0 Completed """#);
}

#[tokio::test]
async fn commands_end_as_others_do_and_live_at_their_pods_address() {
    let shim = Shim::start().await;
    let mut endings = String::new();
    for args in [&["fail"][..], &["trap"], &[]] {
        let name = format!("end-{}", args.join("-"));
        let pod = shim.run(&name, allowed("command3").args(args)).await;
        endings.push_str(&format!("{args:?}: {}\n", shim.ending(&pod.container).await));
    }
    expect_test::expect![[r#"
        ["fail"]: 1 Error ""
        ["trap"]: 134 Error "wasm trap: wasm `unreachable` instruction executed"
        []: 0 Completed ""
    "#]]
    .assert_eq(&endings);
    let sandbox = shim.sandbox("net", &[], &[]).await;
    let ip = shim.ip(&sandbox).await;
    let other = format!("{}.200", ip.rsplit_once('.').expect("an address").0);
    let listener = TcpListener::bind((other.as_str(), 0)).await.expect("any loopback address can be bound");
    let port = listener.local_addr().expect("it has an address").port().to_string();
    let on_host = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let host_port = on_host.local_addr().expect("it has an address").port().to_string();
    let answering = async {
        let (mut stream, from) = listener.accept().await.expect("it is asked");
        let mut question = [0; 9];
        stream.read_exact(&mut question).await.expect("the question");
        stream.write_all(b"an answer\n").await.expect("the answer");
        from.ip().to_string()
    };
    let args = [
        "bind:0.0.0.0:7001".to_owned(),
        "bind:127.0.0.2:7001".to_owned(),
        format!("ask:127.0.0.1:{host_port}"),
        format!("ask:{other}:{port}"),
    ];
    let asking = allowed("command3").args(&args.each_ref().map(String::as_str));
    let id = shim.create(&sandbox, "main", asking).await.expect("it is made");
    shim.start_container(&id).await.expect("it starts");
    assert_eq!(within("it asks", answering).await, ip);
    assert_eq!(shim.ending(&id).await, r#"0 Completed """#);
    let said = shim.log("net", "main").replace(&ip, "POD").replace(&other, "OTHER").replace(&port, "PORT");
    let said = said.replace(&host_port, "HOSTPORT");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "stdout F bind:0.0.0.0:7001: POD:7001");
    assert!(lines[1].contains("AccessDenied"), "{said}");
    // The host's loopback is not the pod's.
    assert!(lines[2].contains("ConnectionRefused"), "{said}");
    assert!(lines[3].starts_with("stdout F ask:OTHER:PORT: from POD:") && lines[3].ends_with(": an answer"), "{said}");
}

#[tokio::test]
async fn what_is_bound_to_nothing_is_bound_to_the_pods_address() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("net", &[], &[]).await;
    let ip = shim.ip(&sandbox).await;
    let other = format!("{}.200", ip.rsplit_once('.').expect("an address").0);
    let hearing = tokio::net::UdpSocket::bind((other.as_str(), 0)).await.expect("any loopback address can be bound");
    let port = hearing.local_addr().expect("it has an address").port();
    let args = ["listen".to_owned(), format!("udp:{other}:{port}")];
    let id = shim.create(&sandbox, "main", allowed("command3").args(&args.each_ref().map(String::as_str))).await;
    let id = id.expect("it is made");
    shim.start_container(&id).await.expect("it starts");
    let mut heard = [0; 16];
    let (length, from) = within("it is heard", hearing.recv_from(&mut heard)).await.expect("a datagram");
    assert_eq!((&heard[..length], from.ip().to_string()), (&b"datagram"[..], ip.clone()));
    assert_eq!(shim.ending(&id).await, r#"0 Completed """#);
    let said = shim.log("net", "main");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with(&format!("stdout F listen: {ip}:")), "{said}");
    assert!(lines[1].starts_with(&format!("stdout F udp:{other}:{port}: {ip}:")), "{said}");
}

#[tokio::test]
async fn sockets_and_files_are_counted_until_their_streams_are_gone() {
    let shim = Shim::start().await;
    let server = TcpListener::bind("127.0.0.2:0").await.expect("a port is free");
    let at = server.local_addr().expect("it has an address").to_string();
    let dir = shim.dir.path().join("data");
    std::fs::create_dir(&dir).expect("it can be made");
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("it is ours");
    let streams = format!("streams:{at}:30");
    let args = ["sockets:30", &streams, "free:sockets:20", &streams, "files:30", "free:files:20", "files:30"];
    let mut counted = allowed("command3").args(&args).mount(&dir, "/data", false);
    for limit in ["coracle.dev/max-sockets", "coracle.dev/max-open-files"] {
        counted.annotations.insert(limit.to_owned(), "20".to_owned());
    }
    let pod = shim.run("counted", counted).await;
    assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
    let said = shim.log("counted", "main").replace(&at, "SERVER");
    expect_test::expect![[r#"
        stderr F coracle: open sockets: the limit of 20 is reached (annotation coracle.dev/max-sockets)
        stdout F sockets:30: 20 held, 10 refused, first Some("ErrorCode::Other(Some(\"too many open sockets\"))")
        stdout F streams:SERVER:30: 20 held, 10 refused, first Some("ErrorCode::Other(Some(\"too many open sockets\"))")
        stdout F free:sockets:20: yes
        stdout F streams:SERVER:30: 20 held, 10 refused, first Some("ErrorCode::Other(Some(\"too many open sockets\"))")
        stderr F coracle: open files: the limit of 20 is reached (annotation coracle.dev/max-open-files)
        stdout F files:30: 20 held, 10 refused, first Some("ErrorCode::Quota")
        stdout F free:files:20: yes
        stdout F files:30: 20 held, 10 refused, first Some("ErrorCode::Quota")
    "#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_not_accepted() {
    let shim = Shim::start().await;
    let mut serving = allowed("command3").args(&["accept:7001"]);
    serving.annotations.insert("coracle.dev/max-sockets".to_owned(), "20".to_owned());
    let pod = shim.run("serving", serving).await;
    eventually("it listens", || async { shim.log("serving", "main").contains("listens").then_some(()) }).await;
    let mut ends = futures::stream::FuturesUnordered::new();
    for _ in 0..30 {
        let mut stream = TcpStream::connect((pod.ip.as_str(), 7001)).await.expect("the kernel takes it");
        ends.push(async move { stream.read_u8().await.is_err() });
    }
    // One socket listens, nineteen are connections.
    for _ in 0..11 {
        let end = within("it is cut off", futures::StreamExt::next(&mut ends)).await;
        assert_eq!(end, Some(true));
    }
    let next = futures::FutureExt::now_or_never(futures::StreamExt::next(&mut ends));
    assert!(next.is_none(), "the others stay");
    eventually("it is told", || async {
        let told = "stderr F coracle: open sockets: the limit of 20 is reached";
        shim.log("serving", "main").contains(told).then_some(())
    })
    .await;
}

#[tokio::test]
async fn tasks_without_end_end_their_guest() {
    let shim = Shim::start().await;
    let few = shim.run("few", allowed("command3").args(&["timers:100"])).await;
    assert_eq!(shim.ending(&few.container).await, r#"0 Completed """#);
    let worker = shim.worker_pid();
    let many = shim.run("many", allowed("command3").args(&["timers:1000000"])).await;
    let status = shim.exit(&many.container).await;
    assert_eq!(status.exit_code, 134, "{}", status.message);
    let told = "cannot allocate another handle: store handle limit exceeded";
    assert_eq!(status.message.lines().next(), Some(told));
    assert_eq!(shim.worker_pid(), worker, "nothing else ended");
}

#[tokio::test]
async fn a_command_is_told_to_stop_by_the_end_of_its_input() {
    let shim = Shim::start().await;
    let pod = shim.run("wait", Guest { stdin: true, ..allowed("command3").args(&["wait"]) }).await;
    eventually("it waits", || async { shim.log("wait", "main").contains("waits").then_some(()) }).await;
    shim.stop(&pod.container, 60).await;
    let ending = shim.ending(&pod.container).await;
    // Whether it had begun to look by then.
    assert!([r#"0 Completed """#, r#"143 Error """#].contains(&ending.as_str()), "{ending}");
}

#[tokio::test]
async fn what_goes_on_behind_a_response_is_ended_in_time() {
    let shim = Shim::start().await;
    let mut behind = allowed("service3");
    behind.annotations.insert("coracle.dev/http-timeout-seconds".to_owned(), "1".to_owned());
    let pod = shim.run("behind", behind).await;
    assert_eq!(get(&pod.ip, "/behind").await, (200, "answered\n".to_owned()));
    eventually("it is ended and told", || async {
        shim.log("behind", "main")
            .contains("stderr F coracle: GET /behind: the guest was ended: it went on for 1 s behind its response")
            .then_some(())
    })
    .await;
    let stats = ContainerStatsRequest { container_id: pod.container.clone() };
    let stats = shim.runtime().container_stats(stats).await.expect("it runs").into_inner().stats;
    let memory = stats.and_then(|stats| stats.memory).and_then(|memory| memory.working_set_bytes);
    assert_eq!(memory.map(|bytes| bytes.value), Some(0), "its instance is gone");
}

#[tokio::test]
async fn nothing_goes_on_behind_the_end_of_its_container() {
    let shim = Shim::start().await;
    let _keeps_the_worker = shim.run("hello", guest("hello:dev")).await;
    let worker = shim.worker_pid().expect("a worker runs");
    let before = descriptors(worker);
    for (name, seconds) in [("killed", 0), ("after-its-grace", 1)] {
        let pod = shim.run(name, allowed("service3").mount(shim.dir.path(), "/data", true)).await;
        assert_eq!(get(&pod.ip, "/behind").await, (200, "answered\n".to_owned()));
        assert!(descriptors(worker) > before, "it has its volume and its log");
        shim.stop(&pod.container, seconds).await;
        assert_eq!(shim.ending(&pod.container).await, r#"137 Error """#);
        eventually("what it had is closed", || async { (descriptors(worker) <= before).then_some(()) }).await;
    }
}

#[tokio::test]
async fn instances_are_kept_between_requests_and_freed_with_their_client() {
    let shim = Shim::start().await;
    // One at a time, so that each finds the instance of the one before.
    let mut single = allowed("service3");
    single.annotations.insert("coracle.dev/http-concurrency".to_owned(), "1".to_owned());
    let pod = shim.run("single", single).await;
    for count in 1..=3 {
        assert_eq!(get(&pod.ip, "/count").await, (200, format!("{count}\n")));
    }
    let body = "all of it, ".repeat(20_000);
    let echoed = within("it is echoed", request(&pod.ip, 8080, "POST /echo", &body)).await.expect("an answer");
    assert_eq!(echoed.0, 200);
    assert_eq!(echoed.1.len(), body.len());
    assert_eq!(get(&pod.ip, "/nowhere").await.0, 404);
    assert_eq!(get(&pod.ip, "/count").await, (200, "6\n".to_owned()));
    assert_eq!(get(&pod.ip, "/trap").await.0, 500);
    // What failed is not used again.
    assert_eq!(get(&pod.ip, "/count").await, (200, "1\n".to_owned()));
    let hello = shim.run("hello", guest("hello:dev")).await;
    assert_eq!(get(&pod.ip, &format!("/ask/{}:8080", hello.ip)).await, (200, "200\n".to_owned()));
    shim.stop(&pod.container, 10).await;
    assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
    let pod = shim.run("service", allowed("service3")).await;
    assert_eq!(get(&pod.ip, "/count").await, (200, "1\n".to_owned()));
    let memory = || async {
        let stats = ContainerStatsRequest { container_id: pod.container.clone() };
        let stats = shim.runtime().container_stats(stats).await.ok()?.into_inner().stats?;
        Some(stats.memory?.working_set_bytes?.value)
    };
    let one = memory().await.expect("memory is counted");
    assert!(one > 0);
    // Two wait at once, so one of them needs an instance more; with them it goes.
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect((pod.ip.as_str(), 8080)).await.expect("it listens");
        stream.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it is read");
        waiting.push(stream);
    }
    eventually("both have instances", || async { memory().await.filter(|memory| *memory >= 2 * one) }).await;
    drop(waiting);
    eventually("nothing is left of them", || async { memory().await.filter(|memory| *memory == 0) }).await;
    shim.stop(&pod.container, 10).await;
    assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
    assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerExited);
}

#[tokio::test]
async fn bodies_go_both_ways_as_they_come_and_trailers_behind_them() {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    let shim = Shim::start().await;
    let pod = shim.run("echo", allowed("service3")).await;
    let stream = TcpStream::connect((pod.ip.as_str(), 8080)).await.expect("it listens");
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (pieces, body) = tokio::sync::mpsc::channel::<Result<Frame<bytes::Bytes>, std::convert::Infallible>>(4);
    let body = futures::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.expect("HTTP/2 is spoken");
    let exchange = async {
        let uri = format!("http://{}:8080/echo", pod.ip);
        let request = http::Request::post(uri).body(BodyExt::boxed_unsync(StreamBody::new(body))).expect("a request");
        let mut response = sender.send_request(request).await.expect("an answer before the body").into_body();
        // Each piece comes back before the next one is sent.
        for piece in ["one", "two"] {
            pieces.send(Ok(Frame::data(bytes::Bytes::from(piece)))).await.expect("it is read");
            let back = response.frame().await.expect("it goes on").expect("a frame").into_data().expect("data");
            assert_eq!(back, piece);
        }
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-behind", http::HeaderValue::from_static("it"));
        pieces.send(Ok(Frame::trailers(trailers))).await.expect("they are read");
        drop(pieces);
        let rest = response.collect().await.expect("the rest");
        assert_eq!(
            rest.trailers().and_then(|trailers| trailers.get("x-behind")).map(|it| it.as_bytes()),
            Some(&b"it"[..])
        );
    };
    tokio::select! {
        biased;
        () = within("it is echoed", exchange) => {}
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}
