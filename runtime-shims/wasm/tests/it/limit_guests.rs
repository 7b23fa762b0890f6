//! Small guests that go for a limit and say what came of it.

/// Guests that go for a limit.
pub const GUESTS: &[(&str, &str)] = &[
    // Grows until it is told no.
    (
        "grower",
        r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start")
          (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
          (call $exit (memory.size))))"#,
    ),
    // Asks for a table that cannot be after each growth of its memory: the failure must not look like the memory's.
    (
        "refunded",
        r#"(module
        (memory (export "memory") i64 1)
        (table $t i64 1 funcref)
        (func (export "_start")
          (loop
            (drop (memory.grow (i64.const 64)))
            (drop (table.grow $t (ref.null func) (i64.const -1)))
            (br 0))))"#,
    ),
    // Links arrays of 100,000 bytes to each other, so that none can be collected.
    (
        "collected",
        r#"(module
        (type $bytes (array (mut i8)))
        (rec (type $link (struct (field (ref null $link)) (field (ref $bytes)))))
        (memory (export "memory") 1)
        (func (export "_start") (local $last (ref null $link))
          (loop
            (local.set $last
              (struct.new $link (local.get $last) (array.new_default $bytes (i32.const 100000))))
            (br 0))))"#,
    ),
    (
        "exit-255",
        r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $exit (i32.const -1))))"#,
    ),
    // Opens a file of its volume until it cannot, says whether it is for too many (33), that one more goes after a close,
    // and how many there were.
    (
        "opener",
        r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
          (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "file")
        (func $another (result i32)
          (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 0)
            (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 0)))
        (func (export "_start") (local $count i32) (local $errno i32)
          (loop $more
            (local.set $errno (call $another))
            (if (i32.eqz (local.get $errno))
              (then
                (local.set $count (i32.add (local.get $count) (i32.const 1)))
                (br $more))))
          (if (i32.ne (local.get $errno) (i32.const 33)) (then (call $exit (local.get $errno))))
          (if (call $close (i32.load (i32.const 0))) (then (call $exit (i32.const 121))))
          (if (call $another) (then (call $exit (i32.const 122))))
          (call $exit (local.get $count))))"#,
    ),
    // Makes sockets until it cannot; ends well if it is for the limit (10), and at five.
    (
        "socketeer",
        r#"(component
        (import "wasi:sockets/network@0.2.0" (instance $network
          (type $codes (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
            "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit"
            "address-not-bindable" "address-in-use" "remote-unreachable" "connection-refused" "connection-reset"
            "connection-aborted" "datagram-too-large" "name-unresolvable" "temporary-resolver-failure"
            "permanent-resolver-failure"))
          (export "error-code" (type (eq $codes)))
          (type $families (enum "ipv4" "ipv6"))
          (export "ip-address-family" (type (eq $families)))))
        (import "wasi:sockets/tcp@0.2.0" (instance $tcp (export "tcp-socket" (type (sub resource)))))
        (alias export $network "error-code" (type $code))
        (alias export $network "ip-address-family" (type $family))
        (alias export $tcp "tcp-socket" (type $socket))
        (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create
          (alias outer 1 $code (type $outer-code))
          (export "error-code" (type $own-code (eq $outer-code)))
          (alias outer 1 $family (type $outer-family))
          (export "ip-address-family" (type $own-family (eq $outer-family)))
          (alias outer 1 $socket (type $outer-socket))
          (export "tcp-socket" (type $own-socket (eq $outer-socket)))
          (export "create-tcp-socket" (func
            (param "address-family" $own-family) (result (result (own $own-socket) (error $own-code)))))))
        (core module $memory (memory (export "memory") 1))
        (core instance $mem (instantiate $memory))
        (core func $new (canon lower (func $create "create-tcp-socket") (memory (core memory $mem "memory"))))
        (core module $code
          (import "" "memory" (memory 1))
          (import "" "new" (func $new (param i32 i32)))
          (func (export "run") (result i32) (local $count i32)
            (loop $more
              (call $new (i32.const 0) (i32.const 0))
              (if (i32.eqz (i32.load8_u (i32.const 0)))
                (then
                  (local.set $count (i32.add (local.get $count) (i32.const 1)))
                  (br $more))))
            (i32.eqz (i32.and
              (i32.eq (local.get $count) (i32.const 5))
              (i32.eq (i32.load8_u (i32.const 4)) (i32.const 10))))))
        (core instance $core (instantiate $code (with "" (instance
          (export "memory" (memory $mem "memory")) (export "new" (func $new))))))
        (func $run (result (result)) (canon lift (core func $core "run")))
        (instance $exports (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $exports)))"#,
    ),
    // Makes host objects and drops none.
    (
        "hoarder",
        r#"(component
        (import "wasi:http/types@0.2.0" (instance $types
          (export "fields" (type $fields (sub resource)))
          (export "[constructor]fields" (func (result (own $fields))))))
        (core func $new (canon lower (func $types "[constructor]fields")))
        (core module $code
          (import "" "new" (func $new (result i32)))
          (func (export "run") (result i32) (loop (drop (call $new)) (br 0)) (unreachable)))
        (core instance $core (instantiate $code (with "" (instance (export "new" (func $new))))))
        (func $run (result (result)) (canon lift (core func $core "run")))
        (instance $exports (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $exports)))"#,
    ),
];
