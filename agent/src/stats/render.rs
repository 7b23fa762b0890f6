//! From what was counted to kubelet's two forms of it. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use coracle_client::Pod;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::HostUsage;

/// One container as its runtime counts it.
#[derive(Debug, Clone, Default)]
pub(super) struct ContainerUsage {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) name: String,
    pub(super) at_ns: i64,
    pub(super) cpu_ns: Option<u64>,
    pub(super) nano_cores: Option<u64>,
    pub(super) working_set_bytes: Option<u64>,
    pub(super) usage_bytes: Option<u64>,
    pub(super) rss_bytes: Option<u64>,
    pub(super) disk_bytes: Option<u64>,
}

/// All that was counted.
pub(super) struct Usage {
    pub(super) node: Arc<str>,
    pub(super) now: Timestamp,
    pub(super) host: Option<HostUsage>,
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) containers: Vec<ContainerUsage>,
    /// Something could not be asked.
    pub(super) failed: bool,
}

/// A pod with its containers that run.
struct PodUsage<'a> {
    pod: &'a Pod,
    containers: Vec<(&'a ContainerUsage, Timestamp)>,
}

impl Usage {
    /// Only containers that a pod's status shows as running: what a runtime has beside them is not that pod's any more.
    fn by_pod(&self) -> Vec<PodUsage<'_>> {
        let mut by_name: BTreeMap<(&str, &str), Vec<&ContainerUsage>> = BTreeMap::new();
        for container in &self.containers {
            by_name.entry((&container.namespace, &container.pod)).or_default().push(container);
        }
        let pods = self.pods.iter().filter_map(|pod| {
            let key = (pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?);
            let started = started(pod);
            let own = by_name.get(&key)?.iter();
            let containers: Vec<_> = own.filter_map(|own| Some((*own, *started.get(own.name.as_str())?))).collect();
            (!containers.is_empty()).then_some(PodUsage { pod, containers })
        });
        let mut pods: Vec<PodUsage<'_>> = pods.collect();
        pods.sort_by_key(|usage| (usage.pod.metadata.namespace.clone(), usage.pod.metadata.name.clone()));
        pods
    }
}

/// When each container that runs was started.
fn started(pod: &Pod) -> BTreeMap<&str, Timestamp> {
    let Some(status) = &pod.status else { return BTreeMap::new() };
    let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let all = all.into_iter().flatten().flatten();
    all.filter_map(|status| {
        let running = status.state.as_ref()?.running.as_ref()?;
        Some((status.name.as_str(), running.started_at.as_ref()?.0))
    })
    .collect()
}

/// Name, type and help of what `/metrics/resource` has, in its order.
const FAMILIES: [(&str, &str, &str); 8] = [
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds"),
    ("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes"),
    ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds"),
    ("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds"),
    ("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes"),
    ("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds"),
    ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes"),
    ("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise"),
];

