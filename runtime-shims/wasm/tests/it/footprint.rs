//! What idle pods cost.

use crate::shim::{Shim, get, guest};

const PODS: usize = 1000;
const KB_PER_POD: usize = 60;

/// Memory that is a process's own, in KiB: without the program's file, which is larger unoptimised and shared anyway.
fn own_kb(pid: u32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).expect("a figure");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number")
}

#[tokio::test]
async fn a_thousand_idle_pods_are_cheap() {
    let shim = Shim::start().await;
    // Sandboxes in more than a /24.
    let pod_cidr = format!("{}.0.0/20", shim.range().split('.').take(2).collect::<Vec<_>>().join("."));
    let network_config = Some(coracle_cri::v1::NetworkConfig { pod_cidr });
    let runtime_config = Some(coracle_cri::v1::RuntimeConfig { network_config });
    let request = coracle_cri::v1::UpdateRuntimeConfigRequest { runtime_config };
    shim.runtime().update_runtime_config(request).await.expect("the range is taken");
    let first = shim.run("first", guest("hello:dev")).await;
    assert_eq!(get(&first.ip, "/").await.0, 200);
    let worker = shim.worker_pid().expect("a worker runs");
    let before = (own_kb(shim.front_pid()), own_kb(worker));
    let mut last = first;
    for number in 0..PODS {
        last = shim.run(&format!("pod-{number}"), guest("hello:dev").env("POD_NAME", "some-pod-of-a-deployment")).await;
    }
    let after = (own_kb(shim.front_pid()), own_kb(worker));
    println!("front {} → {} KiB, worker {} → {} KiB", before.0, after.0, before.1, after.1);
    assert_eq!(get(&last.ip, "/").await.0, 200);
    let grown = (after.0 - before.0) + (after.1 - before.1);
    assert!(grown <= PODS * KB_PER_POD, "{grown} KiB for {PODS} pods");
}
