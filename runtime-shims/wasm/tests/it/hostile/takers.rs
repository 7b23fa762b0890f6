//! Guests that take host resources and never give back.

use std::os::unix::fs::PermissionsExt;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::neighbour::Neighbour;
use crate::shim::{Guest, Shim, descriptors, eventually, guest};

/// Runs a guest that takes more than it may. Either it is told no, counts that and ends by itself, or it is ended with
/// the reason; either way what it took is given back.
async fn check_held(shim: &Shim, name: &str, guest: Guest) {
    let worker = shim.worker_pid().expect("a worker runs");
    let before = descriptors(worker);
    let pod = shim.run(name, guest).await;
    let status = shim.exit(&pod.container).await;
    let said = shim.log(name, "main");
    match status.exit_code {
        0 => assert!(said.contains(" held, ") && !said.contains(" 0 refused"), "{name}: {said}"),
        // A core module ends with WASI's number for "too many open files".
        33 | 41 => {}
        134 => assert!(
            ["resource table has no free keys", "exceeds limit"].iter().any(|why| status.message.contains(why)),
            "{name}: {}",
            status.message
        ),
        other => panic!("{name} ended with {other}: {}", status.message),
    }
    eventually("what it took is given back", || async { (descriptors(worker) <= before + 16).then_some(()) }).await;
}

/// A directory that workers, which are another user, may write to.
fn writable(shim: &Shim, name: &str) -> std::path::PathBuf {
    let dir = shim.dir.path().join(name);
    std::fs::create_dir(&dir).expect("a directory can be made");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    dir
}

#[tokio::test]
async fn opening_without_end_is_held() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let dir = writable(&shim, "data");
    for args in
        [&["files", "/data", "20000"][..], &["handles", "/data", "100000"], &["tcp", "100000"], &["udp", "100000"]]
    {
        check_held(&shim, args[0], guest("abuse").args(args).mount(&dir, "/data", false)).await;
    }
    check_held(&shim, "opens", guest("opens").mount(&dir, "/data", false)).await;
    neighbour.unharmed(&shim).await;
}

#[tokio::test]
async fn listing_directories_without_end_is_held() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let dir = writable(&shim, "data");
    for number in 0..2000 {
        std::fs::write(dir.join(format!("{number:0>200}")), "").expect("a file can be made");
    }
    let lister = guest("abuse").args(&["lists", "/data", "5000"]).mount(&dir, "/data", false);
    check_held(&shim, "lists", lister).await;
    let said = shim.log("lists", "main");
    assert!(said.contains("1024 held, 3976 refused"), "by their number, before the host has them all: {said}");
    let whole = guest("abuse").args(&["list", "/data"]).mount(&dir, "/data", true);
    let pod = shim.run("list", whole).await;
    assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
    assert_eq!(shim.log("list", "main"), "stdout F list: 2000 entries\n");
    neighbour.unharmed(&shim).await;
}

#[tokio::test]
async fn listening_and_connecting_without_end_is_held() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let server = TcpListener::bind("127.0.0.2:0").await.expect("a port is free");
    let port = server.local_addr().expect("it has an address").port().to_string();
    let mut accepting = JoinSet::new();
    accepting.spawn(async move {
        let mut held = Vec::new();
        // This test has a limit of open files too.
        while let Ok((stream, _)) = server.accept().await {
            if held.len() < 200 {
                held.push(stream);
            }
        }
    });
    check_held(&shim, "listen", guest("abuse").args(&["listen", "10000", "20000"])).await;
    let address = format!("127.0.0.2:{port}");
    check_held(&shim, "bodies", guest("abuse").args(&["bodies", &address, "20000"])).await;
    check_held(&shim, "connect", guest("abuse").args(&["connect", "127.0.0.2", &port, "20000"])).await;
    neighbour.unharmed(&shim).await;
}

#[tokio::test]
async fn host_objects_without_end_end_their_guest() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let before = resident_kb(shim.worker_pid().expect("a worker runs"));
    for (what, count) in [
        ("objects", "100000"),
        ("fields", "100000"),
        ("lookups", "100000"),
        ("random", "4000000000"),
        ("headers", "9000"),
        ("copies", "9000"),
        ("requests", "2000"),
    ] {
        check_held(&shim, what, guest("abuse").args(&[what, count])).await;
    }
    let after = resident_kb(shim.worker_pid().expect("a worker runs"));
    assert!(after < before + (96 << 10), "the host's memory is bounded: {before} KiB before, {after} KiB after");
    neighbour.unharmed(&shim).await;
}

#[tokio::test]
async fn a_guest_that_fails_at_its_start_again_and_again_costs_nobody_anything() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let sandbox = shim.sandbox("crashing", &[], &[]).await;
    let worker = shim.worker_pid().expect("a worker runs");
    let mut before = None;
    for round in 0..60 {
        for image in ["exit", "trap", "stranger"] {
            let id = shim.create(&sandbox, image, guest(image)).await.expect("it is made");
            let started = shim.start_container(&id).await;
            assert_eq!(started.is_ok(), image != "stranger", "{started:?}");
            let code = shim.exit(&id).await.exit_code;
            assert_eq!(
                code,
                match image {
                    "exit" => 42,
                    "trap" => 134,
                    _ => 128,
                }
            );
            let request = coracle_cri::v1::RemoveContainerRequest { container_id: id };
            shim.runtime().remove_container(request).await.expect("it is removed");
        }
        if round == 10 {
            before = Some((descriptors(shim.front_pid()), descriptors(worker)));
        }
    }
    // Nothing of them is left open.
    let (front, guests) = before.expect("there were rounds enough");
    eventually("what they had is closed", || async {
        let now = (descriptors(shim.front_pid()), descriptors(worker));
        (now.0 <= front + 4 && now.1 <= guests + 4).then_some(())
    })
    .await;
    neighbour.unharmed(&shim).await;
}

fn resident_kb(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).expect("the most it ever had");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number")
}
