//! The network from within a guest: the pod's address, the cluster's names, requests to others.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::shim::{Shim, guest, within};

/// A DNS server that knows one name.
async fn dns(name: &'static str, address: Ipv4Addr) -> (String, JoinSet<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    let at = socket.local_addr().expect("it has an address").to_string();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
            let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
            answer.metadata.recursion_available = true;
            for query in &question.queries {
                answer.add_query(query.clone());
                if *query.name() != Name::from_str(name).expect("a name") {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                } else if query.query_type() == RecordType::A {
                    answer.add_answer(Record::from_rdata(query.name().clone(), 5, RData::A(A(address))));
                }
            }
            let _ = socket.send_to(&answer.to_vec().expect("it can be encoded"), from).await;
        }
    });
    (at, serving)
}

/// What the guest says when it is told to do `args`.
async fn said(shim: &Shim, sandbox: &str, number: usize, args: &[&str]) -> String {
    let name = format!("net-{number}");
    let id = shim.create(sandbox, &name, guest("net").args(args)).await.expect("it is made");
    shim.start_container(&id).await.expect("it starts");
    let status = shim.exit(&id).await;
    assert_eq!(status.exit_code, 0, "{}", status.message);
    let log = shim.log("net", &name);
    log.trim_start_matches("stdout F ").trim_end().to_owned()
}

#[tokio::test]
async fn a_guest_lives_at_its_pods_address() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("net", &[], &[]).await;
    let ip = shim.ip(&sandbox).await;
    let other = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let other_port = other.local_addr().expect("it has an address").port().to_string();
    // Something else on the host's loopback, which is not the pod's.
    let host_only = said(&shim, &sandbox, 0, &["ask", "127.0.0.1", &other_port]).await;
    assert!(host_only.contains("connection-refused"), "{host_only}");
    assert_eq!(said(&shim, &sandbox, 1, &["bind", "0.0.0.0", "7001"]).await, format!("bind 0.0.0.0 7001: {ip}:7001"));
    assert_eq!(
        said(&shim, &sandbox, 2, &["bind", "127.0.0.1", "7001"]).await,
        format!("bind 127.0.0.1 7001: {ip}:7001")
    );
    assert_eq!(said(&shim, &sandbox, 3, &["udp", "0.0.0.0", "7001"]).await, format!("udp 0.0.0.0 7001: {ip}:7001"));
    let stolen = said(&shim, &sandbox, 4, &["bind", "127.0.0.2", "7001"]).await;
    assert!(stolen.contains("access-denied"), "{stolen}");
    assert_eq!(
        said(&shim, &sandbox, 5, &["self", "7002"]).await,
        format!("self 7002: heard to myself on {ip}:7002, from the same address: true")
    );
}

#[tokio::test]
async fn the_hosts_loopback_is_reached_by_none_of_its_names() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("net", &[], &[]).await;
    let host = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = host.local_addr().expect("it has an address").port();
    // Where the machine has the newer protocol, on it too.
    let newer = TcpListener::bind(("::1", port)).await;
    let mut told = String::new();
    for (number, name) in
        ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1]", "[::]", "localhost"].iter().enumerate()
    {
        let answer = said(&shim, &sandbox, number, &["get", &format!("{name}:{port}"), "/"]).await;
        told.push_str(&format!("{}\n", answer.replace(&port.to_string(), "PORT")));
    }
    expect_test::expect![[r#"
        get 127.0.0.1:PORT /: ErrorCode::ConnectionRefused
        get 0.0.0.0:PORT /: ErrorCode::ConnectionRefused
        get [::ffff:127.0.0.1]:PORT /: ErrorCode::ConnectionRefused
        get [::1]:PORT /: ErrorCode::DestinationNotFound
        get [::]:PORT /: ErrorCode::DestinationNotFound
        get localhost:PORT /: ErrorCode::ConnectionRefused
    "#]]
    .assert_eq(&told);
    let nobody = std::future::poll_fn(|cx| std::task::Poll::Ready(host.poll_accept(cx).is_pending())).await;
    assert!(nobody, "somebody came through");
    if let Ok(newer) = newer {
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(newer.poll_accept(cx).is_pending())).await);
    }
}

