//! Ports that pods have on the node's addresses.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use coracle_cri::v1::{PortMapping, Protocol, StopPodSandboxRequest};
use tokio::net::TcpStream;

use crate::shim::{Shim, eventually, guest, refusal, request, within};

/// One that nobody has, and that no connection of another test is given: those come from the upper half.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 100).expect("it is below 100") * 100;
    let mut all = (0..100).map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed) % 100);
    all.find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok()).expect("one of a hundred is free")
}

fn mapping(protocol: Protocol, host_ip: &str, host_port: u16, container_port: u16) -> Vec<PortMapping> {
    let (host_port, container_port) = (host_port.into(), container_port.into());
    vec![PortMapping { protocol: protocol.into(), container_port, host_port, host_ip: host_ip.to_owned() }]
}

async fn serve(shim: &Shim, sandbox: &str, name: &str) {
    let id = shim.create(sandbox, name, guest("hello:dev").env("POD_NAME", name)).await.expect("it is made");
    shim.start_container(&id).await.expect("it starts");
}

async fn answer(ip: &str, port: u16) -> String {
    within("it is answered", request(ip, port, "GET /", "")).await.expect("an answer").1
}

#[tokio::test]
async fn a_pod_is_reached_at_its_port_on_the_node_until_it_is_stopped() {
    let mut shim = Shim::start().await;
    let port = free_port();
    let wanted = || mapping(Protocol::Tcp, "127.0.0.1", port, 8080);
    let first = shim.sandbox_on_node("first", wanted()).await.expect("the port is free");
    serve(&shim, &first, "one").await;
    assert_eq!(answer("127.0.0.1", port).await, "Hello from one\n");
    let body = "all of it, ".repeat(50_000);
    let echoed = within("it is echoed", request("127.0.0.1", port, "POST /echo", &body)).await.expect("an answer");
    assert_eq!(echoed, (200, body));
    let refused = refusal(shim.sandbox_on_node("second", wanted()).await);
    assert_eq!(
        refused,
        format!(
            "FailedPrecondition: hostPort {port}: 127.0.0.1:{port} is in use by another pod or process: stop that, or \
             choose another hostPort"
        )
    );

    // The next front opens it again.
    shim.kill_front().await;
    shim.start_front().await;
    assert_eq!(answer("127.0.0.1", port).await, "Hello from one\n");

    // With a connection open, too, the port is another's as soon as the pod is stopped.
    let idle = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let stop = StopPodSandboxRequest { pod_sandbox_id: first };
    within("it stops", shim.runtime().stop_pod_sandbox(stop)).await.expect("it stops");
    TcpStream::connect(("127.0.0.1", port)).await.expect_err("nobody listens");
    drop(idle);
    let second = shim.sandbox_on_node("second", wanted()).await.expect("the port is free again");
    serve(&shim, &second, "two").await;
    assert_eq!(answer("127.0.0.1", port).await, "Hello from two\n");
}

#[tokio::test]
async fn all_addresses_of_the_node_are_not_those_of_pods() {
    let shim = Shim::start().await;
    // The same port everywhere: of the pod, of the node, and of another pod that has nothing to do with it.
    let port = free_port();
    let other = shim.sandbox("other", &[port.into()], &[]).await;
    serve(&shim, &other, "other").await;
    let sandbox = shim.sandbox_on_node("here", mapping(Protocol::Tcp, "", port, port)).await.expect("it is free");
    serve(&shim, &sandbox, "here").await;
    let late = shim.sandbox("late", &[port.into()], &[]).await;
    serve(&shim, &late, "late").await;
    for (sandbox, name) in [(&other, "other"), (&sandbox, "here"), (&late, "late")] {
        assert_eq!(answer(&shim.ip(sandbox).await, port).await, format!("Hello from {name}\n"));
    }
    assert_eq!(answer("127.0.0.1", port).await, "Hello from here\n");
    // What another process has is not taken from it, and nothing is left half open.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = taken.local_addr().map(|at| (taken, at.port())).expect("it has an address");
    let refused = refusal(shim.sandbox_on_node("never", mapping(Protocol::Tcp, "0.0.0.0", taken.1, 80)).await);
    assert!(refused.contains(&format!("hostPort {}: 127.0.0.1:{} is in use", taken.1, taken.1)), "{refused}");
    drop(taken.0);
    let sandbox = shim.sandbox_on_node("never", mapping(Protocol::Tcp, "0.0.0.0", taken.1, 80)).await;
    sandbox.expect("its name and its port are free");
}

#[tokio::test]
async fn datagrams_find_their_way_to_a_pod_and_back() {
    let shim = Shim::start().await;
    let port = free_port();
    let sandbox =
        shim.sandbox_on_node("net", mapping(Protocol::Udp, "127.0.0.1", port, 7010)).await.expect("it is free");
    let id = shim.create(&sandbox, "main", guest("net").args(&["udp-answer", "7010"])).await.expect("it is made");
    shim.start_container(&id).await.expect("it starts");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    client.set_nonblocking(true).expect("it is a socket");
    let client = tokio::net::UdpSocket::from_std(client).expect("it is a socket");
    client.connect(("127.0.0.1", port)).await.expect("it is an address");
    // The guest may not listen yet.
    let heard = eventually("it is answered", || async {
        let _ = client.send(b"a question").await;
        let mut answer = [0; 64];
        client.try_recv(&mut answer).ok().map(|length| String::from_utf8_lossy(&answer[..length]).into_owned())
    })
    .await;
    assert_eq!(heard, "heard a question");
    assert_eq!(shim.ending(&id).await, r#"0 Completed """#);
}
