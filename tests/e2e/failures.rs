//! What goes wrong, and what the user sees.

use std::fs;
use std::process::Command;

use coracle_tests::{Cluster, Process, binary, free_port, wait_for};

fn fails(args: &[&str], expected: &[&str]) {
    let mut process = Process::start(Command::new(binary()).args(args));
    let status = process.wait();
    assert!(!status.success(), "coracle {} succeeded", args.join(" "));
    let output = process.output();
    for part in expected {
        assert!(output.contains(part), "no {part:?} in what `coracle {}` said:\n{output}", args.join(" "));
    }
}

#[test]
fn a_start_that_cannot_work_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let cluster = Cluster::start("server", data.as_ref(), &["--node-name", "main"]);
    let port = free_port().to_string();
    fails(&["server", "--data-dir", data, "--https-listen-port", &port], &[data, "in use"]);

    let other = dir.path().join("other");
    let taken = cluster.port.to_string();
    let other = other.to_str().unwrap();
    fails(&["server", "--data-dir", other, "--https-listen-port", &taken], &[&taken, "in use", "--https-listen-port"]);

    let node = cluster.kubectl().ok(&["get", "nodes", "-o", "jsonpath={.items[0].spec.podCIDR}"]);
    let range = node.split('/').next().map(|address| format!("{address}/16")).unwrap();
    let args = ["server", "--data-dir", other, "--https-listen-port", &port, "--cluster-cidr", &range];
    let process = format!("(process {})", cluster.process.id());
    let cure = "start this one with --cluster-cidr 127.";
    fails(&args, &[&format!("the addresses of pods ({range}) are taken by the cluster in {data}"), &process, cure]);

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    fails(&["server", "--data-dir", file.to_str().unwrap(), "--https-listen-port", &port], &[file.to_str().unwrap()]);
    fails(&["server", "--no-such-flag"], &["--no-such-flag"]);
    let third = dir.path().join("third");
    let mask = ["server", "--data-dir", third.to_str().unwrap(), "--https-listen-port", &port];
    let mask = [&mask[..], &["--cluster-cidr", "127.248.0.0/16", "--service-cidr", "127.249.0.0/16"]].concat();
    fails(&[&mask[..], &["--node-cidr-mask-size", "12"]].concat(), &["--node-cidr-mask-size 12", "/16 and /30"]);
    let config = dir.path().join("config.yaml");
    fs::write(&config, "nodename: x\n").unwrap();
    fails(&["server", "--config", config.to_str().unwrap()], &["config.yaml", "nodename"]);
    fails(&["up", "no/such/folder", "--data-dir", other, "--https-listen-port", &port], &["no/such/folder"]);
}

#[test]
fn a_damaged_store_is_named_with_its_cure() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start("up", dir.path(), &[]);
    cluster.stop();
    let file = find(dir.path(), "db").expect("a database file");
    fs::write(&file, vec![7u8; 64 * 1024]).unwrap();
    for extra in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{extra}", file.display()));
    }
    let port = free_port().to_string();
    fails(
        &["server", "--data-dir", dir.path().to_str().unwrap(), "--https-listen-port", &port],
        &[file.to_str().unwrap(), "damaged"],
    );
}

fn find(dir: &std::path::Path, extension: &str) -> Option<std::path::PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == extension) {
            return Some(path);
        }
        if let Some(found) = path.is_dir().then(|| find(&path, extension)).flatten() {
            return Some(found);
        }
    }
    None
}

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  runtimeClassName: wasm
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: c, image: "{image}", imagePullPolicy: IfNotPresent{more}}}
"#
    )
}

/// Core modules as text, made into images of the cluster's own host.
fn import(cluster: &Cluster, name: &str, wat: &str) {
    let file = cluster.dir().join(format!("{name}.wasm"));
    fs::write(&file, wat::parse_str(wat).expect("the test's module is right")).unwrap();
    import_file(cluster, name, &file);
}