#[tokio::test]
async fn a_guest_is_seen_as_its_pod_by_others() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("net", &[], &[]).await;
    let ip = shim.ip(&sandbox).await;
    // In the pods' range, as another pod would be.
    let mut parts: Vec<&str> = ip.split('.').collect();
    parts[3] = "200";
    let other = TcpListener::bind((parts.join("."), 0)).await.expect("any loopback address can be bound");
    let address = other.local_addr().expect("it has an address");
    let (port, host) = (address.port().to_string(), address.ip().to_string());
    let answering = async {
        let (mut stream, from) = other.accept().await.expect("it is asked");
        let mut question = [0; 9];
        stream.read_exact(&mut question).await.expect("the question");
        stream.write_all(b"an answer\n").await.expect("the answer");
        from.ip()
    };
    let args = ["ask", host.as_str(), port.as_str()];
    let (told, from) = tokio::join!(said(&shim, &sandbox, 0, &args), within("it is asked", answering));
    assert!(told.starts_with(&format!("ask {host} {port}: from {ip}:")) && told.ends_with(": an answer"), "{told}");
    assert_eq!(from, IpAddr::from_str(&ip).expect("an address"));
}

#[tokio::test]
async fn names_and_requests_go_through_the_clusters_dns() {
    let shim = Shim::start().await;
    let hello = shim.run("hello", guest("hello:dev").env("GREETING", "Greetings")).await;
    let address = hello.ip.parse().expect("an address");
    let (server, _serving) = dns("hello.default.svc.cluster.local.", address).await;
    let sandbox = shim.sandbox_with_dns("net", &server, &["default.svc.cluster.local", "svc.cluster.local"]).await;
    let shown = [
        said(&shim, &sandbox, 0, &["lookup", "hello"]).await,
        said(&shim, &sandbox, 1, &["lookup", "hello.default.svc.cluster.local"]).await,
        said(&shim, &sandbox, 2, &["lookup", "nobody"]).await,
        said(&shim, &sandbox, 3, &["lookup", "10.1.2.3"]).await,
        said(&shim, &sandbox, 4, &["get", "hello:8080", "/"]).await,
        said(&shim, &sandbox, 5, &["get", "nobody", "/"]).await,
    ]
    .join("\n")
    .replace(&hello.ip, "HELLO");
    expect_test::expect![[r#"
        lookup hello: HELLO
        lookup hello.default.svc.cluster.local: HELLO
        lookup nobody: ErrorCode { code: 18, name: "name-unresolvable", message: "Name does not exist or has no suitable associated IP addresses." }
        lookup 10.1.2.3: 10.1.2.3
        get hello:8080 /: 200 Greetings from a Wasm pod
        get nobody /: ErrorCode::DnsError(DnsErrorPayload { rcode: Some("NXDOMAIN"), info-code: None })"#]].assert_eq(&shown);
}

#[tokio::test]
async fn pods_send_each_other_datagrams() {
    let shim = Shim::start().await;
    // With a connection, and without.
    for how in ["udp-ask", "udp-send"] {
        let (server, client) = (format!("server-{how}"), format!("client-{how}"));
        let answering = shim.run(&server, guest("net").args(&["udp-answer", "7010"])).await;
        let asking = shim.run(&client, guest("net").args(&[how, &answering.ip, "7010"])).await;
        for pod in [&asking, &answering] {
            assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
        }
        // Each is seen at its pod's address and answered at the port it has asked from.
        let (answered, asked) = (shim.log(&server, "main"), shim.log(&client, "main"));
        let from = asked.trim_end().rsplit_once(" to ").map(|(_, from)| from).expect("where the answer came to");
        assert!(asking.ip != answering.ip && from.starts_with(&format!("{}:", asking.ip)), "{asked}");
        assert_eq!(answered, format!("stdout F udp-answer 7010: \"a question\" from {from}\n"));
        let at = &answering.ip;
        let expected = format!("stdout F {how} {at} 7010: \"heard a question\" from {at}:7010 to {from}\n");
        assert_eq!(asked, expected);
    }
}
