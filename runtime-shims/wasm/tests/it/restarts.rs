//! Processes that are killed: what is said afterwards is true, and nothing runs twice.

use coracle_cri::v1::ContainerState;
use rustix::process::Signal;

use crate::shim::{Shim, eventually, get, guest, refusal, request, signal};

#[tokio::test]
async fn a_killed_worker_takes_its_containers_along_and_is_replaced() {
    let shim = Shim::start().await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let spin = shim.run("spin", guest("spin")).await;
    let worker = shim.worker_pid().expect("a worker runs");
    signal(worker, Signal::KILL);
    for pod in [&hello, &spin] {
        let status = shim.exit(&pod.container).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
        assert!(status.message.starts_with("the Wasm worker process ended: killed by signal 9"), "{}", status.message);
    }
    // Its pod is still there, with its address; a new container serves in it.
    let again = shim.create(&hello.sandbox, "again", guest("hello:dev")).await.expect("it is made");
    shim.start_container(&again).await.expect("it starts");
    assert_eq!(shim.ip(&hello.sandbox).await, hello.ip);
    assert_eq!(get(&hello.ip, "/").await.0, 200);
    assert_ne!(shim.worker_pid(), Some(worker));
}

#[tokio::test]
async fn pods_serve_on_while_the_front_is_killed_and_started_again() {
    let mut shim = Shim::start().await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let spin = shim.run("spin", guest("spin")).await;
    let done = shim.run("done", guest("exit")).await;
    shim.exit(&done.container).await;
    let made = shim.create(&hello.sandbox, "made", guest("worker:dev")).await.expect("it is made");
    let started = shim.status(&hello.container).await.started_at;
    let worker = shim.worker_pid().expect("a worker runs");

    shim.kill_front().await;
    assert_eq!(get(&hello.ip, "/").await.0, 200, "nobody looks after it, and it serves");
    let served = served_while(&hello.ip, shim.start_front()).await;
    assert!(served > 0);

    // As if nothing had been.
    assert_eq!(shim.worker_pid(), Some(worker));
    let status = shim.status(&hello.container).await;
    assert_eq!((status.state(), status.started_at), (ContainerState::ContainerRunning, started));
    assert_eq!(shim.status(&spin.container).await.state(), ContainerState::ContainerRunning);
    assert_eq!(shim.status(&done.container).await.exit_code, 42);
    assert_eq!(shim.status(&made).await.state(), ContainerState::ContainerCreated);
    assert_eq!(
        refusal(shim.start_container(&hello.container).await),
        "FailedPrecondition: container is in CONTAINER_RUNNING state"
    );

    // The new front has all in hand: addresses, logs, new containers, the end of old ones.
    assert_eq!(shim.ip(&hello.sandbox).await, hello.ip);
    let other = shim.run("other", guest("hello:dev")).await;
    assert_ne!(other.ip, hello.ip);
    assert_eq!(shim.worker_pid(), Some(worker), "the new container is in the old worker");
    std::fs::rename(shim.log_file("hello", "main"), shim.log_file("hello", "rotated")).expect("it is there");
    let request = coracle_cri::v1::ReopenContainerLogRequest { container_id: hello.container.clone() };
    shim.runtime().reopen_container_log(request).await.expect("the log is made anew");
    assert_eq!(get(&hello.ip, "/").await.0, 200);
    eventually("the new log has the line", || async {
        (shim.log("hello", "main") == "stdout F GET /\n").then_some(())
    })
    .await;
    shim.stop(&spin.container, 5).await;
    assert_eq!(shim.ending(&spin.container).await, r#"143 Error """#);
    shim.remove_pod(&hello.sandbox).await;
    shim.remove_pod(&done.sandbox).await;
}

#[tokio::test]
async fn what_ended_while_no_front_was_there_is_told_to_the_next_one() {
    let mut shim = Shim::start().await;
    let waits = shim.run("waits", guest("http-bomb").memory(32 << 20)).await;
    let worker = shim.worker_pid().expect("a worker runs");
    shim.kill_front().await;
    let before = now();
    let _cut = request(&waits.ip, 8080, "GET /", "").await;
    eventually("the guest has ended", || async {
        tokio::net::TcpStream::connect((waits.ip.as_str(), 8080)).await.is_err().then_some(())
    })
    .await;
    let after = now();
    shim.start_front().await;
    let status = shim.status(&waits.container).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{}", status.message);
    assert!(status.started_at < before && (before..=after).contains(&status.finished_at), "when it really ended");
    // And it is told once only: the next front finds it on record.
    shim.kill_front().await;
    shim.start_front().await;
    assert_eq!(shim.status(&waits.container).await.finished_at, status.finished_at);
    assert_eq!(shim.worker_pid(), Some(worker));
}

#[tokio::test]
async fn an_end_is_written_down_when_it_can_be() {
    let mut shim = Shim::start().await;
    let spin = shim.run("spin", guest("spin")).await;
    let worker = shim.worker_pid().expect("a worker runs");
    let record = shim.dir.path().join("wasm/state/containers").join(format!("{}.json", spin.container));
    // As bad as a full disk.
    let in_the_way = record.with_extension("new");
    std::fs::create_dir(&in_the_way).expect("it can be made");
    shim.stop(&spin.container, 5).await;
    assert!(!std::fs::read_to_string(&record).expect("it is there").contains("Exited"));
    std::fs::remove_dir(&in_the_way).expect("it is empty");
    eventually("it is written down", || async {
        std::fs::read_to_string(&record).expect("it is there").contains("Exited").then_some(())
    })
    .await;
    shim.kill_front().await;
    signal(worker, Signal::KILL);
    shim.start_front().await;
    assert_eq!(shim.ending(&spin.container).await, r#"143 Error """#);
}

#[tokio::test]
async fn a_worker_that_died_with_its_front_is_known_to_be_lost() {
    let mut shim = Shim::start().await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let worker = shim.worker_pid().expect("a worker runs");
    shim.kill_front().await;
    signal(worker, Signal::KILL);
    shim.start_front().await;
    let status = shim.status(&hello.container).await;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 137));
    assert_eq!(status.message, "the Wasm worker process ended while the Wasm runtime was restarted");
    let again = shim.create(&hello.sandbox, "again", guest("hello:dev")).await.expect("it is made");
    shim.start_container(&again).await.expect("it starts");
    assert_eq!(get(&hello.ip, "/").await.0, 200);
}