fn import_file(cluster: &Cluster, name: &str, file: &std::path::Path) {
    let mut command = Command::new(binary());
    command.args(["image", "import", "--name", &format!("{name}:dev"), "--data-dir"]).arg(cluster.dir()).arg(file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn described(cluster: &Cluster, pod: &str, parts: &[&str]) {
    let k = cluster.kubectl();
    let mut last = String::new();
    wait_for(&format!("{parts:?} in the description of {pod}"), || {
        last = k.ok(&["describe", "pod", pod]);
        if std::env::var_os("CORACLE_SHOW").is_some() {
            eprintln!("{last}");
        }
        parts.iter().all(|p| last.contains(p)).then_some(())
    });
}

#[test]
fn a_guest_that_fails_is_seen_in_describe() {
    let cluster = Cluster::up(&[]);
    let k = cluster.kubectl();
    import(&cluster, "trap", r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#);
    import(
        &cluster,
        "bomb",
        r#"(module (memory (export "memory") 1)
            (func (export "_start") (loop (if (i32.eq (memory.grow (i32.const 64)) (i32.const -1)) (then unreachable)) (br 0))))"#,
    );
    import(&cluster, "spin", r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#);
    import(
        &cluster,
        "exit3",
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 8) "last words\n")
            (func (export "_start") (i32.store (i32.const 0) (i32.const 8)) (i32.store (i32.const 4) (i32.const 11))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32))) (call $exit (i32.const 3))))"#,
    );
    // It begins as a module does, and goes on as none.
    let corrupt = cluster.dir().join("corrupt.wasm");
    fs::write(&corrupt, b"\0asm\x01\0\0\0\x0a\x05\x01junk").unwrap();
    import_file(&cluster, "corrupt", &corrupt);
    k.apply(&pod("trap", "trap:dev", ""));
    k.apply(&pod("exit3", "exit3:dev", ""));
    k.apply(&pod("corrupt", "corrupt:dev", ""));
    k.apply(&pod("bomb", "bomb:dev", ", resources: {limits: {memory: 16Mi}}"));
    k.apply(&pod("spin", "spin:dev", ""));
    k.apply(&pod("missing", "127.0.0.1:1/nobody:v1", ""));
    described(&cluster, "trap", &["CrashLoopBackOff", "134", "unreachable"]);
    described(&cluster, "exit3", &["CrashLoopBackOff", "Exit Code:    3", "Error"]);
    wait_for("what the container before the present one said", || {
        let previous = k.run(&["logs", "exit3", "--previous"]);
        (previous.ok && previous.stdout == "last words\n").then_some(())
    });
    described(&cluster, "corrupt", &["CreateContainerError", "it is not valid WebAssembly"]);
    described(&cluster, "bomb", &["OOMKilled", "137"]);
    described(&cluster, "missing", &["ErrImagePull", "ImagePullBackOff", "127.0.0.1:1"]);
    // The guest that never ends holds up nobody, and goes when it is told to.
    import(&cluster, "ends", r#"(module (memory (export "memory") 1) (func (export "_start")))"#);
    k.apply(&pod("ends", "ends:dev", "").replace("spec:", "spec:\n  restartPolicy: Never"));
    wait_for("the well-behaved neighbour to end", || {
        (k.ok(&["get", "pod", "ends", "-o", "jsonpath={.status.phase}"]) == "Succeeded").then_some(())
    });
    k.ok(&["delete", "pod", "spin", "--wait", "--timeout=30s"]);
    let file = cluster.dir().join("text.wasm");
    fs::write(&file, "this is no Wasm at all").unwrap();
    let output = Command::new(binary())
        .args(["image", "import", "--name", "text:dev", "--data-dir"])
        .arg(cluster.dir())
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("text.wasm"), "{said}");
}

#[test]
fn a_node_whose_disk_is_full_says_so_and_takes_no_pod() {
    let cluster = Cluster::up(&["--eviction-hard", "nodefs.available<99.999%"]);
    let k = cluster.kubectl();
    wait_for("disk pressure", || {
        let node = k.ok(&["describe", "node"]);
        (node.contains("KubeletHasDiskPressure") && node.contains("node.kubernetes.io/disk-pressure:NoSchedule"))
            .then_some(())
    });
    k.apply(&pod("late", "late:dev", ""));
    described(&cluster, "late", &["Pending", "untolerated taint"]);
}

#[test]
fn exec_into_a_wasm_container_says_that_it_cannot() {
    let cluster = Cluster::up(&["examples/hello"]);
    let k = cluster.kubectl();
    k.ok(&["rollout", "status", "deployment/hello", "--timeout=60s"]);
    let said = k.fails(&["exec", "deployment/hello", "--", "ls"]);
    assert!(said.to_lowercase().contains("exec"), "{said}");
}

#[test]
fn nobody_without_a_credential_gets_in() {
    let cluster = Cluster::up(&[]);
    let k = cluster.kubectl();
    let server = format!("https://127.0.0.1:{}", cluster.port);
    let empty = cluster.dir().join("empty");
    fs::write(&empty, "").unwrap();
    let anonymous = coracle_tests::Kubectl::new(empty);
    let args = ["--server", &server, "--insecure-skip-tls-verify", "--token", "wrong", "get", "pods"];
    let said = anonymous.fails(&args);
    assert!(said.contains("Unauthorized") || said.contains("logged in"), "{said}");
    assert!(k.ok(&["auth", "can-i", "create", "pods"]).contains("yes"));
}
