//! Which pods share a worker process, how workers come and go, and how they are left for those of another build.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use coracle_cri::v1::{ContainerState, ListContainerStatsRequest, StatusRequest};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::restarts::served_while;
use crate::shim::{Guest, Pod, Shim, eventually, get, guest, refusal, signal, within};

#[tokio::test]
async fn the_runtime_class_says_who_shares_a_worker() {
    let shim = Shim::start().await;
    assert_eq!(shim.workers(), Vec::<u32>::new(), "none is started before it is needed");
    let shared = shim.run_as("wasm", "one", "shared", guest("hello:dev")).await;
    let default = shim.run_as("", "two", "default", guest("hello:dev")).await;
    let node = shim.worker_pid().expect("both are in one worker");
    let one = shim.run_as("wasm-namespace", "one", "one", guest("hello:dev")).await;
    let one_too = shim.run_as("wasm-namespace", "one", "one-too", guest("hello:dev")).await;
    assert_eq!(shim.workers().len(), 2, "one namespace, one worker");
    let two = shim.run_as("wasm-namespace", "two", "two", guest("hello:dev")).await;
    assert_eq!(shim.workers().len(), 3);
    let before = shim.workers();
    let alone = shim.run_as("wasm-pod", "one", "alone", guest("hello:dev")).await;
    let own = shim.workers().into_iter().find(|pid| !before.contains(pid)).expect("a worker of its own");
    let sibling = shim.create(&alone.sandbox, "sibling", guest("spin")).await.expect("it is made");
    shim.start_container(&sibling).await.expect("it starts");
    assert_eq!(shim.workers().len(), 4, "containers of a pod share");

    // A worker that dies takes its pods along, and nobody else's.
    signal(own, Signal::KILL);
    assert_eq!(shim.exit(&alone.container).await.exit_code, 137);
    assert_eq!(shim.exit(&sibling).await.exit_code, 137);
    for pod in [&shared, &default, &one, &one_too, &two] {
        assert_eq!(get(&pod.ip, "/").await.0, 200);
        assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerRunning);
    }

    // With the last pod of a namespace goes its worker; the shared one waits for more to do.
    for pod in [&shared, &default, &one, &one_too, &two, &alone] {
        shim.remove_pod(&pod.sandbox).await;
    }
    eventually("only the shared worker is left", || async { (shim.workers() == [node]).then_some(()) }).await;
}

#[tokio::test]
async fn a_handler_that_is_not_served_is_refused_by_name() {
    let shim = Shim::start().await;
    assert_eq!(
        refusal(shim.try_handler("runc", "one", "other").await),
        "InvalidArgument: failed to get sandbox runtime: no runtime for \"runc\" is configured (there are wasm, \
         wasm-namespace, wasm-pod)"
    );
    let status = shim.runtime().status(StatusRequest::default()).await.expect("it answers").into_inner();
    let handlers: Vec<String> = status.runtime_handlers.into_iter().map(|handler| handler.name).collect();
    assert_eq!(handlers, ["", "wasm", "wasm-namespace", "wasm-pod"]);
}

#[tokio::test]
async fn the_shared_worker_ends_when_it_is_idle_for_long() {
    let shim = Shim::start_with(&["--idle-worker-seconds", "1"]).await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let first = shim.worker_pid().expect("a worker runs");
    shim.stop(&hello.container, 5).await;
    eventually("the worker has ended", || async { shim.workers().is_empty().then_some(()) }).await;
    // It was not a fall: another one comes at once, for the same pod.
    let again = shim.create(&hello.sandbox, "again", guest("hello:dev")).await.expect("it is made");
    shim.start_container(&again).await.expect("it starts");
    assert_eq!(get(&hello.ip, "/").await.0, 200);
    assert_ne!(shim.worker_pid(), Some(first));
}

