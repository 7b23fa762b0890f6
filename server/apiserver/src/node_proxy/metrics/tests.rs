use expect_test::{Expect, expect};

use super::samples::{Ask, Sample, Samples};
use super::*;

/// A node's answer at `second`: its own and a container's processor seconds, the container started at `started`.
fn sample(second: i64, node: f64, container: f64, started: i64) -> Sample {
    let ms = second * 1000;
    let labels = r#"{container="c",namespace="n",pod="p"}"#;
    let text = format!(
        "# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time\n\
         node_cpu_usage_seconds_total {node} {ms}\n\
         node_memory_working_set_bytes 4.096e+06 {ms}\n\
         container_cpu_usage_seconds_total{labels} {container} {ms}\n\
         container_memory_working_set_bytes{labels} 1025 {ms}\n\
         container_start_time_seconds{labels} {started}\n\
         pod_cpu_usage_seconds_total{{namespace=\"n\",pod=\"p\"}} 1 {ms}\n\
         resource_scrape_error 0\n"
    );
    Sample::parse(&text, jiff::Timestamp::from_second(second).expect("a time"))
}

fn check(samples: &[Sample], expected: Expect) {
    let mut all = Samples::default();
    for sample in samples {
        all.add(sample.clone());
    }
    let node =
        all.node().map(|usage| format!("node {} {} {}", usage.at_text(), usage.window_text(), usage.resources()));
    let pod = all
        .pod("n", "p")
        .into_iter()
        .map(|(name, usage)| format!("{name} {} {}", usage.window_text(), usage.resources()));
    let lines: Vec<String> = node.into_iter().chain(pod).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn usage_is_what_was_used_between_two_looks() {
    check(
        &[sample(1000, 50.0, 5.0, 10), sample(1015, 65.0, 6.5, 10)],
        expect![[r#"
            node 1970-01-01T00:16:55Z 15s {"cpu":"1000000000n","memory":"4000Ki"}
            c 15s {"cpu":"100000000n","memory":"1025"}"#]],
    );
}

#[test]
fn what_was_started_meanwhile_is_counted_from_its_start() {
    check(
        &[sample(1000, 50.0, 5.0, 10), sample(1100, 50.0, 0.5, 1090)],
        expect![[r#"
            node 1970-01-01T00:18:20Z 1m40s {"cpu":"0","memory":"4000Ki"}
            c 10s {"cpu":"50000000n","memory":"1025"}"#]],
    );
}

#[test]
fn one_look_says_nothing_of_a_node() {
    check(&[sample(1000, 50.0, 5.0, 999)], expect![[r#"c 1s {"cpu":"5000000000n","memory":"1025"}"#]]);
    // The first is too long ago.
    check(
        &[sample(1000, 50.0, 5.0, 1), sample(2000, 60.0, 5.0, 1999)],
        expect![[r#"c 1s {"cpu":"5000000000n","memory":"1025"}"#]],
    );
}

#[test]
fn a_node_is_asked_when_the_last_look_is_old_and_twice_when_there_was_none() {
    let at = |second| jiff::Timestamp::from_second(second).expect("a time");
    let mut samples = Samples::default();
    assert_eq!(samples.ask(at(1000)), Ask::Now);
    samples.add(sample(1000, 1.0, 1.0, 1));
    assert_eq!(samples.ask(at(1000)), Ask::Later);
    samples.add(sample(1001, 1.0, 1.0, 1));
    assert_eq!(samples.ask(at(1001)), Ask::Enough);
    assert_eq!(samples.ask(at(1004)), Ask::Enough);
    assert_eq!(samples.ask(at(1020)), Ask::Now);
    samples.add(sample(1020, 1.0, 1.0, 1));
    assert_eq!(samples.ask(at(1020)), Ask::Enough);
    // After a long silence there is nothing to compare with.
    samples.add(sample(5000, 1.0, 1.0, 1));
    assert_eq!(samples.ask(at(5000)), Ask::Later);
}

#[test]
fn discovery_has_both_kinds_to_be_read_only() {
    let shown: Vec<String> = resources()
        .iter()
        .map(|def| {
            format!("{} {} {} namespaced={} {:?}", def.api_version(), def.plural, def.kind, def.namespaced, def.verbs)
        })
        .collect();
    expect![[r#"
        metrics.k8s.io/v1beta1 nodes NodeMetrics namespaced=false ["get", "list"]
        metrics.k8s.io/v1beta1 pods PodMetrics namespaced=true ["get", "list"]"#]]
    .assert_eq(&shown.join("\n"));
}
