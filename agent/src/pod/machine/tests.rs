//! The machine driven by a script: whatever it wants done succeeds at once, unless the script says otherwise.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use expect_test::{Expect, expect};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
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
                writeln!(self.out, "{:>3}s {effect}", self.at.as_secs()).unwrap();
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
            (Effect::PostStart { container, .. }, None) => Input::HookDone { container },
            (Effect::PostStart { container, .. }, Some(message)) => Input::HookFailed { container, message },
            (Effect::Stop { id, .. }, Some(message)) => Input::StopFailed { id, message },
            (Effect::Stop { id, .. }, None) => Input::Exited { exit: exit(&id, 0, wall), id },
            (Effect::StopSandbox { .. }, _) => Input::SandboxStopped,
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
            ["fail", "volumes" | "sandbox", ..] => self.fails.push((words[1].to_owned(), tail(2))),
            ["fail", what, name, ..] => self.fails.push((format!("{what} {name}"), tail(3))),
            ["hold", ..] => drop(self.held.insert(tail(1))),
            ["release", ..] => drop(self.held.remove(&tail(1))),
            ["observe"] => self.give(Input::Observed(Observed::default())),
            ["observe", ..] => {
                let observed = observed(&words[1..], self.now().wall);
                self.give(Input::Observed(observed));
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
            ["delete", grace] => {
                let mut pod = Pod::clone(self.machine.pod());
                pod.metadata.deletion_timestamp = Some(Time(self.now().wall));
                pod.metadata.deletion_grace_period_seconds = Some(grace.parse().unwrap());
                self.give(Input::Updated(Arc::new(pod)));
            }
            ["image", name, image] => {
                let mut pod = Pod::clone(self.machine.pod());
                let containers = &mut pod.spec.as_mut().unwrap().containers;
                containers.iter_mut().find(|c| c.name == *name).unwrap().image = Some((*image).to_owned());
                self.give(Input::Updated(Arc::new(pod)));
            }
            ["sources"] => self.give(Input::SourcesChanged),
            ["removed"] => self.give(Input::Removed),
            _ => panic!("unknown line {line:?}"),
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
            "  = {} {}ip={}\n    {}",
            status.phase.unwrap_or_default(),
            status.reason.map(|reason| format!("{reason} ")).unwrap_or_default(),
            status.pod_ip.unwrap_or_default(),
            conditions.collect::<Vec<_>>().join(" ")
        )
        .unwrap();
        for status in status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten()) {
            writeln!(
                self.out,
                "    {} {}{} ready={} started={} restarts={} {}",
                status.name,
                state(status.state.as_ref()),
                status.last_state.as_ref().map(|last| format!(" last={}", state(Some(last)))).unwrap_or_default(),
                status.ready,
                status.started.unwrap_or_default(),
                status.restart_count,
                status.container_id.as_deref().unwrap_or("-"),
            )
            .unwrap();
        }
    }
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
    Observed { sandboxes, containers: containers.collect() }
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
    let mut spec = serde_json::json!({"restartPolicy": "Always", "containers": [], "initContainers": []});
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
        let list = if words[0] == "app" { "containers" } else { "initContainers" };
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