#[tokio::test]
async fn workers_that_die_again_and_again_come_back_slower_and_the_status_says_why() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("hello", &[8080], &[]).await;
    let mut attempt = 0;
    let refused = loop {
        attempt += 1;
        assert!(attempt < 12, "workers may die without end");
        let container = shim.create(&sandbox, &format!("c{attempt}"), guest("hello:dev")).await.expect("it is made");
        if shim.start_container(&container).await.is_err() {
            break container;
        }
        signal(shim.worker_pid().expect("a worker runs"), Signal::KILL);
        assert_eq!(shim.exit(&container).await.exit_code, 137);
    };
    assert!(attempt > 3, "the first deaths cost no pause");
    let status = shim.status(&refused).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    let expected = format!("the Wasm worker process of this node ended {} times in a row", attempt - 1);
    assert!(status.message.starts_with(&expected) && status.message.contains("signal 9"), "{}", status.message);
    // The other kinds of workers are not held up by it.
    let other = shim.run_as("wasm-pod", "default", "other", guest("hello:dev")).await;
    assert_eq!(get(&other.ip, "/").await.0, 200);
    // And after the pause there is one again.
    let started = eventually("a container starts", || async {
        let name = format!("later-{}", uuid());
        let container = shim.create(&sandbox, &name, guest("hello:dev")).await.expect("it is made");
        shim.start_container(&container).await.ok().map(|()| container)
    })
    .await;
    assert_eq!(shim.status(&started).await.state(), ContainerState::ContainerRunning);
    shim.remove_pod(&other.sandbox).await;
}

fn uuid() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// The worker's group for memory, in version 1 or 2; none where no groups can be made.
fn memory_group(worker: u32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{worker}/cgroup")).expect("it runs");
    let below = |controllers: &str| {
        text.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(controllers)?.strip_prefix(":/"))
    };
    let v1 = below("memory").map(|path| PathBuf::from("/sys/fs/cgroup/memory").join(path));
    let v2 = below("").map(|path| PathBuf::from("/sys/fs/cgroup").join(path));
    v1.or(v2).filter(|dir| dir.to_string_lossy().contains("/coracle-"))
}

#[tokio::test]
async fn a_pods_own_worker_has_a_control_group_with_the_pods_limits() {
    let probe = ["/sys/fs/cgroup/memory/coracle", "/sys/fs/cgroup/coracle"];
    let can_make = rustix::process::geteuid().is_root()
        && probe
            .iter()
            .any(|dir| std::fs::create_dir_all(dir).is_ok() && PathBuf::from(dir).join("cgroup.procs").exists());
    let shim = Shim::start().await;
    let hello = shim.run_as("wasm-pod", "default", "hello", guest("hello:dev").memory(32 << 20)).await;
    assert_eq!(get(&hello.ip, "/").await.0, 200, "with groups or without");
    let worker = shim.worker_pid().expect("a worker runs");
    if !can_make {
        return;
    }
    let group = memory_group(worker).expect("a group of its own");
    let limit = |group: &PathBuf| {
        let read = |file: &str| std::fs::read_to_string(group.join(file));
        let text = read("memory.limit_in_bytes").or_else(|_| read("memory.max")).expect("it has a limit");
        text.trim().to_owned()
    };
    // What the worker itself needs is added.
    assert_eq!(limit(&group), ((32 + 64) << 20).to_string());
    let sibling = shim.create(&hello.sandbox, "sibling", guest("spin").memory(16 << 20)).await.expect("it is made");
    shim.start_container(&sibling).await.expect("it starts");
    assert_eq!(limit(&group), ((48 + 64) << 20).to_string(), "containers' limits add up");
    shim.remove_pod(&hello.sandbox).await;
    eventually("the group is gone", || async { (!group.exists()).then_some(()) }).await;
}

/// A request to hello's `/echo` of which half is sent and echoed.
async fn half_a_request(ip: &str) -> TcpStream {
    let mut stream = TcpStream::connect((ip, 8080)).await.expect("it listens");
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf").await.expect("it is read");
    echoed(&mut stream, "half").await;
    stream
}

async fn echoed(stream: &mut TcpStream, what: &str) {
    let mut answer = Vec::new();
    within("the body is echoed", async {
        while !String::from_utf8_lossy(&answer).contains(what) {
            assert_ne!(stream.read_buf(&mut answer).await.expect("it is answered"), 0, "it was cut off");
        }
    })
    .await;
}

