//! `coracle up`: the first five minutes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use coracle_tests::{Cluster, FULL_HOSTS, Process, binary, checkout, http_get, wait_for};

fn url_of(line: &str) -> std::net::SocketAddr {
    let at = line.find("http://").unwrap_or_else(|| panic!("no URL in {line:?}"));
    let rest = &line[at + "http://".len()..];
    rest.split(['/', ' ']).next().and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
}

#[test]
fn hello_answers_and_a_second_up_takes_up_where_it_left() {
    let dir = tempfile::tempdir().unwrap();
    let uid = {
        let mut cluster = Cluster::start("up", dir.path(), &["examples/hello"]);
        let address = url_of(&cluster.process.wait_for_line("http://"));
        let (status, body) = http_get(address, "/").unwrap();
        assert_eq!(status, 200, "{body}");
        assert!(body.to_lowercase().contains("hello"), "{body}");

        let mode = cluster.kubeconfig().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "the kubeconfig is the administrator's alone");
        let uid = cluster.kubectl().ok(&["get", "deployment", "hello", "-o", "jsonpath={.metadata.uid}"]);
        let status = cluster.stop();
        assert!(status.success(), "Ctrl-C is no failure: {status}\n{}", cluster.process.output());
        uid
    };

    let mut cluster = Cluster::start("up", dir.path(), &["examples/hello"]);
    let again = cluster.kubectl().ok(&["get", "deployment", "hello", "-o", "jsonpath={.metadata.uid}"]);
    assert_eq!(again, uid, "the second start has the first one's objects");
    let address = url_of(&cluster.process.wait_for_line("http://"));
    let (status, _) =
        wait_for("the service to answer again", || http_get(address, "/").ok().filter(|(s, _)| *s == 200));
    assert_eq!(status, 200);
}

#[test]
fn an_ordinary_user_needs_nothing_else() {
    // As root the test becomes somebody else; as anybody else it is that already.
    let dir = tempfile::tempdir().unwrap();
    let mut command = if rustix_is_root() {
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new("chown").arg("65534:65534").arg(&data).status().unwrap().success());
        let program = copy_for_all(dir.path());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]).arg(program);
        command
    } else {
        Command::new(binary())
    };
    let port = coracle_tests::free_port().to_string();
    let example = dir.path().join("hello");
    assert!(
        Command::new("cp").arg("-r").arg(checkout().join("examples/hello")).arg(&example).status().unwrap().success()
    );
    command.args(["up", "--bind-address", "127.0.0.1", "--https-listen-port", &port]).arg(&example);
    command.args(FULL_HOSTS).arg("--data-dir").arg(dir.path().join("data"));
    let mut process = Process::start(&mut command);
    let address = url_of(&process.wait_for_line("http://"));
    let (status, body) = http_get(address, "/").unwrap();
    assert_eq!(status, 200, "{body}");
    process.signal("INT");
    assert!(process.wait().success());
}

fn rustix_is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout.starts_with(b"0")
}

/// The checkout may lie where another user cannot read it.
fn copy_for_all(dir: &Path) -> std::path::PathBuf {
    let copy = dir.join("coracle");
    std::fs::copy(binary(), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

#[test]
fn the_worker_example_reads_its_config_map() {
    let cluster = Cluster::up(&["examples/worker"]);
    let kubectl = cluster.kubectl();
    kubectl.ok(&["set", "env", "deployment/worker", "INTERVAL_SECONDS=1"]);
    kubectl.ok(&["rollout", "status", "deployment/worker", "--timeout=60s"]);
    let logs = wait_for("the worker to log what its config map says", || {
        let logs = kubectl.run(&["logs", "deployment/worker"]).stdout;
        logs.contains("Hello from a ConfigMap").then_some(logs)
    });
    assert!(!logs.contains("Edited"), "{logs}");
    let patch = r#"{"data":{"message":"Edited\n"}}"#;
    kubectl.ok(&["patch", "configmap", "worker", "-p", patch]);
    wait_for("the worker to see the edited config map", || {
        kubectl.run(&["logs", "deployment/worker", "--tail=5"]).stdout.contains("Edited").then_some(())
    });
}
