//! Nodes and pods as text in; conditions, taints and evictions out.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, Taint, Toleration};

use super::eviction::{self, Verdict};
use super::zones::{self, Disruption, permission};
use super::{health, taints};
use crate::testing::{Line, ago, lines, now};

/// `Ready=True@30` is a condition with the age of its transition; `taints=key:effect@age` are taints.
fn node(line: &Line) -> Node {
    let kinds = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];
    let condition = |kind: &&str| {
        let (status, age) = line.text(kind)?.split_once('@').unwrap_or((line.text(kind)?, "600"));
        Some(NodeCondition {
            type_: (*kind).into(),
            status: status.into(),
            last_transition_time: Some(ago(age.parse().unwrap())),
            ..NodeCondition::default()
        })
    };
    let zone = line.text("zone").map(|z| ("topology.kubernetes.io/zone".to_owned(), z.to_owned()));
    let mut meta = line.meta();
    meta.labels = zone.map(|z| [z].into());
    Node {
        metadata: meta,
        spec: Some(NodeSpec {
            taints: line.text("taints").map(|t| t.split(',').map(taint).collect()),
            unschedulable: line.has("cordoned").then_some(true),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            conditions: Some(kinds.iter().filter_map(condition).collect()),
            ..NodeStatus::default()
        }),
    }
}

fn taint(text: &str) -> Taint {
    let (what, age) = text.split_once('@').map_or((text, None), |(w, a)| (w, Some(a)));
    let (key, effect) = what.split_once(':').unwrap();
    let time_added = age.map(|a| ago(a.parse().unwrap()));
    Taint { key: key.into(), effect: effect.into(), time_added, value: None }
}

fn check_lost(text: &str, expected: Expect) {
    let node = node(&lines(text)[0]);
    let mut out = format!("after {:?}\n", health::grace(&node));
    for c in health::lost(&node, now()) {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        writeln!(out, "{}={} {}: {}", c.type_, c.status, text(&c.reason), text(&c.message)).unwrap();
    }
    expected.assert_eq(&out);
}

