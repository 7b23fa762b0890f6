//! Volumes: directories, single files, read-only ones.

use std::fs;

use expect_test::expect;

use crate::shim::{Shim, guest, refusal};

#[tokio::test]
async fn a_single_file_can_be_mounted() {
    let shim = Shim::start().await;
    let file = shim.dir.path().join("one-file");
    fs::write(&file, "a subPath\n").expect("it can be written");
    let reader = guest("worker:dev").env("ROUNDS", "1").env("MESSAGE_FILE", "/etc/app/message").mount(
        &file,
        "/etc/app/message",
        true,
    );
    let pod = shim.run("file", reader).await;
    assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
    assert!(shim.log("file", "main").contains("round 1: a subPath\n"), "{}", shim.log("file", "main"));
}

#[tokio::test]
async fn mounts_that_cannot_be_are_refused() {
    let shim = Shim::start().await;
    let dir = shim.dir.path().join("dir");
    fs::create_dir(&dir).expect("a directory can be made");
    fs::write(dir.join("file"), "").expect("it can be written");
    let sandbox = shim.sandbox("mounts", &[], &[]).await;
    let mut refusals = String::new();
    let attempts = [
        guest("exit").mount(&shim.dir.path().join("nothing"), "/data", false),
        guest("exit").mount(&dir, "data", false),
        guest("exit").mount(&dir, "/data/../etc", false),
        guest("exit").mount(&dir, "/data", false).mount(&dir, "/data/", true),
        guest("exit").mount(&dir, "/data", false).mount(&dir.join("file"), "/data/file", true),
    ];
    for (number, attempt) in attempts.into_iter().enumerate() {
        let outcome = refusal(shim.create(&sandbox, &format!("m{number}"), attempt).await);
        refusals.push_str(&format!("{}\n", outcome.replace(&shim.dir.path().display().to_string(), "DIR")));
    }
    expect![[r#"
        InvalidArgument: mount /data: there is no DIR/nothing on the host
        InvalidArgument: mount "data": must be an absolute path without ".."
        InvalidArgument: mount "/data/../etc": must be an absolute path without ".."
        InvalidArgument: mount /data: is there twice
        InvalidArgument: mount /data/file: a single file inside another mount is not supported in Wasm containers; mount the directory, or the file elsewhere
    "#]]
    .assert_eq(&refusals);
}
