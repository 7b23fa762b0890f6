use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::{PatchError, go_text, json, merge, mismatch, strategic};
use crate::schema::Schema;

fn yaml(text: &str) -> Value {
    serde_norway::from_str(text).expect("a test's YAML")
}

/// Patches an apps/v1 Deployment's `spec.template.spec`, given as flow YAML.
fn check_pod_spec(original: &str, patch: &str, expected: Expect) {
    check_type("io.k8s.api.core.v1.PodSpec", original, patch, expected);
}

fn check_type(ty: &str, original: &str, patch: &str, expected: Expect) {
    let schema = Schema::v1_36();
    let ty = schema.type_named(ty).expect("a type");
    let out = match strategic(yaml(original), yaml(patch), schema, ty) {
        Ok(value) => value.to_string(),
        Err(PatchError::Malformed(message)) => format!("400 {message}"),
        Err(PatchError::Unprocessable(message)) => format!("422 {message}"),
        Err(other) => other.to_string(),
    };
    expected.assert_eq(&out);
}

#[test]
fn lists_merge_by_key() {
    check_pod_spec(
        "{containers: [{name: a, image: x, args: [1]}, {name: b, image: y}]}",
        "{containers: [{name: b, image: z}, {name: c, image: w}]}",
        expect![[
            r#"{"containers":[{"args":[1],"image":"x","name":"a"},{"image":"z","name":"b"},{"image":"w","name":"c"}]}"#
        ]],
    );
    check_pod_spec(
        "{containers: [{name: a, ports: [{containerPort: 80, name: p}]}]}",
        "{containers: [{name: a, args: [x], ports: [{containerPort: 80, name: q}, {containerPort: 81}]}]}",
        expect![[
            r#"{"containers":[{"args":["x"],"name":"a","ports":[{"containerPort":80,"name":"q"},{"containerPort":81}]}]}"#
        ]],
    );
}

