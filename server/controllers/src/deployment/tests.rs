//! A Deployment and its ReplicaSets in, the next move out.

use std::fmt::Write as _;
use std::sync::Arc;

use coracle_api::selector::LabelSelector;
use expect_test::{Expect, expect};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, DeploymentStrategy, ReplicaSet,
    ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::plan::{Observed, Plan, plan};
use super::revision::{DESIRED_REPLICAS, MAX_REPLICAS, REVISION, REVISION_HISTORY};
use super::{sizes, template};
use crate::testing::{Line, ago, from_now, lines, now};

fn amount(line: &Line, key: &str) -> IntOrString {
    match line.text(key).unwrap_or("25%") {
        text if text.ends_with('%') => IntOrString::String(text.to_owned()),
        number => IntOrString::Int(number.parse().unwrap()),
    }
}

fn deployment(line: &Line) -> Deployment {
    let mut meta = line.meta();
    let annotations = meta.annotations.get_or_insert_default();
    if let Some(revision) = line.text("rev") {
        annotations.insert(REVISION.into(), revision.into());
    }
    let recreate = line.has("recreate");
    let condition = |text: &str| {
        let (reason, since) = text.split_once('@').unwrap();
        DeploymentCondition {
            type_: "Progressing".into(),
            status: if reason == "ProgressDeadlineExceeded" { "False" } else { "True" }.into(),
            reason: Some(reason.into()),
            message: None,
            last_update_time: Some(ago(since.parse().unwrap())),
            last_transition_time: Some(ago(since.parse().unwrap())),
        }
    };
    Deployment {
        metadata: meta,
        spec: Some(DeploymentSpec {
            replicas: line.number("replicas"),
            paused: line.has("paused").then_some(true),
            min_ready_seconds: line.number("minready"),
            progress_deadline_seconds: line.number("deadline").or(Some(600)),
            revision_history_limit: line.number("limit").or(Some(10)),
            selector: Selector {
                match_labels: Some([("app".to_owned(), "web".to_owned())].into()),
                ..Selector::default()
            },
            strategy: Some(DeploymentStrategy {
                type_: Some(if recreate { "Recreate" } else { "RollingUpdate" }.into()),
                rolling_update: (!recreate).then(|| RollingUpdateDeployment {
                    max_surge: Some(amount(line, "surge")),
                    max_unavailable: Some(amount(line, "unavailable")),
                }),
            }),
            template: line.template(&[("app", "web")]),
        }),
        status: Some(DeploymentStatus {
            observed_generation: Some(1),
            replicas: line.number("has"),
            updated_replicas: line.number("updated"),
            ready_replicas: line.number("available"),
            available_replicas: line.number("available"),
            conditions: line.text("progressing").map(|c| vec![condition(c)]),
            ..DeploymentStatus::default()
        }),
    }
}

/// Its size is `replicas=`, of which as many are there, ready and available unless said otherwise.
fn set(line: &Line) -> Arc<ReplicaSet> {
    let mut meta = line.meta();
    meta.labels = Some(line.map("labels").unwrap_or_else(|| [("app".to_owned(), "web".to_owned())].into()));
    let controller = line.text("owner").unwrap_or("web");
    if controller != "none" {
        let mut reference = Line::meta(line).owner_references.unwrap_or_default().pop().unwrap_or_default();
        (reference.kind, reference.name, reference.uid) = ("Deployment".into(), controller.into(), controller.into());
        (reference.controller, reference.block_owner_deletion) = (Some(true), Some(true));
        meta.owner_references = Some(vec![reference]);
    } else {
        meta.owner_references = None;
    }
    let annotations = meta.annotations.get_or_insert_default();
    let noted =
        [(REVISION, "rev"), (REVISION_HISTORY, "history"), (DESIRED_REPLICAS, "desired"), (MAX_REPLICAS, "max")];
    annotations.extend(noted.iter().filter_map(|(key, word)| Some(((*key).to_owned(), line.text(word)?.to_owned()))));
    let size = line.number("replicas").unwrap_or(0);
    let actual = line.number("actual").unwrap_or(size);
    let available = line.number("available").unwrap_or(actual);
    let failure = |message: &str| ReplicaSetCondition {
        type_: "ReplicaFailure".into(),
        status: "True".into(),
        reason: Some("FailedCreate".into()),
        message: Some(message.into()),
        last_transition_time: Some(ago(5)),
    };
    Arc::new(ReplicaSet {
        metadata: meta,
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: line.number("minready"),
            selector: Selector::default(),
            template: Some(line.template(&[("app", "web"), ("pod-template-hash", &line.name)])),
        }),
        status: Some(ReplicaSetStatus {
            replicas: actual,
            ready_replicas: Some(available),
            available_replicas: Some(available),
            terminating_replicas: Some(0),
            observed_generation: Some(1),
            conditions: line.text("failing").map(|m| vec![failure(m)]),
            ..ReplicaSetStatus::default()
        }),
    })
}

