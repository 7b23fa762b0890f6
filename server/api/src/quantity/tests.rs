use expect_test::{Expect, expect};

use super::Quantity;

/// Each word: its canonical form, whole units and thousandths.
fn check(words: &str, expected: Expect) {
    let mut out = String::new();
    for word in words.split_whitespace() {
        match word.parse::<Quantity>() {
            Ok(q) => out.push_str(&format!("{word} = {q} value {} milli {}\n", q.value(), q.milli())),
            Err(e) => out.push_str(&format!("{word}: {e}\n")),
        }
    }
    expected.assert_eq(&out);
}

#[test]
fn canonical_forms() {
    check(
        "0 0.0Gi 1 1000 1000m 1500m 0.5 100Mi 1024Mi 1.5Gi 1.1Gi 512 1023Ki 0.5Ki 1Ki 2048 12e6 1e-3 1E 1E3 1e3 -1500m +5 .5 5. 123.456k",
        expect![[r#"
            0 = 0 value 0 milli 0
            0.0Gi = 0 value 0 milli 0
            1 = 1 value 1 milli 1000
            1000 = 1k value 1000 milli 1000000
            1000m = 1 value 1 milli 1000
            1500m = 1500m value 2 milli 1500
            0.5 = 500m value 1 milli 500
            100Mi = 100Mi value 104857600 milli 104857600000
            1024Mi = 1Gi value 1073741824 milli 1073741824000
            1.5Gi = 1536Mi value 1610612736 milli 1610612736000
            1.1Gi = 1181116006400m value 1181116007 milli 1181116006400
            512 = 512 value 512 milli 512000
            1023Ki = 1023Ki value 1047552 milli 1047552000
            0.5Ki = 512 value 512 milli 512000
            1Ki = 1Ki value 1024 milli 1024000
            2048 = 2048 value 2048 milli 2048000
            12e6 = 12e6 value 12000000 milli 12000000000
            1e-3 = 1e-3 value 1 milli 1
            1E = 1E value 1000000000000000000 milli 9223372036854775807
            1E3 = 1e3 value 1000 milli 1000000
            1e3 = 1e3 value 1000 milli 1000000
            -1500m = -1500m value -2 milli -1500
            +5 = 5 value 5 milli 5000
            .5 = 500m value 1 milli 500
            5. = 5 value 5 milli 5000
            123.456k = 123456 value 123456 milli 123456000
        "#]],
    );
}

#[test]
fn limits_of_precision_and_size() {
    check(
        "1n 0.1n 1.0000000001 9223372036854775807 9223372036854775808 100E 8Ei 1e30 1e-30 0.00000000000000000000000000000000000000001Gi 12345678901234567890123456789012345678901234567890",
        expect![[r#"
            1n = 1n value 1 milli 1
            0.1n = 1n value 1 milli 1
            1.0000000001 = 1000000001n value 2 milli 1001
            9223372036854775807 = 9223372036854775807 value 9223372036854775807 milli 9223372036854775807
            9223372036854775808 = 9223372036854775807 value 9223372036854775807 milli 9223372036854775807
            100E = 9223372036854775807 value 9223372036854775807 milli 9223372036854775807
            8Ei = 9223372036854775807 value 9223372036854775807 milli 9223372036854775807
            1e30 = 9223372036854775807 value 9223372036854775807 milli 9223372036854775807
            1e-30 = 1e-9 value 1 milli 1
            0.00000000000000000000000000000000000000001Gi = 1n value 1 milli 1
            12345678901234567890123456789012345678901234567890 = 9223372036854775807 value 9223372036854775807 milli 9223372036854775807
        "#]],
    );
}

#[test]
fn what_is_no_quantity() {
    check(
        "x 1x 1.2.3 Ki . - 1e 1Kii 1_0 1mi",
        expect![[r#"
            x: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            1x: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            1.2.3: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            Ki: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            .: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            -: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            1e: unable to parse quantity's suffix
            1Kii: unable to parse quantity's suffix
            1_0: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            1mi: unable to parse quantity's suffix
        "#]],
    );
}

#[test]
fn sums_are_exact_and_keep_the_first_form() {
    let q = |text: &str| text.parse::<Quantity>().unwrap();
    let sums = [q("100m") + q("900m"), q("1Gi") + q("1"), q("0") + q("1Ki"), q("1") - q("1500m"), q("8E") + q("8E")];
    expect![[r#"[1, 1073741825, 1Ki, -500m, 9223372036854775807]"#]].assert_eq(&format!("{sums:?}"));
    assert!(q("1Gi") > q("1G") && q("1") == q("1000m") && q("-1") < Quantity::ZERO);
}