#[test]
fn a_pod_starts_and_is_deleted() {
    check("| app web", "status; observe; status; after 5; delete 30", expect![[r#"
          = Pending ip=
            PodReadyToStartContainers=False Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
            web waiting(ContainerCreating) ready=false started=false restarts=0 -
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s create web attempt=0
          0s event Created: Created container: web
          0s start web c1
          0s event Started: Started container web
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running ready=true started=true restarts=0 wasm://c1
          5s event Killing: Stopping container web
          5s end probes web
          5s stop web c1 grace=30s
          5s end probes web
          5s stop sandbox s0
          5s dispose
          5s delete object
          5s forget
    "#]]);
}

#[test]
fn init_containers_run_one_after_another_and_sidecars_stay() {
    check(
        "| init a | sidecar s startup | init b | app web",
        "observe; status; exit c1 0; probe s c2 startup ok; exit c3 0; status; delete 30",
        expect![[r#"
              0s prepare volumes
              0s run sandbox attempt=0
              0s ensure image a
              0s create a attempt=0
              0s event Created: Created container: a
              0s start a c1
              0s event Started: Started container a
              = Pending ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=False(ContainersNotInitialized) Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
                a running ready=false started=true restarts=0 wasm://c1
                s waiting(PodInitializing) ready=false started=false restarts=0 -
                b waiting(PodInitializing) ready=false started=false restarts=0 -
                web waiting(PodInitializing) ready=false started=false restarts=0 -
              0s end probes a
              0s ensure image s
              0s create s attempt=0
              0s event Created: Created container: s
              0s start s c2
              0s event Started: Started container s
              0s probe s c2 startup
              0s ensure image b
              0s create b attempt=0
              0s event Created: Created container: b
              0s start b c3
              0s event Started: Started container b
              0s end probes b
              0s ensure image web
              0s create web attempt=0
              0s event Created: Created container: web
              0s start web c4
              0s event Started: Started container web
              = Running ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
                a terminated(0 Completed) ready=true started=false restarts=0 wasm://c1
                s running ready=true started=true restarts=0 wasm://c2
                b terminated(0 Completed) ready=true started=false restarts=0 wasm://c3
                web running ready=true started=true restarts=0 wasm://c4
              0s event Killing: Stopping container web
              0s end probes web
              0s stop web c4 grace=30s
              0s end probes web
              0s event Killing: Stopping container s
              0s end probes s
              0s stop s c2 grace=30s
              0s end probes s
              0s stop sandbox s0
              0s dispose
              0s delete object
              0s forget
        "#]],
    );
}

#[test]
fn a_crash_loop_pauses_longer_each_time() {
    check(
        "| app web",
        "observe; exit c1 1; exit c2 1; status; after 10; exit c3 1; after 20; exit c4 0; status; after 700; status; exit c5 1",
        expect![[r#"
              0s prepare volumes
              0s run sandbox attempt=0
              0s ensure image web
              0s create web attempt=0
              0s event Created: Created container: web
              0s start web c1
              0s event Started: Started container web
              0s end probes web
              0s ensure image web
              0s create web attempt=1
              0s event Created: Created container: web
              0s start web c2
              0s event Started: Started container web
              0s end probes web
              0s event !BackOff: Back-off restarting failed container web in pod p_ns(u)
              = Running ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
                web waiting(CrashLoopBackOff: back-off 10s restarting failed container=web pod=p_ns(u)) last=terminated(1 Error) ready=false started=false restarts=1 wasm://c2
             10s ensure image web
             10s create web attempt=2
             10s remove web c1 attempt=0
             10s event Created: Created container: web
             10s start web c3
             10s event Started: Started container web
             10s end probes web
             10s event !BackOff: Back-off restarting failed container web in pod p_ns(u)
             30s ensure image web
             30s create web attempt=3
             30s remove web c2 attempt=1
             30s event Created: Created container: web
             30s start web c4
             30s event Started: Started container web
             30s end probes web
             30s event !BackOff: Back-off restarting failed container web in pod p_ns(u)
              = Running ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
                web waiting(CrashLoopBackOff: back-off 40s restarting failed container=web pod=p_ns(u)) last=terminated(0 Completed) ready=false started=false restarts=3 wasm://c4
             70s ensure image web
             70s create web attempt=4
             70s remove web c3 attempt=2
             70s event Created: Created container: web
             70s start web c5
             70s event Started: Started container web
              = Running ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
                web running last=terminated(0 Completed) ready=true started=true restarts=4 wasm://c5
            730s end probes web
            730s ensure image web
            730s create web attempt=5
            730s remove web c4 attempt=3
            730s event Created: Created container: web
            730s start web c6
            730s event Started: Started container web
        "#]],
    );
}

#[test]
fn a_failed_pull_backs_off() {
    check(
        "| app web",
        "fail image web no such host; fail image web no such host; observe; status; after 1; status; after 60; status",
        expect![[r#"
              0s prepare volumes
              0s run sandbox attempt=0
              0s ensure image web
              0s event !Failed: Failed to pull image "img": no such host
              0s event !Failed: Error: ErrImagePull
              = Pending ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
                web waiting(ErrImagePull: no such host) ready=false started=false restarts=0 -
              1s event BackOff: Back-off pulling image "img"
              1s event !Failed: Error: ImagePullBackOff
              = Pending ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
                web waiting(ImagePullBackOff: Back-off pulling image "img": ErrImagePull: no such host) ready=false started=false restarts=0 -
             10s ensure image web
             10s event !Failed: Failed to pull image "img": no such host
             10s event !Failed: Error: ErrImagePull
             11s event BackOff: Back-off pulling image "img"
             11s event !Failed: Error: ImagePullBackOff
             30s ensure image web
             30s create web attempt=0
             30s event Created: Created container: web
             30s start web c1
             30s event Started: Started container web
              = Running ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
                web running ready=true started=true restarts=0 wasm://c1
        "#]],
    );
}

#[test]
fn what_cannot_be_configured_is_tried_again_when_its_sources_change() {
    check(
        "| app web",
        "fail volumes configmap \"c\" not found; fail create web secret \"s\" not found; observe; sources; status; sources; status",
        expect![[r#"
              0s prepare volumes
              0s event !FailedMount: configmap "c" not found
              0s prepare volumes
              0s run sandbox attempt=0
              0s ensure image web
              0s create web attempt=0
              0s event !Failed: Error: secret "s" not found
              = Pending ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
                web waiting(CreateContainerConfigError: secret "s" not found) ready=false started=false restarts=0 -
              0s ensure image web
              0s create web attempt=0
              0s event Created: Created container: web
              0s start web c1
              0s event Started: Started container web
              = Running ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
                web running ready=true started=true restarts=0 wasm://c1
        "#]],
    );
}

#[test]
fn a_job_ends_and_its_sidecar_is_stopped() {
    check(
        "policy=Never | sidecar s | app web",
        "observe; hold stop s; exit c2 0; status; exit c1 0; status; delete 0",
        expect![[r#"
              0s prepare volumes
              0s run sandbox attempt=0
              0s ensure image s
              0s create s attempt=0
              0s event Created: Created container: s
              0s start s c1
              0s event Started: Started container s
              0s ensure image web
              0s create web attempt=0
              0s event Created: Created container: web
              0s start web c2
              0s event Started: Started container web
              0s end probes web
              0s event Killing: Stopping container s
              0s end probes s
              0s stop s c1 grace=30s
              = Running ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
                s running ready=true started=true restarts=0 wasm://c1
                web terminated(0 Completed) ready=false started=false restarts=0 wasm://c2
              0s end probes s
              0s stop sandbox s0
              = Succeeded ip=127.42.0.2
                PodReadyToStartContainers=False Initialized=True(PodCompleted) Ready=False(PodCompleted) ContainersReady=False(PodCompleted)
                s terminated(0 Completed) ready=false started=false restarts=0 wasm://c1
                web terminated(0 Completed) ready=false started=false restarts=0 wasm://c2
              0s dispose
              0s delete object
              0s forget
        "#]],
    );
    check("policy=OnFailure | app web", "observe; exit c1 3; exit c2 0; status", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s create web attempt=0
          0s event Created: Created container: web
          0s start web c1
          0s event Started: Started container web
          0s end probes web
          0s ensure image web
          0s create web attempt=1
          0s event Created: Created container: web
          0s start web c2
          0s event Started: Started container web
          0s end probes web
          0s stop sandbox s0
          = Succeeded ip=127.42.0.2
            PodReadyToStartContainers=False Initialized=True(PodCompleted) Ready=False(PodCompleted) ContainersReady=False(PodCompleted)
            web terminated(0 Completed) last=terminated(3 Error) ready=false started=false restarts=1 wasm://c2
    "#]]);
    check("policy=Never | init a | app web", "observe; exit c1 2; status", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image a
          0s create a attempt=0
          0s event Created: Created container: a
          0s start a c1
          0s event Started: Started container a
          0s end probes a
          0s stop sandbox s0
          = Failed ip=127.42.0.2
            PodReadyToStartContainers=False Initialized=False(ContainersNotInitialized) Ready=False(PodFailed) ContainersReady=False(PodFailed)
            a terminated(2 Error) ready=false started=false restarts=0 wasm://c1
            web waiting(PodInitializing) ready=false started=false restarts=0 -
    "#]]);
}

#[test]
fn a_second_delete_only_shortens() {
    check(
        "| app web",
        "observe; hold stop web; delete 30; after 5; delete 60; delete 3; status; exit c1 137; status",
        expect![[r#"
              0s prepare volumes
              0s run sandbox attempt=0
              0s ensure image web
              0s create web attempt=0
              0s event Created: Created container: web
              0s start web c1
              0s event Started: Started container web
              0s event Killing: Stopping container web
              0s end probes web
              0s stop web c1 grace=30s
              5s stop web c1 grace=3s
              = Running ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
                web running ready=true started=true restarts=0 wasm://c1
              5s end probes web
              5s stop sandbox s0
              5s dispose
              5s delete object
              5s forget
              = Failed ip=127.42.0.2
                PodReadyToStartContainers=False Initialized=True Ready=False(PodFailed) ContainersReady=False(PodFailed)
                web terminated(137 Error) ready=false started=false restarts=0 wasm://c1
        "#]],
    );
}

#[test]
fn probes_decide_ready_started_and_restarts() {
    check(
        "gate=example.com/lb | app web startup readiness liveness",
        "observe; status; probe web c1 startup ok; probe web c1 readiness ok; status; probe web c1 liveness bad; status",
        expect![[r#"
              0s prepare volumes
              0s run sandbox attempt=0
              0s ensure image web
              0s create web attempt=0
              0s event Created: Created container: web
              0s start web c1
              0s event Started: Started container web
              0s probe web c1 startup
              = Running ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
                web running ready=false started=false restarts=0 wasm://c1
              0s probe web c1
              = Running ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=False(ReadinessGatesNotReady) ContainersReady=True
                web running ready=true started=true restarts=0 wasm://c1
              0s event Killing: Container web failed liveness probe, will be restarted
              0s end probes web
              0s stop web c1 grace=30s
              0s end probes web
              0s ensure image web
              0s create web attempt=1
              0s event Created: Created container: web
              0s start web c2
              0s event Started: Started container web
              0s probe web c2 startup
              = Running ip=127.42.0.2
                PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
                web running last=terminated(0 Completed) ready=false started=false restarts=1 wasm://c2
        "#]],
    );
}

#[test]
fn a_hook_that_fails_kills_its_container() {
    check("| app web hook", "fail hook web boom; observe; status", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s create web attempt=0
          0s event Created: Created container: web
          0s start web c1
          0s event Started: Started container web
          0s postStart web c1
          0s event !FailedPostStartHook: PostStartHook failed
          0s event Killing: FailedPostStartHook
          0s end probes web
          0s stop web c1 grace=30s
          0s end probes web
          0s ensure image web
          0s create web attempt=1
          0s event Created: Created container: web
          0s start web c2
          0s event Started: Started container web
          0s postStart web c2
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running last=terminated(0 Completed) ready=true started=true restarts=1 wasm://c2
    "#]]);
}

#[test]
fn the_deadline_of_a_pod_fails_it() {
    check("deadline=60 | app web", "observe; after 61; status", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s create web attempt=0
          0s event Created: Created container: web
          0s start web c1
          0s event Started: Started container web
         60s event DeadlineExceeded: Pod was active on the node longer than the specified deadline
         60s event Killing: Stopping container web
         60s end probes web
         60s stop web c1 grace=30s
         60s end probes web
         60s stop sandbox s0
          = Failed DeadlineExceeded ip=127.42.0.2
            PodReadyToStartContainers=False Initialized=True Ready=False(PodFailed) ContainersReady=False(PodFailed)
            web terminated(0 Completed) ready=false started=false restarts=0 wasm://c1
    "#]]);
}

#[test]
fn deletion_while_pulling_aborts_the_pull() {
    check("| app web", "hold image web; observe; delete 30", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s abort
          0s stop sandbox s0
          0s dispose
          0s delete object
          0s forget
    "#]]);
}

#[test]
fn deletion_while_starting_waits_for_the_start() {
    check("| app web", "hold start web; observe; delete 30; release start web; status", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s create web attempt=0
          0s event Created: Created container: web
          0s start web c1
          = Pending ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
            web waiting(ContainerCreating) ready=false started=false restarts=0 wasm://c1
    "#]]);
}

#[test]
fn a_new_image_restarts_the_container() {
    check("| app web", "observe; image web img:2; status", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s create web attempt=0
          0s event Created: Created container: web
          0s start web c1
          0s event Started: Started container web
          0s event Killing: Container web definition changed, will be restarted
          0s end probes web
          0s stop web c1 grace=30s
          0s end probes web
          0s ensure image web
          0s create web attempt=1
          0s event Created: Created container: web
          0s start web c2
          0s event Started: Started container web
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running last=terminated(0 Completed) ready=true started=true restarts=1 wasm://c2
    "#]]);
}

#[test]
fn what_runs_is_adopted() {
    check("| app web readiness", "observe ready web:x9:running; status; exit x9 1; status", expect![[r#"
          0s probe web x9
          0s prepare volumes
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
            web running ready=false started=true restarts=3 wasm://x9
          0s end probes web
          0s ensure image web
          0s create web attempt=4
          0s event Created: Created container: web
          0s start web c1
          0s event Started: Started container web
          0s probe web c1
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
            web running last=terminated(1 Error) ready=false started=true restarts=4 wasm://c1
    "#]]);
    check("| app web", "observe ready web:x9:created; status", expect![[r#"
          0s prepare volumes
          0s start web x9
          0s event Started: Started container web
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running ready=true started=true restarts=3 wasm://x9
    "#]]);
    check("| app web", "observe ready web:x9:1; status", expect![[r#"
          0s prepare volumes
          0s ensure image web
          0s create web attempt=4
          0s event Created: Created container: web
          0s start web c1
          0s event Started: Started container web
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running last=terminated(1 Error) ready=true started=true restarts=4 wasm://c1
    "#]]);
    check("policy=Never | app web", "observe lost web:x9:0; status", expect![[r#"
          0s stop sandbox s0
          = Succeeded ip=127.42.0.2
            PodReadyToStartContainers=False Initialized=True(PodCompleted) Ready=False(PodCompleted) ContainersReady=False(PodCompleted)
            web terminated(0 Completed) ready=false started=false restarts=3 wasm://x9
    "#]]);
}

#[test]
fn lost_events_are_made_up_for() {
    check("| app web | app log", "observe; observe ready web:c1:7 log:c2:running; status", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s create web attempt=0
          0s event Created: Created container: web
          0s start web c1
          0s event Started: Started container web
          0s ensure image log
          0s create log attempt=0
          0s event Created: Created container: log
          0s start log c2
          0s event Started: Started container log
          0s end probes web
          0s ensure image web
          0s create web attempt=1
          0s event Created: Created container: web
          0s start web c3
          0s event Started: Started container web
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running last=terminated(7 Error) ready=true started=true restarts=1 wasm://c3
            log running ready=true started=true restarts=0 wasm://c2
    "#]]);
    check("| app web", "observe; observe ready; status", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s create web attempt=0
          0s event Created: Created container: web
          0s start web c1
          0s event Started: Started container web
          0s end probes web
          0s ensure image web
          0s create web attempt=1
          0s event Created: Created container: web
          0s start web c2
          0s event Started: Started container web
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running last=terminated(137 ContainerStatusUnknown) ready=true started=true restarts=1 wasm://c2
    "#]]);
}

#[test]
fn a_lost_sandbox_is_replaced_with_all_it_held() {
    check("| init a | app web", "observe; exit c1 0; lose s0; status; exit c3 0; status", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image a
          0s create a attempt=0
          0s event Created: Created container: a
          0s start a c1
          0s event Started: Started container a
          0s end probes a
          0s ensure image web
          0s create web attempt=0
          0s event Created: Created container: web
          0s start web c2
          0s event Started: Started container web
          0s event SandboxChanged: Pod sandbox changed, it will be killed and re-created.
          0s stop sandbox s0
          0s end probes a
          0s end probes web
          0s run sandbox attempt=1
          0s ensure image a
          0s create a attempt=1
          0s event Created: Created container: a
          0s start a c3
          0s event Started: Started container a
          = Pending ip=127.42.0.3
            PodReadyToStartContainers=True Initialized=False(ContainersNotInitialized) Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
            a running last=terminated(0 Completed) ready=false started=true restarts=1 wasm://c3
            web waiting(PodInitializing) last=terminated(137 ContainerStatusUnknown) ready=false started=false restarts=0 -
          0s end probes a
          0s ensure image web
          0s create web attempt=1
          0s event Created: Created container: web
          0s start web c4
          0s event Started: Started container web
          = Running ip=127.42.0.3
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            a terminated(0 Completed) last=terminated(0 Completed) ready=true started=false restarts=1 wasm://c3
            web running last=terminated(137 ContainerStatusUnknown) ready=true started=true restarts=1 wasm://c4
    "#]]);
}

#[test]
fn a_pod_that_was_running_before_a_power_cut_counts_a_restart() {
    let mut pod = pod("| app web");
    let status = serde_json::json!({"phase": "Running", "containerStatuses": [{
        "name": "web", "ready": true, "restartCount": 4, "image": "img", "imageID": "x",
        "containerID": "wasm://old", "state": {"running": {"startedAt": "2025-12-31T00:00:00Z"}},
    }]});
    pod.status = Some(serde_json::from_value(status).unwrap());
    check_pod(pod.clone(), "observe; status", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s create web attempt=5
          0s event Created: Created container: web
          0s start web c1
          0s event Started: Started container web
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running last=terminated(137 ContainerStatusUnknown) ready=true started=true restarts=5 wasm://c1
    "#]]);
    pod.spec.as_mut().unwrap().restart_policy = Some("Never".to_owned());
    check_pod(pod, "observe; status", expect![[r#"
          = Failed ip=
            PodReadyToStartContainers=False Initialized=True Ready=False(PodFailed) ContainersReady=False(PodFailed)
            web terminated(137 ContainerStatusUnknown) ready=false started=false restarts=4 wasm://old
    "#]]);
}

#[test]
fn an_ended_pod_is_left_alone_until_it_is_deleted() {
    let mut pod = pod("policy=Never | app web");
    pod.status = Some(serde_json::from_value(serde_json::json!({"phase": "Succeeded"})).unwrap());
    check_pod(pod, "observe; status; delete 0", expect![[r#"
          = Succeeded ip=
    
          0s dispose
          0s delete object
          0s forget
    "#]]);
}

#[test]
fn a_start_that_fails_counts_as_an_end() {
    check("| app web", "fail start web trap; fail start web trap; observe; status; after 10; status", expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s create web attempt=0
          0s event Created: Created container: web
          0s start web c1
          0s event !Failed: Error: trap
          0s end probes web
          0s ensure image web
          0s create web attempt=1
          0s event Created: Created container: web
          0s start web c2
          0s event !Failed: Error: trap
          0s end probes web
          0s event !BackOff: Back-off restarting failed container web in pod p_ns(u)
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
            web waiting(CrashLoopBackOff: back-off 10s restarting failed container=web pod=p_ns(u)) last=terminated(128 StartError) ready=false started=false restarts=1 wasm://c2
         10s ensure image web
         10s create web attempt=2
         10s remove web c1 attempt=0
         10s event Created: Created container: web
         10s start web c3
         10s event Started: Started container web
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running last=terminated(128 StartError) ready=true started=true restarts=2 wasm://c3
    "#]]);
}
