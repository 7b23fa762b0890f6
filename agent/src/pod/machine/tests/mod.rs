//! The machine driven by a script: whatever it wants done succeeds at once, unless the script says otherwise.

mod ending;
mod resizing;
mod starting;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::Pod;
use expect_test::Expect;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerState;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;

const BASE: i64 = 1_767_225_600;

struct Drive {
    machine: PodMachine,
    at: Duration,
    containers: u32,
    /// Effects that fail, as `image web` or `create web`, with their messages; each once.
    fails: Vec<(String, String)>,
    /// Effects that are left unanswered.
    held: BTreeSet<String>,
    /// The machine's makes when the runtime was asked, if that was before it answers.
    asked: Option<u64>,
    out: String,
}

impl Drive {
    fn now(&self) -> Now {
        now(self.at)
    }

    fn give(&mut self, input: Input) {
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            let input = inputs.remove(0);
            for effect in self.machine.on(input, self.now()) {
                writeln!(self.out, "{}s {effect}", self.at.as_secs()).unwrap();
                inputs.extend(self.answer(effect));
            }
        }
    }

    fn fails(&mut self, what: &str) -> Option<String> {
        let at = self.fails.iter().position(|(known, _)| known == what)?;
        Some(self.fails.remove(at).1)
    }

    fn answer(&mut self, effect: Effect) -> Option<Input> {
        let key = match &effect {
            Effect::PrepareVolumes => "volumes".to_owned(),
            Effect::RunSandbox { .. } => "sandbox".to_owned(),
            Effect::EnsureImage { container } => format!("image {container}"),
            Effect::Create { container, .. } => format!("create {container}"),
            Effect::Start { container, .. } => format!("start {container}"),
            Effect::PostStart { container, .. } => format!("hook {container}"),
            Effect::Stop { container, .. } => format!("stop {container}"),
            Effect::StopSandbox { .. } => "sandbox-stop".to_owned(),
            Effect::Resize { container, .. } => format!("resize {container}"),
            _ => String::new(),
        };
        if self.held.contains(&key) {
            return None;
        }
        let failed = self.fails(&key);
        let wall = self.now().wall;
        Some(match (effect, failed) {
            (Effect::PrepareVolumes, None) => Input::VolumesReady,
            (Effect::PrepareVolumes, Some(message)) => Input::VolumesFailed { message },
            (Effect::RunSandbox { attempt }, None) => Input::SandboxReady(sandbox(attempt)),
            (Effect::RunSandbox { .. }, Some(message)) => Input::SandboxFailed { message },
            (Effect::EnsureImage { container }, None) => {
                Input::ImageReady { container, image: ImageInfo { reference: "ref".into(), id: "sha256:1".into() } }
            }
            (Effect::EnsureImage { container }, Some(message)) => {
                Input::ImageFailed { container, fault: ImageFault::Pull, message }
            }
            (Effect::Create { container, .. }, None) => {
                self.containers += 1;
                Input::Created { container, id: format!("c{}", self.containers).into() }
            }
            (Effect::Create { container, .. }, Some(message)) => {
                Input::CreateFailed { container, fault: CreateFault::Config, message }
            }
            (Effect::Start { container, .. }, None) => Input::Started { container, at: wall },
            (Effect::Start { container, .. }, Some(message)) => Input::StartFailed { container, message },
            (Effect::PostStart { container, id }, None) => Input::HookDone { container, id },
            (Effect::PostStart { container, id }, Some(message)) => Input::HookFailed { container, id, message },
            (Effect::Stop { id, .. }, Some(message)) => Input::StopFailed { id, message },
            (Effect::Stop { id, .. }, None) => Input::Exited { exit: exit(&id, 0, wall), id },
            (Effect::StopSandbox { .. }, None) => Input::SandboxStopped,
            (Effect::StopSandbox { .. }, Some(message)) => Input::SandboxStopFailed { message },
            (Effect::Resize { container, id }, None) => {
                let outcome = Ok(container_of(&self.machine, &container).resources.unwrap_or_default());
                Input::Resized { container, id, outcome }
            }
            (Effect::Resize { container, id }, Some(message)) => {
                let fault = match message.strip_prefix("infeasible ") {
                    Some(message) => ResizeFault::Infeasible { message: message.to_owned() },
                    None => ResizeFault::Runtime { message },
                };
                Input::Resized { container, id, outcome: Err(fault) }
            }
            (Effect::Dispose, _) => Input::Disposed,
            (Effect::DeleteObject, _) => Input::Removed,
            _ => return None,
        })
    }

    /// Lets time pass, with a tick whenever the machine asks for one.
    fn pass(&mut self, time: Duration) {
        let end = self.at + time;
        while let Some(deadline) = self.machine.deadline(self.now()).filter(|deadline| *deadline <= end) {
            self.at = deadline;
            self.give(Input::Tick);
        }
        self.at = end;
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let tail = |count: usize| words.get(count..).map(|rest| rest.join(" ")).unwrap_or_default();
        match words.as_slice() {
            ["after", time] => self.pass(Duration::from_secs(time.parse().unwrap())),
            ["status"] => self.status(),
            ["fail", "volumes" | "sandbox" | "sandbox-stop", ..] => self.fails.push((words[1].to_owned(), tail(2))),
            ["fail", what, name, ..] => self.fails.push((format!("{what} {name}"), tail(3))),
            ["hold", ..] => drop(self.held.insert(tail(1))),
            ["release", ..] => drop(self.held.remove(&tail(1))),
            ["observe"] => self.give(Input::Observed(Observed::default())),
            ["asked"] => self.asked = Some(self.machine.makes()),
            ["hook-failed", name, id] => {
                let (container, id) = ((*name).into(), (*id).into());
                self.give(Input::HookFailed { container, id, message: "no".to_owned() });
            }
            ["created", name, id] => self.give(Input::Created { container: (*name).into(), id: (*id).into() }),
            ["observe", ..] => {
                let observed = observed(&words[1..], self.now().wall);
                let as_of = self.asked.take().unwrap_or(self.machine.makes());
                self.give(Input::Observed(Observed { as_of, ..observed }));
            }
            ["started", name] => {
                let wall = self.now().wall;
                self.give(Input::Started { container: (*name).into(), at: wall });
            }
            ["exit", id, code] => {
                let exit = exit(id, code.parse().unwrap(), self.now().wall);
                self.give(Input::Exited { id: (*id).into(), exit });
            }
            ["probe", name, id, kind, verdict] => {
                let kind = match *kind {
                    "startup" => ProbeKind::Startup,
                    "liveness" => ProbeKind::Liveness,
                    _ => ProbeKind::Readiness,
                };
                let healthy = *verdict == "ok";
                self.give(Input::Probed { container: (*name).into(), id: (*id).into(), kind, healthy, grace: None });
            }
            ["lose", id] => self.give(Input::SandboxLost { id: (*id).into() }),
            ["sources"] => self.give(Input::SourcesChanged),
            ["removed"] => self.give(Input::Removed),
            _ => self.change(&words),
        }
    }

    /// Somebody changes the pod's object.
    fn change(&mut self, words: &[&str]) {
        match words {
            ["delete", grace] => {
                let mut pod = Pod::clone(self.machine.pod());
                pod.metadata.deletion_timestamp = Some(Time(self.now().wall));
                pod.metadata.deletion_grace_period_seconds = Some(grace.parse().unwrap());
                self.give(Input::Updated(Arc::new(pod)));
            }
            ["image", name, image] => {
                let mut pod = Pod::clone(self.machine.pod());
                let containers = &mut Arc::make_mut(pod.spec.as_mut().unwrap()).containers;
                containers.iter_mut().find(|c| c.name == *name).unwrap().image = Some((*image).to_owned());
                self.give(Input::Updated(Arc::new(pod)));
            }
            ["memory", name, amount, policy @ ..] => {
                let mut pod = Pod::clone(self.machine.pod());
                let containers = &mut Arc::make_mut(pod.spec.as_mut().unwrap()).containers;
                let container = containers.iter_mut().find(|c| c.name == *name).unwrap();
                let amounts = serde_json::json!({"limits": {"memory": amount}, "requests": {"memory": amount}});
                container.resources = serde_json::from_value(amounts).unwrap();
                let policies = policy.iter().map(|p| serde_json::json!({"resourceName": "memory", "restartPolicy": p}));
                container.resize_policy = serde_json::from_value(policies.collect()).unwrap();
                self.give(Input::Updated(Arc::new(pod)));
            }
            ["debug", name] => {
                let mut pod = Pod::clone(self.machine.pod());
                let container = serde_json::from_value(serde_json::json!({"name": name, "image": "img"})).unwrap();
                Arc::make_mut(pod.spec.as_mut().unwrap()).ephemeral_containers.get_or_insert_default().push(container);
                self.give(Input::Updated(Arc::new(pod)));
            }
            _ => panic!("unknown line {words:?}"),
        }
    }

    fn status(&mut self) {
        let now = self.now();
        let status = self.machine.status(&["127.0.0.1".to_owned()], now);
        let conditions = status.conditions.iter().flatten().filter(|c| c.type_ != "PodScheduled").map(|condition| {
            let text = format!("{}={}", condition.type_, condition.status);
            condition.reason.as_ref().map_or(text.clone(), |reason| format!("{text}({reason})"))
        });
        writeln!(
            self.out,
            "= {} {}ip={}\n  {}",
            status.phase.unwrap_or_default(),
            status.reason.map(|reason| format!("{reason} ")).unwrap_or_default(),
            status.pod_ip.unwrap_or_default(),
            Some(conditions.collect::<Vec<_>>().join(" ")).filter(|all| !all.is_empty()).unwrap_or("-".into())
        )
        .unwrap();
        let lists = [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        for status in lists.into_iter().flatten().flatten() {
            writeln!(
                self.out,
                "  {} {}{} ready={} started={} restarts={} {}{}",
                status.name,
                state(status.state.as_ref()),
                status.last_state.as_ref().map(|last| format!(" last={}", state(Some(last)))).unwrap_or_default(),
                status.ready,
                status.started.unwrap_or_default(),
                status.restart_count,
                status.container_id.as_deref().unwrap_or("-"),
                status
                    .resources
                    .and_then(|resources| Some(format!(" memory={}", resources.limits?.get("memory")?.0)))
                    .unwrap_or_default(),
            )
            .unwrap();
        }
    }
}