#[tokio::test]
async fn pods_move_to_a_worker_of_another_build_while_they_serve() {
    let mut shim = Shim::start_with(&["--build-id", "one"]).await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let spin = shim.run("spin", guest("spin")).await;
    let file = shim.dir.path().join("settings");
    std::fs::write(&file, "as they are").expect("it can be written");
    let mounted = shim.run("mounted", guest("hello:dev").mount(&file, "/etc/settings", true)).await;
    let made = shim.dir.path().join("wasm/run").join(&mounted.container).join("0");
    let inode = |dir: &PathBuf| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(dir).expect("it is there"));
    let made_before = inode(&made);
    let alone = shim.run_as("wasm-pod", "default", "alone", guest("hello:dev")).await;
    crate::images::import_several(&shim);
    let of_several = Guest { command: vec!["web".to_owned()], ..guest("several:1") };
    let of_several = shim.run("of-several", of_several).await;
    let started = shim.status(&hello.container).await.started_at;
    let old = shim.workers();
    assert_eq!(old.len(), 2);

    let mut under_way = half_a_request(&hello.ip).await;

    assert_eq!(shim.hand_over().await, Some(0));
    shim.options = vec!["--build-id".to_owned(), "two".to_owned()];
    let ip = hello.ip.clone();
    let moving = async {
        shim.start_front().await;
        eventually("both domains have a new worker", || async {
            (shim.workers().iter().filter(|pid| !old.contains(pid)).count() == 2).then_some(())
        })
        .await;
        // The pod's own old worker had nothing but what was moved.
        eventually("an empty old worker has ended", || async { (shim.workers().len() == 3).then_some(()) }).await;
    };
    assert!(served_while(&ip, moving).await > 0);

    // The request under way is answered by whom it was put to.
    under_way.write_all(b"more").await.expect("it is read");
    echoed(&mut under_way, "more").await;

    // What cannot move goes on where it is; new containers do not go there.
    assert_eq!(shim.status(&spin.container).await.state(), ContainerState::ContainerRunning);
    let workers = shim.workers().len();
    shim.run("new", guest("hello:dev")).await;
    assert_eq!(shim.workers().len(), workers);
    // With its last guest the old worker ends, and nobody notices.
    shim.stop(&spin.container, 5).await;
    assert_eq!(shim.ending(&spin.container).await, r#"143 Error """#);
    eventually("the old worker has ended", || async {
        shim.workers().iter().all(|pid| !old.contains(pid)).then_some(())
    })
    .await;
    assert_eq!(inode(&made), made_before, "what both workers see is one directory");
    for pod in [&hello, &alone, &mounted, &of_several] {
        assert_eq!(get(&pod.ip, "/").await.0, 200);
        assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerRunning);
    }
    assert_eq!(shim.status(&hello.container).await.started_at, started);
    // The next front knows where they are now.
    shim.kill_front().await;
    shim.start_front().await;
    assert_eq!(get(&hello.ip, "/").await.0, 200);
    shim.stop(&hello.container, 5).await;
    assert_eq!(shim.ending(&hello.container).await, r#"0 Completed """#);
    shim.remove_pod(&alone.sandbox).await;
}

/// What a moved container is still asked in the worker it left has ten minutes, but not behind its end.
#[tokio::test]
async fn a_container_that_was_moved_ends_everywhere() {
    let mut shim = Shim::start_with(&["--build-id", "one"]).await;
    let stopped = shim.run("stopped", guest("hello:dev")).await;
    let removed = shim.run("removed", guest("hello:dev")).await;
    let old = shim.workers();
    let mut under_way = [half_a_request(&stopped.ip).await, half_a_request(&removed.ip).await];
    let records = shim.dir.path().join("wasm/state/containers");
    let record =
        |pod: &Pod| std::fs::read_to_string(records.join(format!("{}.json", pod.container))).expect("it is on record");
    let before = [record(&stopped), record(&removed)];
    assert_eq!(shim.hand_over().await, Some(0));
    shim.options = vec!["--build-id".to_owned(), "two".to_owned()];
    shim.start_front().await;
    for (pod, before) in [&stopped, &removed].into_iter().zip(&before) {
        eventually("it is moved", || async { (record(pod) != *before).then_some(()) }).await;
    }
    for stream in &mut under_way {
        stream.write_all(b"mo").await.expect("it is read");
        echoed(stream, "mo").await;
    }
    shim.stop(&stopped.container, 1).await;
    shim.remove_pod(&removed.sandbox).await;
    for stream in &mut under_way {
        let cut = within("it is cut off", async { stream.read_to_end(&mut Vec::new()).await }).await;
        let _reset_is_as_good = cut;
    }
    eventually("the old worker has ended", || async {
        shim.workers().iter().all(|pid| !old.contains(pid)).then_some(())
    })
    .await;
}

