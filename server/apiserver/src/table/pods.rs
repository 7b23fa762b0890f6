//! Owns the row of a pod: what its STATUS, READY and RESTARTS say follows upstream's printer case by case, because
//! people and scripts read them.

use std::collections::HashMap;

use coracle_api::object::{ConvertError, Object};
use jiff::Timestamp;
use serde::Deserialize;

use super::duration::since;
use super::view::{Condition, Container, View, is_true, or};
use super::{Context, Row, cells, parse};

type Pod = View<Spec, Status>;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: String,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    readiness_gates: Vec<Gate>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Gate {
    condition_type: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    reason: String,
    conditions: Vec<Condition>,
    init_container_statuses: Vec<ContainerStatus>,
    container_statuses: Vec<ContainerStatus>,
    nominated_node_name: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    ready: bool,
    started: Option<bool>,
    restart_count: i64,
    state: State,
    last_state: State,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    waiting: Option<Waiting>,
    running: Option<super::view::Nothing>,
    terminated: Option<Terminated>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Terminated {
    exit_code: i64,
    signal: i64,
    reason: String,
    finished_at: Option<Timestamp>,
}

impl Terminated {
    fn text(&self) -> String {
        if !self.reason.is_empty() {
            self.reason.clone()
        } else if self.signal != 0 {
            format!("Signal:{}", self.signal)
        } else {
            format!("ExitCode:{}", self.exit_code)
        }
    }
}

/// What the containers' states add up to.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn restarted(&mut self, container: &ContainerStatus) {
        self.restarts += container.restart_count;
        let ended = container.last_state.terminated.as_ref().and_then(|terminated| terminated.finished_at);
        self.last_restart = self.last_restart.max(ended);
    }
}

pub(super) fn pod(object: &Object, context: &Context) -> Result<Row, ConvertError> {
    let pod: Pod = parse(object)?;
    let mut summary = summarize(&pod);
    if pod.metadata.deletion_timestamp.is_some() {
        if pod.status.reason == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(pod.status.phase.as_str(), "Failed" | "Succeeded") {
            summary.reason = "Terminating".to_owned();
        }
    }
    let mut restarts = summary.restarts.to_string();
    if summary.restarts != 0 && summary.last_restart.is_some() {
        restarts += &format!(" ({} ago)", since(summary.last_restart, context.now));
    }
    let gates = readiness_gates(&pod);
    let ip = pod.status.pod_ips.into_iter().next().map(|first| first.ip).unwrap_or_default();
    let mut row = cells![
        pod.metadata.name,
        format!("{}/{}", summary.ready, summary.total),
        summary.reason,
        restarts,
        since(pod.metadata.creation_timestamp, context.now),
        or(ip, "<none>"),
        or(pod.spec.node_name, "<none>"),
        or(pod.status.nominated_node_name, "<none>"),
        gates,
    ];
    row.completed = match pod.status.phase.as_str() {
        "Succeeded" => Some(("Succeeded", "The pod has completed successfully.")),
        "Failed" => Some(("Failed", "The pod failed.")),
        _unfinished => None,
    };
    Ok(row)
}

fn summarize(pod: &Pod) -> Summary {
    let status = &pod.status;
    let mut summary = Summary { reason: status.phase.clone(), total: pod.spec.containers.len(), ..Summary::default() };
    if !status.reason.is_empty() {
        summary.reason.clone_from(&status.reason);
    }
    if status.conditions.iter().any(|c| c.kind == "PodScheduled" && c.reason == "SchedulingGated") {
        summary.reason = "SchedulingGated".to_owned();
    }
    let sidecars: HashMap<&str, bool> = pod
        .spec
        .init_containers
        .iter()
        .map(|container| (container.name.as_str(), container.restart_policy.as_deref() == Some("Always")))
        .collect();
    summary.total += sidecars.values().filter(|sidecar| **sidecar).count();

    let mut of_sidecars = Summary::default();
    let initializing = initialize(pod, &sidecars, &mut summary, &mut of_sidecars);
    if !initializing || is_true(&status.conditions, "Initialized") {
        summary.restarts = of_sidecars.restarts;
        summary.last_restart = of_sidecars.last_restart;
        run(status, &mut summary);
    }
    summary
}

/// Looks at the init containers up to the first that holds the others up; says whether one does.
fn initialize(pod: &Pod, sidecars: &HashMap<&str, bool>, summary: &mut Summary, of_sidecars: &mut Summary) -> bool {
    for (at, container) in pod.status.init_container_statuses.iter().enumerate() {
        let sidecar = sidecars.get(container.name.as_str()).copied().unwrap_or_default();
        summary.restarted(container);
        if sidecar {
            of_sidecars.restarted(container);
        }
        if container.state.terminated.as_ref().is_some_and(|terminated| terminated.exit_code == 0) {
            continue;
        }
        if sidecar && container.started == Some(true) {
            summary.ready += usize::from(container.ready);
            continue;
        }
        let waiting = container.state.waiting.as_ref().map(|waiting| waiting.reason.as_str());
        summary.reason = match (&container.state.terminated, waiting) {
            (Some(terminated), _) => format!("Init:{}", terminated.text()),
            (None, Some(reason)) if !reason.is_empty() && reason != "PodInitializing" => format!("Init:{reason}"),
            (None, Some(_) | None) => format!("Init:{at}/{}", pod.spec.init_containers.len()),
        };
        return true;
    }
    false
}

/// Looks at the app containers, the last one first: the first one's word counts.
fn run(status: &Status, summary: &mut Summary) {
    let mut running = false;
    let mut error = None;
    for container in status.container_statuses.iter().rev() {
        summary.restarted(container);
        let waiting = container.state.waiting.as_ref().filter(|waiting| !waiting.reason.is_empty());
        match (waiting, &container.state.terminated) {
            (Some(waiting), _) => summary.reason.clone_from(&waiting.reason),
            (None, Some(terminated)) => {
                summary.reason = terminated.text();
                if terminated.exit_code != 0 {
                    error = Some(summary.reason.clone());
                }
            }
            (None, None) => {
                if container.ready && container.state.running.is_some() {
                    running = true;
                    summary.ready += 1;
                }
            }
        }
    }
    // One that still runs outweighs those that are through.
    if summary.reason == "Completed" {
        if running && is_true(&status.conditions, "Ready") {
            summary.reason = "Running".to_owned();
        } else if let Some(error) = error {
            summary.reason = error;
        } else if running {
            summary.reason = "NotReady".to_owned();
        }
    }
}

fn readiness_gates(pod: &Pod) -> String {
    let gates = &pod.spec.readiness_gates;
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates
        .iter()
        .filter(|gate| {
            let condition = pod.status.conditions.iter().find(|condition| condition.kind == gate.condition_type);
            condition.is_some_and(|condition| condition.status == "True")
        })
        .count();
    format!("{open}/{}", gates.len())
}
