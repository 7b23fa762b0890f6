use std::sync::atomic::{AtomicUsize, Ordering};

use coracle_client::full_body;
use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn check_patch(known: Value, wanted: Value, expected: Expect) {
    let (known, wanted) = (serde_json::from_value(known).unwrap(), serde_json::from_value(wanted).unwrap());
    let text = difference(&known, &wanted).map_or("none".to_owned(), |patch| patch.to_string());
    expected.assert_eq(&text);
}

#[test]
fn only_what_changed_and_is_the_nodes_is_sent() {
    let ready = |status: &str| json!({"type": "Ready", "status": status});
    let gate = json!({"type": "example.com/lb", "status": "True"});
    let known = json!({"phase": "Pending", "conditions": [{"type": "Ready", "status": "False", "reason": "X"}, gate]});
    check_patch(known.clone(), known.clone(), expect!["none"]);
    check_patch(
        known.clone(),
        json!({"phase": "Running", "conditions": [ready("True")]}),
        expect![[r#"{"conditions":[{"reason":null,"status":"True","type":"Ready"}],"phase":"Running"}"#]],
    );
    check_patch(json!({"conditions": [gate]}), json!({}), expect!["none"]);
    for name in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        let list = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0}]);
        let expected = json!({ name: list }).to_string();
        assert_eq!(
            difference(&PodStatus::default(), &serde_json::from_value(json!({ name: list })).unwrap())
                .unwrap()
                .to_string(),
            expected
        );
    }
}

#[test]
fn lists_with_a_merge_key_are_replaced() {
    let ips = |ip: &str| json!({"podIP": ip, "podIPs": [{"ip": ip}]});
    check_patch(json!({}), ips("10.0.0.1"), expect![[r#"{"podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}]}"#]]);
    check_patch(
        ips("10.0.0.1"),
        ips("10.0.0.2"),
        expect![[r#"{"podIP":"10.0.0.2","podIPs":[{"$patch":"replace"},{"ip":"10.0.0.2"}]}"#]],
    );
    check_patch(json!({"reason": "Evicted"}), json!({}), expect![[r#"{"reason":null}"#]]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_changes_nothing_is_not_made_again() {
    let object = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "5"},
        "status": {"phase": "Pending"}});
    let writes = Arc::new(AtomicUsize::new(0));
    let (counted, answer) = (writes.clone(), object.to_string());
    // A server that takes everything and changes nothing, and would not stand it for ever.
    let client = Client::new(tower::service_fn(move |_: http::Request<coracle_client::Body>| {
        let answer = match counted.fetch_add(1, Ordering::Relaxed) {
            0..10 => Ok(http::Response::new(full_body(answer.clone()))),
            _ => Err(std::io::Error::other("again")),
        };
        std::future::ready(answer)
    }));
    let scope = TaskScope::root();
    let writer = StatusWriter::start(client, &scope);
    let pod: Arc<Pod> = Arc::new(serde_json::from_value(object).unwrap());
    let settled = || tokio::time::advance(RETRY_MAX);
    writer.observe(&pod);
    let running = PodStatus { phase: Some("Running".into()), ..PodStatus::default() };
    writer.publish(&Uid::from("u"), SharedStatus::Made(Arc::new(running)));
    settled().await;
    writer.observe(&pod);
    settled().await;
    scope.shutdown().await;
    assert_eq!(writes.load(Ordering::Relaxed), 1);
}
