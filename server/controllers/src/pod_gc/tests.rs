//! Pods in, those that nobody else will remove out.

use std::sync::Arc;
use std::time::Duration;

use expect_test::{Expect, expect};

use super::plan::{NodeState, Verdict, disruption, judge, surplus};
use crate::testing::lines;

/// Nodes whose name begins with `gone` have been gone for the seconds that follow; `out` is out of service.
fn check_fate(text: &str, expected: Expect) {
    let pod = lines(text)[0].pod();
    let node = |name: &str| match name.strip_prefix("gone") {
        Some(seconds) => NodeState::GoneFor(Duration::from_secs(seconds.parse().unwrap())),
        None if name == "out" => NodeState::OutOfService,
        None => NodeState::Present,
    };
    let text = match judge(&pod, node) {
        Verdict::Keep => "keep".to_owned(),
        Verdict::Wait(time) => format!("wait {time:?}"),
        Verdict::Remove(cause) => format!("remove: {cause:?}, says {:?}", disruption(&pod, cause)),
    };
    expected.assert_eq(&text);
}

#[test]
fn pods_of_vanished_nodes_go_after_a_while() {
    check_fate("pod a node=n1", expect!["keep"]);
    check_fate("pod a node=gone10", expect!["wait 30s"]);
    check_fate("pod a node=gone41", expect![[r#"remove: Orphaned, says Some("PodGC: node no longer exists")"#]]);
    check_fate("pod a node=gone41 phase=Succeeded", expect!["remove: Orphaned, says None"]);
}

#[test]
fn pods_that_no_agent_will_end_are_ended() {
    check_fate("pod a deleting phase=Pending", expect!["remove: Unscheduled, says None"]);
    check_fate("pod a phase=Pending", expect!["keep"]);
    check_fate(
        "pod a node=out deleting",
        expect![[r#"remove: OutOfService, says Some("PodGC: node is out of service")"#]],
    );
    check_fate("pod a node=out", expect!["keep"]);
}

#[test]
fn the_oldest_finished_pods_make_room() {
    let pods: Vec<_> = lines("pod a phase=Failed age=10; pod b phase=Succeeded age=30; pod c age=99; pod d phase=Failed age=20; pod e phase=Failed age=40 deleting")
        .iter()
        .map(|l| Arc::new(l.pod()))
        .collect();
    let names =
        |threshold| surplus(&pods, threshold).iter().map(|p| p.metadata.name.clone().unwrap()).collect::<Vec<_>>();
    expect![[r#"[] ["b", "d"] ["b", "d", "a"]"#]].assert_eq(&format!("{:?} {:?} {:?}", names(3), names(1), names(0)));
}