pub(super) fn resource_metrics(usage: &Usage) -> String {
    let mut lines: BTreeMap<&str, String> = BTreeMap::new();
    let mut put = |family: &'static str, labels: &str, value: String, at_ms: Option<i64>| {
        let text = lines.entry(family).or_default();
        let _ = match at_ms {
            Some(at) => writeln!(text, "{family}{labels} {value} {at}"),
            None => writeln!(text, "{family}{labels} {value}"),
        };
    };
    for PodUsage { pod, containers } in usage.by_pod() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        let (mut cpu, mut memory, mut latest) = (0, 0, 0);
        for (container, started) in &containers {
            let labels = format!("{{container=\"{}\",namespace=\"{namespace}\",pod=\"{pod}\"}}", container.name);
            let at = container.at_ns / 1_000_000;
            latest = latest.max(at);
            if let Some(ns) = container.cpu_ns {
                cpu += ns;
                put("container_cpu_usage_seconds_total", &labels, seconds(ns), Some(at));
            }
            if let Some(bytes) = container.working_set_bytes {
                memory += bytes;
                put("container_memory_working_set_bytes", &labels, bytes.to_string(), Some(at));
            }
            let since = u64::try_from(started.as_nanosecond()).unwrap_or(0);
            put("container_start_time_seconds", &labels, seconds(since), None);
        }
        let labels = format!("{{namespace=\"{namespace}\",pod=\"{pod}\"}}");
        put("pod_cpu_usage_seconds_total", &labels, seconds(cpu), Some(latest));
        put("pod_memory_working_set_bytes", &labels, memory.to_string(), Some(latest));
    }
    if let Some(host) = &usage.host {
        let at = usage.now.as_millisecond();
        put("node_cpu_usage_seconds_total", "", seconds(host.cpu_ns), Some(at));
        put("node_memory_working_set_bytes", "", host.working_set_bytes.to_string(), Some(at));
    }
    put("resource_scrape_error", "", u8::from(usage.failed).to_string(), None);
    let mut text = String::new();
    for (family, kind, help) in FAMILIES {
        if let Some(lines) = lines.get(family) {
            let _ = write!(text, "# HELP {family} [STABLE] {help}\n# TYPE {family} {kind}\n{lines}");
        }
    }
    text
}

fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// kubelet's `stats.Summary`, as far as it is known here.
pub(super) fn summary(usage: &Usage) -> Value {
    let time = usage.now.to_string();
    let pods: Vec<Value> = usage.by_pod().iter().map(|usage| pod_summary(usage, &time)).collect();
    let mut node = json!({ "nodeName": &*usage.node });
    if let (Some(host), Some(fields)) = (&usage.host, node.as_object_mut()) {
        let boot = Timestamp::from_second(host.boot_time).map(|boot| boot.to_string()).unwrap_or_default();
        fields.insert("startTime".to_owned(), Value::from(boot));
        fields.insert("cpu".to_owned(), json!({ "time": time, "usageCoreNanoSeconds": host.cpu_ns }));
        let memory = json!({
            "time": time,
            "availableBytes": host.available_bytes,
            "usageBytes": host.usage_bytes,
            "workingSetBytes": host.working_set_bytes,
        });
        fields.insert("memory".to_owned(), memory);
    }
    json!({ "node": node, "pods": pods })
}

