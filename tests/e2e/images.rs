//! Images from a real registry, pushed and pulled.

use std::process::Command;

use coracle_tests::{Cluster, Registry, binary, checkout, wait_for};

fn coracle(cluster: &Cluster, args: &[&str]) -> String {
    let output = Command::new(binary()).args(args).arg("--data-dir").arg(cluster.dir()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "coracle {}: {text}", args.join(" "));
    text
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back() {
    let registry = Registry::start();
    let cluster = Cluster::up(&[]);
    let k = cluster.kubectl();
    let name = format!("127.0.0.1:{}/team/hello:v1", registry.port);
    let wasm = checkout().join("examples/hello/hello.wasm");
    coracle(&cluster, &["image", "import", wasm.to_str().unwrap(), "--name", &name]);
    assert!(coracle(&cluster, &["image", "list"]).contains("team/hello"));
    coracle(&cluster, &["image", "push", &name]);
    coracle(&cluster, &["image", "remove", &name]);
    assert!(!coracle(&cluster, &["image", "list"]).contains("team/hello"));

    k.ok(&["run", "pulled", &format!("--image={name}"), "--port=8080", "--restart=Always"]);
    k.ok(&["wait", "--for=condition=Ready", "pod/pulled", "--timeout=60s"]);
    let described = k.ok(&["describe", "pod", "pulled"]);
    assert!(described.contains("Successfully pulled image"), "{described}");
    let address = k.ok(&["get", "pod", "pulled", "-o", "jsonpath={.status.podIP}:8080"]);
    let (status, _) = wait_for("the pulled guest to answer", || {
        coracle_tests::http_get(address.parse().unwrap(), "/").ok().filter(|(s, _)| *s == 200)
    });
    assert_eq!(status, 200);
}
