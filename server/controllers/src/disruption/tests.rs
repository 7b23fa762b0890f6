//! A budget and its pods in, its status out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use coracle_client::Pod;
use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::plan::{Observed, plan, stale_mark};
use super::scale::Scale;
use crate::testing::{Line, ago, from_now, lines, now};

fn int_or_string(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int)
}

/// `budget NAME min= max= evicted=POD:SECONDS_AGO,…`
fn budget(line: &Line) -> PodDisruptionBudget {
    let evicted = line.map("evicted").map(|pods| {
        let at = |seconds: String| -> Time { ago(seconds.parse().unwrap()) };
        pods.into_iter().map(|(pod, seconds)| (pod, at(seconds))).collect::<BTreeMap<_, _>>()
    });
    let selector = LabelSelector {
        match_labels: Some(BTreeMap::from([("app".to_owned(), "web".to_owned())])),
        ..LabelSelector::default()
    };
    PodDisruptionBudget {
        metadata: line.meta(),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: line.text("min").map(int_or_string),
            max_unavailable: line.text("max").map(int_or_string),
            selector: Some(selector),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: Some(PodDisruptionBudgetStatus { disrupted_pods: evicted, ..PodDisruptionBudgetStatus::default() }),
    }
}

/// Owners by UID: `owner UID replicas=N`. Runs the plan on its own outcome too, which must then change nothing.
fn check_plan(text: &str, expected: Expect) {
    let lines = lines(text);
    let mut budget = budget(lines.iter().find(|line| line.kind == "budget").unwrap());
    let pods: Vec<Arc<Pod>> = lines.iter().filter(|line| line.kind == "pod").map(|line| Arc::new(line.pod())).collect();
    let owners: BTreeMap<&str, i32> = lines
        .iter()
        .filter(|line| line.kind == "owner")
        .map(|line| (line.name.as_str(), line.number("replicas").unwrap()))
        .collect();
    let scale_of = |pod: &Pod| match crate::owner::controller_of(&pod.metadata) {
        None => Scale::Unmanaged,
        Some(reference) => owners
            .get(reference.uid.as_str())
            .map_or(Scale::Unknown, |replicas| Scale::Of { uid: reference.uid.clone(), replicas: *replicas }),
    };
    let decide =
        |budget: &PodDisruptionBudget| plan(&Observed { budget, pods: &pods, scale_of: &scale_of, now: now() });
    let first = decide(&budget);
    let mut out = String::new();
    for (kind, reason, message) in &first.events {
        writeln!(out, "{} {reason}: {message}", kind.as_str()).unwrap();
    }
    for pod in &first.undeleted {
        writeln!(out, "not deleted: {}", crate::owner::name(&pod.metadata)).unwrap();
    }
    if let Some(wake) = first.wake {
        writeln!(out, "again in {} s", from_now(wake)).unwrap();
    }
    match first.status {
        None => out.push_str("no change\n"),
        Some(status) => {
            let shown = |number: Option<i32>| number.unwrap_or(0);
            let (healthy, desired) = (shown(status.current_healthy), shown(status.desired_healthy));
            let (expected, allowed) = (shown(status.expected_pods), shown(status.disruptions_allowed));
            let condition = &status.conditions.as_ref().unwrap()[0];
            writeln!(
                out,
                "healthy {healthy} of {desired}, expected {expected}, allowed {allowed}: {}={} {}{}",
                condition.type_, condition.status, condition.reason, condition.message
            )
            .unwrap();
            let evicted: Vec<&str> = status.disrupted_pods.iter().flatten().map(|(name, _)| name.as_str()).collect();
            writeln!(out, "generation {:?} evicted {evicted:?}", status.observed_generation).unwrap();
            budget.status = Some(status);
            assert!(decide(&budget).status.is_none(), "what was decided is decided again");
        }
    }
    expected.assert_eq(&out);
}

