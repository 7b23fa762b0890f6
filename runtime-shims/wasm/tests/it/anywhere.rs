//! Machines that are not like this one: little address space, no native code.

use crate::shim::{Shim, get, guest};

/// A command and a server, as on any other machine.
async fn check_engine(engine: &str) {
    let shim = Shim::start_with(&["--engine", engine]).await;
    let pod = shim.run("hello", guest("hello:dev").env("GREETING", "Good morning").env("POD_NAME", engine)).await;
    for _ in 0..3 {
        assert_eq!(get(&pod.ip, "/").await, (200, format!("Good morning from {engine}\n")));
    }
    let mut endings = String::new();
    for image in ["exit", "trap", "recursion"] {
        let pod = shim.run(image, guest(image)).await;
        endings.push_str(&format!("{} ", shim.exit(&pod.container).await.exit_code));
    }
    assert_eq!(endings, "42 134 134 ");
    // Endless, and stopped all the same: it yields.
    let pod = shim.run("spin", guest("spin")).await;
    assert_eq!(get(&shim.run("other", guest("hello:dev")).await.ip, "/").await.0, 200);
    shim.stop(&pod.container, 0).await;
    assert_eq!(shim.exit(&pod.container).await.exit_code, 137);
}

#[tokio::test]
async fn a_board_with_39_bits_of_addresses_runs_the_same_guests() {
    check_engine("tight").await;
}

#[tokio::test]
async fn the_interpreter_runs_the_same_guests() {
    check_engine("interpreted").await;
}
