//! Pods that end, and pods that are taken over.

use expect_test::expect;

use super::{check, check_pod, pod};

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
}

#[test]
fn a_container_that_failed_is_run_until_it_succeeds() {
    check(
        "policy=OnFailure | app web",
        "observe; exit c1 3; exit c2 0; status",
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
          0s stop sandbox s0
          = Succeeded ip=127.42.0.2
            PodReadyToStartContainers=False Initialized=True(PodCompleted) Ready=False(PodCompleted) ContainersReady=False(PodCompleted)
            web terminated(0 Completed) last=terminated(3 Error) ready=false started=false restarts=1 wasm://c2
    "#]],
    );
}

#[test]
fn an_init_container_that_fails_fails_the_pod() {
    check(
        "policy=Never | init a | app web",
        "observe; exit c1 2; status",
        expect![[r#"
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
    "#]],
    );
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
fn the_deadline_of_a_pod_fails_it() {
    check(
        "deadline=60 | app web",
        "observe; after 61; status",
        expect![[r#"
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
        "#]],
    );
}

#[test]
fn deletion_while_pulling_aborts_the_pull() {
    check(
        "| app web",
        "hold image web; observe; delete 30",
        expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s abort
          0s stop sandbox s0
          0s dispose
          0s delete object
          0s forget
    "#]],
    );
}

#[test]
fn deletion_while_starting_waits_for_the_start() {
    check(
        "| app web",
        "hold start web; observe; delete 30; release start web; status",
        expect![[r#"
          0s prepare volumes
          0s run sandbox attempt=0
          0s ensure image web
          0s create web attempt=0
          0s event Created: Created container: web
          0s start web c1
          = Pending ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
            web waiting(ContainerCreating) ready=false started=false restarts=0 wasm://c1
    "#]],
    );
}

#[test]
fn what_runs_is_adopted() {
    check(
        "| app web readiness",
        "observe ready web:x9:running; status; exit x9 1; status",
        expect![[r#"
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
    "#]],
    );
    check(
        "| app web",
        "observe ready web:x9:created; status",
        expect![[r#"
          0s prepare volumes
          0s start web x9
          0s event Started: Started container web
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running ready=true started=true restarts=3 wasm://x9
    "#]],
    );
    check(
        "| app web",
        "observe ready web:x9:1; status",
        expect![[r#"
          0s prepare volumes
          0s ensure image web
          0s create web attempt=4
          0s event Created: Created container: web
          0s start web c1
          0s event Started: Started container web
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running last=terminated(1 Error) ready=true started=true restarts=4 wasm://c1
    "#]],
    );
    check(
        "policy=Never | app web",
        "observe lost web:x9:0; status",
        expect![[r#"
          0s stop sandbox s0
          = Succeeded ip=127.42.0.2
            PodReadyToStartContainers=False Initialized=True(PodCompleted) Ready=False(PodCompleted) ContainersReady=False(PodCompleted)
            web terminated(0 Completed) ready=false started=false restarts=3 wasm://x9
    "#]],
    );
}

#[test]
fn lost_events_are_made_up_for() {
    check(
        "| app web | app log",
        "observe; observe ready web:c1:7 log:c2:running; status",
        expect![[r#"
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
    "#]],
    );
    check(
        "| app web",
        "observe; observe ready; status",
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
          = Running ip=127.42.0.2
            PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
            web running last=terminated(137 ContainerStatusUnknown) ready=true started=true restarts=1 wasm://c2
    "#]],
    );
}

#[test]
fn a_lost_sandbox_is_replaced_with_all_it_held() {
    check(
        "| init a | app web",
        "observe; exit c1 0; lose s0; status; exit c3 0; status",
        expect![[r#"
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
    "#]],
    );
}

#[test]
fn a_pod_that_was_running_before_a_power_cut_counts_a_restart() {
    let mut pod = pod("| app web");
    let status = serde_json::json!({"phase": "Running", "containerStatuses": [{
        "name": "web", "ready": true, "restartCount": 4, "image": "img", "imageID": "x",
        "containerID": "wasm://old", "state": {"running": {"startedAt": "2025-12-31T00:00:00Z"}},
    }]});
    pod.status = Some(serde_json::from_value(status).unwrap());
    check_pod(
        pod.clone(),
        "observe; status",
        expect![[r#"
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
    "#]],
    );
    std::sync::Arc::make_mut(pod.spec.as_mut().unwrap()).restart_policy = Some("Never".to_owned());
    check_pod(
        pod,
        "observe; status",
        expect![[r#"
          = Failed ip=
            PodReadyToStartContainers=False Initialized=True Ready=False(PodFailed) ContainersReady=False(PodFailed)
            web terminated(137 ContainerStatusUnknown) ready=false started=false restarts=4 wasm://old
    "#]],
    );
}

#[test]
fn an_ended_pod_is_left_alone_until_it_is_deleted() {
    let mut pod = pod("policy=Never | app web");
    pod.status = Some(serde_json::from_value(serde_json::json!({"phase": "Succeeded"})).unwrap());
    check_pod(
        pod,
        "observe; status; delete 0",
        expect![[r#"
            = Succeeded ip=
              -
            0s dispose
            0s delete object
            0s forget
        "#]],
    );
}
