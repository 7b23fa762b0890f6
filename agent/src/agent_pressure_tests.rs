//! An agent whose host runs out of things.

use std::io;
use std::path::Path;

use coracle_cri::v1::image_service_server::ImageService as _;
use k8s_openapi::api::core::v1::PodStatus;
use parking_lot::Mutex;

use super::*;
use crate::housekeeping::{HousekeepingConfig, Level, Levels};

/// A host whose levels are set by hand.
#[derive(Default)]
struct Host {
    levels: Mutex<Levels>,
    images: Mutex<Level>,
}

impl Gauge for Host {
    fn levels(&self, _data_dir: &Path) -> io::Result<Option<Levels>> {
        Ok(Some(*self.levels.lock()))
    }

    fn disk(&self, path: &Path) -> io::Result<Option<Level>> {
        assert_eq!(path, Path::new("/fake/images"));
        Ok(Some(*self.images.lock()))
    }
}

fn half(capacity: u64) -> Level {
    Level { available: capacity / 2, capacity }
}

fn node(scripts: &[(&str, &str)]) -> (Node, Arc<Host>) {
    let runtime = scripts.iter().fold(FakeRuntime::new(0), |fake, (image, script)| fake.scripted(image, script));
    node_of(runtime, HousekeepingConfig::default())
}

fn node_of(runtime: FakeRuntime, housekeeping: HousekeepingConfig) -> (Node, Arc<Host>) {
    let router = RuntimeRouter::new(runtime.endpoint());
    let host = Arc::new(Host::default());
    let all = half(100 << 30);
    *host.levels.lock() = Levels { memory: half(1 << 30), disk: all, inodes: all, processes: all };
    *host.images.lock() = all;
    (Node::on(runtime, router, None, host.clone(), housekeeping), host)
}

impl Node {
    fn condition(&self, kind: &str) -> String {
        let node: k8s_openapi::api::core::v1::Node =
            serde_json::from_value(self.api.get("nodes", "", "n1").unwrap()).unwrap();
        let conditions = node.status.unwrap().conditions.unwrap();
        let found = conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
        format!("{} {}", found.status, found.reason.unwrap())
    }

    fn pod(&self, name: &str) -> PodStatus {
        serde_json::from_value::<Pod>(self.api.get("pods", "ns", name).unwrap()).unwrap().status.unwrap()
    }

    async fn images(&self) -> Vec<String> {
        let listed = self.runtime.list_images(coracle_cri::Request::new(Default::default())).await.unwrap();
        listed.into_inner().images.into_iter().flat_map(|image| image.repo_tags).collect()
    }

    async fn until_failed(&self, name: &str) -> PodStatus {
        self.until(name, "Failed").await;
        self.pod(name)
    }
}

