//! Each test ends up without rights, so it does so in a child made for it: the test's own program, told by an argument
//! which test to be.

use std::process::{Command, Stdio};

use super::*;

/// Runs `test` again in a process of its own.
fn in_child(test: &str) -> std::process::Output {
    Command::new(std::env::current_exe().expect("it has a file"))
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1", test])
        .stdin(Stdio::null())
        .output()
        .expect("it starts")
}

pub(crate) fn check_child(test: &str) {
    let output = in_child(test);
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_worker_cannot_do_what_it_has_no_need_of() {
    check_child("confine::tests::child_worker");
}

#[test]
#[ignore = "run by a_worker_cannot_do_what_it_has_no_need_of, in a process of its own"]
fn child_worker() {
    no_new_privileges().expect("it can always be set");
    allow_only(Calls::Worker).expect("the filter is accepted");
    let refused = |what: &str, outcome: io::Result<()>| {
        let error = outcome.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "{what}: {error}");
    };
    refused("exec", Command::new("/bin/true").spawn().map(drop));
    refused("unix socket", std::os::unix::net::UnixDatagram::unbound().map(drop));
    refused("mount", rustix::process::chroot("/").map_err(Into::into));
    refused("kill", rustix::process::kill_process(rustix::process::getpid(), Signal::URG).map_err(Into::into));
    refused(
        "limits",
        rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(Into::into),
    );
    #[allow(unsafe_code)]
    let policy_of = |process: u32| {
        let mut attributes = [0_u64; 6];
        // SAFETY: the kernel writes no more than the 48 bytes that there are.
        match unsafe { libc::syscall(libc::SYS_sched_getattr, process, &raw mut attributes, 48, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    refused("another's scheduling", policy_of(std::process::id()));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("it may have sockets");
    refused(
        "waiting for a socket that is closed",
        rustix::net::sockopt::set_socket_linger(&socket, Some(std::time::Duration::from_secs(9))).map_err(Into::into),
    );
    let both = UnshareFlags::FS | UnshareFlags::NEWUSER;
    #[allow(unsafe_code)]
    // SAFETY: descriptors stay shared.
    let namespace = unsafe { rustix::thread::unshare_unsafe(both) };
    refused("a namespace", namespace.map_err(Into::into));
    // And what it needs works.
    let here = std::env::current_dir().expect("it is somewhere");
    let elsewhere = std::fs::File::open("/").expect("it may read what it can reach");
    let gone = std::thread::spawn(move || own_working_dir().and_then(|()| Ok(rustix::process::fchdir(elsewhere)?)));
    gone.join().expect("it does not panic").expect("a thread may go elsewhere");
    assert_eq!(std::env::current_dir().expect("it is somewhere"), here, "by itself");
    rustix::net::sockopt::set_socket_keepalive(&socket, true).expect("an option of all sockets");
    rustix::net::sockopt::set_ip_ttl(&socket, 9).expect("one of some");
    policy_of(0).expect("it may see how it is run");
    std::net::TcpListener::bind("127.0.0.1:0").expect("it may listen");
    std::thread::spawn(|| ()).join().expect("it may start threads");
    std::fs::read_dir(".").expect("it may read what it can reach").count();
}

#[test]
fn a_compiler_can_only_compute() {
    check_child("confine::tests::child_compiler");
}

#[test]
#[ignore = "run by a_compiler_can_only_compute, in a process of its own"]
fn child_compiler() {
    no_new_privileges().expect("it can always be set");
    allow_only(Calls::Compiler).expect("the filter is accepted");
    assert!(std::fs::File::open("/etc/passwd").is_err());
    assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err());
    assert!(Command::new("/bin/true").spawn().is_err());
    let cpu = Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    assert!(rustix::process::setrlimit(Resource::Cpu, cpu).is_err(), "its limits stay");
    assert_eq!(vec![1_u8; 10 << 20].len(), 10 << 20, "it may use memory");
}

#[test]
fn a_directory_that_is_handed_over_cannot_be_left() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let outer = tempfile::tempdir().expect("a directory can be made");
    let inner = outer.path().join("inner");
    std::fs::create_dir(&inner).expect("a directory can be made");
    std::fs::write(outer.path().join("secret"), "not yours").expect("it can be written");
    std::fs::write(inner.join("file"), "yours").expect("it can be written");
    let open = |dir: &std::os::fd::OwnedFd, path: &str, flags| {
        rustix::fs::openat(dir, path, flags | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
    };
    let read = rustix::fs::OFlags::RDONLY;
    let dir = detached(&inner, Purpose::Read).expect("it can be opened");
    assert!(open(&dir, "file", read).is_ok());
    assert_eq!(open(&dir, "../secret", read).err(), Some(rustix::io::Errno::NOENT));
    assert_eq!(open(&dir, "file", rustix::fs::OFlags::WRONLY).err(), Some(rustix::io::Errno::ROFS));
    let dir = detached(&inner, Purpose::Write).expect("it can be opened");
    assert!(open(&dir, "file", rustix::fs::OFlags::WRONLY).is_ok());
}
