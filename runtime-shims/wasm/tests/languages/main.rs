//! Guests in several languages, built here from source with the languages' own tools and run under the shim.
//!
//! `tests/run` installs the tools that come from package registries. What is not there is skipped, and that is said on
//! the standard error whether the test's output is shown or not. What was built is kept under `target/languages/`.
#![allow(unreachable_pub, reason = "a test is no library")]

mod build;
#[allow(dead_code, reason = "shared with the other tests")]
#[path = "../it/guests.rs"]
mod guests;
#[allow(dead_code, reason = "shared with the other tests")]
#[path = "../it/shim.rs"]
mod shim;

use std::path::Path;

use coracle_shim_wasm::front::FrontConfig;
use coracle_shim_wasm::images::ImageStore;
use expect_test::expect;
use shim::{Guest, Shim, eventually, get, guest};

/// A shim with the guest in its store, and the guest as it is to be run.
async fn shim_with(name: &str, wasm: &Path) -> (Shim, Guest) {
    // Languages bring their whole runtime along, and this compiler may be an unoptimised one.
    let shim = Shim::start_with(&["--compile-seconds", "1200"]).await;
    let store = ImageStore::open(FrontConfig::image_dir(shim.dir.path())).expect("the store opens");
    store.import(wasm, Some(name)).expect("it is WebAssembly");
    let data = shim.dir.path().join("data");
    std::fs::create_dir(&data).expect("a directory can be made");
    std::fs::write(data.join("message"), "from a volume\n").expect("it can be written");
    let guest = guest(name).args(&["one", "two"]).env("GREETING", "good day").mount(&data, "/data", true);
    (shim, guest)
}

async fn check_program(name: &str, wasm: &Path) {
    let (shim, guest) = shim_with(name, wasm).await;
    let pod = shim.run(name, guest).await;
    assert_eq!(shim.ending(&pod.container).await, r#"7 Error """#, "{}", shim.log(name, "main"));
    expect![[r#"
        stdout F arguments one two
        stdout F GREETING good day
        stdout F file from a volume
    "#]]
    .assert_eq(&shim.log(name, "main"));
}

async fn check_service(name: &str, wasm: &Path) {
    let (shim, guest) = shim_with(name, wasm).await;
    let pod = shim.run(name, guest).await;
    let whole = (200, "arguments one two\nGREETING good day\nfile from a volume\n".to_owned());
    for _ in 0..3 {
        let answer = get(&pod.ip, "/path").await;
        assert_eq!(answer, whole, "{}", shim.log(name, "main"));
    }
    let line = format!("stdout F {name}: /path\n");
    eventually("each request has logged its line", || async {
        (shim.log(name, "main") == line.repeat(3)).then_some(())
    })
    .await;
    shim.stop(&pod.container, 10).await;
    assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
}

#[tokio::test]
async fn c() {
    if let Some(wasm) = build::c() {
        check_program("c", &wasm).await;
    }
}

#[tokio::test]
async fn go() {
    if let Some(wasm) = build::go() {
        check_program("go", &wasm).await;
    }
}

#[tokio::test]
#[ignore = "an unoptimised compiler takes minutes for a whole interpreter: ./tests/run languages"]
async fn python() {
    if let Some(wasm) = build::python() {
        check_service("python", &wasm).await;
    }
}

#[tokio::test]
#[ignore = "an unoptimised compiler takes minutes for a whole interpreter: ./tests/run languages"]
async fn javascript() {
    if let Some(wasm) = build::javascript() {
        check_service("javascript", &wasm).await;
    }
}