/// Who sees containers end because everything ends would start them anew, to see them killed.
#[tokio::test]
async fn nothing_is_started_while_everything_ends() {
    let shim = Shim::start().await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let later = shim.create(&hello.sandbox, "later", guest("spin")).await.expect("it is made");
    let _under_way = half_a_request(&hello.ip).await;
    signal(shim.front_pid(), Signal::TERM);
    // The signal may be heard behind the first of these calls, which is answered as on any day.
    let made = AtomicU32::new(0);
    eventually("nothing is made any more", || async {
        let name = format!("other-{}", made.fetch_add(1, Ordering::Relaxed));
        match shim.create(&hello.sandbox, &name, guest("spin")).await {
            Ok(_in_time) => None,
            Err(refused) => {
                assert_eq!(refused.message(), "the container runtime is stopping");
                Some(())
            }
        }
    })
    .await;
    let refused = shim.start_container(&later).await.expect_err("it is late");
    assert_eq!(refused.message(), "the container runtime is stopping");
}

#[tokio::test]
async fn when_a_worker_is_full_containers_go_to_another() {
    let shim = Shim::start().await;
    // Of 300 files a worker keeps 128 for itself, and gives half of the rest to containers from the beginning.
    let limit = Rlimit { current: Some(300), maximum: Some(300) };
    let front = Pid::from_raw(i32::try_from(shim.front_pid()).unwrap());
    prlimit(front, Resource::Nofile, limit).expect("a limit can be lowered");
    let mut pods = Vec::new();
    for number in 0..86 {
        pods.push(shim.run(&format!("hello-{number}"), guest("hello:dev")).await);
    }
    let workers = shim.workers();
    assert_eq!(workers.len(), 2, "two descriptors for each of 86 pods, 86 for those of a worker");
    for pod in &pods {
        assert_eq!(get(&pod.ip, "/").await.0, 200, "{}", pod.ip);
    }
    // Where pods go, others come: no third one is needed.
    for pod in pods.drain(..10) {
        shim.remove_pod(&pod.sandbox).await;
    }
    for number in 86..96 {
        pods.push(shim.run(&format!("hello-{number}"), guest("hello:dev")).await);
    }
    assert_eq!(shim.workers(), workers);
    for pod in &pods {
        assert_eq!(get(&pod.ip, "/").await.0, 200, "{}", pod.ip);
    }
}

#[tokio::test]
async fn a_silent_worker_takes_no_statistics_away() {
    let shim = Shim::start().await;
    let silent = shim.run("silent", guest("hello:dev")).await.container;
    let told = || async {
        let all = shim.runtime().list_container_stats(ListContainerStatsRequest::default()).await.expect("stats");
        let ids = all.into_inner().stats.into_iter().filter_map(|stats| Some(stats.attributes?.id));
        ids.collect::<BTreeSet<String>>()
    };
    assert_eq!(told().await, BTreeSet::from([silent.clone()]));
    let worker = shim.worker_pid().expect("a worker runs");
    signal(worker, Signal::STOP);
    let other = shim.run_as("wasm-pod", "default", "other", guest("hello:dev")).await.container;
    assert_eq!(told().await, BTreeSet::from([silent, other]), "what it said last stands");
    signal(worker, Signal::CONT);
}
