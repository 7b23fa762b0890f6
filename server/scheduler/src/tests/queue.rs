//! The queue on paused time: who is next, who waits for what, and for how long.

use std::sync::Arc;
use std::time::Duration;

use expect_test::{Expect, expect};
use tokio::time::Instant;

use super::cluster::{Words, info, node};
use crate::framework::{Happened, Profile};
use crate::info::NodeInfo;
use crate::queue::Queue;

/// ```text
/// pod …                              added or changed
/// pop                                says who
/// refuse NAME PLUGIN                 no node does, says the plugin
/// fail NAME                          could not be bound
/// pass SECONDS    node … [was …]     left …
/// ```
async fn run(script: &str) -> String {
    let profiles = [Profile::standard()];
    let mut queue = Queue::default();
    let mut out = Vec::new();
    let find = |name: &str| profiles[0].plugins.iter().position(|it| it.plugin.name() == name).unwrap();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words = Words::of(line);
        let now = Instant::now();
        match words.kind() {
            "pod" => queue.add(info(line), 0, now),
            "pop" => out.push(queue.pop(now).map_or("nobody".into(), |popped| popped.pod.key.name.to_string())),
            "refuse" => {
                let refused_by = line.split_whitespace().skip(2).map(find).collect();
                queue.refused(&info(&format!("pod {}", words.name())).key, refused_by, now);
            }
            "fail" => queue.failed(&info(&format!("pod {}", words.name()))),
            "gone" => drop(queue.remove(&info(&format!("pod {}", words.name())).key)),
            "pass" => tokio::time::advance(Duration::from_secs(words.name().parse().unwrap())).await,
            "node" => {
                let (new, old) = line.split_once(" was ").map_or((line, None), |(new, old)| (new, Some(old)));
                let old = old.map(|old| node(&format!("node {} {old}", words.name())));
                let new = NodeInfo::new(Arc::new(node(new)));
                queue.happened(&profiles, Happened::Node { old: old.as_ref(), new: &new }, now);
            }
            "left" => queue.happened(&profiles, Happened::PodLeft(&info(line)), now),
            other => panic!("no such act: {other}"),
        }
    }
    let wait = queue.deadline().map(|at| at.saturating_duration_since(Instant::now()).as_secs());
    out.push(wait.map_or("then nothing".into(), |wait| format!("then in {wait} s")));
    out.join(", ")
}

fn check(script: &str, expect: Expect) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    expect.assert_eq(&runtime.block_on(run(script)));
}

#[test]
fn the_most_important_then_the_longest_waiting() {
    check(
        "pod a
         pod b priority=5
         pod c
         pod d priority=5
         pod a labels=x:y
         gone c
         pop
         pop
         pop
         pop",
        expect!["b, d, a, nobody, then nothing"],
    );
}

#[test]
fn a_refused_pod_waits_for_what_its_refusers_say_may_help() {
    check(
        "pod p cpu=2 tolerate=a:b:NoSchedule
         pop
         refuse p NodeResourcesFit
         pop
         node small cpu=1
         pop
         node same cpu=4 was cpu=4
         pop
         node large cpu=2
         pop
         refuse p TaintToleration
         left other cpu=8
         node t taint=x:y:NoSchedule
         pop
         node t taint=a:b:NoSchedule was taint=x:y:NoSchedule
         pop
         refuse p NodeResourcesFit TaintToleration
         left other cpu=1
         pop
         refuse p NodeAffinity
         left other cpu=1
         pop",
        expect!["p, nobody, nobody, nobody, p, nobody, p, p, nobody, then in 300 s"],
    );
}

#[test]
fn a_pod_that_changes_is_tried_again_but_not_for_its_status() {
    check(
        "pod p
         pop
         refuse p NodeResourcesFit
         pod p nominated=a
         pop
         pod p tolerate=x
         pop
         pod p tolerate=y
         refuse p NodeResourcesFit
         pop",
        expect!["p, nobody, p, p, then nothing"],
    );
}

#[test]
fn backoff_doubles_and_is_cut_short_when_nobody_else_waits() {
    check(
        "pod p
         pop
         refuse p NodeResourcesFit
         pod q
         left other
         pop
         pop
         fail p
         pop
         pass 1
         pop
         pass 1
         pop
         fail p
         pass 3
         pop
         pass 1
         pop
         fail p
         pass 8
         pop
         fail p",
        expect!["p, q, p, nobody, nobody, p, nobody, p, p, then in 10 s"],
    );
}

#[test]
fn nobody_waits_for_ever() {
    check(
        "pod p
         pop
         refuse p NodeResourcesFit
         pop
         pass 300
         pop",
        expect!["p, nobody, p, then nothing"],
    );
}

#[test]
fn without_a_refuser_any_node_helps() {
    check(
        "pod p
         pop
         refuse p
         left other
         pop
         node a cordoned
         pop",
        expect!["p, nobody, p, then nothing"],
    );
}
