//! Volumes: directories, single files, read-only ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use expect_test::expect;
use tokio::net::TcpStream;

use crate::shim::{Shim, eventually, get, guest, refusal};

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
async fn a_single_file_of_another_mount_can_be_written() {
    let other = tempfile::tempdir_in("/dev/shm").ok().filter(|_| rustix::process::geteuid().is_root());
    let Some(other) = other else { return eprintln!("not root, or no other mount to try it with") };
    let shim = Shim::start().await;
    let file = other.path().join("log");
    fs::write(&file, "").expect("it can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("it is ours");
    let writes = guest("tool").args(&["write", "/dev/termination-log", "last words"]);
    let pod = shim.run("writes", writes.mount(&file, "/dev/termination-log", false)).await;
    assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "last words");
    shim.remove_pod(&pod.sandbox).await;
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "last words");
    let run = shim.dir.path().join("wasm/run");
    assert_eq!(fs::read_dir(run).expect("it is there").count(), 0, "no mount is in the way");
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
        guest("exit").mount(&dir.join("file"), "/etc/file", true).mount(&dir.join("file"), "etc//file", true),
        guest("exit").mount(&dir.join("file"), "/etc/file", true).mount(&dir.join("file"), "/etc//file", true),
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
        InvalidArgument: mount "etc//file": must be an absolute path without ".."
        InvalidArgument: mount /etc/file: is there twice
        InvalidArgument: mount /data/file: a single file inside another mount is not supported in Wasm containers; mount the directory, or the file elsewhere
    "#]]
    .assert_eq(&refusals);
}

#[tokio::test]
async fn beside_single_files_a_guest_makes_nothing() {
    let shim = Shim::start().await;
    let file = shim.dir.path().join("termination-log");
    fs::write(&file, "").expect("it can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("it is ours");
    let mut told = String::new();
    for (name, args) in
        [("writes", ["handles", "/dev", "3"]), ("fills", ["files", "/dev", "3"]), ("digs", ["deep", "/dev", "3"])]
    {
        // What `handles` opens, again and again, is called `same`.
        let pod = shim.run(name, guest("abuse").args(&args).mount(&file, "/dev/same", false)).await;
        assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
        told.push_str(&shim.log(name, "main").replace("stdout F ", ""));
    }
    expect![[r#"
        handles: 3 held, 0 refused, first none
        files: 0 held, 3 refused, first ErrorCode { code: 0, name: "access", message: "Permission denied, similar to `EACCES` in POSIX." }
        deep: 0 deep, then access
    "#]]
    .assert_eq(&told);
}

#[tokio::test]
async fn what_containers_left_behind_goes_with_the_next_front() {
    let mut shim = Shim::start().await;
    let file = shim.dir.path().join("file");
    fs::write(&file, "").expect("it can be written");
    let pod = shim.run("stays", guest("hello:dev").mount(&file, "/etc/app/file", true)).await;
    shim.kill_front().await;
    let run = shim.dir.path().join("wasm/run");
    let left = run.join("left");
    fs::create_dir_all(left.join("0/sub")).expect("a directory can be made");
    fs::write(left.join("0/file"), "left").expect("it can be written");
    shim.start_front().await;
    eventually("it is removed", || async { (!left.exists()).then_some(()) }).await;
    assert!(run.join(&pod.container).join("0/file").exists(), "what is of a container stays");
    assert_eq!(fs::metadata(&run).expect("it is there").permissions().mode() & 0o777, 0o700, "copies of secrets too");
    shim.remove_pod(&pod.sandbox).await;
    assert_eq!(fs::read_dir(run).expect("it is there").count(), 0);
}

#[tokio::test]
async fn a_volume_that_does_not_answer_holds_up_its_own_container_only() {
    let mut shim = Shim::start().await;
    // Whoever opens it waits for somebody who writes, as for a server that is gone.
    let pipe = shim.dir.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe can be made");
    let file = shim.dir.path().join("file");
    fs::write(&file, "").expect("it can be written");
    let sandbox = shim.sandbox("waits", &[], &[]).await;
    // Beside a file that may be written, one that may not is copied.
    let waits = guest("hello:dev").mount(&pipe, "/etc/app/pipe", true).mount(&file, "/etc/app/file", false);
    let container = shim.create(&sandbox, "main", waits).await.expect("it is only looked at");
    let ip = shim.ip(&sandbox).await;
    let others = async {
        let other = shim.run("other", guest("hello:dev")).await;
        assert_eq!(get(&other.ip, "/").await.0, 200);
        TcpStream::connect((ip.as_str(), 8080)).await.expect_err("nothing is there that could serve");
    };
    tokio::select! {
        biased;
        started = shim.start_container(&container) => panic!("nobody writes: {started:?}"),
        () = others => {}
    }
    assert_eq!(shim.hand_over().await, Some(0), "nor is the end of the front held up");
    let made = shim.dir.path().join("wasm/run").join(&container).join("0");
    assert!(!made.exists(), "the next front does not take it for whole");
}
