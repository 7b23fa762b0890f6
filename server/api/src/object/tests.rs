use expect_test::expect;
use k8s_openapi::api::core::v1::Pod;

use super::Object;
use crate::meta::{ObjectKey, Revision, Uid};

fn object(json: &str) -> Object {
    serde_json::from_str(json).unwrap()
}

#[test]
fn what_all_objects_share() {
    let mut o = object(
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"ns","resourceVersion":"7","generation":2,
            "deletionTimestamp":"2026-01-02T03:04:05Z","finalizers":["a/b"],"labels":{"x":"y"}},"spec":{"nodeName":"n","paused":null}}"#,
    );
    assert_eq!(o.key(), ObjectKey::new("ns", "web"));
    assert_eq!(
        (o.revision(), o.generation(), o.gvk().to_string()),
        (Revision(7), 2, "apps/v1, Kind=Deployment".into())
    );
    assert!(o.is_being_deleted());
    assert_eq!((o.finalizers(), o.label("x")), (vec!["a/b"], Some("y")));
    assert_eq!((o.field(&["spec", "nodeName"]), o.path(&["spec", "paused"])), (Some("n"), None));
    o.set_revision(Revision::UNSET);
    o.set_finalizers(&[]);
    o.set_uid(&Uid::from("u"));
    o.set_annotation("k", "v");
    o.set(&["status", "replicas"], 3);
    o.remove(&["spec", "paused"]);
    o.remove(&["metadata", "deletionTimestamp"]);
    expect![[r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"annotations":{"k":"v"},"generation":2,"labels":{"x":"y"},"name":"web","namespace":"ns","uid":"u"},"spec":{"nodeName":"n"},"status":{"replicas":3}}"#]]
    .assert_eq(&serde_json::to_string(&o).unwrap());
}

#[test]
fn typed_and_back() {
    let o = object(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c"}]}}"#);
    let pod: Pod = o.typed().unwrap();
    assert_eq!(Object::from_typed(&pod).unwrap(), o);
    let error =
        object(r#"{"kind":"Pod","metadata":{"name":"a","namespace":"ns"},"spec":1}"#).typed::<Pod>().unwrap_err();
    assert_eq!(error.to_string(), "cannot read Pod ns/a as its typed form");
}