#[test]
fn lists_without_a_strategy_are_replaced() {
    check_pod_spec(
        "{tolerations: [{key: a}, {key: b}]}",
        "{tolerations: [{key: c}]}",
        expect![[r#"{"tolerations":[{"key":"c"}]}"#]],
    );
}

#[test]
fn maps_merge_and_null_removes() {
    check_pod_spec(
        "{nodeSelector: {a: x, b: y}, nodeName: n, securityContext: {runAsUser: 1, fsGroup: 2}}",
        "{nodeSelector: {a: null, c: z}, nodeName: null, securityContext: {fsGroup: null}, hostname: null}",
        expect![[r#"{"nodeSelector":{"b":"y","c":"z"},"securityContext":{"runAsUser":1}}"#]],
    );
}

#[test]
fn patch_directives() {
    check_pod_spec(
        "{containers: [{name: a}, {name: b}, {name: c}]}",
        "{containers: [{name: b, $patch: delete}, {name: d}]}",
        expect![[r#"{"containers":[{"name":"d"},{"name":"a"},{"name":"c"}]}"#]],
    );
    check_pod_spec(
        "{containers: [{name: a}, {name: b}]}",
        "{containers: [{$patch: replace}, {name: z}]}",
        expect![[r#"{"containers":[{"name":"z"}]}"#]],
    );
    check_pod_spec(
        "{securityContext: {runAsUser: 1}, affinity: {nodeAffinity: {}}}",
        "{securityContext: {$patch: replace, fsGroup: 2}, affinity: {$patch: delete}}",
        expect![[r#"{"affinity":{},"securityContext":{"fsGroup":2}}"#]],
    );
    check_pod_spec(
        "{containers: [{name: a}]}",
        "{containers: [{name: b, $patch: upsert}]}",
        expect!["400 unknown patch type: upsert in map: map[$patch:upsert name:b]"],
    );
    // Nothing to merge with: what only steers a merge goes.
    check_pod_spec(
        "{}",
        "{containers: [{name: a, image: null}, {name: b, $patch: delete}], securityContext: {$retainKeys: [fsGroup], fsGroup: 1}}",
        expect![[r#"{"containers":[{"name":"a"}],"securityContext":{"fsGroup":1}}"#]],
    );
}

#[test]
fn set_element_order() {
    check_pod_spec(
        "{containers: [{name: a}, {name: server}, {name: b}]}",
        "{$setElementOrder/containers: [{name: b}, {name: c}, {name: a}], containers: [{name: c, image: x}]}",
        expect![[r#"{"containers":[{"name":"server"},{"name":"b"},{"image":"x","name":"c"},{"name":"a"}]}"#]],
    );
    check_pod_spec(
        "{containers: [{name: a}, {name: b}]}",
        "{$setElementOrder/containers: [{name: b}, {name: a}]}",
        expect![[r#"{"containers":[{"name":"b"},{"name":"a"}]}"#]],
    );
    check_pod_spec(
        "{containers: [{name: a}, {name: b}]}",
        "{$setElementOrder/containers: [{name: a}], containers: [{name: b, $patch: delete}, {name: a, image: i}]}",
        expect![[r#"{"containers":[{"image":"i","name":"a"}]}"#]],
    );
    check_pod_spec(
        "{containers: [{name: a}]}",
        "{$setElementOrder/containers: [{name: a}], containers: [{name: b}]}",
        expect![[r#"
            422 The order in patch list:
            [map[name:b]]
             doesn't match $setElementOrder list:
            [map[name:a]]
        "#]],
    );
}

#[test]
fn retain_keys() {
    check_type(
        "io.k8s.api.apps.v1.DeploymentSpec",
        "{strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1}}}",
        "{strategy: {$retainKeys: [type], type: Recreate}}",
        expect![[r#"{"strategy":{"type":"Recreate"}}"#]],
    );
    check_pod_spec(
        "{volumes: [{name: v, emptyDir: {}}]}",
        "{volumes: [{name: v, $retainKeys: [name, hostPath], hostPath: {path: /x}}]}",
        expect![[r#"{"volumes":[{"hostPath":{"path":"/x"},"name":"v"}]}"#]],
    );
    check_type(
        "io.k8s.api.apps.v1.DeploymentSpec",
        "{strategy: {type: RollingUpdate}}",
        "{strategy: {$retainKeys: [rollingUpdate], type: Recreate}}",
        expect!["400 invalid patch format of retainKeys"],
    );
}

#[test]
fn lists_of_scalars() {
    check_type(
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "{finalizers: [a, b, c]}",
        "{$deleteFromPrimitiveList/finalizers: [b], finalizers: [d]}",
        expect![[r#"{"finalizers":["d","a","c"]}"#]],
    );
    check_type(
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "{finalizers: [a, b]}",
        "{$setElementOrder/finalizers: [b, x, a], finalizers: [x]}",
        expect![[r#"{"finalizers":["b","x","a"]}"#]],
    );
}

#[test]
fn what_does_not_fit() {
    check_pod_spec(
        "{containers: [{name: a}]}",
        "{containers: [{image: x}]}",
        expect!["400 map: map[image:x] does not contain declared merge key: name"],
    );
    check_pod_spec(
        "{containers: [{name: a}]}",
        "{containers: [x]}",
        expect!["422 list element types are not identical: [[map[name:a]] [x]]"],
    );
    check_pod_spec("{}", "[]", expect!["400 a strategic merge patch must be a JSON object"]);
    check_pod_spec("{containers: [{name: a}]}", "{containers: x}", expect![[r#"{"containers":"x"}"#]]);
    check_pod_spec(
        "{containers: [{name: a}]}",
        "{$setElementOrder/containers: [{name: a}], containers: {name: a}}",
        expect!["400 expected a []interface {}, but received a map[string]interface {}"],
    );
}

#[test]
fn what_is_not_of_its_type_is_told_as_go_tells_it() {
    let check = |yaml: &str, expected: &str| {
        let value = self::yaml(yaml);
        let schema = Schema::v1_36();
        let ty = schema.type_named("io.k8s.api.core.v1.Pod").unwrap();
        assert_eq!(mismatch(&value, schema, ty).unwrap_or_default(), expected, "{yaml}");
    };
    check("{spec: {containers: [{name: a, ports: [{containerPort: 80}]}], unknown: {a: [1]}}}", "");
    check("{spec: {activeDeadlineSeconds: soon}}", "unrecognized type: int64");
    check("{spec: {priority: true}}", "unrecognized type: int32");
    check("{spec: {hostNetwork: 'yes'}}", "unrecognized type: bool");
    check("{spec: {nodeName: 5}}", "cannot convert int64 to string");
    check("{spec: {nodeName: [a]}}", "unrecognized type: string");
    check("{spec: {containers: {name: a}}}", "cannot restore slice from map");
    check("{spec: {containers: [a]}}", "cannot restore struct from: string");
    check("{spec: {nodeSelector: [a]}}", "cannot restore map from slice");
    check("{spec: {nodeSelector: {a: 5}}}", "cannot convert int64 to string");
    check("{spec: null, metadata: 1.5}", "cannot restore struct from: float64");
    let value = yaml("{b: [1, a, null], a: {y: true, x: 1.5}}");
    assert_eq!(go_text(&value), "map[a:map[x:1.5 y:true] b:[1 a <nil>]]");
}

#[test]
fn merge_patches() {
    let merged =
        merge(json!({"a": {"b": 1, "c": 2}, "l": [1, 2]}), json!({"a": {"b": null, "d": {"e": null}}, "l": [3]}));
    expect![[r#"{"a":{"c":2,"d":{}},"l":[3]}"#]].assert_eq(&merged.unwrap().to_string());
    assert!(merge(json!({}), json!([])).is_err());
}

#[test]
fn json_patches() {
    let check = |operations: Value, expected: Expect| {
        let out = match json(json!({"a": {"b": 1}, "l": [1, 2]}), operations) {
            Ok(value) => value.to_string(),
            Err(error) => format!("{error}\n"),
        };
        expected.assert_eq(&out);
    };
    check(
        json!([{"op": "test", "path": "/a/b", "value": 1}, {"op": "add", "path": "/l/-", "value": 3}, {"op": "remove", "path": "/a"}]),
        expect![[r#"{"l":[1,2,3]}"#]],
    );
    check(
        json!([{"op": "test", "path": "/a/b", "value": 2}]),
        expect![[r#"
            operation 0 ({"op":"test","path":"/a/b","value":2}): value did not match
        "#]],
    );
    check(
        json!([{"op": "jump", "path": "/a/b"}]),
        expect![[r#"
            error decoding patch: operation 0: unknown variant `jump`, expected one of `add`, `remove`, `replace`, `move`, `copy`, `test`
        "#]],
    );
    let many: Vec<Value> = (0..10_001).map(|_| json!({"op": "test", "path": "/a/b", "value": 1})).collect();
    check(
        Value::Array(many),
        expect![[r#"
            The allowed maximum operations in a JSON patch is 10000, got 10001
        "#]],
    );
    let doubling: Vec<Value> = (0..64).map(|i| json!({"op": "copy", "from": "", "path": format!("/k{i}")})).collect();
    check(
        Value::Array(doubling),
        expect![[r#"
            unable to complete the copy, the accumulated size increase of copy is 3801077, exceeding the limit 3145728
        "#]],
    );
}

#[test]
fn a_patch_that_digs_for_ever_is_stopped_in_time() {
    let wrap = [
        json!({"op": "add", "path": "/e", "value": {}}),
        json!({"op": "move", "from": "/d", "path": "/e/d"}),
        json!({"op": "move", "from": "/e", "path": "/d"}),
    ];
    let dig = |levels: usize| -> Value { (0..levels).flat_map(|_| wrap.clone()).collect() };
    let depth = |levels: usize| {
        super::json::json(json!({"d": {}}), dig(levels)).map(|value| value.to_string().matches('{').count())
    };
    expect![[r#"
        Ok(52)
        Err(Unprocessable("the patched object has more than 100 levels"))
        Err(Unprocessable("the patched object has more than 100 levels"))"#]]
    .assert_eq(&format!("{:?}\n{:?}\n{:?}", depth(50), depth(100), depth(3_333)));
}