#[tokio::test]
async fn a_worker_that_does_not_answer_is_ended_before_its_containers_are_lost() {
    let mut shim = Shim::start().await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let worker = shim.worker_pid().expect("a worker runs");
    shim.kill_front().await;
    signal(worker, Signal::STOP);
    shim.start_front().await;
    assert_eq!(shim.status(&hello.container).await.exit_code, 137);
    assert_eq!(shim.worker_pid(), None, "nothing is left that could serve twice");
}

#[tokio::test]
async fn a_number_that_another_process_has_now_is_left_alone() {
    let mut shim = Shim::start().await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let worker = shim.worker_pid().expect("a worker runs");
    shim.kill_front().await;
    signal(worker, Signal::KILL);
    let mut stranger = tokio::process::Command::new("sleep").arg("600").kill_on_drop(true).spawn().expect("it starts");
    for entry in std::fs::read_dir(shim.dir.path().join("wasm/workers")).expect("it is there").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(entry.path()).expect("it can be read");
            let theirs = format!("\"pid\":{}", stranger.id().expect("it runs"));
            let text = text.replace(&format!("\"pid\":{worker}"), &theirs);
            assert!(text.contains(&theirs), "{text}");
            std::fs::write(entry.path(), text).expect("it can be written");
        }
    }
    shim.start_front().await;
    assert_eq!(shim.status(&hello.container).await.exit_code, 137);
    assert!(stranger.try_wait().expect("it can be asked").is_none(), "it lives");
}

#[tokio::test]
async fn a_front_that_hands_over_leaves_its_workers() {
    let mut shim = Shim::start().await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let worker = shim.worker_pid().expect("a worker runs");
    assert_eq!(shim.hand_over().await, Some(0));
    assert_eq!(get(&hello.ip, "/").await.0, 200);
    shim.start_front().await;
    assert_eq!(shim.worker_pid(), Some(worker));
    // And the one that found them can end them, though they are not its children.
    assert_eq!(shim.interrupt_front().await, Some(0));
    assert_eq!(shim.workers(), Vec::<u32>::new());
}

/// Asks without end while something is done; every request must be answered. Returns how many were.
pub async fn served_while(ip: &str, done: impl Future<Output = ()>) -> usize {
    let over = std::sync::atomic::AtomicBool::new(false);
    let doing = async {
        done.await;
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let asking = async {
        let mut served = 0;
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            assert_eq!(get(ip, "/").await.0, 200);
            served += 1;
        }
        served
    };
    tokio::join!(asking, doing).0
}

fn now() -> i64 {
    coracle_shim_wasm::clock::Clock::system().now()
}