fn run(text: &str) -> Plan {
    let lines = lines(text);
    let all = |kind: &'static str| lines.iter().filter(move |l| l.kind == kind);
    let deployment = deployment(all("deploy").next().unwrap());
    let sets: Vec<_> = all("rs").map(set).collect();
    let pods: Vec<_> = all("pod").map(|l| Arc::new(l.pod())).collect();
    let selector = LabelSelector::from_map(&[("app".to_owned(), "web".to_owned())].into());
    plan(&Observed { deployment: &deployment, selector: &selector, sets: &sets, pods: &pods, now: now() })
}

fn check_plan(text: &str, expected: Expect) {
    expected.assert_eq(&run(text).to_string());
}

fn check_status(text: &str, expected: Expect) {
    let plan = run(text);
    let mut out = String::new();
    match &plan.status {
        None => out.push_str("status stands\n"),
        Some(s) => {
            let n = |n: Option<i32>| n.unwrap_or(0);
            let counts = (
                n(s.replicas),
                n(s.updated_replicas),
                n(s.ready_replicas),
                n(s.available_replicas),
                n(s.unavailable_replicas),
            );
            writeln!(out, "replicas, updated, ready, available, unavailable: {counts:?}").unwrap();
            for c in s.conditions.iter().flatten() {
                let text = |t: &Option<String>| t.clone().unwrap_or_default();
                writeln!(out, "{}={} {}: {}", c.type_, c.status, text(&c.reason), text(&c.message)).unwrap();
            }
        }
    }
    if let Some(wake) = plan.wake {
        writeln!(out, "wake in {} s", from_now(wake)).unwrap();
    }
    expected.assert_eq(&out);
}

