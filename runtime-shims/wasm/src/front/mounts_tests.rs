use std::io::Write;

use super::super::looks::is_dir;
use super::*;

fn mount(host: &Path, container: &str, readonly: bool) -> Mount {
    Mount {
        host_path: host.to_string_lossy().into_owned(),
        container_path: container.to_owned(),
        readonly,
        ..Mount::default()
    }
}

#[test]
fn files_of_one_directory_share_one_made_for_them() {
    let host = tempfile::tempdir().expect("a directory can be made");
    let scratch = tempfile::tempdir().expect("a directory can be made");
    for (name, text) in [("hosts", "127.0.0.1 localhost"), ("resolv", "nameserver 10.0.0.10"), ("log", "")] {
        fs::write(host.path().join(name), text).expect("it can be written");
    }
    let mounts = [
        mount(&host.path().join("hosts"), "/etc/hosts", true),
        mount(&host.path().join("resolv"), "/etc/resolv.conf", true),
        mount(&host.path().join("log"), "/dev/termination-log", false),
        mount(host.path(), "/data//x/", false),
    ];
    let plan = plan_mounts(&mounts, is_dir).expect("it can be done");
    let (volumes, fds) = plan.open(scratch.path(), 2).expect("it can be opened");
    let shown: Vec<String> =
        volumes.iter().map(|volume| format!("{} {} {}", volume.guest_path, volume.readonly, volume.dir)).collect();
    assert_eq!(shown, ["/data/x false 2", "/etc true 3", "/dev false 4"]);
    assert_eq!(fds.len(), 3);
    assert_eq!(fs::read_to_string(scratch.path().join("0/hosts")).expect("it is there"), "127.0.0.1 localhost");

    // What the guest writes into a file arrives where it came from.
    let mut log =
        fs::OpenOptions::new().append(true).open(scratch.path().join("1/termination-log")).expect("it is there");
    log.write_all(b"last words").expect("it can be written");
    assert_eq!(fs::read_to_string(host.path().join("log")).expect("it is there"), "last words");

    // A second start finds the remains of the first.
    plan.open(scratch.path(), 2).expect("it can be opened again");
}

#[test]
fn a_read_only_file_cannot_be_written_through_a_directory_that_can() {
    let host = tempfile::tempdir().expect("a directory can be made");
    let scratch = tempfile::tempdir().expect("a directory can be made");
    fs::write(host.path().join("config"), "precious").expect("it can be written");
    fs::write(host.path().join("state"), "").expect("it can be written");
    let mounts = [
        mount(&host.path().join("config"), "/app/config", true),
        mount(&host.path().join("state"), "/app/state", false),
    ];
    let plan = plan_mounts(&mounts, is_dir).expect("it can be done");
    plan.open(scratch.path(), 0).expect("it can be opened");
    let seen = scratch.path().join("0/config");
    // Root may write anything, others may not.
    let _ = fs::write(&seen, "spoiled");
    assert_eq!(fs::read_to_string(host.path().join("config")).expect("it is there"), "precious");
}

#[test]
fn what_not_everybody_may_read_is_copied_for_workers_of_another_user() {
    let host = tempfile::tempdir().expect("a directory can be made");
    let scratch = tempfile::tempdir().expect("a directory can be made");
    let key = host.path().join("key");
    fs::write(&key, "secret").expect("it can be written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).expect("it is ours");
    let plan = plan_mounts(&[mount(&key, "/keys/key", true)], is_dir).expect("it can be done");
    plan.open(scratch.path(), 0).expect("it can be opened");
    let seen = scratch.path().join("0/key");
    assert_eq!(fs::read_to_string(&seen).expect("it is there"), "secret");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let copied = if rustix::process::geteuid().is_root() { 0o444 } else { 0o400 };
    assert_eq!((mode(&seen), mode(&key)), (copied, 0o400));
}

#[test]
fn what_was_made_by_half_is_made_anew() {
    let host = tempfile::tempdir().expect("a directory can be made");
    let scratch = tempfile::tempdir().expect("a directory can be made");
    for name in ["one", "two"] {
        fs::write(host.path().join(name), name).expect("it can be written");
    }
    let mounts = ["one", "two"].map(|name| mount(&host.path().join(name), &format!("/etc/{name}"), true));
    let plan = plan_mounts(&mounts, is_dir).expect("it can be done");
    fs::remove_file(host.path().join("two")).expect("it is there");
    plan.open(scratch.path(), 0).expect_err("one is missing");
    fs::write(host.path().join("two"), "two").expect("it can be written");
    plan.open(scratch.path(), 0).expect("it can be opened");
    assert_eq!(fs::read_dir(scratch.path().join("0")).expect("it is there").count(), 2);
    assert_eq!(fs::read_dir(scratch.path()).expect("it is there").count(), 1, "nothing is left of the first try");
}

/// A directory on another mount than other temporary files, if there is one that can be bound.
fn elsewhere_on_the_host() -> Option<tempfile::TempDir> {
    let host = tempfile::tempdir_in("/dev/shm").ok()?;
    let here = tempfile::tempdir().expect("a directory can be made");
    fs::write(host.path().join("probe"), "").expect("it can be written");
    let is_other = fs::hard_link(host.path().join("probe"), here.path().join("probe")).is_err();
    (is_other && rustix::process::geteuid().is_root()).then_some(host)
}

fn read(dir: &OwnedFd, name: &str) -> String {
    let flags = rustix::fs::OFlags::RDONLY;
    let file = rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty()).expect("it is there");
    io::read_to_string(fs::File::from(file)).expect("it can be read")
}

#[test]
fn files_of_another_mount_are_bound() {
    let Some(host) = elsewhere_on_the_host() else { return eprintln!("not root, or no other mount to try it with") };
    let scratch = tempfile::tempdir().expect("a directory can be made");
    let dir = scratch.path().join("container");
    fs::write(host.path().join("log"), "").expect("it can be written");
    fs::write(host.path().join("config"), "v1").expect("it can be written");
    let mounts = [
        mount(&host.path().join("log"), "/dev/termination-log", false),
        mount(&host.path().join("config"), "/app/config", true),
    ];
    let plan = plan_mounts(&mounts, is_dir).expect("it can be done");
    // Twice, as when a container moves to another worker.
    for times in 1..=2 {
        let (_, fds) = plan.open(&dir, 0).expect("it can be opened");
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::APPEND;
        let log =
            rustix::fs::openat(&fds[0], "termination-log", flags, rustix::fs::Mode::empty()).expect("it is there");
        fs::File::from(log).write_all(b"words ").expect("it can be written");
        assert_eq!(fs::read_to_string(host.path().join("log")).expect("it is there"), "words ".repeat(times));
        fs::write(host.path().join("config"), format!("v{times}")).expect("it can be written");
        assert_eq!(read(&fds[1], "config"), format!("v{times}"), "it is no copy");
        let refused = rustix::fs::openat(&fds[1], "config", flags, rustix::fs::Mode::empty());
        assert_eq!(refused.expect_err("not even for root"), rustix::io::Errno::ROFS);
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("this is Linux");
    assert!(!mounts.contains(&scratch.path().display().to_string()), "the host has none of these mounts: {mounts}");
    let (_, fds) = plan.open(&dir, 0).expect("it can be opened");
    scratch::remove(&dir).expect("it can be removed while somebody has it open");
    assert!(host.path().join("log").exists() && host.path().join("config").exists());
    drop(fds);
}