#[tokio::test]
async fn an_interrupted_front_stops_everything_and_ends_well() {
    let mut shim = Shim::start().await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let spin = shim.run("spin", guest("spin")).await;
    assert_eq!(shim.interrupt_front().await, Some(0));
    assert!(!shim.dir.path().join("wasm.sock").exists());
    assert_eq!(shim.workers(), Vec::<u32>::new(), "nothing is left behind");
    shim.start_front().await;
    assert_eq!(shim.ending(&hello.container).await, r#"0 Completed """#);
    assert_eq!(shim.ending(&spin.container).await, r#"143 Error """#);
}

#[tokio::test]
async fn two_fronts_do_not_share_a_directory() {
    let shim = Shim::start().await;
    let second = tokio::process::Command::new(env!("CARGO_BIN_EXE_coracle-shim-wasm"))
        .arg("front")
        .arg(shim.dir.path())
        .output()
        .await
        .expect("it starts");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("is in use by another process"), "{said}");
}

#[tokio::test]
async fn a_worker_has_no_rights_and_nothing_of_the_fronts() {
    let shim = Shim::start().await;
    shim.run("hello", guest("hello:dev")).await;
    let worker = shim.worker_pid().expect("a worker runs");
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).expect("it runs");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2", "a filter");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    only_what_it_was_given_is_open(&shim, worker);
    if rustix::process::geteuid().is_root() {
        assert_eq!(field("CapBnd:"), "0000000000000000", "nothing could give it any");
        assert_eq!(field("Uid:"), "65534 65534 65534 65534");
        assert_eq!(field("Groups:"), "");
        let root = std::fs::read_dir(format!("/proc/{worker}/root")).expect("root may look");
        assert_eq!(root.count(), 0, "its root directory is empty");
    }
    let environment = std::fs::read(format!("/proc/{worker}/environ")).expect("root or its own user may look");
    assert!(environment.is_empty(), "{}", String::from_utf8_lossy(&environment));
    eventually("it sleeps", || async {
        // Idle means idle: no thread of it is running, and none wakes up.
        let switches = |pid: u32| {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            let mut total = 0_u64;
            for task in tasks.flatten() {
                let text = std::fs::read_to_string(task.path().join("status")).ok()?;
                let line = text.lines().find(|line| line.starts_with("voluntary_ctxt_switches:"))?;
                total += line.split_whitespace().nth(1)?.parse::<u64>().ok()?;
            }
            Some(total)
        };
        let before = switches(worker)?;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        (switches(worker)? == before).then_some(())
    })
    .await;
}

/// Beside sockets, pipes and the like: the code, the log, its own door, the node's authorities, nothing, and where the
/// front's own messages go.
fn only_what_it_was_given_is_open(shim: &Shim, worker: u32) {
    use std::os::unix::fs::MetadataExt;
    let known = |path: std::path::PathBuf| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let below = |dir: &str| {
        let entries = std::fs::read_dir(shim.dir.path().join(dir)).expect("it is there").flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut given = vec![
        shim.dir.path().join("wasm/code"),
        shim.log_file("hello", "main"),
        "/dev/null".into(),
        format!("/proc/{}/fd/2", shim.front_pid()).into(),
    ];
    given.extend(below("wasm/workers"));
    let settings = below("wasm/code").pop().expect("there is one engine");
    given.extend(std::fs::read_dir(settings).expect("it is there").flatten().map(|entry| entry.path()));
    given.extend(["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"].map(Into::into));
    given.extend(["/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"].map(Into::into));
    let given: Vec<_> = given.into_iter().filter_map(known).collect();
    for entry in std::fs::read_dir(format!("/proc/{worker}/fd")).expect("it runs").flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        if !target.starts_with("/") {
            let kind = target.to_string_lossy().into_owned();
            assert!(["socket:", "pipe:", "anon_inode:"].iter().any(|known| kind.starts_with(known)), "{kind}");
            continue;
        }
        let open = known(entry.path());
        assert!(open.is_some_and(|open| given.contains(&open)), "the worker has {} open", target.display());
    }
}

#[tokio::test]
async fn a_front_with_another_engine_starts_nothing_in_workers_that_cannot_load_its_code() {
    let mut shim = Shim::start_with(&["--engine", "roomy"]).await;
    let pod = shim.run("before", guest("hello:dev")).await;
    let worker = shim.worker_pid();
    assert_eq!(shim.hand_over().await, Some(0));
    shim.options = ["--engine", "tight"].map(str::to_owned).to_vec();
    shim.start_front().await;
    let new = shim.run("after", guest("hello:dev")).await;
    assert_eq!(get(&new.ip, "/").await, (200, "Hello from a Wasm pod\n".to_owned()));
    assert_eq!(get(&pod.ip, "/").await.0, 200);
    eventually("the first worker is left", || async {
        (!shim.workers().contains(&worker.expect("it ran"))).then_some(())
    })
    .await;
    assert_eq!(get(&pod.ip, "/").await.0, 200, "its pod has moved");
}