#[test]
fn a_silent_node_is_lost_after_its_grace() {
    check_lost(
        "node n Ready=True MemoryPressure=False",
        expect![[r#"
        after 50s
        Ready=Unknown NodeStatusUnknown: Kubelet stopped posting node status.
        MemoryPressure=Unknown NodeStatusUnknown: Kubelet stopped posting node status.
        DiskPressure=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
        PIDPressure=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
    "#]],
    );
    check_lost(
        "node n Ready=Unknown MemoryPressure=Unknown DiskPressure=Unknown PIDPressure=Unknown",
        expect![[r#"
        after 50s
    "#]],
    );
    check_lost(
        "node n",
        expect![[r#"
        after 60s
        Ready=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
        MemoryPressure=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
        DiskPressure=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
        PIDPressure=Unknown NodeStatusNeverUpdated: Kubelet never posted node status.
    "#]],
    );
}

#[test]
fn pods_of_a_lost_node_are_not_ready_unless_someone_vouches_for_them() {
    let marked = |node_text: &str, pod: &str| {
        let pod = lines(pod)[0].pod();
        health::pod_not_ready(&node(&lines(node_text)[0]), &pod, now()).map(|c| format!("{}={}", c.type_, c.status))
    };
    let lost = "node n Ready=Unknown@60";
    expect![[r#"Some("Ready=False")"#]].assert_eq(&format!("{:?}", marked(lost, "pod a ready=600")));
    assert_eq!(marked(lost, "pod a ready=30"), None);
    assert_eq!(marked(lost, "pod a"), None);
    assert_eq!(marked("node n Ready=False@60", "pod a ready=600"), None);
}

fn check_taints(text: &str, evict: bool, expected: Expect) {
    let show =
        |taints: Vec<Taint>| taints.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect::<Vec<_>>().join(" ");
    let plan = taints::plan(&node(&lines(text)[0]), evict, now());
    expected.assert_eq(&plan.map_or_else(|| "right".to_owned(), show));
}

#[test]
fn taints_follow_conditions() {
    check_taints("node n Ready=True", false, expect!["right"]);
    check_taints(
        "node n Ready=False MemoryPressure=True cordoned",
        false,
        expect![
            "node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/memory-pressure:NoSchedule node.kubernetes.io/unschedulable:NoSchedule"
        ],
    );
    check_taints(
        "node n Ready=Unknown taints=node.kubernetes.io/not-ready:NoSchedule,mine:NoExecute",
        true,
        expect!["mine:NoExecute node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute"],
    );
    check_taints(
        "node n Ready=True taints=node.kubernetes.io/unreachable:NoSchedule,node.kubernetes.io/unreachable:NoExecute,mine:NoSchedule",
        false,
        expect!["mine:NoSchedule"],
    );
    check_taints(
        "node n Ready=Unknown taints=node.kubernetes.io/unreachable:NoSchedule,node.kubernetes.io/unreachable:NoExecute",
        true,
        expect!["right"],
    );
    check_taints(
        "node n Ready=Unknown taints=node.kubernetes.io/unreachable:NoSchedule,node.kubernetes.io/unreachable:NoExecute",
        false,
        expect!["node.kubernetes.io/unreachable:NoSchedule"],
    );
}

fn check_zones(text: &str, expected: Expect) {
    let nodes: Vec<_> = lines(text).iter().map(|l| Arc::new(node(l))).collect();
    let zones = zones::disruptions(&nodes);
    expected.assert_eq(&format!("{zones:?} all_lost={}", zones::all_lost(&zones)));
}

#[test]
fn a_zone_is_judged_by_what_is_left_of_it() {
    check_zones("node a Ready=True; node b Ready=Unknown", expect![[r#"{"": Normal} all_lost=false"#]]);
    check_zones("node a Ready=Unknown", expect![[r#"{"": Full} all_lost=true"#]]);
    check_zones(
        "node a Ready=True zone=x; node b Ready=Unknown zone=y; node c Ready=False zone=y",
        expect![[r#"{":x": Normal, ":y": Full} all_lost=false"#]],
    );
    check_zones(
        "node a Ready=True; node b Ready=Unknown; node c Ready=Unknown; node d Ready=Unknown",
        expect![[r#"{"": Partial { large: false }} all_lost=false"#]],
    );
}

#[test]
fn eviction_is_slow_in_trouble_and_stops_when_all_are_lost() {
    let check = |zone, all_lost, last: Option<u64>, blind, expected: Expect| {
        let permission = permission(zone, all_lost, last.map(Duration::from_secs), Duration::from_secs(blind));
        expected.assert_eq(&format!("{permission:?}"));
    };
    check(Disruption::Normal, false, None, 0, expect!["Now"]);
    check(Disruption::Normal, false, Some(4), 0, expect!["After(6s)"]);
    check(Disruption::Normal, false, Some(4), 30, expect!["After(30s)"]);
    check(Disruption::Partial { large: false }, false, None, 0, expect!["No"]);
    check(Disruption::Partial { large: true }, false, Some(40), 0, expect!["After(60s)"]);
    check(Disruption::Full, false, Some(11), 0, expect!["Now"]);
    check(Disruption::Full, true, None, 0, expect!["No"]);
}

/// Tolerations are `key:effect[:seconds]`, an empty key being every key.
fn check_eviction(pod: &str, tolerations: &str, taints: &str, expected: Expect) {
    let mut pod = lines(pod)[0].pod();
    let toleration = |text: &str| {
        let parts: Vec<_> = text.split(':').collect();
        let filled = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        Toleration {
            key: filled(parts[0]),
            operator: Some("Exists".into()),
            effect: filled(parts[1]),
            toleration_seconds: parts.get(2).map(|s| s.parse().unwrap()),
            value: None,
        }
    };
    let tolerations = tolerations.split_whitespace().map(toleration).collect();
    Arc::make_mut(pod.spec.as_mut().unwrap()).tolerations = Some(tolerations);
    let taints: Vec<_> = taints.split_whitespace().map(taint).collect();
    let text = match eviction::judge(&pod, &taints) {
        Verdict::Stay => "stay".to_owned(),
        Verdict::LeaveAfter(time) => format!("leave after {time:?}"),
        Verdict::LeaveNow => "leave now".to_owned(),
    };
    expected.assert_eq(&text);
}

#[test]
fn pods_leave_for_taints_as_their_tolerations_say() {
    check_eviction("pod a", "", "fire:NoExecute", expect!["leave now"]);
    check_eviction("pod a", "fire:NoExecute", "fire:NoExecute", expect!["stay"]);
    check_eviction("pod a", "fire:NoExecute:60", "fire:NoExecute", expect!["leave after 60s"]);
    check_eviction("pod a", "fire:NoExecute:0", "fire:NoExecute", expect!["leave now"]);
    check_eviction("pod a", "::300 fire:NoExecute:60", "fire:NoExecute", expect!["leave after 60s"]);
    check_eviction("pod a", "fire::60", "fire:NoExecute flood:NoExecute", expect!["leave now"]);
    check_eviction("pod a", "", "fire:NoSchedule", expect!["stay"]);
    check_eviction("pod a deleting", "", "fire:NoExecute", expect!["stay"]);
}

#[test]
fn a_lost_link_evicts_only_pods_that_ask_for_it() {
    let unreachable = "node.kubernetes.io/unreachable:NoExecute";
    check_eviction("pod a", "", unreachable, expect!["stay"]);
    check_eviction("pod a", "node.kubernetes.io/unreachable:NoExecute:300", unreachable, expect!["leave after 300s"]);
    check_eviction("pod a", "", "node.kubernetes.io/unreachable:NoExecute fire:NoExecute", expect!["leave now"]);
}