fn container_of(machine: &PodMachine, name: &str) -> k8s_openapi::api::core::v1::Container {
    container(machine.pod().spec.as_ref().unwrap(), name).cloned().unwrap()
}

fn now(at: Duration) -> Now {
    Now { at, wall: Timestamp::from_second(BASE + at.as_secs() as i64).unwrap() }
}

fn sandbox(attempt: u32) -> SandboxInfo {
    SandboxInfo {
        id: format!("s{attempt}").into(),
        attempt,
        ips: vec![format!("127.42.0.{}", attempt + 2)],
        runtime: "wasm".into(),
    }
}

fn exit(id: &str, code: i32, wall: Timestamp) -> Exit {
    let reason = if code == 0 { "Completed" } else { "Error" };
    Exit {
        id: id.into(),
        code,
        reason: reason.into(),
        message: String::new(),
        started: Some(wall),
        finished: Some(wall),
    }
}

/// `ready|lost NAME:ID:STATE…`, the state being `running`, `created` or an exit code.
fn observed(words: &[&str], wall: Timestamp) -> Observed {
    let ready = words[0] == "ready";
    let sandboxes = vec![ObservedSandbox { info: sandbox(0), ready }];
    let containers = words[1..].iter().map(|word| {
        let parts: Vec<&str> = word.split(':').collect();
        let state = match parts[2] {
            "running" => ObservedState::Running { started: wall },
            "created" => ObservedState::Created,
            code => ObservedState::Exited(exit(parts[1], code.parse().unwrap(), wall)),
        };
        ObservedContainer {
            id: parts[1].into(),
            name: parts[0].into(),
            sandbox: "s0".into(),
            attempt: 3,
            image: ImageInfo::default(),
            state,
        }
    });
    Observed { as_of: 0, sandboxes, containers: containers.collect() }
}

