//! Pods on their way up, and kept up.

use expect_test::expect;

use super::check;

#[test]
fn a_pod_starts_and_is_deleted() {
    check(
        "| app web",
        "status; observe; status; after 5; delete 30",
        expect![[r#"
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
    "#]],
    );
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
    check(
        "| app web hook",
        "fail hook web boom; observe; status",
        expect![[r#"
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
    "#]],
    );
}

#[test]
fn a_new_image_restarts_the_container() {
    check(
        "| app web",
        "observe; image web img:2; status",
        expect![[r#"
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
    "#]],
    );
}

#[test]
fn a_start_that_fails_counts_as_an_end() {
    check(
        "| app web",
        "fail start web trap; fail start web trap; observe; status; after 10; status",
        expect![[r#"
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
        "#]],
    );
}

#[test]
fn a_container_that_ends_before_its_start_is_answered_was_started() {
    check(
        "policy=Never | app web",
        "hold start web; observe; exit c1 2; started web; status",
        expect![[r#"
        0s prepare volumes
        0s run sandbox attempt=0
        0s ensure image web
        0s create web attempt=0
        0s event Created: Created container: web
        0s start web c1
        0s end probes web
        0s event Started: Started container web
        0s stop sandbox s0
        = Failed ip=127.42.0.2
          PodReadyToStartContainers=False Initialized=True Ready=False(PodFailed) ContainersReady=False(PodFailed)
          web terminated(2 Error) ready=false started=false restarts=0 wasm://c1
    "#]],
    );
}

#[test]
fn an_ephemeral_container_runs_once_and_counts_for_nothing() {
    check(
        "policy=Always | app web",
        "observe; debug d; exit c2 3; status; lose s0; after 60; status",
        expect![[r#"
        0s prepare volumes
        0s run sandbox attempt=0
        0s ensure image web
        0s create web attempt=0
        0s event Created: Created container: web
        0s start web c1
        0s event Started: Started container web
        0s ensure image d
        0s create d attempt=0
        0s event Created: Created container: d
        0s start d c2
        0s event Started: Started container d
        0s end probes d
        = Running ip=127.42.0.2
          PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
          web running ready=true started=true restarts=0 wasm://c1
          d terminated(3 Error) ready=false started=false restarts=0 wasm://c2
        0s event SandboxChanged: Pod sandbox changed, it will be killed and re-created.
        0s stop sandbox s0
        0s end probes web
        0s end probes d
        0s run sandbox attempt=1
        0s ensure image web
        0s create web attempt=1
        0s event Created: Created container: web
        0s start web c3
        0s event Started: Started container web
        = Running ip=127.42.0.3
          PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
          web running last=terminated(137 ContainerStatusUnknown) ready=true started=true restarts=1 wasm://c3
          d terminated(3 Error) ready=false started=false restarts=0 wasm://c2
    "#]],
    );
}

#[test]
fn an_ephemeral_container_finds_out_why_others_do_not_start() {
    check(
        "policy=Always | init a | app web | debug d",
        "hold image a; observe; status; delete 1",
        expect![[r#"
        0s prepare volumes
        0s run sandbox attempt=0
        0s ensure image d
        0s create d attempt=0
        0s event Created: Created container: d
        0s start d c1
        0s event Started: Started container d
        0s ensure image a
        = Pending ip=127.42.0.2
          PodReadyToStartContainers=True Initialized=False(ContainersNotInitialized) Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady)
          a waiting(PodInitializing) ready=false started=false restarts=0 -
          web waiting(PodInitializing) ready=false started=false restarts=0 -
          d running ready=false started=false restarts=0 wasm://c1
        0s abort
        0s event Killing: Stopping container d
        0s end probes d
        0s stop d c1 grace=1s
        0s end probes d
        0s stop sandbox s0
        0s dispose
        0s delete object
        0s forget
    "#]],
    );
}

#[test]
fn a_sandbox_that_cannot_be_stopped_gets_no_successor() {
    // What it holds may still run: kubelet too tries again before it makes another.
    check(
        "policy=Always | app web",
        "observe; fail sandbox-stop busy; lose s0; after 1; status",
        expect![[r#"
        0s prepare volumes
        0s run sandbox attempt=0
        0s ensure image web
        0s create web attempt=0
        0s event Created: Created container: web
        0s start web c1
        0s event Started: Started container web
        0s event SandboxChanged: Pod sandbox changed, it will be killed and re-created.
        0s stop sandbox s0
        0s event !FailedKillPod: error killing pod: busy
        0s stop sandbox s0
        0s end probes web
        0s run sandbox attempt=1
        0s ensure image web
        0s create web attempt=1
        0s event Created: Created container: web
        0s start web c2
        0s event Started: Started container web
        = Running ip=127.42.0.3
          PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
          web running last=terminated(137 ContainerStatusUnknown) ready=true started=true restarts=1 wasm://c2
    "#]],
    );
}

#[test]
fn an_answer_older_than_a_start_does_not_end_what_was_started() {
    check(
        "policy=Always | app web",
        "observe; hold start web; exit c1 1; asked; started web; observe ready; status",
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
              web running last=terminated(1 Error) ready=true started=true restarts=1 wasm://c2
        "#]],
    );
}

#[test]
fn an_image_that_changes_under_way_is_the_one_that_runs() {
    check(
        "policy=Always | app web",
        "hold image web; observe; release image web; image web new",
        expect![[r#"
        0s prepare volumes
        0s run sandbox attempt=0
        0s ensure image web
        0s abort
        0s ensure image web
        0s create web attempt=0
        0s event Created: Created container: web
        0s start web c1
        0s event Started: Started container web
    "#]],
    );
    check(
        "policy=Always | app web",
        "hold create web; observe; image web new; created web c9",
        expect![[r#"
        0s prepare volumes
        0s run sandbox attempt=0
        0s ensure image web
        0s create web attempt=0
        0s event Created: Created container: web
        0s start web c9
        0s event Started: Started container web
        0s event Killing: Container web definition changed, will be restarted
        0s end probes web
        0s stop web c9 grace=30s
        0s end probes web
        0s ensure image web
        0s create web attempt=1
    "#]],
    );
}

#[test]
fn the_hook_of_an_earlier_run_does_not_kill_the_present_one() {
    check(
        "policy=Always | app web hook",
        "hold hook web; observe; exit c1 1; hook-failed web c1; status",
        expect![[r#"
            0s prepare volumes
            0s run sandbox attempt=0
            0s ensure image web
            0s create web attempt=0
            0s event Created: Created container: web
            0s start web c1
            0s event Started: Started container web
            0s postStart web c1
            0s end probes web
            0s ensure image web
            0s create web attempt=1
            0s event Created: Created container: web
            0s start web c2
            0s event Started: Started container web
            0s postStart web c2
            = Running ip=127.42.0.2
              PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
              web running last=terminated(1 Error) ready=true started=true restarts=1 wasm://c2
        "#]],
    );
}

#[test]
fn what_never_ran_is_not_waited_for_after_the_end() {
    check(
        "deadline=60 | app web",
        "hold image web; observe; after 61; status",
        expect![[r#"
        0s prepare volumes
        0s run sandbox attempt=0
        0s ensure image web
        60s event DeadlineExceeded: Pod was active on the node longer than the specified deadline
        60s abort
        60s stop sandbox s0
        = Failed DeadlineExceeded ip=127.42.0.2
          PodReadyToStartContainers=False Initialized=True Ready=False(PodFailed) ContainersReady=False(PodFailed)
          web terminated(137 ContainerStatusUnknown) ready=false started=false restarts=0 -
    "#]],
    );
}
