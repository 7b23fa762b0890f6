//! Processes that are killed: what is said afterwards is true, and nothing runs twice.

use coracle_cri::v1::ContainerState;
use rustix::process::Signal;

use crate::shim::{Shim, eventually, get, guest, refusal, signal};

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
async fn a_killed_front_comes_back_knowing_what_there_was() {
    let mut shim = Shim::start().await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let done = shim.run("done", guest("exit")).await;
    shim.exit(&done.container).await;
    let made = shim.create(&hello.sandbox, "made", guest("worker:dev")).await.expect("it is made");
    let worker = shim.worker_pid().expect("a worker runs");
    shim.kill_front().await;
    shim.start_front().await;
    // Nobody may have collected it yet, but it does not run.
    let old = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_else(|_| ") Z".to_owned());
    assert!(old.contains(") Z"), "the old worker is gone before the new front serves: {old}");

    let status = shim.status(&hello.container).await;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 137));
    assert_eq!(status.message, "the Wasm runtime was restarted, and its worker with it");
    assert_eq!(shim.status(&done.container).await.exit_code, 42);
    assert_eq!(shim.status(&made).await.state(), ContainerState::ContainerCreated);
    assert_eq!(
        refusal(shim.start_container(&hello.container).await),
        "FailedPrecondition: container is in CONTAINER_EXITED state"
    );

    // Addresses are remembered: the old pod's is its own, a new pod's another.
    assert_eq!(shim.ip(&hello.sandbox).await, hello.ip);
    let other = shim.sandbox("other", &[], &[]).await;
    assert_ne!(shim.ip(&other).await, hello.ip);
    let again = shim.create(&hello.sandbox, "again", guest("hello:dev")).await.expect("it is made");
    shim.start_container(&again).await.expect("it starts");
    assert_eq!(get(&hello.ip, "/").await.0, 200);
    shim.remove_pod(&hello.sandbox).await;
    shim.remove_pod(&done.sandbox).await;
}

#[tokio::test]
async fn an_interrupted_front_stops_everything_and_ends_well() {
    let mut shim = Shim::start().await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let spin = shim.run("spin", guest("spin")).await;
    assert_eq!(shim.interrupt_front().await, Some(0));
    assert!(!shim.dir.path().join("wasm.sock").exists());
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
    assert_eq!(field("CapEff:"), "0000000000000000");
    if rustix::process::geteuid().is_root() {
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
