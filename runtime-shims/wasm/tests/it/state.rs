//! What guests are told and what they can keep: configuration, key-value stores, working directories; and what several
//! containers of a pod share.

use std::fs;
use std::os::unix::fs::symlink;

use coracle_cri::v1::ContainerState;
use expect_test::expect;
use tokio::net::TcpStream;

use crate::shim::{Guest, Shim, eventually, guest, request, signal, within};

/// Runs `state` with these arguments in the sandbox, and gives what it says.
async fn told(shim: &Shim, sandbox: &str, pod: &str, name: &str, guest: Guest) -> String {
    let id = shim.create(sandbox, name, guest).await.expect("it is made");
    shim.start_container(&id).await.expect("it starts");
    let status = shim.exit(&id).await;
    assert_eq!(status.exit_code, 0, "{}", status.message);
    shim.log(pod, name).replace("stdout F ", "")
}

#[tokio::test]
async fn configuration_comes_from_the_volume_made_for_it_and_follows_it() {
    let shim = Shim::start().await;
    let dir = shim.dir.path().join("volume");
    // As the node agent writes volumes.
    for (version, colour) in [("..1", "blue"), ("..2", "green")] {
        fs::create_dir_all(dir.join(version)).expect("it can be made");
        fs::write(dir.join(version).join("colour"), colour).expect("it can be written");
    }
    symlink("..1", dir.join("..data")).expect("it can be linked");
    symlink("..data/colour", dir.join("colour")).expect("it can be linked");
    let sandbox = shim.sandbox("config", &[], &[]).await;
    let asking = guest("state").args(&["config:colour", "config:size", "configs", "read:/run/coracle/config/colour"]);
    let mounted = asking.clone().mount(&dir, "/run/coracle/config", true);
    let first = told(&shim, &sandbox, "config", "first", mounted.clone()).await;
    fs::remove_file(dir.join("..data")).expect("it is there");
    symlink("..2", dir.join("..data")).expect("it can be linked");
    let second = told(&shim, &sandbox, "config", "second", mounted).await;
    let without = told(&shim, &sandbox, "config", "without", asking).await;
    expect![[r#"
        config:colour: Ok(Some("blue"))
        config:size: Ok(None)
        configs: Ok([("colour", "blue")])
        read:/run/coracle/config/colour: Err(Os { code: 76, kind: Uncategorized, message: "Capabilities insufficient" })
        config:colour: Ok(Some("green"))
        config:size: Ok(None)
        configs: Ok([("colour", "green")])
        read:/run/coracle/config/colour: Err(Os { code: 76, kind: Uncategorized, message: "Capabilities insufficient" })
        config:colour: Ok(None)
        config:size: Ok(None)
        configs: Ok([])
        read:/run/coracle/config/colour: Err(Os { code: 76, kind: Uncategorized, message: "Capabilities insufficient" })
    "#]]
    .assert_eq(&format!("{first}{second}{without}"));
}

#[tokio::test]
async fn a_namespace_keeps_its_keys_over_pods_workers_and_fronts() {
    let mut shim = Shim::start().await;
    let shop = shim.sandbox_in("shop", "one").await;
    let args = &["set:prices:apple:3", "set:prices:pear:4", "add:hits:total:5", "delete:prices:pear", "many:several"];
    let first = told(&shim, &shop, "one", "main", guest("state").args(args)).await;
    // Nothing is said to anybody who could still save something.
    signal(shim.worker_pid().expect("a worker runs"), rustix::process::Signal::KILL);
    shim.kill_front().await;
    shim.start_front().await;
    let shop = shim.sandbox_in("shop", "two").await;
    let args = &["get:prices:apple", "get:prices:pear", "keys:prices", "add:hits:total:1", "keys:several"];
    let second = told(&shim, &shop, "two", "main", guest("state").args(args)).await;
    let other = shim.sandbox_in("other", "three").await;
    let third = told(&shim, &other, "three", "main", guest("state").args(&["get:prices:apple", "keys:prices"])).await;
    expect![[r#"
        set:prices:apple:3: Ok(())
        set:prices:pear:4: Ok(())
        add:hits:total:5: Some(Ok(5))
        delete:prices:pear: Ok(()) Ok(false)
        many:several: Ok(()) Ok(()) Ok([Some(("a", [49])), None, Some(("c", [51]))])
        get:prices:apple: Ok(Some("3"))
        get:prices:pear: Ok(None)
        keys:prices: Ok(KeyResponse { keys: ["apple"], cursor: None })
        add:hits:total:1: Some(Ok(6))
        keys:several: Ok(KeyResponse { keys: ["a", "c"], cursor: None })
        get:prices:apple: Ok(None)
        keys:prices: Ok(KeyResponse { keys: [], cursor: None })
    "#]]
    .assert_eq(&format!("{first}{second}{third}"));
}

#[tokio::test]
async fn pods_that_count_at_the_same_time_lose_nothing() {
    let shim = Shim::start().await;
    let adding = guest("state").args(&["add:hits:total:100"]);
    let pods = futures::future::join_all(["one", "two", "three"].map(|name| shim.run(name, adding.clone()))).await;
    for pod in &pods {
        assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
    }
    let last = shim.run("last", guest("state").args(&["get:hits:total"])).await;
    assert_eq!(shim.ending(&last.container).await, r#"0 Completed """#);
    assert_eq!(shim.log("last", "main"), "stdout F get:hits:total: Ok(Some(\"300\"))\n");
}

#[tokio::test]
async fn workers_of_a_namespace_see_each_others_writes_while_the_front_is_restarted() {
    let mut shim = Shim::start().await;
    let waits = |pod: &'static str| {
        let shim = &shim;
        eventually("it waits", move || async move { shim.log(pod, "main").contains("waits").then_some(()) })
    };
    let alone = |args: &[&str]| Guest { stdin: true, ..guest("state").args(args) };
    let one = alone(&["set:talk:one:first", "wait", "get:talk:two", "add:talk:hits:50"]);
    let one = shim.run_as("wasm-pod", "shop", "one", one).await;
    waits("one").await;
    let two = alone(&["get:talk:one", "set:talk:two:second", "wait", "add:talk:hits:50"]);
    let two = shim.run_as("wasm-pod", "shop", "two", two).await;
    waits("two").await;
    let workers = shim.workers();
    assert_eq!(workers.len(), 2, "each has its own");

    shim.kill_front().await;
    shim.start_front().await;
    // Both go on at the same time.
    tokio::join!(shim.stop(&one.container, 60), shim.stop(&two.container, 60));
    for pod in [&one, &two] {
        assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
    }
    let said = |pod: &str| shim.log(pod, "main").replace("stdout F ", "");
    assert!(said("one").contains("\nget:talk:two: Ok(Some(\"second\"))\n"), "{}", said("one"));
    assert!(said("two").starts_with("get:talk:one: Ok(Some(\"first\"))\n"), "{}", said("two"));
    // A worker that came later, of another class.
    let last = shim.run_as("wasm", "shop", "last", guest("state").args(&["get:talk:hits", "keys:talk"])).await;
    assert_eq!(shim.ending(&last.container).await, r#"0 Completed """#);
    expect![[r#"
        get:talk:hits: Ok(Some("100"))
        keys:talk: Ok(KeyResponse { keys: ["one", "two", "hits"], cursor: None })
    "#]]
    .assert_eq(&said("last"));
    let other = shim.run_as("wasm-pod", "other", "stranger", guest("state").args(&["get:talk:one"])).await;
    assert_eq!(shim.ending(&other.container).await, r#"0 Completed """#);
    assert_eq!(said("stranger"), "get:talk:one: Ok(None)\n");
}

#[tokio::test]
async fn a_namespace_cannot_fill_the_disk() {
    let shim = Shim::start_with(&["--keyvalue-limit-mib", "4"]).await;
    let sandbox = shim.sandbox_in("shop", "greedy").await;
    let said = told(&shim, &sandbox, "greedy", "main", guest("state").args(&["fill:b", "get:b:nothing"])).await;
    expect![[r#"
        fill:b: 3 Error::Other("the store of namespace \"shop\" is full: 4194304 bytes are allowed; delete something")
        get:b:nothing: Ok(None)
    "#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn relative_paths_lead_to_the_working_directory() {
    let shim = Shim::start().await;
    let dir = shim.dir.path().join("data");
    fs::create_dir_all(dir.join("sub")).expect("it can be made");
    fs::write(dir.join("sub/message"), "here\n").expect("it can be written");
    let sandbox = shim.sandbox("cwd", &[], &[]).await;
    let component = Guest { working_dir: "/data/sub".to_owned(), ..guest("state") }
        .args(&["cwd", "read:message", "read:/data/sub/message"])
        .mount(&dir, "/data", true);
    let said = told(&shim, &sandbox, "cwd", "component", component).await;
    assert!(said.contains("read:message: Ok(\"here\\n\")\nread:/data/sub/message: Ok(\"here\\n\")"), "{said}");
    // A core module.
    let module = Guest { working_dir: "/data/sub".to_owned(), ..guest("worker:dev") }
        .env("ROUNDS", "1")
        .env("MESSAGE_FILE", "message")
        .mount(&dir, "/data", true);
    let said = told(&shim, &sandbox, "cwd", "module", module).await;
    assert!(said.contains("round 1: here\n"), "{said}");
}

#[tokio::test]
async fn init_and_sidecar_containers_share_the_pods_address_with_the_main_one() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("crew", &[8080], &[]).await;
    let ip = shim.ip(&sandbox).await;
    // An init container runs to its end first; what it left is there for the others.
    let shared = shim.dir.path().join("shared");
    fs::create_dir_all(&shared).expect("it can be made");
    told(&shim, &sandbox, "crew", "init", guest("state").args(&["set:crew:ready:yes"])).await;
    // A sidecar serves on beside the main container, which reaches it on 127.0.0.1.
    let sidecar =
        shim.create(&sandbox, "sidecar", guest("hello:dev").env("GREETING", "Ahoy")).await.expect("it is made");
    shim.start_container(&sidecar).await.expect("it starts");
    let asked = told(&shim, &sandbox, "crew", "main", guest("net").args(&["get", "127.0.0.1:8080", "/"])).await;
    assert_eq!(asked, "get 127.0.0.1:8080 /: 200 Ahoy from a Wasm pod\n");
    let kept = told(&shim, &sandbox, "crew", "after", guest("state").args(&["get:crew:ready"])).await;
    assert_eq!(kept, "get:crew:ready: Ok(Some(\"yes\"))\n");
    assert_eq!(shim.status(&sidecar).await.state(), ContainerState::ContainerRunning);
    // The sidecar starts anew under the same address, as a restart does.
    shim.stop(&sidecar, 5).await;
    eventually("its port is free", || async { TcpStream::connect((ip.as_str(), 8080)).await.err() }).await;
    let again = shim.create(&sandbox, "sidecar-again", guest("hello:dev")).await.expect("it is made");
    shim.start_container(&again).await.expect("it starts");
    let answer = within("it answers", request(&ip, 8080, "GET /", "")).await.expect("an answer");
    assert_eq!(answer, (200, "Hello from a Wasm pod\n".to_owned()));
}

#[tokio::test]
async fn what_was_counted_before_a_kill_stays_counted() {
    let shim = Shim::start().await;
    let pod = shim.run("counting", guest("state").args(&["count:hits:total"])).await;
    let last = || shim.log("counting", "main").lines().last().and_then(|line| line["stdout F ".len()..].parse().ok());
    eventually("it counts", || async { last().filter(|count: &u64| *count > 50) }).await;
    // In the middle of whatever it is writing.
    signal(shim.worker_pid().expect("a worker runs"), rustix::process::Signal::KILL);
    assert_eq!(shim.exit(&pod.container).await.exit_code, 137);
    let told: u64 = last().expect("it has counted");
    let sandbox = shim.sandbox("asking", &[], &[]).await;
    let args = &["get:hits:total", "add:hits:total:1"];
    let said = self::told(&shim, &sandbox, "asking", "main", guest("state").args(args)).await;
    let now = said.split('"').nth(1).and_then(|count| count.parse::<u64>().ok()).expect("a number");
    // One more may have been written and not said.
    assert!(now >= told, "{told} were told, {now} are there");
    assert!(said.contains(&format!("add:hits:total:1: Some(Ok({}))", now + 1)), "{said}");
}

#[tokio::test]
async fn neither_names_nor_answers_of_the_store_fill_the_hosts_memory() {
    let shim = Shim::start().await;
    let worker = shim.run("first", guest("exit")).await;
    shim.exit(&worker.container).await;
    let sandbox = shim.sandbox("greedy", &[], &[]).await;
    let args = &["again:b:3", "again:b:1000", "buckets:200"];
    let said = told(&shim, &sandbox, "greedy", "main", guest("state").args(args)).await;
    expect![[r#"
        again:b:3: Ok(3)
        again:b:1000: Err(Error::Other("a batch of values to be read may have 16777216 bytes, this one has 4194304000"))
        buckets:200: 0 Some(Error::Other("a bucket name may have 1024 bytes, this one has 1048576"))
    "#]]
    .assert_eq(&said);
}