fn pod_summary(PodUsage { pod, containers }: &PodUsage<'_>, time: &str) -> Value {
    let sum = |of: fn(&ContainerUsage) -> Option<u64>| containers.iter().filter_map(|(own, _)| of(own)).sum::<u64>();
    let list: Vec<Value> = containers
        .iter()
        .map(|(own, started)| {
            let time = Timestamp::from_nanosecond(i128::from(own.at_ns)).map(|at| at.to_string()).unwrap_or_default();
            json!({
                "name": own.name,
                "startTime": started.to_string(),
                "cpu": { "time": time, "usageNanoCores": own.nano_cores, "usageCoreNanoSeconds": own.cpu_ns },
                "memory": {
                    "time": time,
                    "usageBytes": own.usage_bytes,
                    "workingSetBytes": own.working_set_bytes,
                    "rssBytes": own.rss_bytes,
                },
                "rootfs": { "time": time, "usedBytes": own.disk_bytes },
            })
        })
        .collect();
    let metadata = &pod.metadata;
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0.to_string());
    json!({
        "podRef": { "name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid },
        "startTime": started,
        "containers": list,
        "cpu": {
            "time": time,
            "usageNanoCores": sum(|own| own.nano_cores),
            "usageCoreNanoSeconds": sum(|own| own.cpu_ns),
        },
        "memory": {
            "time": time,
            "usageBytes": sum(|own| own.usage_bytes),
            "workingSetBytes": sum(|own| own.working_set_bytes),
            "rssBytes": sum(|own| own.rss_bytes),
        },
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn usage() -> Usage {
        let pod = json!({
            "metadata": { "name": "web", "namespace": "default", "uid": "u" },
            "status": { "startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
                { "name": "main", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                  "state": { "running": { "startedAt": "2026-01-01T00:00:01Z" } } },
                { "name": "over", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                  "state": { "waiting": {} } },
            ] },
        });
        let container = |pod: &str, name: &str| ContainerUsage {
            namespace: "default".to_owned(),
            pod: pod.to_owned(),
            name: name.to_owned(),
            at_ns: 1_767_225_661_500_000_000,
            cpu_ns: Some(1_250_000_000),
            nano_cores: Some(20_000_000),
            working_set_bytes: Some(4096),
            usage_bytes: Some(4096),
            ..ContainerUsage::default()
        };
        Usage {
            node: "n1".into(),
            now: "2026-01-01T00:01:02Z".parse().expect("a time"),
            host: Some(HostUsage {
                cpu_ns: 5_500_000_000,
                usage_bytes: 2000,
                working_set_bytes: 1000,
                available_bytes: 3000,
                boot_time: 1_767_225_000,
            }),
            pods: vec![Arc::new(serde_json::from_value(pod).expect("a pod"))],
            containers: vec![container("web", "main"), container("web", "over"), container("gone", "main")],
            failed: false,
        }
    }

    #[test]
    fn metrics_name_running_containers_their_pods_and_the_node() {
        let text = resource_metrics(&usage());
        let lines: String =
            text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        expect![[r#"
            container_cpu_usage_seconds_total{container="main",namespace="default",pod="web"} 1.250000000 1767225661500
            container_memory_working_set_bytes{container="main",namespace="default",pod="web"} 4096 1767225661500
            container_start_time_seconds{container="main",namespace="default",pod="web"} 1767225601.000000000
            node_cpu_usage_seconds_total 5.500000000 1767225662000
            node_memory_working_set_bytes 1000 1767225662000
            pod_cpu_usage_seconds_total{namespace="default",pod="web"} 1.250000000 1767225661500
            pod_memory_working_set_bytes{namespace="default",pod="web"} 4096 1767225661500
            resource_scrape_error 0
        "#]]
        .assert_eq(&lines);
        assert!(text.starts_with("# HELP container_cpu_usage_seconds_total [STABLE] Cumulative"));
    }

    #[test]
    fn the_summary_has_the_node_and_its_pods() {
        let text = serde_json::to_string_pretty(&summary(&usage())).expect("it is JSON");
        expect![[r#"
            {
              "node": {
                "cpu": {
                  "time": "2026-01-01T00:01:02Z",
                  "usageCoreNanoSeconds": 5500000000
                },
                "memory": {
                  "availableBytes": 3000,
                  "time": "2026-01-01T00:01:02Z",
                  "usageBytes": 2000,
                  "workingSetBytes": 1000
                },
                "nodeName": "n1",
                "startTime": "2025-12-31T23:50:00Z"
              },
              "pods": [
                {
                  "containers": [
                    {
                      "cpu": {
                        "time": "2026-01-01T00:01:01.5Z",
                        "usageCoreNanoSeconds": 1250000000,
                        "usageNanoCores": 20000000
                      },
                      "memory": {
                        "rssBytes": null,
                        "time": "2026-01-01T00:01:01.5Z",
                        "usageBytes": 4096,
                        "workingSetBytes": 4096
                      },
                      "name": "main",
                      "rootfs": {
                        "time": "2026-01-01T00:01:01.5Z",
                        "usedBytes": null
                      },
                      "startTime": "2026-01-01T00:00:01Z"
                    }
                  ],
                  "cpu": {
                    "time": "2026-01-01T00:01:02Z",
                    "usageCoreNanoSeconds": 1250000000,
                    "usageNanoCores": 20000000
                  },
                  "memory": {
                    "rssBytes": 0,
                    "time": "2026-01-01T00:01:02Z",
                    "usageBytes": 4096,
                    "workingSetBytes": 4096
                  },
                  "podRef": {
                    "name": "web",
                    "namespace": "default",
                    "uid": "u"
                  },
                  "startTime": "2026-01-01T00:00:00Z"
                }
              ]
            }"#]]
        .assert_eq(&text);
    }
}
