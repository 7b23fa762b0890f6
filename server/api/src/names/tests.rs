use expect_test::{Expect, expect};

fn check(rule: fn(&str) -> Vec<String>, values: &[&str], expected: Expect) {
    let mut out = String::new();
    for value in values {
        out.push_str(&format!("{value:.20}: {}\n", rule(value).join("; ")));
    }
    expected.assert_eq(&out);
}

#[test]
fn labels_and_subdomains() {
    check(
        super::dns1123_label,
        &["my-name", "a.b", "A", "-a", "", &"a".repeat(64)],
        expect![[r#"
            my-name: 
            a.b: must not contain dots
            A: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            -a: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            : a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            aaaaaaaaaaaaaaaaaaaa: must be no more than 63 bytes
        "#]],
    );
    check(
        super::dns1123_subdomain,
        &["a.b-c.d", "a..b", "a_b"],
        expect![[r#"
            a.b-c.d: 
            a..b: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            a_b: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        "#]],
    );
    check(
        super::dns1035_label,
        &["abc-1", "1abc"],
        expect![[r#"
            abc-1: 
            1abc: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
        "#]],
    );
}

#[test]
fn keys_and_values() {
    check(
        super::qualified_name,
        &["app", "example.com/MyName", "/x", "a/b/c", "x/", "x/-"],
        expect![[r#"
            app: 
            example.com/MyName: 
            /x: prefix part must be non-empty
            a/b/c: a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
            x/: name part must be non-empty; name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            x/-: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
        "#]],
    );
    check(
        super::label_value,
        &["", "a_b.C", "a b"],
        expect![[r#"
            : 
            a_b.C: 
            a b: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
        "#]],
    );
    check(
        super::config_map_key,
        &["a.b", "..", "..x", "a/b"],
        expect![[r#"
            a.b: 
            ..: must not be '..'
            ..x: must not start with '..'
            a/b: a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
        "#]],
    );
    check(
        super::port_name,
        &["http", "HTTP", "80", "a--b", "a-"],
        expect![[r#"
            http: 
            HTTP: must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-); must contain at least one letter (a-z)
            80: must contain at least one letter (a-z)
            a--b: must not contain consecutive hyphens
            a-: must not begin or end with a hyphen
        "#]],
    );
}
