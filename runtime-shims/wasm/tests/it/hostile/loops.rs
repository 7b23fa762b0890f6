//! Guests that compute, grow or write without end.

use coracle_cri::v1::ContainerState;

use super::neighbour::Neighbour;
use crate::shim::{Shim, eventually, get, guest, within};

#[tokio::test]
async fn endless_loops_on_every_thread_do_not_hold_up_a_neighbour() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let mut spinning = Vec::new();
    for number in 0..6 {
        spinning.push(shim.run(&format!("spin-{number}"), guest("spin")).await);
    }
    let loops = shim.run("loops", guest("http-spin")).await;
    // Requests that never end, in an HTTP guest.
    let hung: Vec<_> = (0..3)
        .map(|_| {
            let ip = loops.ip.clone();
            async move { crate::shim::request(&ip, 8080, "GET /", "").await }
        })
        .collect();
    let hanging = futures::future::join_all(hung);
    let served = async {
        for _ in 0..20 {
            assert_eq!(get(&hello.ip, "/").await.0, 200);
        }
    };
    tokio::select! {
        biased;
        () = within("the neighbour answers", served) => {}
        answers = hanging => panic!("an endless loop answered: {answers:?}"),
    }
    for pod in &spinning {
        assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerRunning);
        shim.stop(&pod.container, 5).await;
    }
    // Their clients have left, and so have the endless requests: the stop is a gentle one.
    shim.stop(&loops.container, 60).await;
    assert_eq!(shim.ending(&loops.container).await, r#"0 Completed """#);
    assert_eq!(get(&hello.ip, "/").await.0, 200);
    neighbour.unharmed(&shim).await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_instance_along() {
    let shim = Shim::start().await;
    let pod = shim.run("loops", guest("http-spin")).await;
    // Many more than may run at once, one after the other: each would hold a place for ever.
    for _ in 0..3 {
        let mut stream = tokio::net::TcpStream::connect((pod.ip.as_str(), 8080)).await.expect("it listens");
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("it is read");
        eventually("the loop runs", || async { (memory(&shim, &pod.container).await > 0).then_some(()) }).await;
        drop(stream);
        eventually("the loop is gone", || async { (memory(&shim, &pod.container).await == 0).then_some(()) }).await;
    }
}

#[tokio::test]
async fn a_memory_bomb_in_a_request_ends_its_container_only() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let bomb = shim.run("bomb", guest("http-bomb").memory(32 << 20)).await;
    let _answer_or_cut = crate::shim::request(&bomb.ip, 8080, "GET /", "").await;
    let status = shim.exit(&bomb.container).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    // The same in programs, and the other bombs there are.
    for (image, code) in [("bomb", 137), ("table-bomb", 137), ("recursion", 134)] {
        let pod = shim.run(&format!("{image}-program"), guest(image).memory(32 << 20)).await;
        assert_eq!(shim.exit(&pod.container).await.exit_code, code, "{image}");
    }
    neighbour.unharmed(&shim).await;
}

#[tokio::test]
async fn a_log_flood_neither_fills_memory_nor_silences_others() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let flood = shim.run("flood", guest("flood")).await;
    eventually("a megabyte is logged", || async {
        std::fs::metadata(shim.log_file("flood", "main")).ok().filter(|meta| meta.len() > 1 << 20)
    })
    .await;
    assert_eq!(get(&hello.ip, "/").await.0, 200);
    eventually("the neighbour's line is logged", || async {
        (shim.log("hello", "main") == "stdout F GET /\n").then_some(())
    })
    .await;
    shim.stop(&flood.container, 0).await;
    neighbour.unharmed(&shim).await;
}

async fn memory(shim: &Shim, container: &str) -> u64 {
    let request = coracle_cri::v1::ContainerStatsRequest { container_id: container.to_owned() };
    let stats = shim.runtime().container_stats(request).await.expect("it runs").into_inner().stats;
    stats.and_then(|stats| stats.memory).and_then(|memory| memory.working_set_bytes).map_or(0, |bytes| bytes.value)
}
