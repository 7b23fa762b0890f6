use expect_test::{Expect, expect};

use super::*;
use crate::{RandomIds, TokioClock, testing::Script};

const TAKEN: &str = r#"json {"metadata":{},"involvedObject":{}}"#;

fn web() -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some("ns".into()),
        name: Some("web".into()),
        uid: Some("u1".into()),
        ..Default::default()
    }
}

/// Records with a recorder whose server answers by `script`; what was written is the outcome.
async fn check_events<F: Future<Output = ()>>(script: &str, record: impl FnOnce(Recorder) -> F, expected: Expect) {
    let script = Script::new(script);
    let scope = TaskScope::root();
    let source = Source { component: "kubelet".into(), host: "node-1".into() };
    let clock = TokioClock::shared("2026-01-01T00:00:00Z".parse().unwrap());
    record(Recorder::new(&script.client(), clock, RandomIds::seeded(1), source, &scope)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    expected.assert_eq(&script.log());
    scope.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn repeats_become_a_count() {
    check_events(
        &[TAKEN; 3].join("\n---\n"),
        |recorder| async move {
            recorder.event(&web(), EventType::Warning, "BackOff", "again");
            tokio::time::sleep(Duration::from_secs(10)).await;
            recorder.event(&web(), EventType::Warning, "BackOff", "again");
            recorder.event(&web(), EventType::Normal, "Pulled", "image");
        },
        expect![[r#"
            POST /api/v1/namespaces/ns/events {"apiVersion":"v1","kind":"Event","count":1,"firstTimestamp":"2026-01-01T00:00:00Z","involvedObject":{"kind":"Pod","name":"web","namespace":"ns","uid":"u1"},"lastTimestamp":"2026-01-01T00:00:00Z","message":"again","metadata":{"name":"web.18867251edfa1861","namespace":"ns"},"reason":"BackOff","reportingComponent":"kubelet","reportingInstance":"node-1","source":{"component":"kubelet","host":"node-1"},"type":"Warning"}
            PATCH /api/v1/namespaces/ns/events/web.18867251edfa1861 {"count":2,"lastTimestamp":"2026-01-01T00:00:10Z","message":"again"}
            POST /api/v1/namespaces/ns/events {"apiVersion":"v1","kind":"Event","count":1,"firstTimestamp":"2026-01-01T00:00:10Z","involvedObject":{"kind":"Pod","name":"web","namespace":"ns","uid":"u1"},"lastTimestamp":"2026-01-01T00:00:10Z","message":"image","metadata":{"name":"web.188672544205694a","namespace":"ns"},"reason":"Pulled","reportingComponent":"kubelet","reportingInstance":"node-1","source":{"component":"kubelet","host":"node-1"},"type":"Normal"}
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_collected_begins_anew_and_a_refused_one_is_let_go() {
    check_events(
        &format!("{TAKEN}\n---\nstatus 404 NotFound\n---\n{TAKEN}\n---\nstatus 403 Forbidden\n---\n{TAKEN}"),
        |recorder| async move {
            recorder.event(&web(), EventType::Normal, "A", "1");
            recorder.event(&web(), EventType::Normal, "A", "1");
            recorder.event(&web(), EventType::Normal, "B", "2");
            let node = ObjectReference { kind: Some("Node".into()), name: Some("node-1".into()), ..Default::default() };
            recorder.for_component("other").event(&node, EventType::Normal, "C", "3");
        },
        expect![[r#"
            POST /api/v1/namespaces/ns/events {"apiVersion":"v1","kind":"Event","count":1,"firstTimestamp":"2026-01-01T00:00:00Z","involvedObject":{"kind":"Pod","name":"web","namespace":"ns","uid":"u1"},"lastTimestamp":"2026-01-01T00:00:00Z","message":"1","metadata":{"name":"web.18867251edfa1861","namespace":"ns"},"reason":"A","reportingComponent":"kubelet","reportingInstance":"node-1","source":{"component":"kubelet","host":"node-1"},"type":"Normal"}
            PATCH /api/v1/namespaces/ns/events/web.18867251edfa1861 {"count":2,"lastTimestamp":"2026-01-01T00:00:00Z","message":"1"}
            POST /api/v1/namespaces/ns/events {"apiVersion":"v1","kind":"Event","count":2,"firstTimestamp":"2026-01-01T00:00:00Z","involvedObject":{"kind":"Pod","name":"web","namespace":"ns","uid":"u1"},"lastTimestamp":"2026-01-01T00:00:00Z","message":"1","metadata":{"name":"web.18867251edfa1861","namespace":"ns"},"reason":"A","reportingComponent":"kubelet","reportingInstance":"node-1","source":{"component":"kubelet","host":"node-1"},"type":"Normal"}
            POST /api/v1/namespaces/ns/events {"apiVersion":"v1","kind":"Event","count":1,"firstTimestamp":"2026-01-01T00:00:00Z","involvedObject":{"kind":"Pod","name":"web","namespace":"ns","uid":"u1"},"lastTimestamp":"2026-01-01T00:00:00Z","message":"2","metadata":{"name":"web.18867251edfa694a","namespace":"ns"},"reason":"B","reportingComponent":"kubelet","reportingInstance":"node-1","source":{"component":"kubelet","host":"node-1"},"type":"Normal"}
            POST /api/v1/namespaces/default/events {"apiVersion":"v1","kind":"Event","count":1,"firstTimestamp":"2026-01-01T00:00:00Z","involvedObject":{"kind":"Node","name":"node-1"},"lastTimestamp":"2026-01-01T00:00:00Z","message":"3","metadata":{"name":"node-1.18867251edfac9da","namespace":"default"},"reason":"C","reportingComponent":"other","reportingInstance":"node-1","source":{"component":"other","host":"node-1"},"type":"Normal"}
        "#]],
    )
    .await;
}

fn observe(correlator: &mut Correlator, object: ObjectReference, message: &str, seconds: i64) -> String {
    let occurrence = Occurrence {
        object,
        source: Source { component: "c".into(), host: "".into() },
        kind: EventType::Normal,
        reason: "R".into(),
        message: message.into(),
        at: jiff::Timestamp::from_second(seconds).unwrap(),
    };
    match correlator.observe(occurrence, || "s".to_owned()) {
        Some(write) => format!("{} x{}", write.occurrence.message, write.count),
        None => "silenced".to_owned(),
    }
}

#[test]
fn similar_events_are_combined() {
    let mut correlator = Correlator::new();
    let told: Vec<_> = (0..12).map(|n| observe(&mut correlator, web(), &format!("m{n}"), 0)).collect();
    expect![[r#"
        m7 x1
        m8 x1
        (combined from similar events): m9 x1
        (combined from similar events): m10 x2
        (combined from similar events): m11 x3"#]]
    .assert_eq(&told[7..].join("\n"));
    assert_eq!(observe(&mut correlator, web(), "later", 601), "later x1");
}

#[test]
fn an_object_that_floods_is_silenced_alone() {
    let mut correlator = Correlator::new();
    let other = ObjectReference { name: Some("other".into()), ..web() };
    for _ in 0..25 {
        assert_ne!(observe(&mut correlator, web(), "m", 0), "silenced");
    }
    assert_eq!(observe(&mut correlator, web(), "m", 0), "silenced");
    assert_eq!(observe(&mut correlator, other, "m", 0), "m x1");
    assert_eq!(observe(&mut correlator, web(), "m", 299), "silenced");
    // The silenced ones were counted.
    assert_eq!(observe(&mut correlator, web(), "m", 301), "m x28");
}

#[test]
fn names_are_in_the_order_of_time() {
    let mut stamps = Stamps::new(RandomIds::seeded(1));
    let nanoseconds = [1_767_225_600_000_000_000, 1_767_225_600_000_000_000, 1_767_225_600_000_100_000, 1];
    let names = nanoseconds.map(|n| stamps.next(jiff::Timestamp::from_nanosecond(n).unwrap()));
    assert!(names.is_sorted() && names[0] != names[1], "{names:?}");
    expect!["18867251edfa"].assert_eq(&names[0][..12]);
}
