use expect_test::{Expect, expect};

use super::{FieldValidation, Format, Target, decode};
use crate::schema::Schema;

fn check(group: &str, version: &str, kind: &str, format: Format, input: &str, expected: Expect) {
    let def = Schema::v1_36().resource_of_kind(group, version, kind).expect("a served kind");
    let mut out = String::new();
    let shown = match decode(input.as_bytes(), format, &Target::of(def), FieldValidation::Strict) {
        Ok(decoded) => serde_json::to_string(&decoded.object).unwrap(),
        Err(error) => error.to_string(),
    };
    out.push_str(&shown);
    out.push('\n');
    if let Ok(decoded) = decode(input.as_bytes(), format, &Target::of(def), FieldValidation::Warn)
        && !decoded.warnings.is_empty()
    {
        out.push_str(&format!(
            "{}\n{}\n",
            decoded.warnings.join("\n"),
            serde_json::to_string(&decoded.object).unwrap()
        ));
    }
    expected.assert_eq(&out);
}

fn check_pod(input: &str, expected: Expect) {
    check("", "v1", "Pod", Format::Json, input, expected);
}

#[test]
fn unknown_and_duplicate_fields() {
    check_pod(
        r#"{"metadata":{"name":"a","labels":{"x":"1","x":"2"}},"spec":{"foo":{"a":[1]},"containers":[{"name":"c","imagge":"x"}],
            "nodeName":"n","nodeName":"m"}}"#,
        expect![[r#"
            Pod in version "v1" cannot be handled as a Pod: strict decoding error: duplicate field "metadata.labels.x", unknown field "spec.foo", unknown field "spec.containers[0].imagge", duplicate field "spec.nodeName"
            duplicate field "metadata.labels.x"
            unknown field "spec.foo"
            unknown field "spec.containers[0].imagge"
            duplicate field "spec.nodeName"
            {"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"x":"2"},"name":"a"},"spec":{"containers":[{"name":"c"}],"nodeName":"m"}}
        "#]],
    );
}

#[test]
fn values_of_wrong_types() {
    let cases = [
        (r#"{"spec":{"containers":[{"name":1}]}}"#),
        (r#"{"spec":{"containers":"x"}}"#),
        (r#"{"spec":[]}"#),
        (r#"{"spec":{"priority":3000000000}}"#),
        (r#"{"spec":{"priority":1.5}}"#),
        (r#"{"spec":{"hostNetwork":"true"}}"#),
        (r#"{"metadata":{"labels":{"a":1}}}"#),
        (r#"{"metadata":{"creationTimestamp":"yesterday"}}"#),
        (r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"1x"}}}]}}"#),
        (r#"[]"#),
        (r#"{"metadata":"#),
        (r#"null"#),
        (r#"{"kind":"Service","spec":{"ports":[]}}"#),
        (r#"{"apiVersion":"v2","kind":"Pod"}"#),
    ];
    let def = Schema::v1_36().resource_of_kind("", "v1", "Pod").unwrap();
    let read = |case: &str| decode(case.as_bytes(), Format::Json, &Target::of(def), FieldValidation::Strict);
    let out: String = cases.map(|case| format!("{}\n", read(case).unwrap_err())).concat();
    expect![[r#"
        Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string
        Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container
        Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec
        Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32
        Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32
        Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool
        Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string
        Pod in version "v1" cannot be handled as a Pod: parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006"
        Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
        Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal array into Go value of type v1.Pod
        the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: EOF while parsing a value at line 1 column 12 ({"metadata":)
        the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: the body is empty (6e756c6c)
        Service in version "v1" cannot be handled as a Pod: converting (v1.Service) to (v1.Pod): unknown conversion
        the API version in the data (v2) does not match the expected API version (v1)
    "#]]
    .assert_eq(&out);
}

#[test]
fn nulls_empties_and_spellings_become_what_go_would_write() {
    check_pod(
        r#"{"metadata":{"labels":{},"annotations":{"a":null},"creationTimestamp":"2026-01-02T03:04:05.6+01:00","finalizers":null},
            "spec":{"tolerations":[],"containers":[{"name":"c","args":[null,"x"],"resources":{"limits":{"cpu":0.5,"memory":"1024Mi","x":2}}}],
            "volumes":[{"name":"v","emptyDir":{}}],"nodeSelector":{}}}"#,
        expect![[r#"
            {"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"a":""},"creationTimestamp":"2026-01-02T02:04:05Z"},"spec":{"containers":[{"args":["","x"],"name":"c","resources":{"limits":{"cpu":"500m","memory":"1Gi","x":"2"}}}],"volumes":[{"emptyDir":{},"name":"v"}]}}
        "#]],
    );
}

#[test]
fn bytes_are_base64() {
    let check = |input: &str, expected: Expect| check("", "v1", "Secret", Format::Json, input, expected);
    check(
        r#"{"data":{"a":"aGVs\nbG8=","b":""}}"#,
        expect![[r#"
            {"apiVersion":"v1","data":{"a":"aGVsbG8=","b":""},"kind":"Secret"}
        "#]],
    );
    check(
        r#"{"data":{"a":"a b"}}"#,
        expect![[r#"
            Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 1
        "#]],
    );
    check(
        r#"{"data":{"a":"aGVsbG8"}}"#,
        expect![[r#"
            Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 4
        "#]],
    );
}

#[test]
fn yaml_is_read_as_upstream_reads_it() {
    check(
        "apps",
        "v1",
        "Deployment",
        Format::Yaml,
        "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  name: web2
  labels: {1: one, true: t}
spec:
  replicas: 2
  paused: yes
  strategy: {rollingUpdate: {maxSurge: 25%, maxUnavailable: 1}}
  template:
    spec:
      volumes:
      - name: c
        configMap: {name: c, defaultMode: 0644}
      containers: &c
      - name: a
        resources: {limits: {cpu: 1.5, memory: 1Gi}}
      initContainers: *c
      bogus: 1
",
        expect![[r#"
            Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: duplicate field "metadata.name", unknown field "spec.template.spec.bogus"
            duplicate field "metadata.name"
            unknown field "spec.template.spec.bogus"
            {"apiVersion":"apps/v1","kind":"Deployment","metadata":{"labels":{"1":"one","true":"t"},"name":"web2"},"spec":{"paused":true,"replicas":2,"strategy":{"rollingUpdate":{"maxSurge":"25%","maxUnavailable":1}},"template":{"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":"1500m","memory":"1Gi"}}}],"initContainers":[{"name":"a","resources":{"limits":{"cpu":"1500m","memory":"1Gi"}}}],"volumes":[{"configMap":{"defaultMode":420,"name":"c"},"name":"c"}]}}}}
        "#]],
    );
}

#[test]
fn a_custom_type_keeps_what_it_is_told_to_keep() {
    use crate::schema::{FieldDef, FieldType, ListType, PatchStrategy, TypeDef};
    let field = |name: &'static str, ty| FieldDef {
        name: name.into(),
        ty,
        list: ListType::Atomic,
        patch: PatchStrategy::default(),
        required: false,
        atomic: false,
        proto: None,
    };
    let schema = Schema::extend(Schema::v1_36(), |_| {
        vec![TypeDef {
            name: "com.example.v1.Thing".into(),
            fields: Box::new([
                field("apiVersion", FieldType::String),
                field("kind", FieldType::String),
                field("list", FieldType::List(Box::new(FieldType::Int64))),
            ]),
            atomic: false,
            exact: true,
            preserves_unknown: true,
        }]
    });
    let ty = schema.type_named("com.example.v1.Thing").unwrap();
    let target = Target { schema: &schema, ty, group: "example.com", version: "v1", kind: "Thing", any_version: false };
    let decoded = decode(br#"{"list":[],"other":{"a":null}}"#, Format::Json, &target, FieldValidation::Strict).unwrap();
    expect![[r#"{"apiVersion":"example.com/v1","kind":"Thing","list":[],"other":{"a":null}}"#]]
        .assert_eq(&serde_json::to_string(&decoded.object).unwrap());
}

#[test]
fn yaml_aliases_stand_for_what_a_person_would_repeat() {
    let decoded = |text: String| {
        let def = Schema::v1_36().resource_of_kind("apps", "v1", "ControllerRevision").expect("a served kind");
        let decoded = decode(text.as_bytes(), Format::Yaml, &Target::of(def), FieldValidation::Strict);
        decoded
            .map(|decoded| decoded.object.path(&["data"]).unwrap().to_string().len())
            .map_err(|error| error.to_string())
    };
    let data = |many: usize, times: usize| {
        let (list, uses) = ("x, ".repeat(many), "*a, ".repeat(times));
        format!("{{revision: 1, data: {{a: &a [{list}], b: [{uses}]}}}}")
    };
    let text = |bytes: usize, times: usize| {
        let (text, uses) = ("x".repeat(bytes), "*a, ".repeat(times));
        format!("{{revision: 1, data: {{a: &a {text}, b: [{uses}]}}}}")
    };
    let nested = "{revision: 1, data: {a: &a [*a]}}".to_owned();
    let outcomes = [data(100, 100), data(1_000, 1_000), text(1_000, 100), text(100_000, 100_000), nested].map(decoded);
    let shown: Vec<String> = outcomes.iter().map(|outcome| format!("{outcome:?}")).collect();
    expect![[r#"
        Ok(40613)
        Err("the object provided is unrecognized (must be of type ControllerRevision): couldn't get version/kind; json parse error: data.b[405][623]: document contains excessive aliasing at line 1 column 1898 ({revision: 1, data: {a: &a [x, ...)")
        Ok(101314)
        Err("the object provided is unrecognized (must be of type ControllerRevision): couldn't get version/kind; json parse error: data.b[142]: document contains excessive aliasing at line 1 column 25 ({revision: 1, data: {a: &a xxx ...)")
        Err("the object provided is unrecognized (must be of type ControllerRevision): couldn't get version/kind; json parse error: recursion limit exceeded at line 1 column 25 ({revision: 1, data: {a: &a [*a ...)")"#]].assert_eq(&shown.join("\n"));
}