#[test]
fn first_rollout_creates_the_set_at_full_size() {
    check_plan(
        "deploy web replicas=3 image=v1 annotations=note:x",
        expect![[r#"
        create ReplicaSet web-76ddb8894c replicas=3 desired-replicas=3 max-replicas=4 revision=1 note=x
          event Scaled up replica set web-76ddb8894c from 0 to 3
        note revision 1
    "#]],
    );
    check_status(
        "deploy web replicas=3 image=v1",
        expect![[r#"
        replicas, updated, ready, available, unavailable: (0, 0, 0, 0, 3)
        Progressing=True NewReplicaSetCreated: Created new replica set "web-76ddb8894c"
        Available=False MinimumReplicasUnavailable: Deployment does not have minimum availability.
        wake in 601 s
    "#]],
    );
}

#[test]
fn rolling_update_surges_then_retires() {
    check_plan(
        "deploy web replicas=4 surge=1 unavailable=1 image=v2 rev=1; rs one replicas=4 image=v1 rev=1 desired=4 max=5",
        expect![[r#"
            create ReplicaSet web-788bfcb97b replicas=1 desired-replicas=4 max-replicas=5 revision=2
              event Scaled up replica set web-788bfcb97b from 0 to 1
            note revision 2
            update ReplicaSet one replicas=3 desired-replicas=4 max-replicas=5 revision=1
              event Scaled down replica set one from 4 to 3
        "#]],
    );
    check_plan(
        "deploy web replicas=4 surge=1 unavailable=1 image=v2 rev=2
         rs one replicas=3 image=v1 rev=1 desired=4 max=5
         rs two replicas=1 available=1 image=v2 rev=2 desired=4 max=5",
        expect![[r#"
            update ReplicaSet two replicas=2 desired-replicas=4 max-replicas=5 revision=2
              event Scaled up replica set two from 1 to 2
        "#]],
    );
    check_plan(
        "deploy web replicas=4 surge=1 unavailable=1 image=v2 rev=2
         rs one replicas=3 image=v1 rev=1 desired=4 max=5
         rs two replicas=2 available=2 image=v2 rev=2 desired=4 max=5",
        expect![[r#"
            update ReplicaSet one replicas=1 desired-replicas=4 max-replicas=5 revision=1
              event Scaled down replica set one from 3 to 1
        "#]],
    );
}

#[test]
fn percentages_round_surge_up_and_unavailable_down() {
    let leeway = |text: &str| {
        let leeway = sizes::leeway(&deployment(&lines(text)[0]));
        format!("surge={} unavailable={}", leeway.surge, leeway.unavailable)
    };
    expect!["surge=1 unavailable=0"].assert_eq(&leeway("deploy web replicas=3 surge=25% unavailable=25%"));
    expect!["surge=3 unavailable=2"].assert_eq(&leeway("deploy web replicas=10 surge=25% unavailable=25%"));
    expect!["surge=0 unavailable=1"].assert_eq(&leeway("deploy web replicas=10 surge=0 unavailable=1%"));
    expect!["surge=2 unavailable=3"].assert_eq(&leeway("deploy web replicas=3 surge=2 unavailable=100%"));
    expect!["surge=0 unavailable=0"].assert_eq(&leeway("deploy web replicas=3 recreate"));
}

#[test]
fn unhealthy_old_pods_go_first() {
    check_plan(
        "deploy web replicas=10 surge=3 unavailable=2 image=v2 rev=2
         rs one replicas=8 available=5 image=v1 rev=1 desired=10 max=13
         rs two replicas=5 available=5 image=v2 rev=2 desired=10 max=13",
        expect![[r#"
            update ReplicaSet one replicas=3 desired-replicas=10 max-replicas=13 revision=1
              event Scaled down replica set one from 8 to 3
        "#]],
    );
    // Unavailable new pods count against the old ones that may go.
    check_plan(
        "deploy web replicas=10 surge=3 unavailable=2 image=v2 rev=2
         rs one replicas=8 available=7 image=v1 rev=1 desired=10 max=13
         rs two replicas=5 available=0 image=v2 rev=2 desired=10 max=13",
        expect![[""]],
    );
}

#[test]
fn rollback_gives_the_old_set_the_next_revision() {
    check_plan(
        "deploy web replicas=2 surge=1 unavailable=0 image=v1 rev=2
         rs one replicas=0 image=v1 rev=1 desired=2 max=3 age=100
         rs two replicas=2 image=v2 rev=2 desired=2 max=3 age=50",
        expect![[r#"
            update ReplicaSet one replicas=1 desired-replicas=2 max-replicas=3 revision=3 revision-history=1
              event Scaled up replica set one from 0 to 1
            note revision 3
        "#]],
    );
}

#[test]
fn history_remembers_every_revision_of_a_set() {
    check_plan(
        "deploy web replicas=1 image=v1 rev=4; rs one replicas=0 image=v1 rev=3 history=1 desired=1 max=2 age=100
         rs two replicas=1 image=v2 rev=4 history=2 desired=1 max=2 age=50",
        expect![[r#"
            update ReplicaSet one replicas=1 desired-replicas=1 max-replicas=2 revision=5 revision-history=1,3
              event Scaled up replica set one from 0 to 1
            note revision 5
        "#]],
    );
}

#[test]
fn scaling_during_a_rollout_is_shared_by_size() {
    check_plan(
        "deploy web replicas=20 surge=3 unavailable=2 image=v2 rev=2
         rs one replicas=8 image=v1 rev=1 desired=10 max=13 age=100
         rs two replicas=5 image=v2 rev=2 desired=10 max=13 age=50",
        expect![[r#"
            update ReplicaSet two replicas=9 desired-replicas=20 max-replicas=23 revision=2
              event Scaled up replica set two from 5 to 9
            update ReplicaSet one replicas=14 desired-replicas=20 max-replicas=23 revision=1
              event Scaled up replica set one from 8 to 14
        "#]],
    );
    check_plan(
        "deploy web replicas=5 surge=3 unavailable=2 image=v2 rev=2
         rs one replicas=8 image=v1 rev=1 desired=10 max=13 age=100
         rs two replicas=5 image=v2 rev=2 desired=10 max=13 age=50",
        expect![[r#"
            update ReplicaSet two replicas=3 desired-replicas=5 max-replicas=8 revision=2
              event Scaled down replica set two from 5 to 3
            update ReplicaSet one replicas=5 desired-replicas=5 max-replicas=8 revision=1
              event Scaled down replica set one from 8 to 5
        "#]],
    );
}

#[test]
fn scaling_a_settled_deployment_resizes_its_set() {
    check_plan(
        "deploy web replicas=0 image=v1 rev=1; rs one replicas=3 image=v1 rev=1 desired=3 max=4",
        expect![[r#"
            update ReplicaSet one replicas=0 desired-replicas=0 max-replicas=0 revision=1
              event Scaled down replica set one from 3 to 0
        "#]],
    );
    check_plan(
        "deploy web replicas=5 image=v1 rev=1; rs one replicas=5 image=v1 rev=1 desired=3 max=4",
        expect![[r#"
            update ReplicaSet one replicas=5 desired-replicas=5 max-replicas=7 revision=1
        "#]],
    );
}

#[test]
fn paused_deployment_scales_but_does_not_roll() {
    check_plan(
        "deploy web replicas=5 image=v2 rev=1 paused; rs one replicas=3 image=v1 rev=1 desired=3 max=4",
        expect![[r#"
            update ReplicaSet one replicas=5 desired-replicas=5 max-replicas=7 revision=1
              event Scaled up replica set one from 3 to 5
        "#]],
    );
    check_status(
        "deploy web replicas=3 image=v2 rev=1 paused progressing=NewReplicaSetAvailable@60
         rs one replicas=3 image=v1 rev=1 desired=3 max=4",
        expect![[r#"
            replicas, updated, ready, available, unavailable: (3, 0, 3, 3, 0)
            Progressing=Unknown DeploymentPaused: Deployment is paused
            Available=True MinimumReplicasAvailable: Deployment has minimum availability.
        "#]],
    );
    check_status(
        "deploy web replicas=1 image=v1 rev=1 progressing=DeploymentPaused@9000
         rs one replicas=1 available=0 image=v1 rev=1 desired=1 max=2",
        expect![[r#"
            replicas, updated, ready, available, unavailable: (1, 1, 0, 0, 1)
            Available=False MinimumReplicasUnavailable: Deployment does not have minimum availability.
            Progressing=True ReplicaSetUpdated: ReplicaSet "one" is progressing.
            wake in 601 s
        "#]],
    );
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let deploy = "deploy web replicas=2 image=v2 rev=1 recreate;";
    check_plan(
        &format!("{deploy} rs one replicas=2 image=v1 rev=1 desired=2 max=2"),
        expect![[r#"
        update ReplicaSet one replicas=0 desired-replicas=2 max-replicas=2 revision=1
          event Scaled down replica set one from 2 to 0
    "#]],
    );
    check_plan(&format!("{deploy} rs one replicas=0 actual=0 image=v1 rev=1; pod a owner=one deleting"), expect![[""]]);
    check_plan(
        &format!("{deploy} rs one replicas=0 actual=0 image=v1 rev=1; pod a owner=one phase=Succeeded"),
        expect![[r#"
        create ReplicaSet web-788bfcb97b replicas=2 desired-replicas=2 max-replicas=2 revision=2
          event Scaled up replica set web-788bfcb97b from 0 to 2
        note revision 2
    "#]],
    );
}

#[test]
fn old_sets_beyond_the_limit_are_removed_oldest_first() {
    check_plan(
        "deploy web replicas=1 image=v4 rev=4 limit=1 has=1 updated=1 available=1
         rs one image=v1 rev=1 age=400; rs two image=v2 rev=2 age=300 actual=1; rs three image=v3 rev=3 age=200
         rs four replicas=1 image=v4 rev=4 desired=1 max=2 age=100",
        expect![[r#"
            delete ReplicaSet one
        "#]],
    );
}

#[test]
fn sets_are_adopted_and_released_by_their_labels() {
    check_plan(
        "deploy web replicas=1 image=v1 rev=1
         rs one replicas=1 image=v1 rev=1 desired=1 max=2 owner=none
         rs two image=v2 labels=app:other; rs three image=v3 owner=stranger; rs four image=v4 labels=app:other owner=none",
        expect![[r#"
            adopt ReplicaSet one
            release ReplicaSet two
        "#]],
    );
    check_plan(
        "deploy web replicas=1 image=v1 rev=1 deleting; rs one replicas=1 image=v1 rev=1 owner=none",
        expect![[""]],
    );
}

#[test]
fn progress_restarts_the_deadline_and_its_end_is_told() {
    let set = "rs one replicas=3 image=v1 rev=1 desired=3 max=4";
    check_status(
        &format!(
            "deploy web replicas=3 image=v1 rev=1 has=3 updated=3 progressing=ReplicaSetUpdated@30; {set} available=1"
        ),
        expect![[r#"
            replicas, updated, ready, available, unavailable: (3, 3, 1, 1, 2)
            Available=False MinimumReplicasUnavailable: Deployment does not have minimum availability.
            Progressing=True ReplicaSetUpdated: ReplicaSet "one" is progressing.
            wake in 601 s
        "#]],
    );
    check_status(
        &format!(
            "deploy web replicas=3 image=v1 rev=1 has=3 updated=3 available=1 progressing=ReplicaSetUpdated@700; {set} available=1"
        ),
        expect![[r#"
            replicas, updated, ready, available, unavailable: (3, 3, 1, 1, 2)
            Available=False MinimumReplicasUnavailable: Deployment does not have minimum availability.
            Progressing=False ProgressDeadlineExceeded: ReplicaSet "one" has timed out progressing.
        "#]],
    );
    check_status(
        &format!(
            "deploy web replicas=3 image=v1 rev=1 has=3 updated=3 available=2 progressing=ProgressDeadlineExceeded@700; {set}"
        ),
        expect![[r#"
            replicas, updated, ready, available, unavailable: (3, 3, 3, 3, 0)
            Available=True MinimumReplicasAvailable: Deployment has minimum availability.
            Progressing=True NewReplicaSetAvailable: ReplicaSet "one" has successfully progressed.
        "#]],
    );
    check_status(
        &format!(
            "deploy web replicas=3 image=v1 rev=1 has=3 updated=3 available=3 progressing=NewReplicaSetAvailable@700; {set} available=2"
        ),
        expect![[r#"
            replicas, updated, ready, available, unavailable: (3, 3, 2, 2, 1)
            Progressing=True NewReplicaSetAvailable: 
            Available=False MinimumReplicasUnavailable: Deployment does not have minimum availability.
        "#]],
    );
}

#[test]
fn failure_of_a_set_is_passed_on() {
    check_status(
        "deploy web replicas=3 image=v1 rev=1 deadline=2147483647
         rs one replicas=3 actual=0 image=v1 rev=1 desired=3 max=4 failing=quota",
        expect![[r#"
            replicas, updated, ready, available, unavailable: (0, 0, 0, 0, 3)
            Available=False MinimumReplicasUnavailable: Deployment does not have minimum availability.
            ReplicaFailure=True FailedCreate: quota
        "#]],
    );
}

#[test]
fn templates_are_the_same_however_quantities_are_written() {
    let parse = |cpu: &str, extra: &str| {
        let json = format!(
            r#"{{"metadata":{{"labels":{{"app":"web"{extra}}}}},"spec":{{"containers":[{{"name":"a","resources":{{"limits":{{"cpu":"{cpu}"}}}}}}]}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    };
    let one = parse("1", "");
    assert!(template::same(&one, &parse("1000m", r#","pod-template-hash":"abc""#)));
    assert!(!template::same(&one, &parse("2", "")));
    assert!(!template::same(&one, &parse("1", r#","tier":"x""#)));
    let hash = template::hash(&one, None);
    assert_ne!(hash, template::hash(&one, Some(1)));
    assert_eq!(hash, template::hash(&parse("1", r#","pod-template-hash":"abc""#), None));
    assert!(hash.bytes().all(|c| b"bcdfghjklmnpqrstvwxz2456789".contains(&c)), "{hash}");
}
