//! `docs/wasi.md` says what of WASI there is. Each line of its tables is tried here, and each thing tried is a line there.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use coracle_shim_wasm::front::FrontConfig;
use coracle_shim_wasm::images::ImageStore;

use crate::shim::{Shim, guest};

/// The table below a heading, as what it says in its first two columns.
fn claims(heading: &str) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/wasi.md");
    let text = std::fs::read_to_string(path).expect("the document is there");
    let (_, below) = text.split_once(&format!("## {heading}\n")).expect("the heading is there");
    let section = below.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    let cells = rows.filter(|row| !row.starts_with("|--")).map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        (cells.next().unwrap_or_default(), cells.next().unwrap_or_default())
    });
    cells.collect()
}

/// Fails with every line that differs.
fn check_claims(heading: &str, found: &BTreeMap<String, String>) {
    let claimed = claims(heading);
    let mut wrong = String::new();
    for (name, outcome) in found {
        let verdict = if outcome.starts_with("yes") { "yes" } else { "no" };
        match claimed.get(name) {
            None => wrong.push_str(&format!("{name} is not in the table: {outcome}\n")),
            Some(claim) if claim != verdict => wrong.push_str(&format!("{name}: {claim} is claimed: {outcome}\n")),
            Some(_) => {}
        }
    }
    for name in claimed.keys().filter(|name| !found.contains_key(*name)) {
        wrong.push_str(&format!("{name} is in the table and was not tried\n"));
    }
    assert!(wrong.is_empty(), "docs/wasi.md, {heading}:\n{wrong}");
}

#[tokio::test]
async fn wasi_0_1_does_what_its_table_says() {
    let shim = Shim::start().await;
    let (data, fixed) = (shim.dir.path().join("data"), shim.dir.path().join("fixed"));
    for dir in [&data, &fixed] {
        std::fs::create_dir(dir).expect("a directory can be made");
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    }
    let preview1 = guest("preview1").args(&["one", "two"]).env("GREETING", "good day");
    let pod = shim.run("preview1", preview1.mount(&data, "/data", false).mount(&fixed, "/fixed", true)).await;
    assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#, "{}", shim.log("preview1", "main"));
    let log = shim.log("preview1", "main");
    let lines = log.lines().filter_map(|line| line.strip_prefix("stdout F ")?.split_once(": "));
    let found: BTreeMap<String, String> = lines.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect();
    assert!(found.len() > 30, "{log}");
    check_claims("WASI 0.1", &found);
}

/// An interface, and one thing in it whose being there is asked for.
const INTERFACES: &[(&str, &str)] = &[
    ("wasi:cli/environment@0.2", r#"(export "get-arguments" (func (result (list string))))"#),
    ("wasi:cli/exit@0.2", r#"(export "exit" (func (param "status" (result))))"#),
    ("wasi:cli/terminal-input@0.2", r#"(export "terminal-input" (type (sub resource)))"#),
    ("wasi:cli/terminal-output@0.2", r#"(export "terminal-output" (type (sub resource)))"#),
    ("wasi:clocks/monotonic-clock@0.2", r#"(export "now" (func (result u64)))"#),
    (
        "wasi:clocks/wall-clock@0.2",
        r#"(type $d (record (field "seconds" u64) (field "nanoseconds" u32)))
           (export "datetime" (type $e (eq $d))) (export "now" (func (result $e)))"#,
    ),
    (
        "wasi:clocks/timezone@0.2",
        r#"(type $d (record (field "seconds" u64) (field "nanoseconds" u32)))
           (export "datetime" (type $e (eq $d))) (export "utc-offset" (func (param "when" $e) (result s32)))"#,
    ),
    ("wasi:filesystem/types@0.2", r#"(export "descriptor" (type (sub resource)))"#),
    ("wasi:io/error@0.2", r#"(export "error" (type (sub resource)))"#),
    ("wasi:io/poll@0.2", r#"(export "pollable" (type (sub resource)))"#),
    ("wasi:io/streams@0.2", r#"(export "output-stream" (type (sub resource)))"#),
    ("wasi:random/random@0.2", r#"(export "get-random-u64" (func (result u64)))"#),
    ("wasi:random/insecure@0.2", r#"(export "get-insecure-random-u64" (func (result u64)))"#),
    ("wasi:random/insecure-seed@0.2", r#"(export "insecure-seed" (func (result (tuple u64 u64))))"#),
    ("wasi:sockets/network@0.2", r#"(export "network" (type (sub resource)))"#),
    ("wasi:sockets/tcp@0.2", r#"(export "tcp-socket" (type (sub resource)))"#),
    ("wasi:sockets/udp@0.2", r#"(export "udp-socket" (type (sub resource)))"#),
    ("wasi:sockets/ip-name-lookup@0.2", r#"(export "resolve-address-stream" (type (sub resource)))"#),
    ("wasi:http/types@0.2", r#"(export "outgoing-request" (type (sub resource)))"#),
    ("wasi:tls/types@0.2", r#"(export "client-connection" (type (sub resource)))"#),
    ("wasi:blobstore/container@0.2", r#"(export "container" (type (sub resource)))"#),
    ("wasi:messaging/types@0.2", r#"(export "message" (type (sub resource)))"#),
    ("wasi:nn/tensor@0.2", r#"(export "tensor" (type (sub resource)))"#),
];

/// A program that imports the interface and does nothing with it.
fn importing(interface: &str, item: &str) -> String {
    format!(
        r#"(component
          (import "{interface}.0" (instance {item}))
          (core module $code (func (export "run") (result i32) (i32.const 0)))
          (core instance $core (instantiate $code))
          (func $run (result (result)) (canon lift (core func $core "run")))
          (instance $exports (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $exports)))"#
    )
}

#[tokio::test]
async fn wasi_0_2_has_the_interfaces_its_table_says() {
    let shim = Shim::start().await;
    let store = ImageStore::open(FrontConfig::image_dir(shim.dir.path())).expect("the store opens");
    let sandbox = shim.sandbox("interfaces", &[], &[]).await;
    let mut found = BTreeMap::new();
    for (number, (interface, item)) in INTERFACES.iter().enumerate() {
        let wasm = wat::parse_str(importing(interface, item)).unwrap_or_else(|error| panic!("{interface}: {error}"));
        let (file, name) = (shim.dir.path().join("interface.wasm"), format!("interface-{number}"));
        std::fs::write(&file, wasm).expect("it can be written");
        store.import(&file, Some(&name)).expect("it is WebAssembly");
        let id = shim.create(&sandbox, &name, guest(&name)).await.expect("it compiles");
        let outcome = match shim.start_container(&id).await {
            Ok(()) => {
                let status = shim.exit(&id).await;
                if status.exit_code == 0 { "yes".to_owned() } else { format!("no, {}", status.message) }
            }
            Err(refusal) => format!("no, {}", refusal.message()),
        };
        found.insert((*interface).to_owned(), outcome);
    }
    check_claims("WASI 0.2", &found);
}
