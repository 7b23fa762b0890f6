//! Commands in containers, clients beside them and connections into pods, as kubelet, kubectl and crictl ask for them.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::Bytes;
use coracle_cri::Code;
use coracle_cri::streaming::spdy::{self, Side};
use coracle_cri::v1::*;
use coracle_shim_wasm::front::FrontConfig;
use expect_test::{Expect, expect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::images::import_several;
use crate::shim::{Guest, Pod, Shim, eventually, guest, refusal, within};

/// A pod whose program waits for ever, with something to find in it.
async fn tool(shim: &Shim) -> Pod {
    let dir = shim.dir.path().join("volume");
    std::fs::create_dir_all(&dir).expect("a directory can be made");
    std::fs::write(dir.join("message"), "from the volume\n").expect("it can be written");
    let marks = shim.dir.path().join("marks");
    std::fs::create_dir_all(&marks).expect("a directory can be made");
    // Guests are another user where this is root.
    std::fs::set_permissions(&marks, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    let guest = Guest { stdin: true, ..guest("tool") }.env("GREETING", "hello");
    let guest = guest.mount(&dir, "/data", true).mount(&marks, "/marks", false);
    let pod = shim.run("tool", guest.memory(64 << 20)).await;
    eventually("it is up", || async { shim.log("tool", "main").contains("up").then_some(()) }).await;
    pod
}

/// Until a command of the tool has left its mark.
async fn marked(shim: &Shim, name: &str) {
    let file = shim.dir.path().join("marks").join(name);
    eventually("the command runs", || async { file.exists().then_some(()) }).await;
}

async fn exec_sync(shim: &Shim, id: &str, command: &[&str], timeout: i64) -> String {
    let cmd = command.iter().map(|word| (*word).to_owned()).collect();
    let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
    match within("the command ends", shim.runtime().exec_sync(request)).await {
        Ok(done) => {
            let done = done.into_inner();
            let text = |bytes: &[u8]| match bytes.len() {
                0..4096 => String::from_utf8_lossy(bytes).into_owned(),
                long => format!("{long} bytes"),
            };
            format!("{} out={:?} err={:?}", done.exit_code, text(&done.stdout), text(&done.stderr))
        }
        Err(status) => format!("{:?}: {}", status.code() as Code, status.message()),
    }
}

async fn check(shim: &Shim, id: &str, command: &[&str], expected: Expect) {
    expected.assert_eq(&exec_sync(shim, id, command, 0).await);
}

#[tokio::test]
async fn a_command_shares_what_the_container_has_and_its_end_is_its_own() {
    let shim = Shim::start().await;
    let pod = tool(&shim).await;
    let id = &pod.container;
    check(
        &shim,
        id,
        &["tool.wasm", "args", "--check"],
        expect![[r#"0 out="[\"tool.wasm\", \"args\", \"--check\"] GREETING=Some(\"hello\")\n" err="to stderr\n""#]],
    )
    .await;
    check(&shim, id, &["tool", "read", "/data/message"], expect![[r#"0 out="from the volume\n" err="""#]]).await;
    check(&shim, id, &["tool", "exit", "7"], expect![[r#"7 out="" err="""#]]).await;
    // Nobody types anything.
    check(&shim, id, &["tool", "cat"], expect![[r#"0 out="" err="0 bytes\n""#]]).await;
    let trapped = exec_sync(&shim, id, &["tool", "panic"], 0).await;
    assert!(trapped.starts_with("134 ") && trapped.contains("as it was told"), "{trapped}");
    // More than is kept is let go, and the command goes on.
    check(&shim, id, &["tool", "flood", "20971520"], expect![[r#"0 out="16776192 bytes" err="""#]]).await;
    assert_eq!(shim.status(id).await.state(), ContainerState::ContainerRunning);
}

#[tokio::test]
async fn what_cannot_be_run_is_said_so() {
    let shim = Shim::start().await;
    let pod = tool(&shim).await;
    check(&shim, &pod.container, &["sh", "-c", "true"], expect![[
        r#"Unknown: failed to exec in container: exec: "sh": executable file not found in $PATH: a Wasm container has no shell, it runs tool.wasm (its own program, with other arguments)"#
    ]])
    .await;
    check(&shim, &pod.container, &[], expect!["InvalidArgument: cmd is required: a command to run"]).await;
    let hello = shim.run("hello", guest("hello:dev")).await;
    let refused = exec_sync(&shim, &hello.container, &["hello.wasm"], 0).await;
    assert!(
        refused.contains("it serves HTTP and is no command: it does not export wasi:cli/run"),
        "the cause is named: {refused}"
    );
    let over = shim.run("exit", guest("exit")).await;
    shim.exit(&over.container).await;
    check(
        &shim,
        &over.container,
        &["exit.wasm"],
        expect![[r#"FailedPrecondition: container is in CONTAINER_EXITED state"#]],
    )
    .await;
    let request =
        ExecRequest { container_id: over.container, cmd: vec!["exit".into()], stdout: true, ..Default::default() };
    assert_eq!(
        refusal(shim.runtime().exec(request).await),
        "FailedPrecondition: container is in CONTAINER_EXITED state"
    );
}

#[tokio::test]
async fn a_command_that_takes_too_long_or_too_much_ends_alone() {
    let shim = Shim::start().await;
    let pod = tool(&shim).await;
    check_timeout(&shim, &pod.container).await;
    let grabbed = exec_sync(&shim, &pod.container, &["tool", "grab"], 0).await;
    assert!(grabbed.starts_with("137 "), "its memory is the container's: {grabbed}");
    assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerRunning);
    // What it took is given back.
    check(&shim, &pod.container, &["tool", "exit", "0"], expect![[r#"0 out="" err="""#]]).await;
    // With the container end its commands.
    let cmd = ["tool", "spin", "/marks/spins"].map(str::to_owned).to_vec();
    let request = ExecSyncRequest { container_id: pod.container.clone(), cmd, timeout: 0 };
    let mut runtime = shim.runtime();
    let (ended, ()) = tokio::join!(within("it ends", runtime.exec_sync(request)), async {
        marked(&shim, "spins").await;
        shim.stop(&pod.container, 0).await;
    });
    assert_eq!(ended.expect("it has an end").into_inner().exit_code, 137);
}

async fn check_timeout(shim: &Shim, id: &str) {
    expect!["DeadlineExceeded: failed to exec in container: timeout 1s exceeded: context deadline exceeded"]
        .assert_eq(&exec_sync(shim, id, &["tool", "spin", "/marks/late"], 1).await);
}

#[tokio::test]
async fn another_program_of_the_image_can_be_run() {
    let shim = Shim::start().await;
    import_several(&shim);
    let pod = shim.run("several", Guest { stdin: true, ..guest("several:1") }).await;
    let id = &pod.container;
    for word in ["exit", "exit.wasm", "/usr/bin/exit.wasm"] {
        check(&shim, id, &[word], expect![[r#"42 out="" err="""#]]).await;
    }
    check(&shim, id, &["app", "exit", "3"], expect![[r#"3 out="" err="""#]]).await;
    check(&shim, id, &["sh"], expect![[
        r#"Unknown: failed to exec in container: exec: "sh": executable file not found in $PATH: a Wasm container has no shell, it runs app.wasm (its own program, with other arguments); files of the image: /opt/not-wasm.wasm, /srv/app.wasm, /usr/bin/exit.wasm, /usr/bin/web.wasm"#
    ]])
    .await;
    let refused = exec_sync(&shim, id, &["/opt/not-wasm.wasm"], 0).await;
    assert!(refused.starts_with("InvalidArgument: cannot run image"), "{refused}");
}

/// A front with other settings stands for one of another version: its machine code is of no use to earlier workers.
#[tokio::test]
async fn in_a_worker_of_an_earlier_version_runs_what_was_compiled_for_it() {
    let mut shim = Shim::start_with(&["--build-id", "one", "--engine", "roomy"]).await;
    import_several(&shim);
    let pod = shim.run("several", Guest { stdin: true, ..guest("several:1") }).await;
    let id = pod.container.clone();
    let versions = |shim: &Shim| {
        let entries = FrontConfig::code_dir(shim.dir.path()).read_dir().expect("it is there").flatten();
        entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
    };
    let earlier = versions(&shim);
    assert_eq!(shim.hand_over().await, Some(0));
    shim.options = ["--build-id", "two", "--engine", "tight"].map(str::to_owned).to_vec();
    shim.start_front().await;
    let new = shim.run("new", guest("exit")).await;
    assert_eq!(shim.ending(&new.container).await, r#"42 Error """#);
    assert_eq!(versions(&shim).len(), 2, "both have their code");
    check(&shim, &id, &["app", "exit", "3"], expect![[r#"3 out="" err="""#]]).await;
    check(&shim, &id, &["exit"], expect![[
        r#"FailedPrecondition: failed to exec in container: it runs in a worker of an earlier version of the Wasm runtime, for which "exit" was not compiled; restart the pod to run other programs in it"#
    ]])
    .await;
    shim.stop(&id, 0).await;
    eventually("nobody needs the earlier code", || async {
        let left = versions(&shim);
        (left.len() == 1 && left != earlier).then_some(())
    })
    .await;
}

/// Upgrades to SPDY at a URL that the runtime gave.
async fn upgrade(url: &str, protocol: &str) -> TcpStream {
    let (address, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a URL");
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = format!(
        "POST /{path} HTTP/1.1\r\nhost: {address}\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\
         x-stream-protocol-version: {protocol}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("it is read");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("it answers"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream
}

/// Types `typed` once something was seen that ends with `prompt`, then lets the input end, unless it is to be held open;
/// what is seen on each stream.
async fn talk(url: &str, kinds: &[&str], prompt: &str, typed: &'static str, hold: bool) -> String {
    let (connection, link, _none) = spdy::connection(upgrade(url, "v4.channel.k8s.io").await, Side::Client, 1);
    let talking = async {
        let mut streams = Vec::new();
        for kind in kinds {
            streams.push(link.open(vec![("streamtype".into(), (*kind).to_owned())]).await.expect("it is open"));
        }
        let mut stdin = kinds.iter().position(|kind| *kind == "stdin").map(|index| streams[index].output.clone());
        let mut held = None;
        let mut seen = String::new();
        for (kind, mut stream) in kinds.iter().zip(streams).filter(|(kind, _)| !["stdin", "resize"].contains(kind)) {
            let mut text = String::new();
            loop {
                if let Some(input) = stdin.take_if(|_| text.ends_with(prompt)) {
                    input.send(Bytes::from_static(typed.as_bytes())).await.expect("it is open");
                    if hold {
                        held = Some(input);
                    } else {
                        input.end().await.expect("it is open");
                    }
                }
                match stream.input.recv().await {
                    Some(piece) => text += &String::from_utf8_lossy(&piece),
                    None => break,
                }
            }
            seen += &format!("{kind}: {text:?}\n");
        }
        drop(held);
        link.finish().await;
        seen
    };
    let (seen, _) = within("the session ends", async { tokio::join!(talking, connection.run()) }).await;
    seen
}

async fn exec_url(shim: &Shim, id: &str, command: &[&str], tty: bool) -> String {
    let cmd = command.iter().map(|word| (*word).to_owned()).collect();
    let request = ExecRequest { container_id: id.to_owned(), cmd, tty, stdin: true, stdout: true, stderr: !tty };
    shim.runtime().exec(request).await.expect("a URL").into_inner().url
}

#[tokio::test]
async fn a_client_types_and_reads() {
    let shim = Shim::start().await;
    let pod = tool(&shim).await;
    let url = exec_url(&shim, &pod.container, &["tool", "cat"], false).await;
    let all = ["error", "stdin", "stdout", "stderr"];
    expect![[r#"
        error: "{\"metadata\":{},\"status\":\"Success\"}"
        stdout: "typed text"
        stderr: "10 bytes\n"
    "#]]
    .assert_eq(&talk(&url, &all, "", "typed text", false).await);
    let url = exec_url(&shim, &pod.container, &["tool", "exit", "5"], false).await;
    let seen = talk(&url, &["stdin", "stdout", "stderr", "error"], "", "", false).await;
    assert!(seen.contains("exit code 5") && seen.contains("NonZeroExitCode"), "{seen}");
    let url = exec_url(&shim, &pod.container, &["sh"], false).await;
    let seen = talk(&url, &["stdin", "stdout", "stderr", "error"], "", "", false).await;
    assert!(seen.contains("Internal error occurred: error executing command in container: failed to exec in container: exec: \\\\\\\"sh\\\\\\\": executable file not found in $PATH"), "{seen}");
}

#[tokio::test]
async fn a_terminal_echoes_ends_lines_and_can_be_interrupted() {
    let shim = Shim::start().await;
    let pod = tool(&shim).await;
    let all = ["resize", "stdin", "stdout", "error"];
    let url = exec_url(&shim, &pod.container, &["tool", "terminal"], true).await;
    expect![[r#"
        stdout: "true true\r\n"
        error: "{\"metadata\":{},\"status\":\"Success\"}"
    "#]]
    .assert_eq(&talk(&url, &all, "never typed", "", true).await);
    let url = exec_url(&shim, &pod.container, &["tool", "cat"], true).await;
    expect![[r#"
        stdout: "line\r\nline\r\n5 bytes\r\n"
        error: "{\"metadata\":{},\"status\":\"Success\"}"
    "#]]
    .assert_eq(&talk(&url, &all, "", "line\r\x04", true).await);
    let url = exec_url(&shim, &pod.container, &["tool"], true).await;
    let seen = talk(&url, &all, "up\r\n", "\x03", true).await;
    assert!(seen.contains("exit code 130"), "{seen}");
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_command() {
    let shim = Shim::start().await;
    let pod = tool(&shim).await;
    for number in 0..20 {
        let mark = format!("left-{number}");
        let url = exec_url(&shim, &pod.container, &["tool", "spin", &format!("/marks/{mark}")], false).await;
        let (connection, link, _none) = spdy::connection(upgrade(&url, "v4.channel.k8s.io").await, Side::Client, 1);
        let opening = async {
            for kind in ["error", "stdin", "stdout", "stderr"] {
                link.open(vec![("streamtype".into(), kind.to_owned())]).await.expect("it is open");
            }
            marked(&shim, &mark).await;
        };
        tokio::select! {
            biased;
            () = opening => {}
            _ = connection.run() => panic!("the command ended by itself"),
        }
    }
    // No more than sixteen may run at once: the places of those who left are free.
    eventually("there is room again", || async {
        exec_sync(&shim, &pod.container, &["tool", "exit", "0"], 0).await.starts_with("0 ").then_some(())
    })
    .await;
}

#[tokio::test]
async fn those_who_attach_hear_the_container_and_speak_to_it_and_leave_it_running() {
    let shim = Shim::start().await;
    let pod = tool(&shim).await;
    let attach = |stdin: bool| {
        let id = pod.container.clone();
        let mut runtime = shim.runtime();
        async move {
            let request = AttachRequest { container_id: id, stdin, stdout: true, stderr: true, tty: false };
            runtime.attach(request).await.expect("a URL").into_inner().url
        }
    };
    let (listener, speaker) = (attach(false).await, attach(true).await);
    let listening = spdy::connection(upgrade(&listener, "v4.channel.k8s.io").await, Side::Client, 1);
    let speaking = spdy::connection(upgrade(&speaker, "v4.channel.k8s.io").await, Side::Client, 1);
    let hear = |link: spdy::Link, kinds: &'static [&'static str], say: Option<&'static str>| async move {
        let mut stdout = None;
        let mut others = Vec::new();
        for kind in kinds {
            let stream = link.open(vec![("streamtype".into(), (*kind).to_owned())]).await.expect("it is open");
            if *kind == "stdout" { stdout = Some(stream) } else { others.push(stream) }
        }
        let mut stdout = stdout.expect("it was opened");
        // Both are attached before the first speaks; a word for each time it is not heard yet.
        let mut heard = String::new();
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        while !heard.contains("read hello") {
            tokio::select! {
                biased;
                piece = stdout.input.recv() => heard += &String::from_utf8_lossy(&piece.expect("it goes on")),
                _ = pause.tick(), if say.is_some() => {
                    let word = say.expect("checked").to_owned();
                    others[1].output.send(word.into()).await.expect("it is open");
                }
            }
        }
        heard
    };
    let (connection_one, link_one, _none) = listening;
    let (connection_two, link_two, _none_two) = speaking;
    let conversation = async {
        tokio::join!(
            hear(link_one, &["error", "stdout", "stderr"], None),
            hear(link_two, &["error", "stdin", "stdout", "stderr"], Some("hello\n"))
        )
    };
    let (one, two) = within("both hear", async {
        tokio::select! {
            biased;
            heard = conversation => heard,
            _ = connection_one.run() => panic!("the listener was let go"),
            _ = connection_two.run() => panic!("the speaker was let go"),
        }
    })
    .await;
    assert!(!one.contains("up") && !two.contains("up"), "what was written before is not heard: {one:?} {two:?}");
    assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerRunning);
    // The end of the container is the end of those attached to it.
    let url = attach(true).await;
    let kinds = ["stdin", "stdout", "stderr", "error"];
    let (seen, ()) = tokio::join!(talk(&url, &kinds, "", "bye\n", true), async {
        eventually("it is heard", || async { shim.log("tool", "main").contains("read bye").then_some(()) }).await;
        shim.stop(&pod.container, 0).await;
    });
    assert!(seen.starts_with("stdout: \"read bye\\n"), "{seen}");
    assert!(seen.ends_with("error: \"{\\\"metadata\\\":{},\\\"status\\\":\\\"Success\\\"}\"\n"), "{seen}");
}

#[tokio::test]
async fn who_has_said_all_leaves_and_with_stdin_once_hears_the_container_to_its_end() {
    let shim = Shim::start().await;
    let kinds = ["stdin", "stdout", "stderr", "error"];
    let success = "error: \"{\\\"metadata\\\":{},\\\"status\\\":\\\"Success\\\"}\"\n";
    let attach = |id: &str| {
        let request =
            AttachRequest { container_id: id.to_owned(), stdin: true, stdout: true, stderr: true, tty: false };
        let mut runtime = shim.runtime();
        async move { runtime.attach(request).await.expect("a URL").into_inner().url }
    };
    // Others may come after it, so the program hears no end.
    let pod = tool(&shim).await;
    for word in ["one\n", "two\n"] {
        let seen = talk(&attach(&pod.container).await, &kinds, "", word, false).await;
        assert!(seen.ends_with(success), "{seen}");
        eventually("it is heard", || async {
            shim.log("tool", "main").contains(&format!("read {word}")).then_some(())
        })
        .await;
    }
    assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerRunning);
    // Nobody comes after it, so the program hears the end and may still answer.
    let once = shim.run("once", Guest { stdin: true, stdin_once: true, ..guest("listener") }).await;
    eventually("it is up", || async { shim.log("once", "main").contains("listening").then_some(()) }).await;
    let seen = talk(&attach(&once.container).await, &kinds, "", "a line\n", false).await;
    assert!(seen.starts_with("stdout: \"told to stop\\n\"\n") && seen.ends_with(success), "{seen}");
    assert_eq!(shim.ending(&once.container).await, r#"7 Error """#);
}

/// One connection through a forwarded port: what came back, and what went wrong.
async fn through(shim: &Shim, sandbox: &str, port: &str, request: &'static str) -> (String, String) {
    let forward = PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port: Vec::new() };
    let url = shim.runtime().port_forward(forward).await.expect("a URL").into_inner().url;
    let (connection, link, _none) = spdy::connection(upgrade(&url, "portforward.k8s.io").await, Side::Client, 1);
    let talking = async {
        let headers = |kind: &str| {
            vec![
                ("streamtype".to_owned(), kind.to_owned()),
                ("port".to_owned(), port.to_owned()),
                ("requestid".to_owned(), "0".to_owned()),
            ]
        };
        let mut error = link.open(headers("error")).await.expect("it is open");
        error.output.end().await.expect("it is open");
        let mut data = link.open(headers("data")).await.expect("it is open");
        data.output.send(Bytes::from_static(request.as_bytes())).await.expect("it is open");
        let (mut answer, mut fault) = (String::new(), String::new());
        while let Some(piece) = data.input.recv().await {
            answer += &String::from_utf8_lossy(&piece);
        }
        while let Some(piece) = error.input.recv().await {
            fault += &String::from_utf8_lossy(&piece);
        }
        link.finish().await;
        (answer, fault)
    };
    within("it ends", async { tokio::join!(talking, connection.run()) }).await.0
}

#[tokio::test]
async fn ports_of_a_pod_are_forwarded() {
    let shim = Shim::start().await;
    let pod = shim.run("hello", guest("hello:dev")).await;
    let (answer, fault) =
        through(&shim, &pod.sandbox, "8080", "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer} {fault}");
    let (_, fault) = through(&shim, &pod.sandbox, "81", "").await;
    let expected = expect![[
        r#"error forwarding port 81 to pod SANDBOX, uid : failed to connect to localhost:81 inside sandbox "SANDBOX": dial tcp ADDRESS:81: connect: connection refused"#
    ]];
    expected.assert_eq(&fault.replace(&pod.sandbox, "SANDBOX").replace(&pod.ip, "ADDRESS"));
    let stop = StopPodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() };
    shim.runtime().stop_pod_sandbox(stop).await.expect("it stops");
    let forward = PortForwardRequest { pod_sandbox_id: pod.sandbox.clone(), port: Vec::new() };
    let refused = refusal(shim.runtime().port_forward(forward).await);
    assert!(refused.starts_with("FailedPrecondition: sandbox container"), "{refused}");
}
