//! The whole agent against an API in memory and the scripted runtime, on paused time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Informers, RandomIds, TaskScope, TokioClock};
use coracle_cri::RuntimeRouter;
use coracle_cri::fake::FakeRuntime;
use expect_test::{Expect, expect};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::config::{Disk, Resolver};
use crate::housekeeping::{Gauge, HousekeepingConfig, NoGauge};
use crate::node::HostFacts;
use crate::probes::NoProber;
use crate::testing::FakeApi;

#[path = "agent_pressure_tests.rs"]
mod pressure;
#[path = "agent_runtimes_tests.rs"]
mod runtimes;

const BASE: &str = "2026-01-01T00:00:00Z";

/// One node with everything around it.
struct Node {
    api: FakeApi,
    runtime: FakeRuntime,
    dir: tempfile::TempDir,
    scope: TaskScope,
    agent: AgentHandle,
    start: Instant,
}

fn facts() -> HostFacts {
    HostFacts {
        hostname: "n1".into(),
        cpus: 2,
        memory_bytes: 1 << 30,
        storage_bytes: 1 << 33,
        architecture: "amd64".into(),
        kernel_version: "6".into(),
        os_image: "Debian".into(),
        machine_id: "m".into(),
        system_uuid: "s".into(),
        boot_id: "b".into(),
    }
}

fn start_agent(api: &FakeApi, runtime: &FakeRuntime, dir: PathBuf, since: Duration) -> (TaskScope, AgentHandle) {
    let runtimes = RuntimeRouter::new(runtime.endpoint()).with_handler("wasm", runtime.endpoint());
    start_agent_with(api, runtimes, None, Arc::new(NoGauge), HousekeepingConfig::default(), dir, since)
}

fn start_agent_with(
    api: &FakeApi,
    runtimes: RuntimeRouter,
    network: Option<Arc<dyn NodeNetwork>>,
    gauge: Arc<dyn Gauge>,
    housekeeping: HousekeepingConfig,
    dir: PathBuf,
    since: Duration,
) -> (TaskScope, AgentHandle) {
    let scope = TaskScope::root();
    let base: jiff::Timestamp = BASE.parse().unwrap();
    let ids = RandomIds::seeded(1);
    let deps = AgentDeps {
        client: api.client(),
        informers: Informers::new(api.client(), &scope, ids.clone()),
        runtimes,
        clock: TokioClock::shared(base + since),
        ids,
        prober: Arc::new(NoProber),
        gauge,
        network,
    };
    let config = AgentConfig {
        node_name: "n1".into(),
        data_dir: dir,
        node_labels: BTreeMap::new(),
        node_taints: Vec::new(),
        max_pods: 110,
        cluster_domain: "cluster.local".to_owned(),
        addressing: Addressing::Loopback,
        host: facts(),
        node_api: None,
        resolver: Resolver::default(),
        disk: Disk::Inline,
        housekeeping,
    };
    let agent = Agent::start(config, deps, &scope).unwrap();
    (scope, agent)
}

impl Node {
    fn new(scripts: &[(&str, &str)]) -> Self {
        let base: jiff::Timestamp = BASE.parse().unwrap();
        let mut runtime = FakeRuntime::new(i64::try_from(base.as_nanosecond()).unwrap());
        for (image, script) in scripts {
            runtime = runtime.scripted(image, script);
        }
        let router = RuntimeRouter::new(runtime.endpoint()).with_handler("wasm", runtime.endpoint());
        Self::with(runtime, router, None)
    }

    fn with(runtime: FakeRuntime, router: RuntimeRouter, network: Option<Arc<dyn NodeNetwork>>) -> Self {
        Self::on(runtime, router, network, Arc::new(NoGauge), HousekeepingConfig::default())
    }

    fn on(
        runtime: FakeRuntime,
        router: RuntimeRouter,
        network: Option<Arc<dyn NodeNetwork>>,
        gauge: Arc<dyn Gauge>,
        housekeeping: HousekeepingConfig,
    ) -> Self {
        let api = FakeApi::new();
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let (scope, agent) =
            start_agent_with(&api, router, network, gauge, housekeeping, dir.path().to_owned(), Duration::ZERO);
        Self { api, runtime, dir, scope, agent, start }
    }

    /// Kills the agent as a crash does and starts another.
    async fn restart(&mut self) {
        self.scope.abort().await;
        let since = self.start.elapsed();
        (self.scope, self.agent) = start_agent(&self.api, &self.runtime, self.dir.path().to_owned(), since);
    }

