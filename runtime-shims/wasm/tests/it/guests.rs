//! Guests: the examples as they are committed, and small ones made from text.

#[path = "limit_guests.rs"]
mod limit_guests;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Core modules on WASI 0.1.
const MODULES: &[(&str, &str)] = &[
    (
        "exit",
        r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $exit (i32.const 42))))"#,
    ),
    (
        "trap",
        r#"(module
        (memory (export "memory") 1)
        (func $deep unreachable)
        (func (export "_start") (call $deep)))"#,
    ),
    (
        "spin",
        r#"(module
        (memory (export "memory") 1)
        (func (export "_start") (loop (br 0))))"#,
    ),
    (
        "bomb",
        r#"(module
        (memory (export "memory") 1)
        (func (export "_start")
          (loop
            (drop (memory.grow (i32.const 16)))
            (br 0))))"#,
    ),
    (
        "table-bomb",
        r#"(module
        (memory (export "memory") 1)
        (table $t 1 funcref)
        (func (export "_start")
          (loop
            (drop (table.grow $t (ref.null func) (i32.const 65536)))
            (br 0))))"#,
    ),
    (
        "recursion",
        r#"(module
        (memory (export "memory") 1)
        (func $again (call $again))
        (func (export "_start") (call $again)))"#,
    ),
    (
        "chatter",
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "out\nout again\n")
        (data (i32.const 48) "err\nno newline")
        (func $say (param $fd i32) (param $at i32) (param $length i32)
          (i32.store (i32.const 0) (local.get $at))
          (i32.store (i32.const 4) (local.get $length))
          (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
        (func (export "_start")
          (call $say (i32.const 1) (i32.const 16) (i32.const 14))
          (call $say (i32.const 2) (i32.const 48) (i32.const 14))))"#,
    ),
    (
        "flood",
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "a line of a flood that does not end by itself\n")
        (func (export "_start")
          (i32.store (i32.const 0) (i32.const 16))
          (i32.store (i32.const 4) (i32.const 46))
          (loop
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br 0))))"#,
    ),
    (
        "listener",
        r#"(module
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "listening\n")
        (data (i32.const 32) "told to stop\n")
        (func $say (param $at i32) (param $length i32)
          (i32.store (i32.const 0) (local.get $at))
          (i32.store (i32.const 4) (local.get $length))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
        (func (export "_start")
          ;; Waits for input or a millisecond, then says that it has looked.
          (i32.store8 (i32.const 2056) (i32.const 1))
          (i32.store (i32.const 2112) (i32.const 1))
          (i64.store (i32.const 2120) (i64.const 1000000))
          (drop (call $poll (i32.const 2048) (i32.const 3072) (i32.const 2) (i32.const 8)))
          (call $say (i32.const 16) (i32.const 10))
          (loop $more
            (i32.store (i32.const 0) (i32.const 64))
            (i32.store (i32.const 4) (i32.const 1024))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br_if $more (i32.load (i32.const 8))))
          (call $say (i32.const 32) (i32.const 13))
          (call $exit (i32.const 7))))"#,
    ),
    (
        "stubborn",
        r#"(module
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "listening\n")
        (data (i32.const 32) "told to stop\n")
        (func $say (param $at i32) (param $length i32)
          (i32.store (i32.const 0) (local.get $at))
          (i32.store (i32.const 4) (local.get $length))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
        (func (export "_start")
          ;; Waits for input or a millisecond, then says that it has looked.
          (i32.store8 (i32.const 2056) (i32.const 1))
          (i32.store (i32.const 2112) (i32.const 1))
          (i64.store (i32.const 2120) (i64.const 1000000))
          (drop (call $poll (i32.const 2048) (i32.const 3072) (i32.const 2) (i32.const 8)))
          (call $say (i32.const 16) (i32.const 10))
          (loop $more
            (i32.store (i32.const 0) (i32.const 64))
            (i32.store (i32.const 4) (i32.const 1024))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br_if $more (i32.load (i32.const 8))))
          (call $say (i32.const 32) (i32.const 13))
          (loop (br 0))))"#,
    ),
    (
        // Opens the same file 100,000 times over and ends with the first refusal's number, or 0.
        "opens",
        r#"(module
        (import "wasi_snapshot_preview1" "path_open"
          (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "file")
        (func (export "_start") (local $left i32) (local $code i32) (local $first i32)
          (local.set $left (i32.const 100000))
          (loop $again
            (local.set $code (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 1)
              (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)))
            (if (i32.eqz (local.get $first)) (then (local.set $first (local.get $code))))
            (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
          (call $exit (local.get $first))))"#,
    ),
    ("library", r#"(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))"#),
    (
        "stranger",
        r#"(module
        (import "env" "summon" (func))
        (func (export "_start")))"#,
    ),
];

