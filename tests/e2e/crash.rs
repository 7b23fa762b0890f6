//! `kill -9` of any process: nothing acknowledged is lost, nothing runs twice.

use coracle_tests::{Cluster, wait_for};

#[test]
fn every_acknowledged_write_survives_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..3 {
        let cluster = Cluster::start("server", dir.path(), &["--node-name", "main"]);
        let k = cluster.kubectl();
        for name in &acknowledged {
            k.ok(&["get", "configmap", name]);
        }
        for n in 0..5 {
            let name = format!("cm-{round}-{n}");
            k.ok(&["create", "configmap", &name, "--from-literal=a=b"]);
            acknowledged.push(name);
        }
        cluster.process.signal("KILL");
    }
    let cluster = Cluster::start("server", dir.path(), &["--node-name", "main"]);
    let names = cluster.kubectl().ok(&["get", "configmaps", "-o", "name"]);
    for name in &acknowledged {
        assert!(names.contains(name.as_str()), "{name} was acknowledged and is gone");
    }
}

#[test]
fn pods_come_back_after_the_runtime_dies() {
    for victim in ["wasm-worker", "wasm-shim"] {
        let cluster = Cluster::up(&["examples/hello"]);
        let k = cluster.kubectl();
        k.ok(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
        let killed = cluster.processes(victim);
        assert!(!killed.is_empty(), "no {victim} runs");
        for id in killed {
            cluster.kill(id);
        }
        wait_for(&format!("new containers after {victim} died"), || {
            let restarts = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
            let counts = k.ok(&["get", "pods", "-l", "app=hello", "-o", restarts]);
            (counts.split_whitespace().filter(|c| *c != "0").count() >= 2).then_some(())
        });
        k.ok(&["wait", "--for=condition=Ready", "pod", "-l", "app=hello", "--timeout=60s"]);
    }
}

#[test]
fn pods_are_adopted_when_the_agent_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start("server", dir.path(), &["--node-name", "main"]);
    let wasm = coracle_tests::checkout().join("examples/hello/hello.wasm");
    let mut import = std::process::Command::new(coracle_tests::binary());
    import.args(["image", "import", "--name", "hello:dev", "--data-dir"]).arg(dir.path()).arg(wasm);
    assert!(import.status().unwrap().success());
    let k = cluster.kubectl();
    k.ok(&["apply", "-f", "examples/hello/hello.yaml"]);
    k.ok(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    let ids = "jsonpath={.items[*].status.containerStatuses[0].containerID}";
    let before = k.ok(&["get", "pods", "-l", "app=hello", "-o", ids]);
    cluster.process.signal("KILL");
    // Only the server is gone: what it started outlives it.
    cluster.forget();

    let cluster = Cluster::start("server", dir.path(), &["--node-name", "main"]);
    let k = cluster.kubectl();
    k.ok(&["wait", "--for=condition=Ready", "pod", "-l", "app=hello", "--timeout=60s"]);
    let after = k.ok(&["get", "pods", "-l", "app=hello", "-o", ids]);
    assert_eq!(before, after, "the same containers run");
}
