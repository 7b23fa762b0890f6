//! `kill -9` of any process: nothing acknowledged is lost, nothing runs twice.

use std::net::SocketAddr;

use coracle_tests::{Cluster, Kubectl, http_get, wait_for};

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
fn pods_come_back_after_their_worker_dies() {
    let cluster = Cluster::up(&["examples/hello"]);
    let k = cluster.kubectl();
    k.ok(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    let killed = cluster.processes("wasm-worker");
    assert!(!killed.is_empty(), "no worker runs");
    for id in killed {
        cluster.kill(id);
    }
    wait_for("new containers after the worker died", || {
        (restarts(&k).iter().filter(|count| *count != "0").count() >= 2).then_some(())
    });
    k.ok(&["wait", "--for=condition=Ready", "pod", "-l", "app=hello", "--timeout=60s"]);
}

#[test]
fn pods_serve_on_when_the_runtime_dies() {
    let cluster = Cluster::up(&["examples/hello"]);
    let k = cluster.kubectl();
    k.ok(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    let show = |what: &str| k.ok(&["get", "pods", "-l", "app=hello", "-o", &format!("jsonpath={{.items[*]{what}}}")]);
    let containers = show(".status.containerStatuses[0].containerID");
    let started = show(".status.containerStatuses[0].state.running.startedAt");
    let addresses: Vec<SocketAddr> =
        show(".status.podIP").split_whitespace().map(|ip| format!("{ip}:8080").parse().unwrap()).collect();
    let serves = || {
        for address in &addresses {
            assert_eq!(http_get(*address, "/").map(|(status, _)| status).ok(), Some(200), "{address}");
        }
    };
    assert!(addresses.len() >= 2, "{addresses:?}");
    let workers = cluster.processes("wasm-worker");
    let fronts = || cluster.processes("wasm-shim");
    for id in fronts() {
        cluster.kill(id);
    }
    serves();
    wait_for("another front", || {
        serves();
        (!fronts().is_empty()).then_some(())
    });
    // The new one has the pods in hand: it can tell their logs and make another.
    k.ok(&["scale", "deployment/hello", "--replicas=3"]);
    k.ok(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    serves();
    assert_eq!(cluster.processes("wasm-worker"), workers, "the worker is the same one");
    for container in containers.split_whitespace() {
        assert!(show(".status.containerStatuses[0].containerID").contains(container), "{container} is gone");
    }
    for time in started.split_whitespace() {
        assert!(show(".status.containerStatuses[0].state.running.startedAt").contains(time), "{time} is gone");
    }
    assert!(restarts(&k).iter().all(|count| count == "0"), "{:?}", restarts(&k));
}

fn restarts(k: &Kubectl) -> Vec<String> {
    let counts = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
    k.ok(&["get", "pods", "-l", "app=hello", "-o", counts]).split_whitespace().map(str::to_owned).collect()
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

    // A server with other settings wants another front; its workers stay, and with them the containers.
    let (front, workers) = (cluster.processes("wasm-shim"), cluster.processes("wasm-worker"));
    cluster.process.signal("KILL");
    cluster.forget();
    let cluster = Cluster::start("server", dir.path(), &["--node-name", "main", "--debug"]);
    wait_for("another front", || {
        let now = cluster.processes("wasm-shim");
        (!now.is_empty() && now != front).then_some(())
    });
    let k = cluster.kubectl();
    k.ok(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    assert_eq!(before, k.ok(&["get", "pods", "-l", "app=hello", "-o", ids]), "the same containers run");
    assert_eq!(workers, cluster.processes("wasm-worker"));
}

#[test]
fn nothing_is_left_when_up_ends_after_its_runtime_died() {
    let mut cluster = Cluster::up(&["examples/hello"]);
    cluster.kubectl().ok(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    for id in cluster.processes("wasm-shim") {
        cluster.kill(id);
    }
    assert!(!cluster.processes("wasm-worker").is_empty(), "workers outlive it");
    assert!(cluster.stop().success());
    assert_eq!(cluster.all_processes(), Vec::<u32>::new());
}