/// Core code of components that serve `wasi:http`, as the body of `handle`.
const HANDLERS: &[(&str, &str)] = &[
    ("http-spin", "(loop (br 0))"),
    ("http-trap", "(unreachable)"),
    ("http-silent", ""),
    ("http-bomb", "(loop (drop (memory.grow (i32.const 16))) (br 0))"),
];

/// Names and files of all guests. Made once for all tests of a run.
pub fn files() -> Vec<(String, PathBuf)> {
    static MADE: OnceLock<Vec<(String, PathBuf)>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        // Nothing ends with a test's process: a directory of its own would be left behind by every run.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        let mut made = Vec::new();
        let mut put = |name: &str, text: &str| {
            let wasm = wat::parse_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            let (path, new) = (dir.join(format!("{name}.wasm")), dir.join(format!("{name}.{}", std::process::id())));
            // Whole at any time: another run may be reading it.
            std::fs::write(&new, wasm).and_then(|()| std::fs::rename(&new, &path)).expect("it can be written");
            made.push((name.to_owned(), path));
        };
        for (name, text) in MODULES {
            put(name, text);
        }
        for (name, body) in HANDLERS {
            put(name, &handler(body));
        }
        for (name, text) in limit_guests::GUESTS {
            put(name, text);
        }
        put("command-fails", COMMAND_FAILS);
        put("neither", "(component)");
        made
    });
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut files = vec![
        ("hello:dev".to_owned(), examples.join("hello/hello.wasm")),
        ("worker:dev".to_owned(), examples.join("worker/worker.wasm")),
        ("net".to_owned(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/net/net.wasm")),
        ("plain".to_owned(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/plain/plain.wasm")),
        ("preview1".to_owned(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/preview1/preview1.wasm")),
        ("tool".to_owned(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/tool/tool.wasm")),
        ("service3".to_owned(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/service3/service3.wasm")),
        ("command3".to_owned(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/command3/command3.wasm")),
        ("state".to_owned(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/state/state.wasm")),
        ("abuse".to_owned(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/abuse/abuse.wasm")),
    ];
    files.extend(made.iter().cloned());
    files
}

/// The file of one of them.
pub fn file(name: &str) -> PathBuf {
    files().into_iter().find(|(known, _)| known == name).expect("there is such a guest").1
}

fn handler(body: &str) -> String {
    format!(
        r#"(component
          (import "wasi:http/types@0.2.0" (instance $types
            (export "incoming-request" (type (sub resource)))
            (export "response-outparam" (type (sub resource)))))
          (alias export $types "incoming-request" (type $request))
          (alias export $types "response-outparam" (type $out))
          (core module $code
            (memory (export "memory") 1)
            (func (export "handle") (param i32 i32) {body}))
          (core instance $core (instantiate $code))
          (func $handle (param "request" (own $request)) (param "response-out" (own $out))
            (canon lift (core func $core "handle")))
          (instance $exports (export "handle" (func $handle)))
          (export "wasi:http/incoming-handler@0.2.0" (instance $exports)))"#
    )
}

/// `wasi:cli/run` that returns an error.
const COMMAND_FAILS: &str = r#"(component
  (core module $code (func (export "run") (result i32) (i32.const 1)))
  (core instance $core (instantiate $code))
  (func $run (result (result)) (canon lift (core func $core "run")))
  (instance $exports (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $exports)))"#;
