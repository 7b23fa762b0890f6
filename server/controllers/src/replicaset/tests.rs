//! An owner and its pods in, the plan out; and what is remembered of requests that the cache does not show.

use std::fmt::Write as _;
use std::sync::Arc;

use coracle_api::meta::Revision;
use coracle_api::selector::LabelSelector;
use coracle_client::Pod;
use expect_test::{Expect, expect};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::ContainerStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as Selector, ObjectMeta};

use super::outstanding::Outstanding;
use super::plan::{Failure, Observed, Plan, plan, slow_start, status};
use super::rank::{self, Colocated};
use super::workload::Workload;
use crate::testing::{Line, from_now, lines, now};

struct World {
    owner: ReplicaSet,
    pods: Vec<Arc<Pod>>,
}

fn web() -> [(String, String); 1] {
    [("app".to_owned(), "web".to_owned())]
}

fn pod(line: &Line) -> Arc<Pod> {
    let mut pod = line.pod();
    pod.metadata.labels = Some(line.map("labels").unwrap_or_else(|| web().into()));
    let restarts =
        ContainerStatus { restart_count: line.number("restarts").unwrap_or(0), ..ContainerStatus::default() };
    pod.status.as_mut().unwrap().container_statuses = Some(vec![restarts]);
    match line.text("owner") {
        Some("none") => pod.metadata.owner_references = None,
        Some(_) => {}
        None => {
            let controlled = lines("pod x owner=rs")[0].meta();
            pod.metadata.owner_references = controlled.owner_references;
        }
    }
    Arc::new(pod)
}

fn world(text: &str) -> World {
    let lines = lines(text);
    let line = lines.iter().find(|l| l.kind == "rs").unwrap();
    let owner = ReplicaSet {
        metadata: ObjectMeta { uid: Some("rs".into()), ..line.meta() },
        spec: Some(ReplicaSetSpec {
            replicas: line.number("replicas"),
            min_ready_seconds: line.number("minready"),
            selector: Selector { match_labels: Some(web().into()), ..Selector::default() },
            template: Some(line.template(&[("app", "web"), ("tier", "front")])),
        }),
        status: None,
    };
    World { owner, pods: lines.iter().filter(|l| l.kind == "pod").map(pod).collect() }
}

impl World {
    fn plan(&self, outstanding: &Outstanding) -> Plan {
        let selector = self.owner.selector().unwrap();
        plan(&self.observed(&selector, outstanding), Colocated::new)
    }

    fn observed<'a>(&'a self, selector: &'a LabelSelector, outstanding: &'a Outstanding) -> Observed<'a, ReplicaSet> {
        Observed { owner: &self.owner, selector, pods: &self.pods, outstanding, now: now() }
    }
}

fn check_plan(text: &str, expected: Expect) {
    expected.assert_eq(&world(text).plan(&Outstanding::default()).to_string());
}

