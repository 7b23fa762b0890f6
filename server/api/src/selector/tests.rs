use std::collections::BTreeMap;

use expect_test::{Expect, expect};

use super::{FieldSelector, LabelSelector};

fn labels(text: &str) -> BTreeMap<String, String> {
    text.split_whitespace().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Each line is `selector | labels`; printed is the selector's canonical text and whether it matches.
fn check_labels(input: &str, expected: Expect) {
    let mut out = String::new();
    for line in input.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (selector, on) = line.split_once('|').unwrap_or((line, ""));
        match selector.trim().parse::<LabelSelector>() {
            Ok(s) => out.push_str(&format!("{s} -> {}\n", s.matches(&labels(on)))),
            Err(e) => out.push_str(&format!("{e}\n")),
        }
    }
    expected.assert_eq(&out);
}

fn check_fields(input: &str, expected: Expect) {
    let mut out = String::new();
    for line in input.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (selector, on) = line.split_once('|').unwrap_or((line, ""));
        match selector.trim().parse::<FieldSelector>() {
            Ok(s) => out.push_str(&format!("{s} -> {}\n", s.matches(&labels(on)))),
            Err(e) => out.push_str(&format!("{e}\n")),
        }
    }
    expected.assert_eq(&out);
}

#[test]
fn label_queries() {
    check_labels(
        "
        app=web | app=web tier=x
        app==web,tier!=db | app=web
        app in (web, api), !old | app=api
        app notin (web) | app=web
        app notin (web) | x=y
        app | app=
        !app | app=
        n>3 | n=4
        n<3 | n=4
        x= | x=
        env in (,a) | env=
        ",
        expect![[r#"
            app=web -> true
            app=web,tier!=db -> true
            app in (api,web),!old -> true
            app!=web -> false
            app!=web -> true
            app -> true
            !app -> false
            n>3 -> true
            n<3 -> false
            x= -> true
            env in (,a) -> true
        "#]],
    );
}

#[test]
fn label_queries_that_cannot_be_read() {
    check_labels(
        "
        a=b,
        a in b
        a in ()x
        =b
        a b
        a=b=c
        _a=b
        a>x
        ",
        expect![[r#"
            unable to parse requirement: found '', expected: identifier after ','
            unable to parse requirement: found 'b' expected: '('
            unable to parse requirement: found 'x', expected: ',' or 'end of string'
            unable to parse requirement: found '=', expected: !, identifier, or 'end of string'
            unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt
            unable to parse requirement: found '=', expected: ',' or 'end of string'
            unable to parse requirement: key: Invalid value: "_a": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            unable to parse requirement: values[0]: Invalid value: "x": for 'Gt', 'Lt' operators, the value must be an integer
        "#]],
    );
}

#[test]
fn field_queries() {
    check_fields(
        r"
        spec.nodeName=a | spec.nodeName=a
        spec.nodeName= | x=y
        spec.nodeName!=,status.phase!=Running | spec.nodeName=a status.phase=Pending
        metadata.name==b | metadata.name=a
        a=b\,c | a=b,c
        a=b\x
        a
        a=b=c
        ",
        expect![[r#"
            spec.nodeName=a -> true
            spec.nodeName= -> true
            spec.nodeName!=,status.phase!=Running -> true
            metadata.name=b -> false
            a=b\,c -> true
            invalid field selector: invalid escape sequence: \x
            invalid selector: 'a'; can't understand 'a'
            invalid field selector: unescaped character in value: =
        "#]],
    );
}

#[test]
fn an_absent_selector_selects_nothing_and_an_empty_one_everything() {
    let empty = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector::default();
    let check = |s: Option<&_>| LabelSelector::from_object(s).unwrap().matches(&BTreeMap::new());
    assert!(!check(None));
    assert!(check(Some(&empty)));
    assert!(!LabelSelector::from_map(&BTreeMap::new()).matches(&BTreeMap::new()));
}
