use serde_json::{Value, json};

use super::*;
use crate::Cached as _;

fn text(name: &str, image: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": "n", "containers": [{"name": "c", "image": image}, {"name": "d", "image": image}],
            "tolerations": [{"key": "k"}],
        },
        "status": {"phase": "Running"},
    })
    .to_string()
}

fn read(name: &str, image: &str) -> Pod {
    Pod::decode(&text(name, image)).unwrap()
}

fn spec(pod: &Pod) -> &Arc<PodSpec> {
    pod.spec.as_ref().unwrap()
}

#[test]
fn equal_specs_are_one() {
    let (a, b, changed) = (read("a", "equal:1"), read("b", "equal:1"), read("a", "equal:2"));
    assert!(Arc::ptr_eq(spec(&a), spec(&b)));
    assert!(!Arc::ptr_eq(spec(&a), spec(&changed)));
    assert_eq!(
        (a.metadata.name.as_deref(), b.metadata.name.as_deref(), spec(&changed).containers[0].image.as_deref()),
        (Some("a"), Some("b"), Some("equal:2")),
    );
}

#[test]
fn who_changes_a_spec_has_it_alone() {
    let (mut a, b) = (read("a", "alone:1"), read("b", "alone:1"));
    Arc::make_mut(a.spec.as_mut().unwrap()).containers.clear();
    assert_eq!((spec(&a).containers.len(), spec(&b).containers.len()), (0, 2));
    assert!(Arc::ptr_eq(spec(&b), spec(&read("c", "alone:1"))), "the text still means what it says");
}

#[test]
fn what_a_cache_trims_goes_on_sharing_and_has_no_room_to_spare() {
    let (mut a, mut b) = (read("a", "trimmed:1"), read("b", "trimmed:1"));
    a.trim();
    b.trim();
    assert!(Arc::ptr_eq(spec(&a), spec(&b)));
    let room = |spec: &PodSpec| spec.tolerations.as_ref().unwrap().capacity();
    let decoded: PodSpec = serde_json::from_str(&serde_json::to_string(&**spec(&a)).unwrap()).unwrap();
    assert!(room(&decoded) > 1, "decoding leaves some");
    assert_eq!(room(spec(&a)), 1);
}

#[test]
fn nothing_is_kept_alive_nor_remembered_for_long() {
    let specs = Specs::default();
    let kept = specs.decode(r#"{"containers":[],"nodeName":"kept"}"#).unwrap();
    for n in 0..10_000 {
        let read = specs.decode(&format!(r#"{{"containers":[],"nodeName":"{n}"}}"#)).unwrap();
        let gone = Arc::downgrade(&read);
        drop(read);
        assert!(gone.upgrade().is_none());
    }
    let known = specs.0.lock();
    assert!(known.bytes <= 2 * SLACK_BYTES, "{}", known.bytes);
    assert_eq!(known.bytes, known.by_text.keys().map(|text| weight(text)).sum::<usize>());
    drop(known);
    assert!(Arc::ptr_eq(&kept, &specs.decode(r#"{"containers":[],"nodeName":"kept"}"#).unwrap()));
}

#[test]
fn what_is_held_is_not_looked_through_at_every_new_one() {
    let specs = Specs::default();
    let decode = |n: usize| specs.decode(&format!(r#"{{"containers":[],"nodeName":"{n}"}}"#)).unwrap();
    let held: Vec<_> = (0..1_000).map(decode).collect();
    let known = specs.0.lock();
    assert_eq!(known.by_text.len(), held.len());
    assert!(known.sweep_at_bytes > known.bytes && known.sweep_at_bytes <= 2 * known.bytes, "{}", known.sweep_at_bytes);
}

#[test]
fn it_reads_and_writes_as_k8s_openapis() {
    let same = |json: &str| {
        let theirs: core::Pod = serde_json::from_str(json).unwrap();
        let ours = Pod::decode(json).unwrap();
        assert_eq!(ours, Pod::from(theirs.clone()), "{json}");
        assert_eq!(ours, serde_json::from_str(json).unwrap(), "{json}");
        assert_eq!(ours, serde_json::from_value(json.parse::<Value>().unwrap()).unwrap(), "{json}");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(text(ours.encode().unwrap()), text(serde_json::to_vec(&theirs).unwrap()));
    };
    same(&text("p", "same:1"));
    same("{}");
    same(r#"{"metadata":null,"spec":null,"status":null,"unknown":{"a":[1]}}"#);
    same(
        r#"{"status":{"podIP":"1.2.3.4"},"spec":{"containers":[{"name":"\u00e9","unknown":1}]},"metadata":{"name":"p"}}"#,
    );
}

#[test]
fn it_refuses_what_k8s_openapis_refuses() {
    let node = json!({"apiVersion": "v1", "kind": "Node"});
    for wrong in [node, json!({"apiVersion": "v2"}), json!({"spec": 1}), json!({"spec": {"containers": 1}}), json!("p")]
    {
        let text = wrong.to_string();
        let ours = Pod::decode(&text).unwrap_err().to_string();
        let theirs = serde_json::from_str::<core::Pod>(&text).unwrap_err().to_string();
        // Where in the text it is does not agree: a spec is read by itself.
        let told = |text: &str| text.split(" at line").next().unwrap().to_owned();
        assert_eq!(told(&ours), told(&theirs));
    }
}
