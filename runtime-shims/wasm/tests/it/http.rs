//! Guests that serve HTTP.

use coracle_cri::v1::*;
use coracle_shim_wasm::front::FrontConfig;
use coracle_shim_wasm::images::ImageStore;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::shim::{Shim, eventually, get, guest, request, within};

#[tokio::test]
async fn a_component_answers_on_the_pods_address_and_logs() {
    let shim = Shim::start().await;
    let hello = guest("hello:dev").env("POD_NAME", "hello-1").env("GREETING", "Good morning");
    let pod = shim.run("hello", hello).await;
    assert!(pod.ip.starts_with(shim.range().rsplit_once('.').expect("a range").0), "{}", pod.ip);
    assert_eq!(get(&pod.ip, "/").await, (200, "Good morning from hello-1\n".to_owned()));
    assert_eq!(get(&pod.ip, "/nowhere").await.0, 404);
    let body = "all of it, ".repeat(10_000);
    let echoed = within("it is echoed", request(&pod.ip, 8080, "POST /echo", &body)).await.expect("an answer");
    assert_eq!(echoed, (200, body));
    eventually("its lines are in the log", || async {
        (shim.log("hello", "main") == "stdout F GET /\nstdout F GET /nowhere\nstdout F POST /echo\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stop_lets_requests_finish_and_takes_no_more() {
    let shim = Shim::start().await;
    let pod = shim.run("drain", guest("hello:dev")).await;
    // A request that is under way: its body has not come yet.
    let mut stream = TcpStream::connect((pod.ip.as_str(), 8080)).await.expect("it listens");
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf").await.expect("it is read");
    let mut answer = vec![0; 64 << 10];
    let mut got = 0;
    while !String::from_utf8_lossy(&answer[..got]).contains("half") {
        let more = within("half is echoed", stream.read(&mut answer[got..])).await.expect("it is answered");
        assert!(more > 0, "the connection stays open");
        got += more;
    }
    let stopping = tokio::join!(shim.stop(&pod.container, 60), async {
        eventually("nothing is accepted any more", || async {
            TcpStream::connect((pod.ip.as_str(), 8080)).await.err()
        })
        .await;
        assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerRunning);
        stream.write_all(b"done").await.expect("the request is still served");
        let mut rest = Vec::new();
        within("the rest is echoed", stream.read_to_end(&mut rest)).await.expect("the connection ends well");
        String::from_utf8_lossy(&rest).into_owned()
    });
    assert!(stopping.1.contains("done"), "{}", stopping.1);
    assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
}

#[tokio::test]
async fn a_request_that_does_not_end_is_ended_with_the_grace() {
    let shim = Shim::start().await;
    let pod = shim.run("stuck", guest("hello:dev")).await;
    let mut stream = TcpStream::connect((pod.ip.as_str(), 8080)).await.expect("it listens");
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf").await.expect("it is read");
    let mut first = [0; 16];
    within("it is answered", stream.read(&mut first)).await.expect("it is answered");
    shim.stop(&pod.container, 1).await;
    assert_eq!(shim.ending(&pod.container).await, r#"137 Error """#);
}

#[tokio::test]
async fn a_trap_costs_one_request_and_is_told_in_the_log() {
    let shim = Shim::start().await;
    let pod = shim.run("trap", guest("http-trap")).await;
    for _ in 0..2 {
        assert_eq!(get(&pod.ip, "/some/path").await.0, 500);
    }
    assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerRunning);
    eventually("the trap is logged", || async {
        shim.log("trap", "main")
            .contains("stderr F coracle: GET /some/path: wasm trap: wasm `unreachable` instruction executed")
            .then_some(())
    })
    .await;
    let pod = shim.run("silent", guest("http-silent")).await;
    assert_eq!(get(&pod.ip, "/").await.0, 500);
    eventually("the silence is logged", || async {
        shim.log("silent", "main").contains("the guest returned without a response").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_port_comes_from_the_container_ports_or_an_annotation() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("ports", &[9000, 9001], &[("coracle.dev/http-port.third", "9500")]).await;
    let ip = shim.ip(&sandbox).await;
    for (name, port) in [("first", 9000), ("second", 9001), ("third", 9500), ("fourth", 8080)] {
        let id = shim.create(&sandbox, name, guest("hello:dev").env("GREETING", name)).await.expect("it is made");
        shim.start_container(&id).await.expect("it starts");
        let answer = within("it answers", request(&ip, port, "GET /", "")).await.expect("an answer");
        assert_eq!(answer, (200, format!("{name} from a Wasm pod\n")), "{port}");
    }
    let refused = shim.create(&sandbox, "fifth", guest("hello:dev")).await;
    assert_eq!(
        crate::shim::refusal(refused),
        "InvalidArgument: port 8080 is another container's of this pod; give this one its own in annotation \
         coracle.dev/http-port.fifth"
    );
}

#[tokio::test]
async fn http2_without_tls_is_understood() {
    use http_body_util::{BodyExt, Empty};
    let shim = Shim::start().await;
    let pod = shim.run("h2c", guest("hello:dev")).await;
    let stream = TcpStream::connect((pod.ip.as_str(), 8080)).await.expect("it listens");
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Empty<bytes::Bytes>>(executor, io)
        .await
        .expect("HTTP/2 is spoken");
    let exchange = async {
        let uri = format!("http://{}:8080/", pod.ip);
        let request = http::Request::get(uri).body(Empty::new()).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    let answer = tokio::select! {
        biased;
        answer = within("it answers", exchange) => answer,
        ended = connection => panic!("the connection ended: {ended:?}"),
    };
    assert_eq!(answer, (200, "Hello from a Wasm pod\n".to_owned()));
}

/// The hello example with `count` modules more in it, each with a memory.
fn with_memories(shim: &Shim, count: u8) -> &'static str {
    let file = crate::guests::files().into_iter().find(|(name, _)| name == "hello:dev").expect("it is there").1;
    let mut component = std::fs::read(file).expect("it can be read");
    let mut depth = 0;
    let mut modules = 0;
    for payload in wasmparser::Parser::new(0).parse_all(&component) {
        match payload.expect("it is a component") {
            wasmparser::Payload::ModuleSection { .. } if depth == 1 => modules += 1,
            wasmparser::Payload::Version { .. } => depth += 1,
            wasmparser::Payload::End(_) => depth -= 1,
            _ => {}
        }
    }
    let memory = wat::parse_str("(module (memory 1))").expect("it is a module");
    let length = u8::try_from(memory.len()).expect("it is short");
    for number in 0..count {
        component.extend([1, length]);
        component.extend(&memory);
        // An instance of it, without arguments.
        component.extend([2, 4, 1, 0, modules + number, 0]);
    }
    let file = shim.dir.path().join("memories.wasm");
    std::fs::write(&file, component).expect("it can be written");
    let store = ImageStore::open(FrontConfig::image_dir(shim.dir.path())).expect("the store opens");
    store.import(&file, Some("memories:dev")).expect("it is an image");
    "memories:dev"
}

#[tokio::test]
async fn what_needs_more_of_the_pool_than_there_is_runs_beside_it() {
    let shim = Shim::start().await;
    // With its own: as many as the pool has room for in one instance. A quarter as many requests as may run take it all.
    let image = with_memories(&shim, 7);
    let mut many = guest(image);
    many.annotations.insert("coracle.dev/http-concurrency".to_owned(), "100".to_owned());
    let pod = shim.run("many", many).await;
    let mut held = Vec::new();
    for _ in 0..80 {
        let mut stream = TcpStream::connect((pod.ip.as_str(), 8080)).await.expect("it listens");
        stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf").await.expect("it is read");
        held.push(stream);
    }
    let other = shim.run("other", guest("hello:dev")).await;
    for stream in &mut held {
        let mut status = [0; 15];
        within("it is answered", stream.read_exact(&mut status)).await.expect("it is answered");
        assert_eq!(&status, b"HTTP/1.1 200 OK");
    }
    assert_eq!(get(&other.ip, "/").await.0, 200, "its neighbours have room too");
}

#[tokio::test]
async fn what_no_slot_of_the_pool_has_room_for_runs_beside_it() {
    let shim = Shim::start().await;
    let pod = shim.run("more", guest(with_memories(&shim, 20))).await;
    assert_eq!(get(&pod.ip, "/").await, (200, "Hello from a Wasm pod\n".to_owned()));
}

#[tokio::test]
async fn usage_is_reported() {
    let shim = Shim::start().await;
    let spin = shim.run("spin", guest("spin")).await;
    let idle = shim.run("idle", guest("hello:dev")).await;
    let spun = eventually("processor time is counted", || async {
        let request = ContainerStatsRequest { container_id: spin.container.clone() };
        let stats = shim.runtime().container_stats(request).await.ok()?.into_inner().stats?;
        let cpu = stats.cpu?.usage_core_nano_seconds?.value;
        (cpu > 0).then_some((cpu, stats.memory?.working_set_bytes?.value))
    })
    .await;
    assert_eq!(spun.1, 64 << 10, "one page of memory");
    let request = ListPodSandboxStatsRequest::default();
    let all = shim.runtime().list_pod_sandbox_stats(request).await.expect("stats").into_inner().stats;
    let of_idle =
        all.iter().find(|pod| pod.attributes.as_ref().is_some_and(|pod| pod.id == idle.sandbox)).expect("it is listed");
    let memory = of_idle.linux.as_ref().and_then(|linux| linux.memory.as_ref()).expect("memory");
    assert_eq!(memory.working_set_bytes, Some(UInt64Value { value: 0 }), "nothing is instantiated before a request");
}

/// Memory of all instances that there are.
async fn memory(shim: &Shim, container: &str) -> u64 {
    let request = ContainerStatsRequest { container_id: container.to_owned() };
    let stats = shim.runtime().container_stats(request).await.expect("it runs").into_inner().stats;
    stats.and_then(|stats| stats.memory).and_then(|memory| memory.working_set_bytes).map_or(0, |bytes| bytes.value)
}

fn annotated(image: &str, key: &str, value: &str) -> crate::shim::Guest {
    let annotations = [(key.to_owned(), value.to_owned())].into();
    crate::shim::Guest { annotations, ..guest(image) }
}

#[tokio::test]
async fn a_crowd_in_one_pod_leaves_the_other_pods_room() {
    // More than wasmtime's pool holds.
    const CROWD: usize = 700;
    let shim = Shim::start().await;
    let crowded = shim.run("crowded", annotated("hello:dev", "coracle.dev/http-concurrency", "1000")).await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut stream = TcpStream::connect((crowded.ip.as_str(), 8080)).await.expect("it listens");
        stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf").await.expect("it is read");
        crowd.push(stream);
    }
    // All of them have an instance: half of the body came back.
    for stream in &mut crowd {
        let mut answer = [0; 4];
        within("it has an instance", stream.read_exact(&mut answer)).await.expect("it is answered");
        assert_eq!(&answer, b"HTTP");
    }
    let other = shim.run("other", guest("hello:dev")).await;
    assert_eq!(get(&other.ip, "/").await.0, 200);
    assert_eq!(get(&crowded.ip, "/").await.0, 200);
    drop(crowd);
    eventually("their instances are gone", || async { (memory(&shim, &crowded.container).await == 0).then_some(()) })
        .await;
}

#[tokio::test]
async fn instances_are_kept_where_the_pod_asks_for_it() {
    const KEEP: &str = "coracle.dev/http-keep-instances";
    let shim = Shim::start().await;
    let each = shim.run("each", guest("hello:dev")).await;
    assert_eq!(get(&each.ip, "/").await.0, 200);
    eventually("it is gone", || async { (memory(&shim, &each.container).await == 0).then_some(()) }).await;
    // One at a time, so that each finds the instance of the one before.
    let mut single = annotated("hello:dev", KEEP, "true");
    single.annotations.insert("coracle.dev/http-concurrency".to_owned(), "1".to_owned());
    let kept = shim.run("kept", single).await;
    assert_eq!(memory(&shim, &kept.container).await, 0, "nothing is instantiated before a request");
    for path in ["/", "/nowhere", "/"] {
        assert_eq!(get(&kept.ip, path).await.0, if path == "/" { 200 } else { 404 });
    }
    let body = "all of it, ".repeat(10_000);
    let echoed = within("it is echoed", request(&kept.ip, 8080, "POST /echo", &body)).await.expect("an answer");
    assert_eq!(echoed, (200, body));
    let one = memory(&shim, &kept.container).await;
    assert!(one > 0 && one < 64 << 20, "{one}");
    shim.stop(&kept.container, 10).await;
    assert_eq!(shim.ending(&kept.container).await, r#"0 Completed """#);
    // A client that leaves takes its instance along, though it is one that would be kept.
    let spin = shim.run("spin", annotated("http-spin", KEEP, "true")).await;
    let mut stream = TcpStream::connect((spin.ip.as_str(), 8080)).await.expect("it listens");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it is read");
    eventually("it has one", || async { (memory(&shim, &spin.container).await > 0).then_some(()) }).await;
    drop(stream);
    eventually("it is gone", || async { (memory(&shim, &spin.container).await == 0).then_some(()) }).await;
    let trap = shim.run("trap", annotated("http-trap", KEEP, "true")).await;
    assert_eq!(get(&trap.ip, "/").await.0, 500);
    assert_eq!(memory(&shim, &trap.container).await, 0, "what failed is not kept");
    let sandbox = shim.sandbox("wrong", &[], &[]).await;
    let refused = shim.create(&sandbox, "main", annotated("hello:dev", KEEP, "yes")).await;
    assert_eq!(
        crate::shim::refusal(refused),
        "InvalidArgument: annotation coracle.dev/http-keep-instances: \"yes\" is neither true nor false"
    );
}

/// A request whose body has come by half: its instance waits for the rest.
async fn half(ip: &str) -> TcpStream {
    let mut stream = TcpStream::connect((ip, 8080)).await.expect("it listens");
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf").await.expect("it is read");
    let mut begun = [0; 4];
    within("it has begun", stream.read_exact(&mut begun)).await.expect("it is answered");
    assert_eq!(&begun, b"HTTP");
    stream
}

#[tokio::test]
async fn as_many_requests_wait_as_may_run_and_the_rest_are_told_to_go_elsewhere() {
    let shim = Shim::start().await;
    let pod = shim.run("queue", annotated("hello:dev", "coracle.dev/http-concurrency", "2")).await;
    let mut running = vec![half(&pod.ip).await, half(&pod.ip).await];
    let mut more: FuturesUnordered<_> = (0..3).map(|_| get(&pod.ip, "/")).collect();
    assert_eq!(more.next().await, Some((503, "too many requests at once\n".to_owned())));
    assert!(more.next().now_or_never().is_none(), "two wait");
    for stream in &mut running {
        stream.write_all(b"done").await.expect("it is read");
    }
    assert_eq!(more.next().await.map(|answer| answer.0), Some(200));
    assert_eq!(more.next().await.map(|answer| answer.0), Some(200));
}

#[tokio::test]
async fn a_guest_that_does_not_answer_in_time_is_ended() {
    let shim = Shim::start().await;
    let pod = shim.run("late", annotated("http-spin", "coracle.dev/http-timeout-seconds", "1")).await;
    assert_eq!(get(&pod.ip, "/").await, (504, "the guest did not answer in time\n".to_owned()));
    eventually("its instance is gone", || async { (memory(&shim, &pod.container).await == 0).then_some(()) }).await;
    assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerRunning);
}

#[tokio::test]
async fn heads_that_are_too_large_never_reach_a_guest() {
    let shim = Shim::start().await;
    let pod = shim.run("heads", guest("http-trap")).await;
    let fields: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let mut stream = TcpStream::connect((pod.ip.as_str(), 8080)).await.expect("it listens");
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\n{fields}\r\n").as_bytes()).await.expect("it is read");
    let mut answer = Vec::new();
    within("it is answered", stream.read_to_end(&mut answer)).await.expect("the connection ends well");
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(shim.log("heads", "main"), "");
}

/// A client of HTTP/2 whose connection is carried for it.
async fn http2(ip: &str) -> (http2::SendRequest<String>, JoinSet<()>) {
    let stream = TcpStream::connect((ip, 8080)).await.expect("it listens");
    let (client, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("it speaks HTTP/2");
    let mut carrying = JoinSet::new();
    carrying.spawn(async move { drop(connection.await) });
    (client, carrying)
}

/// The status of the answer, or none where the connection is ended.
async fn status_of(client: &mut http2::SendRequest<String>, fields: &[(String, String)]) -> Option<u16> {
    let mut request = hyper::Request::builder().uri("http://pod/");
    for (name, value) in fields {
        request = request.header(name, value);
    }
    let request = request.body(String::new()).expect("a request");
    within("it is answered", client.send_request(request)).await.ok().map(|response| response.status().as_u16())
}

#[tokio::test]
async fn heads_of_http2_that_are_too_large_never_reach_a_guest_and_others_are_served() {
    let shim = Shim::start().await;
    let pod = shim.run("heads", guest("hello:dev")).await;
    let many: Vec<_> = (0..3000).map(|number| (format!("x-{number}"), "y".to_owned())).collect();
    let large = [("x-large".to_owned(), "y".repeat(70 << 10))];
    let endless = [("x-endless".to_owned(), "y".repeat(2 << 20))];
    let (mut client, _carrying) = http2(&pod.ip).await;
    assert_eq!(status_of(&mut client, &many).await, Some(431));
    assert_eq!(status_of(&mut client, &large).await, Some(431));
    assert_eq!(status_of(&mut client, &[]).await, Some(200), "the same connection serves on");
    // One head that does not come to an end is not read to its end.
    assert_eq!(status_of(&mut client, &endless).await, None);
    let (mut client, _carrying) = http2(&pod.ip).await;
    assert_eq!(status_of(&mut client, &many[..100]).await, Some(200));
    eventually("its lines are in the log", || async {
        (shim.log("heads", "main") == "stdout F GET /\nstdout F GET /\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_container_is_served_on_its_own_port_where_kubelet_says_which_that_is() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("ports", &[9001, 9002], &[]).await;
    let ip = shim.ip(&sandbox).await;
    let with_ports = |ports: &str| {
        let mut guest = guest("hello:dev");
        guest.annotations.insert("io.kubernetes.container.restartCount".to_owned(), "0".to_owned());
        if !ports.is_empty() {
            guest.annotations.insert("io.kubernetes.container.ports".to_owned(), ports.to_owned());
        }
        guest
    };
    // The first one made is not the one with the first port.
    for (name, ports) in [
        ("second", r#"[{"name":"http","containerPort":9002,"protocol":"TCP"}]"#),
        ("none", ""),
        ("first", r#"[{"containerPort":53,"protocol":"UDP"},{"containerPort":9001}]"#),
    ] {
        let guest = with_ports(ports).env("POD_NAME", name);
        let id = shim.create(&sandbox, name, guest).await.expect("the container is made");
        shim.start_container(&id).await.expect("the container starts");
    }
    for (port, name) in [(9001, "first"), (9002, "second"), (8080, "none")] {
        let (status, body) = request(&ip, port, "GET /", "").await.expect("it is answered");
        assert_eq!((status, body.trim_end().ends_with(&format!("from {name}"))), (200, true), "{port}: {body}");
    }
}