#[test]
fn creates_what_is_missing_and_counts_only_what_lives() {
    check_plan(
        "rs web replicas=3; pod a ready; pod b phase=Failed; pod c deleting",
        expect![[r#"
        create 2 pods
    "#]],
    );
    check_plan("rs web replicas=2; pod a; pod b", expect![[""]]);
    check_plan(
        "rs web replicas=600",
        expect![[r#"
        create 500 pods
    "#]],
    );
}

#[test]
fn takes_in_orphans_and_lets_go_of_what_no_longer_matches() {
    check_plan(
        "rs web replicas=2; pod a labels=app:other; pod b owner=none; pod c owner=none labels=app:other
         pod d owner=none phase=Succeeded; pod e owner=none deleting; pod f owner=stranger",
        expect![[r#"
            adopt Pod b
            release Pod a
            create 1 pods
        "#]],
    );
    check_plan("rs web replicas=2 deleting; pod a labels=app:other; pod b owner=none", expect![[""]]);
}

fn check_rank(text: &str, colocated: &[(&str, usize)], expected: Expect) {
    let mut pods: Vec<_> = lines(text).iter().map(pod).collect();
    let colocated = colocated.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect();
    rank::sort(&mut pods, &colocated, now());
    let names: Vec<_> = pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect();
    expected.assert_eq(&names.join(" "));
}

#[test]
fn the_least_useful_pod_goes_first() {
    check_rank(
        "pod old node=n ready=90000; pod new node=n ready=20; pod dear node=n ready annotations=controller.kubernetes.io/pod-deletion-cost:10
         pod cheap node=n ready annotations=controller.kubernetes.io/pod-deletion-cost:-10
         pod unready node=n; pod pending node=n phase=Pending; pod unscheduled phase=Pending",
        &[],
        expect!["unscheduled pending unready cheap new old dear"],
    );
    check_rank(
        "pod a node=n1 ready; pod b node=n2 ready; pod c node=n1 ready",
        &[("n1", 2), ("n2", 1)],
        expect!["a c b"],
    );
    // Within one order of magnitude restarts decide, then chance, which the UID stands for.
    check_rank(
        "pod b node=n ready=600; pod a node=n ready=700; pod c node=n ready=650 restarts=3",
        &[],
        expect!["c a b"],
    );
    check_rank("pod older node=n age=90000; pod younger node=n age=50", &[], expect!["younger older"]);
}

#[test]
fn surplus_pods_are_deleted_in_that_order() {
    check_plan(
        "rs web replicas=1; pod a node=n ready=9000; pod b phase=Pending; pod c node=n ready=10",
        expect![[r#"
        delete Pod b
        delete Pod c
    "#]],
    );
}

/// What was asked for and not seen yet counts, so that a slow cache never makes a pod too many.
#[test]
fn a_slow_cache_makes_no_pod_twice() {
    let world = world("rs web replicas=3");
    let mut outstanding = Outstanding::default();
    outstanding.creating("web-1");
    outstanding.creating("web-2");
    expect![[r#"
        create 1 pods
    "#]]
    .assert_eq(&world.plan(&outstanding).to_string());
    outstanding.answered("web-1", Some((*pod(&lines("pod web-1 rv=7")[0])).clone()));
    outstanding.answered("web-2", None);
    expect![[r#"
        create 2 pods
    "#]]
    .assert_eq(&world.plan(&outstanding).to_string());
    outstanding.settle(&[], Revision(6));
    expect![[r#"
        create 2 pods
    "#]]
    .assert_eq(&world.plan(&outstanding).to_string());
    // The cache is past it and does not show it: it is gone.
    outstanding.settle(&[], Revision(7));
    expect![[r#"
        create 3 pods
    "#]]
    .assert_eq(&world.plan(&outstanding).to_string());
    assert!(outstanding.is_empty());
}

#[test]
fn a_slow_cache_deletes_no_pod_instead_of_another() {
    let text = "rs web replicas=1; pod a phase=Pending; pod b node=n ready";
    let world = world(text);
    let mut outstanding = Outstanding::default();
    let first = world.plan(&outstanding);
    expect![[r#"
        delete Pod a
    "#]]
    .assert_eq(&first.to_string());
    outstanding.deleting(&first.delete[0]);
    expect![[""]].assert_eq(&world.plan(&outstanding).to_string());
    assert_eq!(outstanding.unsure_deletions().len(), 1, "no answer came: it is asked again for the same pod");
    outstanding.deleted("a");
    assert!(outstanding.unsure_deletions().is_empty());
    outstanding.settle(&world.pods, Revision(9));
    assert!(outstanding.is_deleting("a"), "the cache still shows it alive");
    outstanding.settle(&[pod(&lines("pod a deleting")[0])], Revision(9));
    assert!(outstanding.is_empty());
}

fn check_status(text: &str, failure: Option<(Failure, &str)>, expected: Expect) {
    let world = world(text);
    let (selector, outstanding) = (world.owner.selector().unwrap(), Outstanding::default());
    let (status, wake) = status(&world.observed(&selector, &outstanding), failure);
    let mut out = format!(
        "replicas={} labeled={} ready={} available={} terminating={:?}\n",
        status.replicas, status.fully_labeled, status.ready, status.available, status.terminating
    );
    for c in &status.conditions {
        writeln!(out, "{}={} {:?}: {:?}", c.kind, c.status, c.reason.as_deref(), c.message.as_deref()).unwrap();
    }
    wake.iter().for_each(|w| writeln!(out, "wake in {} s", from_now(*w)).unwrap());
    expected.assert_eq(&out);
}

#[test]
fn status_counts_and_wakes_when_a_pod_becomes_available() {
    check_status(
        "rs web replicas=4 minready=30; pod a ready=40 labels=app:web,tier:front; pod b ready=10; pod c ready=25; pod d deleting ready; pod e phase=Failed",
        None,
        expect![[r#"
            replicas=3 labeled=1 ready=3 available=1 terminating=Some(1)
            wake in 5 s
        "#]],
    );
    check_status(
        "rs web replicas=1",
        Some((Failure::Create, "quota exceeded")),
        expect![[r#"
        replicas=0 labeled=0 ready=0 available=0 terminating=Some(0)
        ReplicaFailure=True Some("FailedCreate"): Some("quota exceeded")
    "#]],
    );
}

#[test]
fn creation_starts_slowly() {
    expect!["[1, 2, 4, 8, 16, 32, 37]"].assert_eq(&format!("{:?}", slow_start(100).collect::<Vec<_>>()));
    expect!["[]"].assert_eq(&format!("{:?}", slow_start(0).collect::<Vec<_>>()));
}

#[test]
fn a_pod_is_made_from_the_template() {
    let world = world("rs web replicas=1 image=hello:dev");
    let pod = super::named(&super::new_pod(&world.owner).unwrap(), "abcde");
    expect![[r#"{"generateName":"web-","labels":{"app":"web","tier":"front"},"name":"web-abcde","namespace":"shop","ownerReferences":[{"apiVersion":"apps/v1","blockOwnerDeletion":true,"controller":true,"kind":"ReplicaSet","name":"web","uid":"rs"}]}"#]].assert_eq(&serde_json::to_string(&pod.metadata).unwrap());
}
