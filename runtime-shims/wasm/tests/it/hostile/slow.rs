//! Clients and servers that are as slow as they may be.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::neighbour::Neighbour;
use crate::shim::{Shim, descriptors, eventually, get, guest, within};

/// More than a pod serves at once, and than may wait.
const MANY: usize = 600;

#[tokio::test]
async fn clients_that_never_finish_asking_hold_up_their_own_pod_at_most() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let victim = shim.run("victim", guest("hello:dev")).await;
    let mut slow = Vec::new();
    for number in 0..MANY {
        let mut stream = TcpStream::connect((victim.ip.as_str(), 8080)).await.expect("it listens");
        // Nothing at all; half a head; half a body.
        let said: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ",
            _ => b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf",
        };
        stream.write_all(said).await.expect("it is read");
        slow.push(stream);
    }
    // Heads that are not whole cost no instance: others are served, even by the same pod.
    assert_eq!(get(&victim.ip, "/").await.0, 200);
    neighbour.unharmed(&shim).await;
    drop(slow);
    assert_eq!(get(&victim.ip, "/").await.0, 200);
}

#[tokio::test]
async fn clients_that_do_not_read_hold_their_own_instances_at_most() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let victim = shim.run("victim", guest("hello:dev")).await;
    let mut deaf = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect((victim.ip.as_str(), 8080)).await.expect("it listens");
        stream
            .write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n")
            .await
            .expect("it is read");
        // As much as fits into all buffers on the way; then it stands still.
        let piece = [b'x'; 64 << 10];
        while tokio::time::timeout(std::time::Duration::from_millis(20), stream.write_all(&piece)).await.is_ok() {}
        deaf.push(stream);
    }
    // There is room for more than these, so the pod itself serves on.
    assert_eq!(get(&victim.ip, "/").await.0, 200);
    neighbour.unharmed(&shim).await;
    drop(deaf);
}

#[tokio::test]
async fn servers_that_answer_in_drops_or_never_hold_up_their_own_guest_only() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let server = TcpListener::bind("127.0.0.2:0").await.expect("a port is free");
    let at = server.local_addr().expect("it has an address").to_string();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = server.accept().await {
            let mut some = [0; 64];
            let _ = stream.read(&mut some).await;
            // A head that begins and never ends.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-slow: ").await;
            held.push(stream);
        }
    });
    let pod = shim.run("asking", guest("abuse").args(&["upstream", &at, "300"])).await;
    let worker = shim.worker_pid().expect("a worker runs");
    eventually("it has asked", || async { (descriptors(worker) > 200).then_some(()) }).await;
    // It waits and can be stopped like any other; what it held is given back.
    within("it stops", shim.stop(&pod.container, 5)).await;
    eventually("its connections are closed", || async { (descriptors(worker) < 100).then_some(()) }).await;
    neighbour.unharmed(&shim).await;
}
