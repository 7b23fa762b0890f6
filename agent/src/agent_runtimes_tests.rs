//! A node with several runtimes, some of which do not answer.

use std::time::Duration;

use super::*;

/// A default runtime and one that claims its own kind.
fn two_runtimes() -> (FakeRuntime, FakeRuntime, RuntimeRouter) {
    let (oci, wasm) = (FakeRuntime::new(0), FakeRuntime::new(0).with_image("hello:1").scripted("oci:1", "foreign"));
    let router = RuntimeRouter::new(oci.endpoint().named("oci"));
    let router = router.with_handler("wasm", wasm.endpoint().named("wasm")).with_claimant("wasm");
    (oci, wasm, router)
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_down_holds_up_only_its_own_pods() {
    let (oci, wasm, router) = two_runtimes();
    oci.set_down(true);
    let node = Node::with(oci.clone(), router.clone(), None);
    timeout(Duration::from_secs(10), node.agent.ready()).await.unwrap();
    for (name, image) in [("p", "hello:1"), ("gone", "hello:1"), ("q", "oci:1")] {
        node.api.put("pods", web(name, image));
    }
    node.until("p", "ready=true").await;
    node.until("gone", "ready=true").await;
    node.api.delete_pod("ns", "gone", 1);
    node.until("gone", "gone").await;
    sleep(Duration::from_secs(10)).await;
    expect!["q Pending ready=false ip= [web ContainerCreating restarts=0 ]"].assert_eq(&node.status("q"));
    let told = node.api.told().join("\n");
    assert!(
        told.contains("FailedCreatePodSandBox") && told.contains("the container runtime at oci does not answer"),
        "{told}"
    );
    let conditions = node.api.get("nodes", "", "n1").unwrap()["status"]["conditions"].to_string();
    assert!(conditions.contains("kubelet is posting ready status; container runtime oci is down"), "{conditions}");

    // What was never given to it can go without it.
    node.api.put("pods", web("never", "oci:1"));
    sleep(Duration::from_secs(10)).await;
    node.api.delete_pod("ns", "never", 1);
    node.until("never", "gone").await;

    // The next agent takes over what runs and removes what nobody knows, also while the other runtime is away.
    node.scope.abort().await;
    node.api.put("pods", web("stray", "hello:1"));
    let before = node.status("p");
    wasm.take_calls();
    let dir = node.dir.path().to_owned();
    let next_agent = || {
        let (gauge, config) = (Arc::new(NoGauge), HousekeepingConfig::default());
        start_agent_with(&node.api, router.clone(), None, gauge, config, dir.clone(), node.start.elapsed())
    };
    let (scope, _agent) = next_agent();
    node.until("stray", "ready=true").await;
    assert_eq!(node.status("p"), before);
    scope.abort().await;
    node.api.remove("pods", "ns", "stray");
    std::fs::remove_file(dir.join("desired/uid-stray.json")).unwrap();
    let (scope, _agent) = next_agent();
    sleep(Duration::from_secs(60)).await;
    check(
        &wasm.sandboxes(),
        expect![[r#"
        ns/p uid-p ready
    "#]],
    );
    oci.set_down(false);
    node.until("q", "ready=true").await;
    assert_eq!((oci.live().len(), wasm.live().len()), (1, 1));
    assert_eq!(wasm.starts().get(&("uid-p".to_owned(), "web".to_owned())), Some(&1));
    assert_eq!((oci.violations(), wasm.violations()), (Vec::new(), Vec::new()));
    scope.abort().await;
}
