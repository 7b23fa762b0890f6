//! Pods whose containers get other resources.

use expect_test::expect;

use super::check;

#[test]
fn resources_change_while_a_container_runs() {
    check(
        "policy=Always | app web",
        "observe; memory web 64Mi; status",
        expect![[r#"
        0s prepare volumes
        0s run sandbox attempt=0
        0s ensure image web
        0s create web attempt=0
        0s event Created: Created container: web
        0s start web c1
        0s event Started: Started container web
        0s resize web c1
        0s event ResizeCompleted: Pod resize completed
        = Running ip=127.42.0.2
          PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
          web running ready=true started=true restarts=0 wasm://c1 memory=64Mi
    "#]],
    );
}

#[test]
fn what_the_runtime_refuses_is_tried_again() {
    check(
        "policy=Always | app web",
        "observe; fail resize web busy; memory web 64Mi; status; after 11; status",
        expect![[r#"
            0s prepare volumes
            0s run sandbox attempt=0
            0s ensure image web
            0s create web attempt=0
            0s event Created: Created container: web
            0s start web c1
            0s event Started: Started container web
            0s resize web c1
            0s event !ResizeError: Pod resize failed: busy
            = Running ip=127.42.0.2
              PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True PodResizeInProgress=True(Error)
              web running ready=true started=true restarts=0 wasm://c1
            10s resize web c1
            10s event ResizeCompleted: Pod resize completed
            = Running ip=127.42.0.2
              PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
              web running ready=true started=true restarts=0 wasm://c1 memory=64Mi
        "#]],
    );
}

#[test]
fn what_the_node_does_not_have_waits_for_another_wish() {
    check(
        "policy=Always | app web",
        "observe; fail resize web infeasible too much; memory web 64Gi; status; after 100; memory web 1Mi; status",
        expect![[r#"
            0s prepare volumes
            0s run sandbox attempt=0
            0s ensure image web
            0s create web attempt=0
            0s event Created: Created container: web
            0s start web c1
            0s event Started: Started container web
            0s resize web c1
            0s event !ResizeInfeasible: Pod resize Infeasible: too much
            = Running ip=127.42.0.2
              PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True PodResizePending=True(Infeasible)
              web running ready=true started=true restarts=0 wasm://c1
            100s resize web c1
            100s event ResizeCompleted: Pod resize completed
            = Running ip=127.42.0.2
              PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True
              web running ready=true started=true restarts=0 wasm://c1 memory=1Mi
        "#]],
    );
}

#[test]
fn a_container_that_wants_it_is_restarted_for_other_resources() {
    check(
        "policy=Always | app web",
        "observe; memory web 64Mi RestartContainer; status",
        expect![[r#"
        0s prepare volumes
        0s run sandbox attempt=0
        0s ensure image web
        0s create web attempt=0
        0s event Created: Created container: web
        0s start web c1
        0s event Started: Started container web
        0s event Killing: Container web resize requires restart
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
          web running last=terminated(0 Completed) ready=true started=true restarts=1 wasm://c2 memory=64Mi
    "#]],
    );
}