#[test]
fn a_number_counts_the_pods_at_hand() {
    check_plan(
        "budget b min=1 generation=3
         pod a ready labels=app:web
         pod b ready labels=app:web
         pod c labels=app:web
         pod d ready deleting labels=app:web",
        expect![[r#"
            healthy 2 of 1, expected 4, allowed 1: DisruptionAllowed=True SufficientPods
            generation Some(3) evicted []
        "#]],
    );
    check_plan(
        "budget b min=2
         pod a ready
         pod b ready",
        expect![[r#"
            healthy 2 of 2, expected 2, allowed 0: DisruptionAllowed=False InsufficientPods
            generation Some(1) evicted []
        "#]],
    );
}

#[test]
fn percentages_and_what_may_be_missing_are_of_what_the_owners_want() {
    check_plan(
        "budget b max=25%
         owner x replicas=10
         pod a ready owner=x
         pod b ready owner=x
         pod c ready owner=x
         pod d ready owner=x
         pod e ready owner=x
         pod f ready owner=x
         pod g ready owner=x
         pod h ready owner=x",
        expect![[r#"
            healthy 8 of 7, expected 10, allowed 1: DisruptionAllowed=True SufficientPods
            generation Some(1) evicted []
        "#]],
    );
    check_plan(
        "budget b min=50%
         owner x replicas=3
         owner y replicas=2
         pod a ready owner=x
         pod b ready owner=x
         pod c ready owner=y
         pod d ready owner=y",
        expect![[r#"
            healthy 4 of 3, expected 5, allowed 1: DisruptionAllowed=True SufficientPods
            generation Some(1) evicted []
        "#]],
    );
    check_plan(
        "budget b max=5
         owner x replicas=2
         pod a ready owner=x",
        expect![[r#"
            healthy 1 of 0, expected 2, allowed 1: DisruptionAllowed=True SufficientPods
            generation Some(1) evicted []
        "#]],
    );
}

#[test]
fn pods_without_owner_are_told_of_and_owners_that_nobody_knows_close_the_budget() {
    check_plan(
        "budget b max=1
         pod a ready",
        expect![[r#"
            Warning UnmanagedPods: Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{},}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set ".spec.minAvailable" field of the PDB to an integer value.
            healthy 1 of 0, expected 0, allowed 0: DisruptionAllowed=False InsufficientPods
            generation Some(1) evicted []
        "#]],
    );
    check_plan(
        "budget b max=1
         pod a ready owner=stranger",
        expect![[r#"
            Warning CalculateExpectedPodCountFailed: Failed to calculate the number of expected pods: found no controllers for pod "a"
            healthy 0 of 0, expected 0, allowed 0: DisruptionAllowed=False SyncFailedfound no controllers for pod "a"
            generation None evicted []
        "#]],
    );
}

#[test]
fn no_pods_no_disruptions() {
    check_plan(
        "budget b min=0",
        expect![[r#"
            Normal NoPods: No matching pods found
            healthy 0 of 0, expected 0, allowed 0: DisruptionAllowed=False InsufficientPods
            generation Some(1) evicted []
        "#]],
    );
}

#[test]
fn an_evicted_pod_counts_as_gone_until_it_should_have_been() {
    check_plan(
        "budget b min=1 evicted=a:50,b:121,c:10,gone:10
         pod a ready
         pod b ready
         pod c ready deleting",
        expect![[r#"
            not deleted: b
            again in 70 s
            healthy 1 of 1, expected 3, allowed 0: DisruptionAllowed=False InsufficientPods
            generation Some(1) evicted ["a"]
        "#]],
    );
}

#[test]
fn a_mark_without_a_deletion_goes_stale() {
    let marked = |text: &str, reason: &str| {
        let mut pod = lines(text)[0].pod();
        let mark = PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            last_transition_time: Some(ago(30)),
            ..PodCondition::default()
        };
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap().push(mark);
        stale_mark(&pod).map(from_now)
    };
    assert_eq!(marked("pod a", "EvictionByEvictionAPI"), Some(90));
    assert_eq!(marked("pod a", "TerminationByKubelet"), None);
    assert_eq!(marked("pod a deleting", "EvictionByEvictionAPI"), None);
    assert_eq!(marked("pod a phase=Failed", "EvictionByEvictionAPI"), None);
    assert_eq!(stale_mark(&lines("pod a")[0].pod()), None);
}