    fn status(&self, name: &str) -> String {
        let Some(pod) = self.api.get("pods", "ns", name) else { return "gone".into() };
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let status = pod.status.unwrap_or_default();
        let condition = |wanted: &str| {
            status.conditions.iter().flatten().any(|condition| condition.type_ == wanted && condition.status == "True")
        };
        let containers = status.container_statuses.iter().flatten().map(|container| {
            let state = container.state.clone().unwrap_or_default();
            let state = match (state.waiting, state.terminated) {
                (Some(waiting), _) => {
                    format!("{} {}", waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
                }
                (None, Some(exit)) => format!(
                    "exited {} {} {}",
                    exit.exit_code,
                    exit.reason.unwrap_or_default(),
                    exit.message.unwrap_or_default()
                ),
                (None, None) => "running".to_owned(),
            };
            format!(
                "{} {} restarts={} {}",
                container.name,
                state.trim(),
                container.restart_count,
                container.container_id.clone().unwrap_or_default()
            )
        });
        format!(
            "{} {} ready={} ip={} [{}]",
            name,
            status.phase.clone().unwrap_or_default(),
            condition("Ready"),
            status.pod_ip.clone().unwrap_or_default(),
            containers.collect::<Vec<_>>().join("; "),
        )
    }

    /// Waits until the pod's status has this text in it.
    async fn until(&self, name: &str, text: &str) -> String {
        let wait = async {
            while !self.status(name).contains(text) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(Duration::from_secs(600), wait).await.is_err() {
            panic!(
                "{text:?} never came: {}\n{:?}\n{:#?}",
                self.status(name),
                self.api.told(),
                self.runtime.take_calls()
            );
        }
        self.status(name)
    }

    async fn stop(self) {
        self.agent.shutdown().await;
        self.scope.shutdown().await;
        assert_eq!(self.runtime.violations(), Vec::<String>::new());
    }
}

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["nodeName"] = "n1".into();
    json!({ "metadata": { "name": name, "namespace": "ns", "uid": format!("uid-{name}") }, "spec": spec })
}

fn web(name: &str, image: &str) -> Value {
    pod(name, json!({ "containers": [{ "name": "web", "image": image }] }))
}

fn check(found: &[String], expected: Expect) {
    expected.assert_eq(&found.iter().map(|line| format!("{line}\n")).collect::<String>());
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_goes() {
    let node = Node::new(&[]);
    node.api.put("pods", web("p", "hello:1"));
    let up = node.until("p", "ready=true").await;
    expect!["p Running ready=true ip=127.42.16.2 [web running restarts=0 fake://container-000002]"].assert_eq(&up);
    node.agent.ready().await;
    sleep(Duration::from_secs(1)).await;
    check(
        &node.api.take_log(),
        expect![[r#"
        POST nodes/
        PATCH nodes/n1/status
        PATCH nodes/n1/status
        PATCH nodes/n1/status
        PATCH pods/p/status
    "#]],
    );
    node.api.delete_pod("ns", "p", 30);
    node.until("p", "gone").await;
    sleep(Duration::from_secs(1)).await;
    check(
        &node.runtime.take_calls(),
        expect![[r#"
        UpdateRuntimeConfig 127.42.16.0/20
        RunPodSandbox ns/p
        PullImage hello:1
        CreateContainer web
        StartContainer container-000002
        StopContainer container-000002 30
        StopPodSandbox sandbox-000001
        RemovePodSandbox sandbox-000001
    "#]],
    );
    check(
        &node.api.told(),
        expect![[r#"
        Pulling: Pulling image "hello:1"
        Pulled: Successfully pulled image "hello:1" in 0s (0s including waiting). Image size: 1048576 bytes.
        Created: Created container: web
        Started: Started container web
        Killing: Stopping container web
    "#]],
    );
    check(&node.runtime.sandboxes(), expect![[""]]);
    assert!(!node.dir.path().join("pods/uid-p").exists() && !node.dir.path().join("logs/ns_p_uid-p").exists());
    assert!(!node.dir.path().join("desired/uid-p.json").exists());
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_takes_over_what_runs() {
    let mut node = Node::new(&[("app:1", "exit 7 after 30s")]);
    node.api.put("pods", web("p", "hello:1"));
    node.api.put("pods", web("q", "app:1"));
    let before = node.until("p", "ready=true").await;
    node.until("q", "ready=true").await;
    node.runtime.take_calls();
    node.restart().await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(node.status("p"), before);
    check(
        &node.runtime.take_calls(),
        expect![[r#"
        UpdateRuntimeConfig 127.42.16.0/20
        UpdateRuntimeConfig 127.42.16.0/20
    "#]],
    );
    // What ends while no agent is there is found by the next one.
    node.scope.abort().await;
    sleep(Duration::from_secs(60)).await;
    node.restart().await;
    let after = node.until("q", "restarts=1").await;
    expect!["q Running ready=true ip=127.42.16.3 [web running restarts=1 fake://container-000005]"].assert_eq(&after);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_without_server_starts_what_it_remembers() {
    let mut node = Node::new(&[]);
    let map = json!({ "metadata": { "name": "cfg", "namespace": "ns" }, "data": { "greeting": "hi" } });
    node.api.put("configmaps", map);
    let token = json!({ "serviceAccountToken": { "path": "token", "expirationSeconds": 3600 } });
    let spec = json!({
        "containers": [{ "name": "web", "image": "hello:1", "envFrom": [{ "configMapRef": { "name": "cfg" } }] }],
        "volumes": [{ "name": "v", "configMap": { "name": "cfg" } }, { "name": "t", "projected": { "sources": [token] } }],
    });
    node.api.put("pods", pod("p", spec));
    node.until("p", "ready=true").await;
    node.api.set_down(true);
    node.scope.abort().await;
    node.runtime.power_cut();
    node.runtime.take_calls();
    std::fs::remove_dir_all(node.dir.path().join("pods")).unwrap();
    node.restart().await;
    sleep(Duration::from_secs(30)).await;
    check(
        &node.runtime.take_calls(),
        expect![[r#"
        UpdateRuntimeConfig 127.42.16.0/20
        UpdateRuntimeConfig 127.42.16.0/20
        RunPodSandbox ns/p
        CreateContainer web
        StartContainer container-000004
    "#]],
    );
    let volumes = node.dir.path().join("pods/uid-p/volumes");
    assert_eq!(std::fs::read_to_string(volumes.join("kubernetes.io~configmap/v/greeting")).unwrap(), "hi");
    assert_eq!(std::fs::read_to_string(volumes.join("kubernetes.io~projected/t/token")).unwrap(), "token-of-default");
    node.api.set_down(false);
    // What was deleted meanwhile ends once the server is heard again.
    node.api.remove("pods", "ns", "p");
    sleep(Duration::from_secs(90)).await;
    check(&node.runtime.sandboxes(), expect![[""]]);
    node.stop().await;
}

/// Pods that each fail in a way of their own.
fn troubled() -> Node {
    let node = Node::new(&[
        ("missing:1", "pull fails no such image"),
        ("broken:1", "create fails this is no Wasm module"),
        ("crash:1", "exit 134 message wasm trap: unreachable; log about to trap"),
        ("hungry:1", "exit 137 oom"),
    ]);
    for (name, image) in [("pull", "missing:1"), ("create", "broken:1"), ("crash", "crash:1"), ("oom", "hungry:1")] {
        node.api.put("pods", web(name, image));
    }
    node.api.put("pods", web("name", "Bad Name"));
    let mut spec = json!({ "containers": [{ "name": "web", "image": "hello:1" }] });
    spec["volumes"] = json!([{ "name": "v", "configMap": { "name": "absent" } }]);
    node.api.put("pods", pod("mount", spec));
    let env = json!([{ "name": "X", "valueFrom": { "secretKeyRef": { "name": "absent", "key": "k" } } }]);
    node.api.put("pods", pod("env", json!({ "containers": [{ "name": "web", "image": "hello:1", "env": env }] })));
    let class = json!({ "runtimeClassName": "kata", "containers": [{ "name": "web", "image": "hello:1" }] });
    node.api.put("pods", pod("class", class));
    node
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_is_seen_by_the_user() {
    let node = troubled();
    let mut seen = Vec::new();
    for (name, text) in [
        ("pull", "ErrImagePull"),
        ("pull", "ImagePullBackOff"),
        ("create", "CreateContainerError"),
        ("crash", "CrashLoopBackOff"),
        ("oom", "CrashLoopBackOff"),
        ("name", "InvalidImageName"),
        ("env", "CreateContainerConfigError"),
    ] {
        seen.push(node.until(name, text).await);
    }
    sleep(Duration::from_secs(1)).await;
    seen.push(node.status("mount"));
    check(
        &seen,
        expect![[r#"
        pull Pending ready=false ip=127.42.16.7 [web ErrImagePull rpc error: code = NotFound desc = no such image restarts=0 ]
        pull Pending ready=false ip=127.42.16.7 [web ImagePullBackOff Back-off pulling image "missing:1": ErrImagePull: rpc error: code = NotFound desc = no such image restarts=0 ]
        create Pending ready=false ip=127.42.16.3 [web CreateContainerError this is no Wasm module restarts=0 ]
        crash Running ready=false ip=127.42.16.2 [web CrashLoopBackOff back-off 10s restarting failed container=web pod=crash_ns(uid-crash) restarts=1 fake://container-000009]
        oom Running ready=false ip=127.42.16.6 [web CrashLoopBackOff back-off 10s restarting failed container=web pod=oom_ns(uid-oom) restarts=1 fake://container-000010]
        name Pending ready=false ip=127.42.16.5 [web InvalidImageName Failed to apply default image tag "Bad Name": couldn't parse image name "Bad Name": invalid reference format: repository name (Bad Name) must be lowercase restarts=0 ]
        env Pending ready=false ip=127.42.16.4 [web CreateContainerConfigError secret "absent" not found restarts=0 ]
        mount Pending ready=false ip= [web ContainerCreating restarts=0 ]
    "#]],
    );
    let last = node.api.get("pods", "ns", "crash").unwrap()["status"]["containerStatuses"][0]["lastState"].to_string();
    assert!(last.contains("wasm trap: unreachable") && last.contains("134"), "{last}");
    let mut told = node.api.told();
    told.sort();
    told.dedup();
    check(
        &told,
        expect![[r#"
        BackOff: Back-off pulling image "missing:1"
        BackOff: Back-off restarting failed container web in pod crash_ns(uid-crash)
        BackOff: Back-off restarting failed container web in pod oom_ns(uid-oom)
        Created: Created container: web
        Failed: Error: ErrImagePull
        Failed: Error: ImagePullBackOff
        Failed: Error: InvalidImageName
        Failed: Error: secret "absent" not found
        Failed: Error: this is no Wasm module
        Failed: Failed to pull image "missing:1": rpc error: code = NotFound desc = no such image
        FailedCreatePodSandBox: Failed to create pod sandbox: failed to get runtimeHandler for pod: RuntimeClass "kata" not found
        FailedMount: MountVolume.SetUp failed for volume "v" : configmap "absent" not found
        InspectFailed: Failed to apply default image tag "Bad Name": couldn't parse image name "Bad Name": invalid reference format: repository name (Bad Name) must be lowercase
        Pulled: Container image "crash:1" already present on machine
        Pulled: Container image "hungry:1" already present on machine
        Pulled: Successfully pulled image "broken:1" in 0s (0s including waiting). Image size: 1048576 bytes.
        Pulled: Successfully pulled image "crash:1" in 0s (0s including waiting). Image size: 1048576 bytes.
        Pulled: Successfully pulled image "hello:1" in 0s (0s including waiting). Image size: 1048576 bytes.
        Pulled: Successfully pulled image "hungry:1" in 0s (0s including waiting). Image size: 1048576 bytes.
        Pulling: Pulling image "broken:1"
        Pulling: Pulling image "crash:1"
        Pulling: Pulling image "hello:1"
        Pulling: Pulling image "hungry:1"
        Pulling: Pulling image "missing:1"
        Started: Started container web
    "#]],
    );
    // What was missing is found as soon as it is there.
    node.api.put("configmaps", json!({ "metadata": { "name": "absent", "namespace": "ns" }, "data": { "k": "v" } }));
    node.until("mount", "ready=true").await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn lost_events_and_a_lost_runtime_change_nothing() {
    let node = Node::new(&[("app:1", "exit 1 after 100s; then run")]);
    node.api.put("pods", web("p", "app:1"));
    node.until("p", "ready=true").await;
    node.runtime.set_down(true);
    sleep(Duration::from_secs(200)).await;
    let told = node.api.get("nodes", "", "n1").unwrap()["status"]["conditions"].to_string();
    assert!(told.contains("container runtime is down"), "{told}");
    node.runtime.set_down(false);
    let after = node.until("p", "restarts=1").await;
    expect!["p Running ready=true ip=127.42.16.2 [web running restarts=1 fake://container-000003]"].assert_eq(&after);
    node.runtime.cut_streams();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(node.status("p"), after);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn lost_answers_run_nothing_twice() {
    let node = Node::new(&[]);
    node.runtime.lose_answers("RunPodSandbox", 1);
    node.runtime.lose_answers("StartContainer", 1);
    node.api.put("pods", web("p", "hello:1"));
    node.until("p", "ready=true").await;
    sleep(Duration::from_secs(30)).await;
    check(&node.runtime.sandboxes(), expect![["ns/p uid-p ready\n"]]);
    assert_eq!(node.runtime.starts().into_values().collect::<Vec<_>>(), [1]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tokens_in_volumes_are_renewed() {
    let node = Node::new(&[]);
    let token = json!({ "serviceAccountToken": { "path": "token", "expirationSeconds": 3600 } });
    let mut spec = json!({ "containers": [{ "name": "web", "image": "hello:1" }] });
    spec["volumes"] = json!([{ "name": "t", "projected": { "sources": [token] } }]);
    node.api.put("pods", pod("p", spec));
    node.until("p", "ready=true").await;
    let file = node.dir.path().join("pods/uid-p/volumes/kubernetes.io~projected/t/token");
    let asked = |node: &Node| node.api.take_log().iter().filter(|line| line.ends_with("/token")).count();
    assert_eq!(asked(&node), 1);
    std::fs::remove_file(file.canonicalize().unwrap()).unwrap();
    sleep(Duration::from_secs(47 * 60)).await;
    assert!(asked(&node) == 0 && !file.exists());
    sleep(Duration::from_secs(2 * 60)).await;
    assert!(asked(&node) > 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "token-of-default");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn statuses_survive_a_lost_server() {
    let node = Node::new(&[("job:1", "exit 0 after 60s")]);
    node.api.put(
        "pods",
        pod("p", json!({ "restartPolicy": "Never", "containers": [{ "name": "web", "image": "job:1" }] })),
    );
    node.until("p", "ready=true").await;
    node.api.set_down(true);
    sleep(Duration::from_secs(300)).await;
    assert!(node.status("p").contains("Running"), "{}", node.status("p"));
    node.api.set_down(false);
    let after = node.until("p", "Succeeded").await;
    expect!["p Succeeded ready=false ip=127.42.16.2 [web exited 0 Completed restarts=0 fake://container-000002]"]
        .assert_eq(&after);
    // Somebody else's word about a status that is the node's does not stand.
    let mut pod = node.api.get("pods", "ns", "p").unwrap();
    pod["status"]["phase"] = "Running".into();
    node.api.put("pods", pod);
    node.until("p", "Succeeded").await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_pods_at_once_flow() {
    let node = Node::new(&[]);
    for n in 0..200 {
        node.api.put("pods", web(&format!("p{n}"), "hello:1"));
    }
    let began = Instant::now();
    for n in 0..200 {
        node.until(&format!("p{n}"), "ready=true").await;
    }
    // Nothing waits for anything but the runtime, which takes no time here.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for n in 0..200 {
        node.api.delete_pod("ns", &format!("p{n}"), 30);
    }
    for n in 0..200 {
        node.until(&format!("p{n}"), "gone").await;
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.runtime.sandboxes(), Vec::<String>::new());
    assert_eq!(node.agent.pods().len(), 0);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_cluster_does_not_know_is_removed() {
    let mut node = Node::new(&[]);
    node.api.put("pods", web("p", "hello:1"));
    node.until("p", "ready=true").await;
    node.scope.abort().await;
    std::fs::remove_file(node.dir.path().join("desired/uid-p.json")).unwrap();
    node.api.remove("pods", "ns", "p");
    // The same name again, with another UID, is another pod.
    let mut again = web("p", "hello:1");
    again["metadata"]["uid"] = "uid-p2".into();
    node.api.put("pods", again);
    node.restart().await;
    node.until("p", "ready=true").await;
    sleep(Duration::from_secs(60)).await;
    check(
        &node.runtime.sandboxes(),
        expect![[r#"
        ns/p uid-p2 ready
    "#]],
    );
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_joins_a_pod_that_runs() {
    let mut node = Node::new(&[("busybox:1", "exit 0 after 60s")]);
    node.api.put("pods", web("p", "web:1"));
    node.until("p", "ready=true").await;
    let mut object = node.api.get("pods", "ns", "p").unwrap();
    object["spec"]["ephemeralContainers"] = json!([{"name": "debugger", "image": "busybox:1"}]);
    node.api.put("pods", object);
    let state = |node: &Node| {
        let status = &node.api.get("pods", "ns", "p").unwrap()["status"]["ephemeralContainerStatuses"][0]["state"];
        status.as_object().map(|state| state.keys().cloned().collect::<String>()).unwrap_or_default()
    };
    sleep(Duration::from_secs(10)).await;
    assert_eq!(state(&node), "running");
    node.restart().await;
    sleep(Duration::from_secs(100)).await;
    assert_eq!(state(&node), "terminated");
    assert!(node.status("p").contains("ready=true"));
    node.restart().await;
    sleep(Duration::from_secs(100)).await;
    assert_eq!(node.runtime.starts()[&("uid-p".to_owned(), "debugger".to_owned())], 1);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_half_failed_leaves_nothing_behind() {
    let node = Node::new(&[]);
    node.runtime.fail("PodSandboxStatus", 1, "busy");
    node.runtime.lose_answers("CreateContainer", 1);
    node.api.put("pods", web("p", "hello:1"));
    node.until("p", "ready=true").await;
    assert_eq!(node.runtime.sandboxes().len(), 1, "{:?}", node.runtime.sandboxes());
    let calls = node.runtime.take_calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("CreateContainer")).count(), 1, "{calls:#?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_while_volumes_are_filled_is_not_missed() {
    let node = Node::new(&[]);
    let map = |text: &str| json!({ "metadata": { "name": "m", "namespace": "ns" }, "data": { "key": text } });
    node.api.put("configmaps", map("old"));
    node.api.set_token_wait(Duration::from_secs(5));
    let volumes = json!([
        { "name": "map", "configMap": { "name": "m" } },
        { "name": "token", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } },
    ]);
    node.api.put("pods", pod("p", json!({ "volumes": volumes, "containers": [{ "name": "web", "image": "w:1" }] })));
    sleep(Duration::from_secs(2)).await;
    node.api.put("configmaps", map("new"));
    node.until("p", "ready=true").await;
    sleep(Duration::from_secs(10)).await;
    let file = node.dir.path().join("pods/uid-p/volumes/kubernetes.io~configmap/map/key");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "new");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_conflict_does_not_lose_a_status() {
    let node = Node::new(&[]);
    node.agent.ready().await;
    node.api.set_conflicts(2);
    node.api.put("pods", web("p", "hello:1"));
    node.until("p", "ready=true").await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_task_of_all_pods_may_begin_again() {
    let node = Node::new(&[]);
    node.api.put("pods", web("p", "hello:1"));
    node.until("p", "ready=true").await;
    node.agent.pods.start_recorded();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(node.runtime.starts().values().sum::<u64>(), 1);
    node.api.delete_pod("ns", "p", 1);
    node.until("p", "gone").await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.runtime.sandboxes(), Vec::<String>::new());
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn logs_are_those_of_the_pod_that_is_there() {
    let node = Node::new(&[("slow:1", "stop ignored; log x")]);
    node.api.put("pods", web("p", "slow:1"));
    node.until("p", "ready=true").await;
    // Replaced under the same name while the old one still ends.
    node.api.remove("pods", "ns", "p");
    let mut next = web("p", "hello:1");
    next["metadata"]["uid"] = "uid-q".into();
    node.api.put("pods", next);
    node.until("p", "ready=true").await;
    std::fs::create_dir_all(node.dir.path().join("logs/ns_p_uid-q/web")).unwrap();
    std::fs::write(node.dir.path().join("logs/ns_p_uid-q/web/0.log"), "").unwrap();
    let log = node.agent.pods.container_log("ns", "p", "web", false).unwrap();
    assert!(log.path.display().to_string().contains("uid-q"), "{log:?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_waits_for_its_node() {
    let api = FakeApi::new();
    let clock = TokioClock::shared(BASE.parse().unwrap());
    let scope = TaskScope::root();
    let client = api.client();
    scope.spawn("lease", OnExit::Finish, move |cancel| renew(client.clone(), clock.clone(), "n1".into(), cancel));
    sleep(Duration::from_secs(5)).await;
    assert!(api.get("leases", "kube-node-lease", "n1").is_none());
    api.put("nodes", json!({ "metadata": { "name": "n1", "uid": "u7" } }));
    sleep(Duration::from_secs(10)).await;
    let lease = api.get("leases", "kube-node-lease", "n1").unwrap();
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], "u7");
    scope.shutdown().await;
}

/// A network that cannot be started with the first pod CIDR.
struct Picky;

impl NodeNetwork for Picky {
    fn start(
        &self,
        node: NodeAddressing,
        _scope: TaskScope,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<NetworkReady, String>> + Send + '_>> {
        let fits = node.pod_cidr.to_string() != "127.42.16.0/20";
        Box::pin(async move { if fits { Ok(NetworkReady::default()) } else { Err("in use".to_owned()) } })
    }
}

#[tokio::test(start_paused = true)]
async fn a_network_that_cannot_start_takes_the_next_cidr() {
    let runtime = FakeRuntime::new(0);
    let router = RuntimeRouter::new(runtime.endpoint());
    let node = Node::with(runtime, router, Some(Arc::new(Picky)));
    sleep(Duration::from_secs(30)).await;
    let mut object = node.api.get("nodes", "", "n1").unwrap();
    object["spec"]["podCIDR"] = "127.42.32.0/20".into();
    node.api.put("nodes", object);
    timeout(Duration::from_secs(60), node.agent.ready()).await.unwrap();
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_hangs_does_not_hold_up_another() {
    let (one, other) = (FakeRuntime::new(0).scripted("hung:1", "start never"), FakeRuntime::new(0));
    let router = RuntimeRouter::new(one.endpoint().named("one")).with_handler("wasm", other.endpoint().named("two"));
    let node = Node::with(one, router, None);
    node.api.put("runtimeclasses", json!({ "metadata": { "name": "wasm" }, "handler": "wasm" }));
    for number in 0..40 {
        node.api.put("pods", web(&format!("hung-{number}"), "hung:1"));
    }
    sleep(Duration::from_secs(5)).await;
    let spec = json!({ "runtimeClassName": "wasm", "containers": [{ "name": "web", "image": "hello:1" }] });
    node.api.put("pods", pod("p", spec));
    timeout(Duration::from_secs(10), node.until("p", "ready=true")).await.unwrap();
    node.scope.abort().await;
}

/// Which of two runtimes a pod of this image runs in: the default one, or the one that claims its own kind.
async fn runs_in(image: &str, policy: &str) -> &'static str {
    let oci = FakeRuntime::new(0).scripted("wasm:1", "foreign").with_image("cached:1");
    let wasm = FakeRuntime::new(0)
        .scripted("oci:1", "foreign")
        .scripted("gone:1", "pull fails gone")
        .scripted("late:1", "foreign; pull fails 2 times Unknown: no route to host")
        .scripted("full:1", "foreign; pull fails 2 times Internal: no space left on device")
        .with_image("local:1");
    let router = RuntimeRouter::new(oci.endpoint().named("oci"));
    let router = router.with_handler("wasm", wasm.endpoint().named("wasm")).with_claimant("wasm");
    let node = Node::with(oci.clone(), router, None);
    let container = json!({ "name": "web", "image": image, "imagePullPolicy": policy });
    node.api.put("pods", pod("p", json!({ "containers": [container] })));
    node.until("p", "ready=true").await;
    let found = match (oci.live().len(), wasm.live().len()) {
        (1, 0) => "oci",
        (0, 1) => "wasm",
        _ => "?",
    };
    node.api.delete_pod("ns", "p", 1);
    node.until("p", "gone").await;
    assert_eq!((oci.sandboxes().len(), wasm.sandboxes().len()), (0, 0));
    node.stop().await;
    found
}

#[tokio::test(start_paused = true)]
async fn an_image_finds_the_runtime_of_its_kind() {
    assert_eq!(runs_in("wasm:1", "IfNotPresent").await, "wasm");
    assert_eq!(runs_in("local:1", "Never").await, "wasm");
    assert_eq!(runs_in("oci:1", "IfNotPresent").await, "oci");
    assert_eq!(runs_in("cached:1", "Never").await, "oci");
    assert_eq!(runs_in("gone:1", "Always").await, "oci");
    assert_eq!(runs_in("late:1", "Always").await, "oci");
    assert_eq!(runs_in("full:1", "Always").await, "oci");
}
