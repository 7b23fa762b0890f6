use expect_test::expect;

use super::kind::detect;

fn check(text: &str) -> String {
    let wasm = wat::parse_str(text).expect("it is WebAssembly");
    match detect(&wasm) {
        Ok(facts) => format!("{:?}{}", facts.kind, if facts.uses_keyvalue { " with key-value" } else { "" }),
        Err(why) => why,
    }
}

#[test]
fn a_guest_is_known_by_what_it_exports() {
    let exporting = |interface: &str| {
        format!(
            r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
               (func $f (canon lift (core func $i "f"))) (instance $e (export "f" (func $f)))
               (export "{interface}" (instance $e)))"#
        )
    };
    const IMPORT: &str = r#"(component (import "wasi:keyvalue/store@0.2.0-draft" (instance))"#;
    let nested = r#"(component (core module (func (export "_start"))))"#;
    let shown = [
        check(r#"(module (func (export "_start")))"#),
        check(&exporting("wasi:cli/run@0.2.6")),
        check(&exporting("wasi:http/incoming-handler@0.2.0")),
        check(&exporting("wasi:cli/run@0.2.6").replacen("(component", IMPORT, 1)),
        check(&exporting("wasi:http/handler@0.3.0")),
        check(&exporting("wasi:cli/run@0.3.1")),
        check(&exporting("wasi:cli/run@0.3.0-rc-2025-09-16")),
        check(&exporting("wasi:http/incoming-handler@0.1.0")),
        check(nested),
        check("(module)"),
        detect(b"").map(|_| String::new()).unwrap_or_else(|why| why),
        detect(b"\0asm\x01\0\0").map(|_| String::new()).unwrap_or_else(|why| why),
    ]
    .join("\n");
    expect![[r#"
        Module
        Command
        Http
        Command with key-value
        Http3
        Command3
        the component exports neither wasi:http/incoming-handler@0.2 nor wasi:cli/run@0.2, nor wasi:http/handler@0.3 nor wasi:cli/run@0.3 (it exports wasi:cli/run@0.3.0-rc-2025-09-16)
        the component exports neither wasi:http/incoming-handler@0.2 nor wasi:cli/run@0.2, nor wasi:http/handler@0.3 nor wasi:cli/run@0.3 (it exports wasi:http/incoming-handler@0.1.0)
        the component exports neither wasi:http/incoming-handler@0.2 nor wasi:cli/run@0.2, nor wasi:http/handler@0.3 nor wasi:cli/run@0.3 (it exports nothing)
        the module has no `_start` to run (it exports nothing); build it as a program, not as a library
        it is not valid WebAssembly: unexpected end-of-file (at offset 0x0)
        it is not valid WebAssembly: unexpected end-of-file (at offset 0x4)"#]]
    .assert_eq(&shown);
}
