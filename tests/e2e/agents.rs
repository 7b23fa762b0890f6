//! A server and agents as separate processes.

use std::process::Command;

use coracle_tests::{Cluster, Process, binary, wait_for};

fn agent(server: &Cluster, name: &str, token: &str, dir: &std::path::Path) -> Process {
    let mut command = Command::new(binary());
    let url = format!("https://127.0.0.1:{}", server.port);
    command.args(["agent", "--server", &url, "--token", token, "--node-name", name]).arg("--data-dir").arg(dir);
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