fn state(state: Option<&ContainerState>) -> String {
    let Some(state) = state else { return "none".into() };
    if let Some(waiting) = &state.waiting {
        let message = waiting.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
        return format!("waiting({}{message})", waiting.reason.as_deref().unwrap_or_default());
    }
    if let Some(exit) = &state.terminated {
        return format!("terminated({} {})", exit.exit_code, exit.reason.as_deref().unwrap_or_default());
    }
    "running".to_owned()
}

/// A pod from text: `policy=Never deadline=60 | init a | sidecar s startup | app web readiness liveness hook`.
fn pod(text: &str) -> Pod {
    let mut parts = text.split('|').map(str::trim);
    let mut spec = serde_json::json!({"restartPolicy": "Always", "containers": [], "initContainers": [], "ephemeralContainers": []});
    for word in parts.next().unwrap_or_default().split_whitespace() {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "policy" => spec["restartPolicy"] = value.into(),
            "deadline" => spec["activeDeadlineSeconds"] = value.parse::<i64>().unwrap().into(),
            "gate" => spec["readinessGates"] = serde_json::json!([{"conditionType": value}]),
            _ => panic!("{word}"),
        }
    }
    for part in parts {
        let words: Vec<&str> = part.split_whitespace().collect();
        let mut container = serde_json::json!({"name": words[1], "image": "img"});
        for word in &words[2..] {
            match *word {
                "hook" => container["lifecycle"] = serde_json::json!({"postStart": {"exec": {"command": ["x"]}}}),
                probe => container[format!("{probe}Probe")] = serde_json::json!({"tcpSocket": {"port": 1}}),
            }
        }
        if words[0] == "sidecar" {
            container["restartPolicy"] = "Always".into();
        }
        let list = match words[0] {
            "app" => "containers",
            "debug" => "ephemeralContainers",
            _ => "initContainers",
        };
        spec[list].as_array_mut().unwrap().push(container);
    }
    let meta = serde_json::json!({"name": "p", "namespace": "ns", "uid": "u"});
    serde_json::from_value(serde_json::json!({"metadata": meta, "spec": spec})).unwrap()
}

fn check_pod(pod: Pod, script: &str, expected: Expect) {
    let machine = PodMachine::new(Arc::new(pod), now(Duration::ZERO));
    let mut drive = Drive {
        machine,
        at: Duration::ZERO,
        containers: 0,
        fails: Vec::new(),
        held: BTreeSet::new(),
        asked: None,
        out: String::new(),
    };
    for line in script.split([';', '\n']).map(str::trim).filter(|line| !line.is_empty()) {
        drive.line(line);
    }
    expected.assert_eq(&drive.out);
}

fn check(text: &str, script: &str, expected: Expect) {
    check_pod(pod(text), script, expected);
}