#[tokio::test(start_paused = true)]
async fn memory_that_runs_out_ends_the_greediest_pod() {
    let (node, host) = node(&[("small:1", "memory 1048576"), ("large:1", "memory 838860800")]);
    node.api.put("pods", web("small", "small:1"));
    node.api.put("pods", web("large", "large:1"));
    node.until("small", "ready=true").await;
    node.until("large", "ready=true").await;
    host.levels.lock().memory.available = 50 << 20;
    let gone = node.until_failed("large").await;
    host.levels.lock().memory.available = 500 << 20;
    let message = "The node was low on resource: memory. Threshold quantity: 102400Ki, available: 51200Ki. Container web was \
                   using 819200Ki, request is 0, has larger consumption of memory. ";
    assert_eq!((gone.reason.as_deref(), gone.message.as_deref()), (Some("Evicted"), Some(message)));
    let target = gone.conditions.unwrap().into_iter().find(|condition| condition.type_ == "DisruptionTarget").unwrap();
    assert_eq!((&*target.status, target.reason.as_deref()), ("True", Some("TerminationByKubelet")));
    assert_eq!(node.condition("MemoryPressure"), "True KubeletHasInsufficientMemory");
    // What asks for nothing may not begin now.
    node.api.put("pods", web("late", "small:1"));
    let refused = node.until_failed("late").await;
    let message = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!((refused.reason.as_deref(), refused.message.as_deref()), (Some("Evicted"), Some(message)));
    sleep(Duration::from_secs(400)).await;
    assert_eq!(node.condition("MemoryPressure"), "False KubeletHasSufficientMemory");
    assert!(node.status("small").contains("ready=true"));
    let told = node.api.told();
    for event in
        ["EvictionThresholdMet: Attempting to reclaim memory", "NodeHasInsufficientMemory: Node n1 status is now"]
    {
        assert!(told.iter().any(|line| line.starts_with(event)), "{event}: {told:#?}");
    }
    assert_eq!(told.iter().filter(|line| line.starts_with("Evicted: The node was low")).count(), 1, "{told:#?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fills_up_loses_the_images_nobody_uses() {
    let (node, host) = node(&[]);
    node.api.put("pods", web("p", "used:1"));
    node.api.put("pods", web("q", "left:1"));
    node.until("p", "ready=true").await;
    node.until("q", "ready=true").await;
    node.api.delete_pod("ns", "q", 1);
    node.until("q", "gone").await;
    sleep(Duration::from_secs(700)).await;
    node.runtime.take_calls();
    *host.images.lock() = Level { available: 10 << 30, capacity: 100 << 30 };
    sleep(Duration::from_secs(700)).await;
    assert_eq!(node.images().await, ["used:1"]);
    let told = node.api.told();
    assert!(told.iter().any(|line| line.starts_with("FreeDiskSpaceFailed: Insufficient free disk space")), "{told:#?}");
    assert!(node.status("p").contains("ready=true"));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn images_that_nobody_has_used_for_long_go_although_there_is_room() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let housekeeping = HousekeepingConfig { image_gc_max_age: Some(minutes(60)), ..HousekeepingConfig::default() };
    let (node, _host) = node_of(FakeRuntime::new(0).with_image("idle:1"), housekeeping);
    node.api.put("pods", web("p", "used:1"));
    node.api.put("pods", web("q", "left:1"));
    node.until("p", "ready=true").await;
    node.until("q", "ready=true").await;
    sleep(minutes(40)).await;
    node.api.delete_pod("ns", "q", 1);
    node.until("q", "gone").await;
    sleep(minutes(15)).await;
    assert_eq!(node.images().await, ["idle:1", "left:1", "used:1"]);
    sleep(minutes(15)).await;
    assert_eq!(node.images().await, ["left:1", "used:1"]);
    sleep(minutes(40)).await;
    assert_eq!(node.images().await, ["used:1"]);
    assert!(node.status("p").contains("ready=true"));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_outgrows_its_limit_ends_its_pod() {
    let (node, _host) = node(&[]);
    let spec = json!({
        "containers": [{ "name": "web", "image": "hello:1" }],
        "volumes": [{ "name": "tmp", "emptyDir": { "sizeLimit": "1Mi" } }],
    });
    node.api.put("pods", pod("p", spec));
    node.until("p", "ready=true").await;
    let file = node.dir.path().join("pods/uid-p/volumes/kubernetes.io~empty-dir/tmp/file");
    std::fs::write(file, vec![7; 2 << 20]).unwrap();
    let gone = node.until_failed("p").await;
    let message = "Usage of EmptyDir volume \"tmp\" exceeds the limit \"1Mi\". ";
    assert_eq!((gone.reason.as_deref(), gone.message.as_deref()), (Some("Evicted"), Some(message)));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_runs_gets_more_memory() {
    let (mut node, _host) = node(&[]);
    let resources = |amount: &str| json!({ "limits": { "memory": amount }, "requests": { "memory": amount } });
    node.api.put("pods", web("p", "hello:1"));
    node.until("p", "ready=true").await;
    let resize = |node: &Node, amount: &str| {
        let mut object = node.api.get("pods", "ns", "p").unwrap();
        object["spec"]["containers"][0]["resources"] = resources(amount);
        node.api.put("pods", object);
    };
    resize(&node, "64Mi");
    sleep(Duration::from_secs(1)).await;
    let status = node.pod("p").container_statuses.unwrap().remove(0);
    assert_eq!(serde_json::to_value(status.resources).unwrap(), resources("64Mi"));
    assert_eq!(serde_json::to_value(status.allocated_resources).unwrap(), json!({ "memory": "64Mi" }));
    let calls = node.runtime.take_calls();
    assert!(calls.iter().any(|call| call.ends_with(&format!("memory={}", 64 << 20))), "{calls:#?}");
    // More than the node has.
    resize(&node, "64Gi");
    sleep(Duration::from_secs(1)).await;
    let pending = |node: &Node| node.pod("p").conditions.unwrap().into_iter().find(|c| c.type_ == "PodResizePending");
    let why = pending(&node).unwrap();
    assert_eq!(why.reason.as_deref(), Some("Infeasible"));
    assert!(
        why.message.as_deref().unwrap().starts_with("Node didn't have enough capacity: memory, requested: 64Gi"),
        "{why:?}"
    );
    // While the agent was away something else was asked for.
    node.scope.abort().await;
    resize(&node, "32Mi");
    node.restart().await;
    sleep(Duration::from_secs(5)).await;
    let calls = node.runtime.take_calls();
    assert!(calls.iter().any(|call| call.ends_with(&format!("memory={}", 32 << 20))), "{calls:#?}");
    assert_eq!(pending(&node), None);
    assert_eq!(node.runtime.starts().values().sum::<u64>(), 1);
    node.stop().await;
}
