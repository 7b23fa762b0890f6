use expect_test::{Expect, expect};

use super::*;

/// A message as nested text: `1"text" 2{…} 3=7`.
fn message_of(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().unwrap();
        rest = &rest[digits..];
        let (kind, tail) = rest.split_at(1);
        match kind {
            "=" => {
                let end = tail.find(' ').unwrap_or(tail.len());
                varint(&mut out, number << 3);
                varint(&mut out, tail[..end].parse::<i64>().unwrap().cast_unsigned());
                rest = &tail[end..];
            }
            "\"" => {
                let end = tail.find('"').unwrap();
                bytes(&mut out, number, &tail.as_bytes()[..end]);
                rest = &tail[end + 1..];
            }
            "{" => {
                let mut depth = 1;
                let end = tail
                    .char_indices()
                    .find(|(_, c)| {
                        depth += match c {
                            '{' => 1,
                            '}' => -1,
                            _ => 0,
                        };
                        depth == 0
                    })
                    .unwrap()
                    .0;
                bytes(&mut out, number, &message_of(&tail[..end]));
                rest = &tail[end + 1..];
            }
            other => panic!("{other}"),
        }
        rest = rest.trim_start();
    }
    out
}

fn bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn check_decode(api_version: &str, kind: &str, text: &str, expected: Expect) {
    let mut body = MAGIC.to_vec();
    bytes(&mut body, 1, &message_of(&format!("1\"{api_version}\" 2\"{kind}\"")));
    bytes(&mut body, 2, &message_of(text));
    let result = match decode(&body, Schema::v1_36()) {
        Ok(object) => Value::Object(object).to_string(),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&result);
}

#[test]
fn a_deployment_is_read_as_its_json() {
    check_decode(
        "apps/v1",
        "Deployment",
        r#"1{1"web" 2"" 11{1"app" 2"web"} 8{}}
           2{1=0 2{1{1"app" 2"web"}}
             3{1{11{1"app" 2"web"} 8{}} 2{2{1"c" 2"nginx:1" 7{1"E" 2""} 6{1"" 2=0 3=80 4""} 8{1{1"cpu" 2{1"100m"}}}} 3"" 11=0 1{1"v" 2{2{1""}}}}}
             4{1"RollingUpdate" 2{1{1=1 3"25%"} 2{1=0 2=1}}}
             5=0 7=0}
           3{1=0}"#,
        expect![[
            r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"labels":{"app":"web"},"name":"web"},"spec":{"replicas":0,"selector":{"matchLabels":{"app":"web"}},"strategy":{"rollingUpdate":{"maxSurge":1,"maxUnavailable":"25%"},"type":"RollingUpdate"},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"env":[{"name":"E"}],"image":"nginx:1","name":"c","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"100m"}}}],"volumes":[{"emptyDir":{},"name":"v"}]}}},"status":{}}"#
        ]],
    );
}

#[test]
fn bytes_times_and_wrapped_lists_are_read() {
    check_decode(
        "v1",
        "Secret",
        r#"1{1"s" 8{1=1767225600 2=0}} 2{1"k" 2"hello"} 3"Opaque""#,
        expect![[
            r#"{"apiVersion":"v1","data":{"k":"aGVsbG8="},"kind":"Secret","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","name":"s"},"type":"Opaque"}"#
        ]],
    );
    check_decode(
        "authentication.k8s.io/v1",
        "TokenReview",
        r#"1{} 2{1"t"} 3{1=0 2{1"u" 4{1"k" 2{1"a" 1"b"}}}}"#,
        expect![[
            r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","metadata":{},"spec":{"token":"t"},"status":{"user":{"extra":{"k":["a","b"]},"username":"u"}}}"#
        ]],
    );
    check_decode(
        "apps/v1",
        "ControllerRevision",
        r#"1{} 2{1"{}"} 3=-1"#,
        expect![[r#"{"apiVersion":"apps/v1","data":{},"kind":"ControllerRevision","metadata":{},"revision":-1}"#]],
    );
    check_decode(
        "v1",
        "DeleteOptions",
        r#"1=0 4"Background" 2{1"uid"}"#,
        expect![[
            r#"{"apiVersion":"v1","gracePeriodSeconds":0,"kind":"DeleteOptions","preconditions":{"uid":"uid"},"propagationPolicy":"Background"}"#
        ]],
    );
}

#[test]
fn what_is_damaged_or_unknown_is_said() {
    check_decode("v1", "Nothing", "", expect![[r#"no kind "Nothing" is registered for version "v1""#]]);
    check_decode("v1", "ConfigMap", "1=7", expect!["the body is damaged protobuf: bytes were expected"]);
    let said = |body: &[u8]| decode(body, Schema::v1_36()).unwrap_err().to_string();
    expect![[r#"the body is not Kubernetes' protobuf: it does not begin with "k8s\x00""#]].assert_eq(&said(b"{}"));
    expect!["the body is damaged protobuf: it ends within a field"].assert_eq(&said(b"k8s\0\x12\x50abc"));
}

#[test]
fn base64_pads() {
    let texts: Vec<String> = ["", "a", "ab", "abc", "abcd"].iter().map(|text| base64(text.as_bytes())).collect();
    expect![[r#"["", "YQ==", "YWI=", "YWJj", "YWJjZA=="]"#]].assert_eq(&format!("{texts:?}"));
}
