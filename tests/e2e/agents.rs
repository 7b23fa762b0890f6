//! A server and agents as separate processes.

use std::process::Command;

use coracle_tests::{Cluster, FULL_HOSTS, Process, binary, http_get, kill_all_on, wait_for};

fn agent(server: &Cluster, name: &str, token: &str, dir: &std::path::Path) -> Process {
    let mut command = Command::new(binary());
    let url = format!("https://127.0.0.1:{}", server.port);
    command.args(["agent", "--server", &url, "--node-name", name]).args(FULL_HOSTS).arg("--data-dir").arg(dir);
    if !token.is_empty() {
        command.args(["--token", token]);
    }
    Process::start(&mut command)
}

fn token(server: &Cluster) -> String {
    let output = Command::new(binary()).args(["token", "--data-dir"]).arg(server.dir()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn agents_join_and_share_the_pods() {
    let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Cluster::start("server", dirs.0.path(), &["--node-name", "main"]);
    let token = token(&server);
    assert!(token.starts_with("K10"), "{token}");
    let k = server.kubectl();
    let one = agent(&server, "one", &token, dirs.1.path());
    let two = agent(&server, "two", &token, dirs.2.path());
    wait_for("three nodes to be Ready", || {
        let nodes = k.ok(&["get", "nodes", "--no-headers"]);
        (nodes.lines().filter(|l| l.split_whitespace().nth(1) == Some("Ready")).count() == 3).then_some(())
    });
    let cidrs = k.ok(&["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"]);
    let mut cidrs: Vec<_> = cidrs.split_whitespace().collect();
    cidrs.dedup();
    assert_eq!(cidrs.len(), 3, "each node has a range of its own: {cidrs:?}");
    let wasm = coracle_tests::checkout().join("examples/hello/hello.wasm");
    for dir in [&dirs.0, &dirs.1, &dirs.2] {
        let mut import = Command::new(binary());
        import.args(["image", "import", "--name", "hello:dev", "--data-dir"]).arg(dir.path()).arg(&wasm);
        assert!(import.status().unwrap().success());
    }
    k.ok(&["apply", "-f", "examples/hello/hello.yaml"]);
    k.ok(&["scale", "deployment/hello", "--replicas=6"]);
    k.ok(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    let nodes = k.ok(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    for node in ["main", "one", "two"] {
        assert!(nodes.contains(node), "no pod on {node}: {nodes}");
    }
    let pod = k.ok(&["get", "pods", "-o", "jsonpath={.items[?(@.spec.nodeName==\"two\")].metadata.name}"]);
    k.ok(&["logs", pod.split_whitespace().next().unwrap()]);
    drop((one, two));
}

#[test]
fn a_wrong_token_and_a_wrong_ca_are_told_apart() {
    let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Cluster::start("server", dirs.0.path(), &["--node-name", "main"]);
    let right = token(&server);

    let (head, _) = right.rsplit_once(':').unwrap();
    let mut process = agent(&server, "one", &format!("{head}:not-the-secret"), dirs.1.path());
    assert!(!process.wait().success());
    assert!(process.output().contains("token"), "{}", process.output());

    let other = format!("K10{}{}", "0".repeat(64), &right[3 + 64..]);
    let mut process = agent(&server, "one", &other, dirs.1.path());
    assert!(!process.wait().success());
    assert!(process.output().contains("CA"), "{}", process.output());
    assert!(process.output().contains(&"0".repeat(64)), "both hashes are named: {}", process.output());
}

/// What an agent that was killed leaves running ends with the test, however that ends.
struct Left<'a>(&'a std::path::Path);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        kill_all_on(self.0);
    }
}

#[test]
fn an_agent_that_is_killed_finds_its_pods_again() {
    let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _left = Left(dirs.1.path());
    let server = Cluster::start("server", dirs.0.path(), &["--node-name", "main"]);
    let (k, token) = (server.kubectl(), token(&server));
    let wasm = coracle_tests::checkout().join("examples/hello/hello.wasm");
    let mut import = Command::new(binary());
    import.args(["image", "import", "--name", "hello:dev", "--data-dir"]).arg(dirs.1.path()).arg(wasm);
    assert!(import.status().unwrap().success());
    let mut edge = agent(&server, "edge", &token, dirs.1.path());
    let overrides = r#"{"spec":{"nodeName":"edge"}}"#;
    k.ok(&["run", "web", "--image=hello:dev", "--port=8080", "--overrides", overrides]);
    k.ok(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    let show = |what: &str| k.ok(&["get", "pod", "web", "-o", &format!("jsonpath={{.status.{what}}}")]);
    let (container, address) = (show("containerStatuses[0].containerID"), show("podIP"));
    let address = format!("{address}:8080").parse().unwrap();
    edge.signal("KILL");
    edge.wait();
    assert_eq!(http_get(address, "/").unwrap().0, 200, "the pod serves on without an agent");

    // It needs no token any more. What is written meanwhile reaches it.
    k.ok(&["label", "pod", "web", "seen=yes"]);
    let _edge = agent(&server, "edge", "", dirs.1.path());
    k.ok(&["run", "next", "--image=hello:dev", "--overrides", overrides]);
    k.ok(&["wait", "--for=condition=Ready", "pod/next", "--timeout=60s"]);
    assert_eq!(show("containerStatuses[0].containerID"), container, "the same container runs");
    assert_eq!(show("containerStatuses[0].restartCount"), "0");
    assert_eq!(http_get(address, "/").unwrap().0, 200);
    k.ok(&["logs", "web"]);
    k.ok(&["delete", "pod", "web", "next", "--timeout=60s"]);
    assert!(http_get(address, "/").is_err(), "nothing of it is left");
}
